"""Pre-train the small base model in ``assets/mini-base``: ``python -m glore_lib.pretraining.pretrain --out DIR``.

The paper starts from Llama-2, which learned arithmetic, language, and graded and corrected answers from the web. This
script teaches a model of about one million parameters the same skills on generated text; see
:mod:`glore_lib.pretraining.corpus`.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
import typer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from glore_lib.artifacts.records import checksum
from glore_lib.pretraining import corpus
from glore_lib.sampling import Request
from glore_lib.sampling.transformers import TransformersSampler
from glore_lib.tasks import arithmetic as task

WORDS = (
    "has owns had is are there with more fewer than compared , . as many plus short of twice times half a third "
    "quarter boxes bags each and buys then got together how do does in all ? find the number difference have hold "
    "3 + - * / = : #### [BAD] right wrong yes no true false answer so check it this that again correct grade good bad "
    "draft solution first try not quite instead fixed"
).split()
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
LEARNING_RATE = 5e-3


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a word-level fast tokenizer: each word, sign, newline and whole number from 0 to 199 is one token."""
    words = [PAD, BOS, EOS, "<unk>", "\n", *map(str, range(200)), *WORDS, *task.HOLDERS, *task.ITEMS]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(" *\n *"), "\n")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix="\0", cleanup=False), decoders.Fuse(), decoders.Replace(Regex(" *\n *"), "\n")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token="<unk>",
        model_max_length=384, clean_up_tokenization_spaces=False, padding_side="right",
    )  # fmt: skip


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Build a new Llama of about one million parameters.

    The embeddings of number tokens start with cosines and sines of several periods, in which addition is a rotation;
    the rest of each vector is random. This is only an initialisation: the saved model is an ordinary Llama.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=384, rms_norm_eps=1e-5, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(str(n)) for n in range(200)])
    n = torch.arange(200, dtype=torch.float32)
    waves = [f(2 * math.pi * n / p) for p in (2, 3, 4, 5, 9, 10, 20, 50, 100, 200) for f in (torch.cos, torch.sin)]
    features = torch.stack([*waves, n / 100 - 1], dim=1) * 2 * config.initializer_range
    with torch.no_grad():
        model.model.embed_tokens.weight[ids, : features.shape[1]] = features
    return model


def own_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: int, stream: str
) -> list[tuple[int, str]]:
    """Return the model's answers to the first problems of :func:`corpus.own_problem`, as (problem's index, text).

    Each has a greedy answer and three samples at temperature 0.8; incomplete and repeated answers are left out.
    """
    sampler = TransformersSampler(model, tokenizer, rows=256)
    prompts = [tuple(tokenizer(corpus.own_problem(stream, i).question + "\n").input_ids) for i in range(questions)]
    found: dict[tuple[int, str], None] = {}
    for temperature, n in ((0.0, 1), (0.8, 3)):
        requests = [Request(prompt, n, i) for i, prompt in enumerate(prompts)]
        for i, completions in enumerate(sampler.sample(requests, temperature, 90, "own answers")):
            # A model that was trained on verdicts continues with one.
            found |= dict.fromkeys((i, text) for text in (corpus.complete_answer(c.text) for c in completions) if text)
    return list(found)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the weight matrices and AdamW for embeddings and norms, as one optimizer.

    After 1.2 million tokens of this corpus the loss is 1.53, against 1.71 with AdamW alone.
    """

    def __init__(self, model: LlamaForCausalLM, learning_rate: float):
        named = list(model.named_parameters())
        matrices, others = ([p for n, p in named if (p.ndim == 2 and "embed" not in n) == m] for m in (True, False))
        self.parts = (
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=0.6 * learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        super().__init__([*matrices, *others], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step with both optimizers."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        """Return the states of both optimizers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the states of both optimizers."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


class PretrainingTrainer(Trainer):
    """A Trainer that takes the batches of the corpus unchanged: each process has its own stream, so none is sharded."""

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of the corpus in order."""
        return DataLoader(cast(corpus.Corpus, self.train_dataset), batch_size=None)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> torch.Tensor:
        """Return the cross-entropy of the next token, averaged with the tokens' weights."""
        logits, weights = model(input_ids=inputs["input_ids"]).logits[:, :-1], inputs["weights"][:, 1:].flatten()
        losses = F.cross_entropy(logits.flatten(0, 1).float(), inputs["input_ids"][:, 1:].flatten(), reduction="none")
        return (losses * weights).sum() / weights.sum()


