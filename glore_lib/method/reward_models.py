"""ORM, balanced ORM and SORM: training, scoring steps, scoring answers (paper, section 4.1, steps 1 and 2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from glore_lib.artifacts.store import Artifact, Info
from glore_lib.method import rollouts, step_labels
from glore_lib.method.schedule import SCORING_TOKENS
from glore_lib.method.students import Student, sample_solutions
from glore_lib.models.loading import device
from glore_lib.models.prefix_tree import Labelled, Row, collate
from glore_lib.models.reward_head import RewardModel, load_reward_model
from glore_lib.models.tokens import encode
from glore_lib.params import Training
from glore_lib.run import Run
from glore_lib.solutions import split_steps
from glore_lib.tasks import Question

SCORED = ("input_ids", "visible", "label_at")


@dataclass
class RewardModelData:
    """The training data of one student's reward models. The rollouts are made on first use: the ORM needs none."""

    samples: Artifact
    roll_out: Callable[[], Artifact]

    @cached_property
    def rollouts(self) -> Artifact:
        """Rollouts from every step of the samples to label (record ``rollouts``)."""
        return self.roll_out()


def reward_model_data(run: Run, student: Student) -> RewardModelData:
    """Sample K solutions per question of the reward split, and rollouts from every step of some of them."""
    p = run.params.reward_models
    purpose = f"rm-{student.policy}"
    samples = sample_solutions(run, student, run.reward_split, p.samples_per_question, p.temperature, purpose)

    def roll_out() -> Artifact:
        drafts = step_labels.choose_drafts(samples.read(), p.sorm_samples_per_question, p.drop_unsolved)
        return rollouts.rollouts(run, student, drafts, run.reward_split, purpose, [samples])

    return RewardModelData(samples, roll_out)


def labels_for(run: Run, kind: str, data: RewardModelData) -> pd.DataFrame:
    """Return the training labels of one kind of reward model (record ``step_labels``).

    Kinds: ``orm``, ``balanced_orm``, ``sorm`` with the post-processing of the parameters, ``sorm_raw`` without
    balancing and the consistency rule (the paper's Figure 4), ``sorm_consistent`` without balancing, ``sorm_balanced``
    without the consistency rule. The monotone rule is a parameter of all four.
    """
    p = run.params.reward_models
    seed = run.seed("labels", kind, data.samples.record["name"])
    if kind == "orm":
        return step_labels.orm_labels(data.samples.read())
    if kind == "balanced_orm":
        return step_labels.orm_labels(step_labels.balance_samples(data.samples.read(), seed))
    consistent, balance = {
        "sorm": (p.consistent, p.balance_steps), "sorm_raw": (False, False), "sorm_consistent": (True, False),
        "sorm_balanced": (False, True),
    }[kind]  # fmt: skip
    labels = step_labels.rollout_labels(data.rollouts.read(), p.monotone, consistent)
    return step_labels.balance_steps(labels, seed) if balance else labels


def labelled_solution(run: Run, question: Question, text: str, labels: Mapping[int, float]) -> Labelled:
    """Tokenise a solution and put the labels, given by step, at the last token of each labelled step."""
    encoded = encode(run.tokenizer, run.task.prompt(question.question), split_steps(text))
    at_tokens = {encoded.step_ends[step - 1]: label for step, label in labels.items()}
    return Labelled(encoded.ids, encoded.prompt_length, at_tokens)


def train_reward_model(
    run: Run, kind: str, student: Student, data: RewardModelData, training_params: Training
) -> Artifact:
    """Train a reward model of one kind on the student's samples."""
    p = run.params.reward_models
    name = f"{kind}-{student.policy}"

    def labels() -> pd.DataFrame:
        return labels_for(run, kind, data)

    switches = {"kind": kind, "monotone": p.monotone, "consistent": p.consistent, "balance_steps": p.balance_steps}
    inputs = [data.samples] if kind in ("orm", "balanced_orm") else [data.samples, data.rollouts]
    labelled = run.frame(f"labels-{name}", "step_labels", labels, switches, inputs)
    return train_on_labels(run, name, student, data.samples, labelled, training_params)


