"""A tiny random model, runs opened on it, and a sampler that says what it is told: what tests of the stages share."""

import json
import random
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from clone import TINY
from glore_lib.artifacts.store import Artifact
from glore_lib.method.students import Student
from glore_lib.models.prefix_tree import Labelled, Row, pack
from glore_lib.models.tokens import encode
from glore_lib.models.training import solution_example
from glore_lib.pretraining.pretrain import build_tokenizer
from glore_lib.run import Run, open_run
from glore_lib.sampling import Completion, Request
from glore_lib.solutions import join_steps, split_steps
from glore_lib.tasks import Question
from glore_lib.tasks.arithmetic import Arithmetic

_numbers = count()


def save_tiny_base(folder: Path) -> Path:
    """Save a random Llama of 40,000 parameters with the mini model's tokenizer."""
    return save_random_llama(build_tokenizer(), folder)


def save_random_llama(tokenizer: PreTrainedTokenizerBase, folder: Path, width: int = 32, more_outputs: int = 0) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + more_outputs, hidden_size=width, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=384, initializer_range=0.2,
        tie_word_embeddings=False, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama2_tokenizer() -> PreTrainedTokenizerFast:
    """Build a small tokenizer like Llama-2's: no pad token, a space before the text, a newline as a byte."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    questions = Arithmetic("hard").questions("train", 20, 0)
    lines = [line for q in questions for line in [q.question, *q.reference_solution.split("\n")]]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["model"]["byte_fallback"] = True
    parts["model"]["vocab"] |= {f"<0x{byte:02X}>": tokenizer.get_vocab_size() + byte for byte in range(256)}
    tokenizer = Tokenizer.from_str(json.dumps(parts))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def open_tiny(base: Path, store: Path, **overrides: Any) -> Run:
    """Open the run of params/tiny.yaml on the tiny model; ``__`` in a keyword stands for a dot."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    run = open_run(str(TINY), {"base_model.source": str(base)} | dotted, str(store))
    torch.set_num_threads(1)  # so small a model is slower on more
    return run


def frame(run: Run, schema: str, rows: pd.DataFrame | list[dict]) -> Artifact:
    """Rows as a stored artifact of their own."""
    return run.store.frame(schema, schema, {"number": next(_numbers)}, lambda: pd.DataFrame(rows))