@torch.inference_mode()
def fact_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, every: int = 1) -> dict[str, float]:
    """Return the share of arithmetic facts whose result is the model's first choice, by operator and over all."""
    right: dict[str, list[bool]] = {}
    model.eval()
    for op, facts in corpus.FACTS.items():
        some = facts[::every]
        prompts = torch.tensor(tokenizer([f"{a} {op} {b} =" for a, _, b, _ in some]).input_ids)
        guesses = torch.cat([model(ids).logits[:, -1].argmax(-1) for ids in prompts.split(1024)]).tolist()
        answers = [tokenizer.convert_tokens_to_ids(str(c)) for *_, c in some]
        right[op] = [guess == answer for guess, answer in zip(guesses, answers, strict=True)]
    right["all"] = [x for values in right.values() for x in values]
    return {op: sum(values) / len(values) for op, values in right.items()}


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the model, its tokenizer and card.json.")],
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps of 3,072 tokens per process.")] = 14000,
    seed: int = 0,
    compile: Annotated[bool, typer.Option(help="torch.compile: faster, needs a C++ compiler.")] = True,
) -> dict[str, Any]:
    """Pre-train the small base model and return its card. An interrupted run in OUT is resumed.

    The last two of every seven steps are the second part, with the model's own answers.

    Several processes (``torchrun --nproc_per_node=2 -m glore_lib.pretraining.pretrain …``) read different text.
    """
    tokenizer, first = build_tokenizer(), out / "first"
    own_steps = max(1, steps * 2 // 7)
    if not (first / "card.json").exists():
        _train(build_model(tokenizer, seed), tokenizer, first, steps - own_steps, f"{seed}", None, compile)
    process = os.environ.get("RANK", "0")  # torchrun's
    answers, stream = out / f"own-answers-{process}.json", f"{seed}/{process}"
    if not answers.exists():
        model = LlamaForCausalLM.from_pretrained(first, dtype=torch.float32)
        answers.write_text(json.dumps(own_answers(model, tokenizer, 2 * own_steps, stream)), encoding="utf-8")
    own: dict[bool, list[tuple[task.Problem, str]]] = {True: [], False: []}
    for i, text in json.loads(answers.read_text(encoding="utf-8")):
        problem = corpus.own_problem(stream, i)
        own[corpus.is_right(problem, text)].append((problem, text))
    model = LlamaForCausalLM.from_pretrained(first, dtype=torch.float32)
    return _train(model, tokenizer, out, own_steps, f"{seed}/own", own if all(own.values()) else None, compile)


def _train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, steps: int, stream: str,
    own: corpus.Answers | None, compile: bool,
) -> dict[str, Any]:  # fmt: skip
    """Train one part and save model, tokenizer and card in ``out``; resume from OUT/checkpoints."""
    started = time.monotonic()
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), max_steps=steps, per_device_train_batch_size=1,
        learning_rate=LEARNING_RATE, lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": max(1, steps // 3)}, warmup_steps=min(100, steps // 10),
        max_grad_norm=1.0, logging_steps=50, save_steps=250, save_total_limit=3, report_to="none",
        use_cpu=not torch.cuda.is_available(), torch_compile=compile, disable_tqdm=True,
        ignore_data_skip=True, remove_unused_columns=False,
    )  # fmt: skip
    resume = get_last_checkpoint(str(out / "checkpoints")) if (out / "checkpoints").exists() else None
    # Every process, and every start after an interruption, has its own stream.
    data = corpus.Corpus(tokenizer, f"{stream}/{arguments.process_index}/{Path(resume or 'start').name}", own)
    trainer = PretrainingTrainer(
        model, arguments, train_dataset=data, processing_class=tokenizer,
        optimizers=(MuonWithAdamW(model, LEARNING_RATE), None),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    losses = [[log["step"], log["loss"]] for log in trainer.state.log_history if "loss" in log][::5]
    card = {
        "parameters": model.num_parameters(), "steps": steps,
        "tokens": steps * corpus.TOKENS_PER_BATCH * arguments.world_size, "processes": arguments.world_size,
        "own_answers": sum(map(len, own.values())) if own else 0, "losses": losses,
        "seconds": round(time.monotonic() - started), "resumed_from": Path(resume).name if resume else None,
    }  # fmt: skip
    if trainer.is_world_process_zero():
        model.bfloat16().save_pretrained(out)
        tokenizer.save_pretrained(out)
        card["fact_accuracy"] = fact_accuracy(model.float(), tokenizer)
        card["sha256"] = checksum(out / "model.safetensors")
        (out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    trainer.accelerator.wait_for_everyone()
    return card


if __name__ == "__main__":
    typer.run(pretrain)
