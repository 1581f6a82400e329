"""Step labels: the ORM's from final answers, the SORM's from rollouts (paper, section 4.1, step 2)."""

import pandas as pd

from glore_lib.artifacts.records import SCHEMAS
from glore_lib.models.prefix_tree import IGNORE
from glore_lib.run import Run
from glore_lib.solutions import split_steps

POSTPROCESSING = {
    "raw": (False, False),
    "monotone": (True, False),
    "consistent": (True, True),
}  # (monotone, consistent)


def orm_labels(samples: pd.DataFrame) -> pd.DataFrame:
    """Label every step of a sample with whether its final answer is correct (record ``step_labels``)."""
    rows = [
        {"question_id": s.question_id, "sample_id": s.sample_id, "step": i, "label_raw": int(s.is_correct),
         "label": int(s.is_correct), "source": "final_answer"}
        for s in samples.itertuples()
        for i in range(1, len(split_steps(s.text)) + 1)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(SCHEMAS["step_labels"]))


def balance_samples(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Keep equally many correct and wrong samples of every question, at random, for the balanced ORM.

    Questions whose samples are all correct or all wrong drop out.
    """
    counts = samples.groupby(["question_id", "is_correct"])["sample_id"].count().unstack(fill_value=0)
    keep = counts.reindex(columns=[False, True], fill_value=0).min(axis=1)
    shuffled = samples.sample(frac=1, random_state=seed)
    rank = shuffled.groupby(["question_id", "is_correct"]).cumcount()
    return shuffled[rank < shuffled["question_id"].map(keep)].sort_index()


def balance_steps(labels: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Keep equally many positive and negative labels at each step number, at random (post-processing 3).

    A step without a row has no label in training; the model still reads its text.
    """
    counts = labels.groupby(["step", "label"])["sample_id"].count().unstack(fill_value=0)
    keep = counts.reindex(columns=[0, 1], fill_value=0).min(axis=1)
    shuffled = labels.sample(frac=1, random_state=seed)
    rank = shuffled.groupby(["step", "label"]).cumcount()
    return shuffled[rank < shuffled["step"].map(keep)].sort_index()


def choose_drafts(samples: pd.DataFrame, per_question: int, drop_unsolved: bool = False) -> pd.DataFrame:
    """Choose the samples to label by rollouts: the first ``per_question`` distinct ones of each question.

    ``drop_unsolved`` leaves out the questions without a correct sample.
    """
    if drop_unsolved:
        samples = samples[samples.groupby("question_id")["is_correct"].transform("any")]
    return samples.drop_duplicates(["question_id", "text"]).groupby("question_id").head(per_question)


def rollout_labels(rollouts: pd.DataFrame, monotone: bool, consistent: bool) -> pd.DataFrame:
    """Label steps from their rollouts (record ``step_labels``).

    ``label_raw`` is 1 if any rollout is correct; ``label`` is the result of post-processing. The consistency rule
    (post-processing 2) decides which rollouts verify a prefix, and the monotone rule (1) then spreads the positives to
    earlier steps. The paper numbers them the other way round; applied first, rule 1 would keep positives that come from
    rollouts which rule 2 drops.
    """
    verifies = rollouts["is_correct"] & (rollouts["is_consistent"] | (not consistent))
    keys = ["question_id", "sample_id", "step"]
    labels = (
        rollouts.assign(label=verifies)
        .groupby(keys, sort=False)
        .agg(label_raw=("is_correct", "max"), label=("label", "max"))
    )
    labels = labels.reset_index().astype({"label_raw": int, "label": int})
    labels = labels.assign(source="rollouts")
    return make_monotone(labels) if monotone else labels


def make_monotone(labels: pd.DataFrame) -> pd.DataFrame:
    """Make every step before a positive one positive (post-processing 1)."""
    backwards = labels.sort_values(["sample_id", "step"], ascending=[True, False])
    return labels.assign(label=backwards.groupby("sample_id")["label"].cummax())


def exact_labels(run: Run, samples: pd.DataFrame, split: str) -> pd.DataFrame | None:
    """Return the true labels (record ``step_labels``), or None if the task does not know them."""
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
    """Return the first step labelled 0 of every sample that has one (index ``sample_id``)."""
    return labels[labels["label"] == 0].groupby("sample_id")["step"].min()


def stepwise_supervision(run: Run, samples: pd.DataFrame, labels: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return labels in TRL's stepwise format, one row per labelled sample: ``prompt``, ``completions``, ``labels``.

    ``completions`` are the steps, and ``labels`` has one per step: 1, 0, or ``IGNORE`` (-100) for a step without a
    row in ``labels``.
    """
    questions = run.questions(split)
    known = labels.set_index(["sample_id", "step"])["label"].to_dict()
    labelled = samples[samples["sample_id"].isin(labels["sample_id"])]
    completions = [split_steps(text) for text in labelled["text"]]
    return pd.DataFrame(
        {
            "prompt": [run.task.prompt(questions[q].question) for q in labelled["question_id"]],
            "completions": completions,
            "labels": [
                [known.get((s, i), IGNORE) for i in range(1, len(steps) + 1)]
                for s, steps in zip(labelled["sample_id"], completions, strict=True)
            ],
        }
    )
