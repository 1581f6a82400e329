"""Step labels: the ORM's from final answers, the SORM's from rollouts (paper, section 4.1, step 2)."""

import pandas as pd

from glore_lib.artifacts.records import SCHEMAS
from glore_lib.run import Run
from glore_lib.solutions import split_steps

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