def train_on_labels(
    run: Run, name: str, student: Student, samples: Artifact, labelled: Artifact, training_params: Training
) -> Artifact:
    """Train a reward model on labels of the student's samples (record ``step_labels`` or ``soft_labels``)."""
    p = run.params.reward_models
    start = student.model if p.start == "student" else None

    def make(folder: Path) -> Info:
        questions, texts = run.questions(run.reward_split), samples.read().set_index("sample_id")["text"]
        solutions = [
            [
                labelled_solution(run, questions[question_id], texts[s], dict(zip(r["step"], r["label"], strict=True)))  # type: ignore[index]
                for s, r in rows.groupby("sample_id", sort=False)
            ]
            for question_id, rows in labelled.read().groupby("question_id", sort=False)
        ]
        examples = run.packed(solutions, p.solutions_per_row)
        info = run.fit(start, name, examples, training_params, folder, p.language_model_loss, p.head_rate)
        return info | {"positive_labels": float(labelled.read()["label"].mean())}

    params = {
        "start": p.start, "language_model_loss": p.language_model_loss, "base": run.base_key,
        "finetuning": run.params.finetuning, "training": training_params, "solutions_per_row": p.solutions_per_row,
        "head_rate": p.head_rate,
    }  # fmt: skip
    return run.folder(f"reward-model-{name}", make, params, [labelled, *([start] if start else [])])


def score_steps(
    run: Run, reward_model: Artifact, method: str, samples: pd.DataFrame, split: str, source: Artifact
) -> Artifact:
    """Score p(correct | Q, P_i) for every step of every sample (record ``step_scores``), in one forward pass each.

    ``samples`` are (some of) the rows of the artifact ``source``, with columns question_id, sample_id and text.
    """

    def make() -> pd.DataFrame:
        run.free()
        model = load_reward_model(run.path(reward_model), run.params.base_model.dtype, run.base).eval()
        questions = run.questions(split)
        steps_of, solutions = [], []
        for question_id, texts in samples.groupby("question_id", sort=False)["text"]:
            steps = {text: len(split_steps(text)) for text in texts}
            steps_of.append((question_id, steps))
            solutions.append(
                [
                    labelled_solution(run, questions[question_id], text, dict.fromkeys(range(1, count + 1), 1))  # type: ignore[index]
                    for text, count in steps.items()
                ]
            )
        rows = run.packed(solutions, len(samples))
        # The same precision as in training.
        with torch.autocast(device().type, torch.bfloat16, enabled=run.params.finetuning.mixed_precision):
            scored = iter(_score(model, rows, run.tokenizer.pad_token_id))
        scores = {
            (q, text): [next(scored) for _ in range(count)] for q, steps in steps_of for text, count in steps.items()
        }
        scored_rows = [
            {"question_id": s.question_id, "sample_id": s.sample_id, "step": i, "model": method, "score": score}
            for s in samples.itertuples()
            for i, score in enumerate(scores[s.question_id, s.text], start=1)
        ]  # fmt: skip
        return pd.DataFrame(scored_rows, columns=["question_id", "sample_id", "step", "model", "score"])

    rows = int(pd.util.hash_pandas_object(samples[["sample_id", "text"]], index=False).sum())
    return run.frame(f"scores-{method}", "step_scores", make, {"rows": rows, "split": split}, [reward_model, source])


def scores_of(run: Run, model: RewardModel, answers: Sequence[tuple[Question, str]]) -> list[list[float]]:
    """Score every step of some answers (question, text) with a loaded reward model, as :func:`score_steps` does."""
    steps: dict[Question, dict[str, int]] = {}
    for question, text in answers:
        steps.setdefault(question, {})[text] = len(split_steps(text))
    solutions = [
        [
            labelled_solution(run, question, text, dict.fromkeys(range(1, n + 1), 1))
            for text, n in of_question.items()
            if n
        ]
        for question, of_question in steps.items()
    ]
    rows = run.packed(solutions, len(answers))
    with torch.autocast(device().type, torch.bfloat16, enabled=run.params.finetuning.mixed_precision):
        scored = iter(_score(model, rows, run.tokenizer.pad_token_id))
    found = {(q, text): [next(scored) for _ in range(n)] for q, texts in steps.items() for text, n in texts.items()}
    return [found[answer] for answer in answers]


@torch.inference_mode()
def _score(model: RewardModel, rows: list[Row], pad: int) -> list[float]:
    """Return the probabilities at all labels of the rows, in their order."""
    scores: list[list[float]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    while order:
        size = max(1, SCORING_TOKENS // len(rows[order[0]]["input_ids"]))
        some, order = order[:size], order[size:]
        batch = collate([rows[i] for i in some], pad)
        inputs = {name: batch[name].to(model.head.weight.device) for name in SCORED}
        for i, probabilities in zip(some, model(**inputs)["logits"].sigmoid().tolist(), strict=True):
            scores[i] = probabilities[: len(rows[i]["labels"])]
    return [score for row in scores for score in row]


def answer_scores(step_scores: pd.DataFrame) -> pd.Series:
    """Return the score of each whole answer, which is the one after its last step (index ``sample_id``)."""
    return step_scores.sort_values("step").groupby("sample_id")["score"].last()