def sample_rows(*samples: tuple[str, str, bool]) -> pd.DataFrame:
    """Make records ``samples`` from (question_id, text, is_correct), with the ids s0, s1 and so on."""
    rows = [
        {
            "question_id": question_id, "sample_id": f"s{i}", "policy": "p", "temperature": 0.7, "seed": 0,
            "text": text,
            "final_answer": text.rpartition("#### ")[2], "is_correct": right, "finished": True,
        }
        for i, (question_id, text, right) in enumerate(samples)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def label_rows(labels: dict[tuple[str, str], list[int]]) -> pd.DataFrame:
    """Make records ``step_labels`` from {(question_id, sample_id): label of each step}."""
    return pd.DataFrame(
        [
            {"question_id": q, "sample_id": s, "step": i, "label_raw": y, "label": y, "source": "rollouts"}
            for (q, s), ys in labels.items()
            for i, y in enumerate(ys, start=1)
        ]
    )


def score_rows(scores: dict[tuple[str, str], list[float]], model: str = "orm") -> pd.DataFrame:
    """Make records ``step_scores`` from {(question_id, sample_id): score of each step}."""
    return pd.DataFrame(
        [
            {"question_id": q, "sample_id": s, "step": i, "model": model, "score": float(x)}
            for (q, s), xs in scores.items()
            for i, x in enumerate(xs, start=1)
        ]
    )


def rollout_rows(rollouts: dict[tuple[str, str], list[list[str]]]) -> pd.DataFrame:
    """Make records ``rollouts`` from {(question_id, sample_id): rollouts of each step}.

    A rollout is written as "c" (right and consistent), "r" (right), "w" (wrong) or "o" (wrong and consistent) and then
    its text.
    """
    return pd.DataFrame(
        [
            {
                "question_id": q, "sample_id": s, "step": i, "rollout": k, "text": rollout[1:],
                "is_correct": rollout[0] in "cr", "is_consistent": rollout[0] in "co",
            }
            for (q, s), steps in rollouts.items()
            for i, step in enumerate(steps, start=1)
            for k, rollout in enumerate(step)
        ]
    )  # fmt: skip


def solution_rows(tokenizer: PreTrainedTokenizerBase, questions: list[Question]) -> list[Row]:
    """Make a language model's row for each question, with its reference solution."""
    texts = [(q.question + "\n", q.reference_solution.split("\n")) for q in questions]
    return [row for text in texts for row in pack([solution_example(tokenizer, *text)], 1, 1000)]


def labelled_rows(tokenizer: PreTrainedTokenizerBase, questions: list[Question], counts: list[int]) -> list[Row]:
    """Make a reward model's row for each question: its reference solution, extended, with this number of labels."""
    rows = []
    for i, (q, labelled) in enumerate(zip(questions, counts, strict=True)):
        encoded = encode(tokenizer, q.question + "\n", (q.reference_solution + "\n#### 1" * 8).split("\n"))
        labels = {end: (i + j) % 2 for j, end in enumerate(encoded.step_ends[:labelled])}
        rows += pack([Labelled(encoded.ids, encoded.prompt_length, labels)], 1, len(encoded.ids))
    return rows


def some_student(policy: str = "p") -> Student:
    """Make a student without weights, for runs with a scripted sampler."""
    return Student(Artifact(Path(f"student-{policy}")), policy)


class Scripted:
    """A sampler that answers with ``answer(prompt text, seed, number)`` and records its requests.

    Answers are cut off after ``limit`` tokens.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, answer: Callable[[str, int, int], str], limit: int | None = None
    ):
        self.tokenizer, self.answer, self.limit = tokenizer, answer, limit
        self.calls: list[list[Request]] = []
        self.temperatures: list[float] = []

    def sample(
        self, requests: list[Request], temperature: float, max_new_tokens: int, progress: str
    ) -> list[list[Completion]]:
        self.calls.append(requests)
        self.temperatures += [temperature] * len(requests)
        return [
            [self._completion(self.answer(self.text(r), r.seed, j)) for j in range(r.first, r.first + r.n)]
            for r in requests
        ]

    def _completion(self, text: str) -> Completion:
        ids = [i for line in text.splitlines(True) for i in self.tokenizer(line, add_special_tokens=False).input_ids]
        if self.limit is None or len(ids) <= self.limit:
            return Completion(text, True, tuple(ids))
        return Completion(self.tokenizer.decode(ids[: self.limit]), False, tuple(ids[: self.limit]))

    @property
    def requests(self) -> list[Request]:
        return [request for requests in self.calls for request in requests]

    def text(self, request: Request) -> str:
        return self.tokenizer.decode(request.prompt, skip_special_tokens=True)

    @property
    def prompts(self) -> list[str]:
        return [self.text(request) for request in self.requests]


def solver(run: Run, right: float = 0.5) -> Callable[[str, int, int], str]:
    """Return a student of the generated task that continues after the steps in the prompt.

    It makes no error with probability ``right``, else one error in a step and in the answer.
    """
    solutions = {
        q.question: split_steps(q.reference_solution)
        for split in ("train", "validation", "test")
        for q in run.questions(split).values()
    }

    def answer(prompt: str, seed: int, number: int) -> str:
        lines = prompt.split("\n")
        at = max(i for i, line in enumerate(lines) if line in solutions)
        steps, written = solutions[lines[at]], lines[at + 1 :]
        if "solution :" in written:
            written = written[written.index("solution :") + 1 :]
        rest = steps[len([line for line in written if line]) :]
        rng = random.Random(f"{prompt}/{seed}/{number}")
        if rest and rng.random() >= right:
            for i in {rng.randrange(len(rest)), len(rest) - 1}:
                rest = [
                    *rest[:i],
                    re.sub(r"(= |#### )(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", rest[i]),
                    *rest[i + 1 :],
                ]
        return join_steps(rest) + "\n"

    return answer
