"""Step labels: the ORM's from final answers, the SORM's from rollouts (paper, section 4.1, step 2)."""

from dataclasses import dataclass

import pandas as pd

from glore_lib.models import encode
from glore_lib.params import digest
from glore_lib.run import Run
from glore_lib.sampling import Request
from glore_lib.solutions import is_consistent, join_steps, split_steps
from glore_lib.store import SCHEMAS, Artifact
from glore_lib.students import Student
from glore_lib.tasks import Question

POSTPROCESSING = {
    "raw": (False, False),
    "monotone": (True, False),
    "consistent": (True, True),
}  # (monotone, consistent)


def orm_labels(samples: pd.DataFrame) -> pd.DataFrame:
    """Every step of a sample labelled with whether the sample's final answer is right (record ``step_labels``)."""
    rows = [
        {"question_id": s.question_id, "sample_id": s.sample_id, "step": i, "label_raw": int(s.is_correct),
         "label": int(s.is_correct), "source": "final_answer"}
        for s in samples.itertuples()
        for i in range(1, len(split_steps(s.text)) + 1)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(SCHEMAS["step_labels"]))


def balance_samples(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Balanced ORM: equally many right and wrong samples of every question, the surplus dropped at random.

    Questions whose samples are all right or all wrong drop out.
    """
    counts = samples.groupby(["question_id", "is_correct"])["sample_id"].count().unstack(fill_value=0)
    keep = counts.reindex(columns=[False, True], fill_value=0).min(axis=1)
    shuffled = samples.sample(frac=1, random_state=seed)
    rank = shuffled.groupby(["question_id", "is_correct"]).cumcount()
    return shuffled[rank < shuffled["question_id"].map(keep)].sort_index()


def balance_steps(labels: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Post-processing 3: equally many positive and negative labels at each step number, the surplus dropped at random.

    A step without a row here has no label in training; its text is still read.
    """
    counts = labels.groupby(["step", "label"])["sample_id"].count().unstack(fill_value=0)
    keep = counts.reindex(columns=[0, 1], fill_value=0).min(axis=1)
    shuffled = labels.sample(frac=1, random_state=seed)
    rank = shuffled.groupby(["step", "label"]).cumcount()
    return shuffled[rank < shuffled["step"].map(keep)].sort_index()


def choose_drafts(samples: pd.DataFrame, per_question: int) -> pd.DataFrame:
    """Which samples to label by rollouts: of each question the first ``per_question`` distinct ones, wrong and right
    taken in turn, so that both kinds are there where a question has both."""
    distinct = samples.drop_duplicates(["question_id", "text"])
    turn = distinct.groupby(["question_id", "is_correct"]).cumcount() * 2 + distinct["is_correct"]
    chosen = distinct.assign(turn=turn).sort_values(["question_id", "turn"]).groupby("question_id").head(per_question)
    return distinct.loc[chosen.index.sort_values()]


def rollouts(
    run: Run, student: Student, samples: pd.DataFrame, split: str, purpose: str, inputs: list[Artifact]
) -> Artifact:
    """Up to K completions of every prefix P_i of every sample (record ``rollouts``).

    ``is_correct``: the right final answer is reached; ``is_consistent``: the rollout also uses what the prefix
    computed. After the last step there is nothing to complete: one row says whether the sample itself is right.

    Samples of a question that begin alike share the rollouts of their common prefixes. With
    ``reward_models.early_stop`` a prefix gets no more rollouts once one of them is right and consistent: its labels,
    raw and after any post-processing, are then settled, and the same as K rollouts would give, because a rollout
    depends on its prefix, its number and the run's seed alone.
    """
    p = run.params.reward_models

    def make() -> pd.DataFrame:
        prefixes = [
            (s, i, (s.question_id, join_steps(split_steps(s.text)[:i])))
            for s in samples.itertuples()
            for i in range(1, len(split_steps(s.text)) + 1)
        ]
        found, tokens = _roll_out(run, student, split, purpose, list(dict.fromkeys(key for *_, key in prefixes)))
        rows = []
        for s, i, key in prefixes:
            for k, r in enumerate(found[key]):
                row = {"question_id": s.question_id, "sample_id": s.sample_id, "step": i, "rollout": k}
                rows.append(row | {"text": r.text, "is_correct": r.is_correct, "is_consistent": r.is_consistent})
        frame = pd.DataFrame(rows, columns=list(SCHEMAS["rollouts"]))
        frame.attrs |= {"tokens_generated": tokens, "prefixes": len(prefixes), "distinct_prefixes": len(found)}
        return frame

    params = {
        "k": p.rollouts_per_step, "early_stop": p.early_stop, "temperature": p.rollout_temperature,
        "sampling": run.params.sampling, "purpose": purpose, "samples": digest(samples["sample_id"].tolist()),
    }  # fmt: skip
    return run.frame(f"rollouts-{purpose}", "rollouts", make, params, [student.model, *inputs])


@dataclass(frozen=True)
class Rollout:
    """A completion of a prefix and its grades."""

    text: str
    is_correct: bool
    is_consistent: bool

    @property
    def verifies(self) -> bool:
        return self.is_correct and self.is_consistent


Prefix = tuple[str, str]  # question_id, and the text of the steps so far


def _roll_out(
    run: Run, student: Student, split: str, purpose: str, prefixes: list[Prefix]
) -> tuple[dict[Prefix, list[Rollout]], int]:
    """The rollouts of each prefix, and how many tokens they took. A prefix that ends with an answer is its own."""
    p, questions = run.params.reward_models, run.questions(split)
    ended = [(q, text) for q, text in prefixes if run.task.final_answer(text)]
    found: dict[Prefix, list[Rollout]] = {key: [] for key in prefixes}
    found |= {(q, text): [_graded(run, questions[q], text, "")] for q, text in ended}
    open_ended = [key for key in prefixes if not found[key]]
    encoded = {
        (q, text): encode(run.tokenizer, run.task.prompt(questions[q].question), split_steps(text))
        for q, text in open_ended
    }  # fmt: skip
    sampler, tokens = run.sampler(student.model), 0
    for first, count in waves(p.rollouts_per_step, p.early_stop):
        due = [key for key in open_ended if not (p.early_stop and any(r.verifies for r in found[key]))]
        requests = [
            Request(tuple(encoded[key].ids), count, run.seed(purpose, *key), first, encoded[key].prompt_length)
            for key in due
        ]  # fmt: skip
        answers = sampler.sample(requests, p.rollout_temperature, run.params.sampling.max_new_tokens, purpose)
        for (q, text), completions in zip(due, answers, strict=True):
            found[q, text] += [_graded(run, questions[q], text, c.text) for c in completions]
            tokens += sum(c.tokens for c in completions)
    return found, tokens


def waves(k: int, early_stop: bool) -> list[tuple[int, int]]:
    """(first rollout, how many) of each wave in which the ``k`` rollouts of a prefix are asked for.

    With ``early_stop`` 1, 1, 2, 4, ...: a settled prefix is in no further wave, so that few rollouts are wasted, and
    batches stay large. Without it all are asked for at once.
    """
    if not early_stop:
        return [(0, k)]
    starts = [0, *(2**j for j in range(k.bit_length()) if 2**j < k)]
    return [(a, b - a) for a, b in zip(starts, [*starts[1:], k], strict=True)]


def _graded(run: Run, question: Question, prefix: str, text: str) -> Rollout:
    whole = f"{prefix}\n{text}"
    return Rollout(text, run.task.is_correct(whole, question.reference_answer), is_consistent(prefix, text))


def rollout_labels(rollouts: pd.DataFrame, monotone: bool, consistent: bool) -> pd.DataFrame:
    """Labels from rollouts (record ``step_labels``): ``label_raw`` is 1 if any rollout is right, ``label`` is what
    post-processing makes of it.

    The consistency rule (post-processing 2) decides which rollouts verify, and the monotone rule (1) then spreads their
    positives to the earlier steps. The paper numbers them the other way round; were 1 done first, dropping a verifying
    rollout could no longer take back the positives it had spread.
    """
    verifies = rollouts["is_correct"] & (rollouts["is_consistent"] | (not consistent))
    keys = ["question_id", "sample_id", "step"]
    labels = (
        rollouts.assign(label=verifies)
        .groupby(keys, sort=False)
        .agg(label_raw=("is_correct", "max"), label=("label", "max"))
    )
    labels = labels.reset_index().astype({"label_raw": int, "label": int})
    if monotone:
        backwards = labels.sort_values(["sample_id", "step"], ascending=[True, False])
        labels["label"] = backwards.groupby("sample_id")["label"].cummax()
    return labels.assign(source="rollouts")


def exact_labels(run: Run, samples: pd.DataFrame, split: str) -> pd.DataFrame | None:
    """The true labels where the task knows them (record ``step_labels``), else None."""
    questions = run.questions(split)
    rows = []
    for s in samples.itertuples():
        truth = run.task.exact_step_labels(questions[s.question_id], "\n".join(split_steps(s.text)))
        if truth is None:
            return None
        rows += [
            {"question_id": s.question_id, "sample_id": s.sample_id, "step": i, "label_raw": y, "label": y,
             "source": "exact"}
            for i, y in enumerate(truth, start=1)
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(SCHEMAS["step_labels"]))


def first_errors(labels: pd.DataFrame) -> pd.Series:
    """The first step labelled 0 of every sample (index ``sample_id``); samples without one are left out."""
    return labels[labels["label"] == 0].groupby("sample_id")["step"].min()


def stepwise_supervision(run: Run, samples: pd.DataFrame, labels: pd.DataFrame, split: str) -> pd.DataFrame:
    """Labels in TRL's stepwise format, a row a sample: ``prompt``, ``completions`` (steps), ``labels`` (booleans)."""
    questions = run.questions(split)
    by_sample = labels.sort_values("step").groupby("sample_id")["label"].apply(lambda x: [bool(y) for y in x])
    labelled = samples[samples["sample_id"].isin(by_sample.index)]
    return pd.DataFrame(
        {
            "prompt": [run.task.prompt(questions[q].question) for q in labelled["question_id"]],
            "completions": [split_steps(text) for text in labelled["text"]],
            "labels": [by_sample[s] for s in labelled["sample_id"]],
        }
    )
