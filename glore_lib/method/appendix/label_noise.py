"""Rollout labels against the truth: how many rollouts, at which temperature, and how they become labels.

Only a task with exact labels (:func:`glore_lib.method.step_labels.exact_labels`) knows the truth; of other tasks, the
experiments have no numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from glore_lib.artifacts.records import SCHEMAS
from glore_lib.artifacts.store import Artifact
from glore_lib.method import rollouts, step_labels
from glore_lib.method.appendix.measures import outcome_differences, with_parameters
from glore_lib.method.evaluation import NUMBERS, DraftSet, Outcomes, written_tokens
from glore_lib.method.replication import Replication
from glore_lib.method.reward_models import score_steps, train_on_labels
from glore_lib.params import ParamsError
from glore_lib.run import Run
from glore_lib.solutions import join_steps, split_steps
from glore_lib.statistics import Outcome

LABELS = ("label_precision", "label_recall", "label_first_error_accuracy")
JUDGED = ("step_balanced_accuracy", "step_auc", "first_error_accuracy")  # of the SORM
EPSILON = 1e-9  # of a pass rate: neither never nor always
PLACES = {"accuracy": np.equal, "early": np.less, "late": np.greater}
# Each policy against the one that differs from it in one respect.
PAIRS = [("any", "any_run"), ("exact", "any")]
PAIRS += [(policy, "any") for policy in ("two", "half", "soft", "stop_at_error", "until_error", "rollouts_only")]
PAIRS += [(policy, "any") for policy in ("solved_questions", "mixed_questions")]


@dataclass(frozen=True)
class Drawn:
    """The first K rollouts of every prefix of some samples, none left out: arrays with a row per step.

    ``steps`` has the columns question_id, sample_id, step, is_right (the sample's answer), is_open (the prefix has no
    answer yet) and prefix, a number that equal prefixes share. ``verifies``, ``tokens`` and ``texts`` (numbers that
    equal texts share) are [steps, K]. A prefix with an answer needs no rollouts: it has its own verdict K times, and no
    tokens.
    """

    steps: pd.DataFrame
    verifies: np.ndarray
    tokens: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, run: Run, samples: pd.DataFrame, drawn: pd.DataFrame) -> "Drawn":
        """Arrange the records ``rollouts`` of all of the ``samples``."""
        texts = samples.set_index("sample_id")["text"].map(split_steps)
        rows = drawn.set_index(["question_id", "sample_id", "step", "rollout"])
        verdicts = rows["is_correct"] & (rows["is_consistent"] | (not run.params.reward_models.consistent))
        wide = verdicts.astype(float).unstack("rollout")
        steps = wide.index.to_frame(index=False)
        steps["is_right"] = steps["sample_id"].map(samples.set_index("sample_id")["is_correct"]).astype(bool)
        prefixes = [(q, join_steps(texts[s][:i])) for q, s, i in wide.index]
        steps["prefix"] = pd.factorize(pd.Series(prefixes))[0]
        steps["is_open"] = [not run.task.final_answer(prefix) for _, prefix in prefixes]
        written = rows["text"].unstack("rollout").ffill(axis=1)
        codes, distinct = pd.factorize(written.to_numpy().ravel())
        counts = written_tokens(run, pd.DataFrame({"sample_id": distinct, "text": distinct})).to_numpy()
        tokens = counts[codes].reshape(written.shape) * steps["is_open"].to_numpy()[:, None]
        return cls(steps, wide.ffill(axis=1).to_numpy() == 1, tokens, codes.reshape(written.shape))

    def distinct(self, k: int) -> np.ndarray:
        """Return the number of distinct texts among the first ``k`` rollouts of each step: [steps]."""
        texts = np.sort(self.texts[:, :k], axis=1)
        return 1 + (texts[:, 1:] != texts[:, :-1]).sum(axis=1)

    def spent(self, rollouts_each: np.ndarray) -> pd.Series:
        """Return the tokens of the first so many rollouts of each step [steps] by question; equal prefixes share."""
        cost = np.where(np.arange(self.tokens.shape[1]) < rollouts_each[:, None], self.tokens, 0).sum(axis=1)
        return (
            self.steps.assign(cost=cost).groupby(["question_id", "prefix"])["cost"].max().groupby("question_id").sum()
        )


@dataclass(frozen=True)
class Policy:
    """A way to turn the first ``k`` rollouts of each prefix into a label of its last step.

    A step is positive if at least ``needed`` of them verify it, and, with post-processing 1, if a later one is. With
    ``soft`` its label is the share that does. ``trust_right``: right samples are all positive, and need no rollouts.
    ``stop_at_error``: after its first negative step a sample needs no rollouts; the others are negative, or with
    ``drop_rest`` have no label. Questions whose share of right samples is not in ``pass_rates`` (both ends included)
    are left out. Without ``own_answer`` a sample's answer makes no earlier step positive.
    """

    k: int
    needed: int = 1
    soft: bool = False
    trust_right: bool = False
    stop_at_error: bool = False
    drop_rest: bool = False
    pass_rates: tuple[float, float] = (0.0, 1.0)
    own_answer: bool = True

    def label(self, drawn: Drawn, monotone: bool, rates: pd.Series) -> tuple[np.ndarray, pd.Series]:
        """Return the labels [steps], NaN for none, and the tokens by question that this policy alone would need.

        ``rates`` are the shares of right samples (index question_id). Rollouts of a prefix are drawn one by one until
        its label is settled; labels that are shares need all.
        """
        steps, verdicts = drawn.steps, drawn.verifies[:, : self.k]
        sample = steps["sample_id"]
        hits = verdicts.sum(axis=1)
        labels = hits / self.k if self.soft else (hits >= self.needed).astype(float)
        asked = np.ones(len(steps), dtype=bool)
        if self.stop_at_error:
            so_far = pd.Series(labels).groupby(sample).cummin()
            asked &= so_far.groupby(sample).shift(fill_value=1.0).to_numpy() == 1
            labels = np.where(asked | (not self.drop_rest), so_far, np.nan)
        elif monotone and not self.soft:
            spreads = pd.Series(np.where(self.own_answer | steps["is_open"], labels, 0.0))
            later = spreads[::-1].groupby(sample[::-1]).cummax()[::-1]
            labels = np.maximum(labels, later.to_numpy())
        if self.trust_right:
            labels = np.where(steps["is_right"], 1.0, labels)
            asked &= ~steps["is_right"].to_numpy()
        kept = steps["question_id"].map(rates).between(*self.pass_rates).to_numpy()
        labels, asked = np.where(kept, labels, np.nan), asked & kept
        return labels, drawn.spent(np.where(asked, self._drawn(verdicts), 0))

    def _drawn(self, verdicts: np.ndarray) -> np.ndarray:
        """Return after how many rollouts the label of each step is settled: [steps]."""
        if self.soft:
            return np.full(len(verdicts), self.k)
        hits = verdicts.cumsum(axis=1)
        failures = np.arange(1, self.k + 1) - hits
        return 1 + ((hits >= self.needed) | (failures > self.k - self.needed)).argmax(axis=1)


def policies_of(run_k: int, k: int) -> dict[str, Policy]:
    """Return the policies by name: those of the run's K, and others with ``k`` rollouts."""
    return {
        "any_run": Policy(run_k), "wrong_only": Policy(run_k, trust_right=True), "any": Policy(k),
        "two": Policy(k, needed=2), "half": Policy(k, needed=-(-k // 2)), "soft": Policy(k, soft=True),
        "stop_at_error": Policy(k, trust_right=True, stop_at_error=True),
        "until_error": Policy(k, trust_right=True, stop_at_error=True, drop_rest=True),
        "rollouts_only": Policy(k, own_answer=False),
        "solved_questions": Policy(k, pass_rates=(EPSILON, 1)),
        "mixed_questions": Policy(k, pass_rates=(EPSILON, 1 - EPSILON)),
    }  # fmt: skip


def label_outcomes(drawn: Drawn, labels: np.ndarray, truth: np.ndarray) -> dict[str, Outcome]:
    """Compare labels [steps] (NaN: none; at least 0.5 counts as positive) with the true ones [steps].

    Precision and recall are also those of the samples with a right and with a wrong answer alone.
    ``label_first_error_…``: where the first negative label of a wrong sample is, of those with a true first error.
    """
    has, positive, questions = ~np.isnan(labels), labels >= 0.5, drawn.steps["question_id"]
    found, is_right = {"label_share": Outcome.of(has, questions)}, drawn.steps["is_right"].to_numpy()
    for of_samples, rows in (("", has), ("_right", has & is_right), ("_wrong", has & ~is_right)):
        found[f"label_precision{of_samples}"] = Outcome.of(truth, questions, rows & positive)
        found[f"label_recall{of_samples}"] = Outcome.of(positive, questions, rows & (truth == 1))
    steps, last = drawn.steps["step"], drawn.steps["step"].max() + 1
    places = pd.DataFrame(
        {"true": steps.where(truth == 0, last), "found": steps.where(has & ~positive, last), "has": has}
    )
    by_sample = drawn.steps.groupby("sample_id").agg(question_id=("question_id", "first"), right=("is_right", "first"))
    at = (
        places.groupby(drawn.steps["sample_id"]).agg({"true": "min", "found": "min", "has": "any"}).loc[by_sample.index]
    )
    counted = ~by_sample["right"] & at["has"] & (at["true"] < last)
    for place, relation in PLACES.items():
        hits = relation(at["found"], at["true"])
        found[f"label_first_error_{place}"] = Outcome.of(hits, by_sample["question_id"], counted)
    return found


def curves(lab: Replication, drafts: int, temperatures: Sequence[float], k: int) -> pd.DataFrame:
    """Compare labels by K rollouts with the exact ones, for K = 1, 2, 4, ... up to ``k``, at each temperature.

    All rollouts of the first ``drafts`` validation drafts are sampled; labels are by post-processing 1 and 2 where the
    run uses them. ``distinct_share@K`` is the share of distinct texts among the rollouts of a prefix.
    """
    _check(drafts=drafts, k=k)
    chosen = lab.validation.drafts.read().head(drafts)
    exact = step_labels.exact_labels(lab.run, chosen, "validation")
    if exact is None:
        return pd.DataFrame(columns=NUMBERS)
    outcomes: Outcomes = {}
    rates = chosen.groupby("question_id")["is_correct"].mean()
    for temperature in temperatures:
        drawn, truth = _drawn(lab, chosen, exact, "validation", lab.validation.drafts, k, temperature)
        for few in _powers(k):
            labels, _ = Policy(few).label(drawn, lab.run.params.reward_models.monotone, rates)
            shown = label_outcomes(drawn, labels, truth)
            shown["distinct_share"] = Outcome.of(
                drawn.distinct(few) / few, drawn.steps["question_id"], drawn.steps["is_open"]
            )
            outcomes |= {(f"temperature_{temperature:g}", f"{m}@{few}"): o for m, o in shown.items()}
    ends = [(f"temperature_{max(temperatures):g}", f"temperature_{min(temperatures):g}")]
    metrics = [f"{metric}@{few}" for metric in LABELS for few in (lab.run.params.reward_models.rollouts_per_step, k)]
    compared = outcome_differences(lab.tables, [outcomes], ends, dict.fromkeys(metrics))
    return pd.concat([lab.tables.numbers(outcomes), compared], ignore_index=True)


def policies(lab: Replication, questions: int, k: int) -> pd.DataFrame:
    """Compare policies: their labels with the exact ones, and the SORMs trained on them on the validation split.

    All policies use the same ``k`` rollouts of each prefix of the samples of the first so many ``questions``, without
    early stopping, the SORM's parameters, and as many steps; equal labels give the same SORM. ``token_share`` is the
    share of the tokens of all these rollouts that a policy needs. Steps and first errors by exact labels are those of
    the drafts and the samples of Bo3, by rollouts those of the drafts.
    """
    _check(questions=questions, k=k)
    p, samples = lab.run.params.reward_models, lab.data.samples.read()
    if k < p.rollouts_per_step:
        raise ParamsError(f"k = {k}: must be at least reward_models.rollouts_per_step ({p.rollouts_per_step})")
    first = samples["question_id"].drop_duplicates().head(questions)
    chosen = step_labels.choose_drafts(samples, p.sorm_samples_per_question)
    chosen = chosen[chosen["question_id"].isin(first)]
    exact = step_labels.exact_labels(lab.run, chosen, lab.run.reward_split)
    if exact is None:
        return pd.DataFrame(columns=NUMBERS)
    drawn, truth = _drawn(lab, chosen, exact, lab.run.reward_split, lab.data.samples, k, p.rollout_temperature)
    every, rates = drawn.spent(np.full(len(drawn.steps), k)), samples.groupby("question_id")["is_correct"].mean()
    outcomes: Outcomes = {}
    scores: dict[str, Artifact] = {}
    models: dict[bytes, Artifact] = {}
    answers = _validation_answers(lab)
    made = {
        name: policy.label(drawn, p.monotone, rates) for name, policy in policies_of(p.rollouts_per_step, k).items()
    }
    made["exact"] = truth.astype(float), every * 0
    for name, (labels, tokens) in made.items():
        outcomes |= {(name, metric): outcome for metric, outcome in label_outcomes(drawn, labels, truth).items()}
        ids = every.index.to_numpy(dtype=str)
        outcomes[name, "token_share"] = Outcome(ids, *(t.to_numpy(float)[None] for t in (tokens, every)))
        if labels.tobytes() not in models:
            steps = next((model.record["info"]["steps"] for model in models.values()), None)
            models[labels.tobytes()] = _sorm(lab, drawn.steps, labels, steps)
        model = models[labels.tobytes()]
        scores[name] = score_steps(lab.run, model, "noise", answers.drafts.read(), "validation", answers.drafts)
    judged = lab.tables.table1(answers, scores)
    metrics = [f"{metric}{suffix}" for metric in JUDGED for suffix in answers.truths]
    outcomes |= {key: outcome for key, outcome in judged.items() if key[0] in made and key[1] in metrics}
    compared = outcome_differences(lab.tables, [outcomes], PAIRS, [*LABELS, *metrics])
    return pd.concat([lab.tables.numbers(outcomes), compared], ignore_index=True)


def _drawn(
    lab: Replication, samples: pd.DataFrame, exact: pd.DataFrame, split: str, source: Artifact, k: int,
    temperature: float,
) -> tuple[Drawn, np.ndarray]:  # fmt: skip
    """Sample ``k`` rollouts of each prefix; return them and the true labels [steps].

    The rollouts of the run itself are the first of them.
    """
    purpose = "drafts-validation" if split == "validation" else f"rm-{lab.student.policy}"
    run = with_parameters(
        lab.run, "reward_models", rollouts_per_step=k, early_stop=False, rollout_temperature=temperature,
        samples_verify=False,
    )  # fmt: skip
    made = rollouts.rollouts(run, lab.student, samples, split, purpose, [source])
    run.free()
    drawn = Drawn.of(run, samples, made.read())
    keys = pd.MultiIndex.from_frame(drawn.steps[["sample_id", "step"]])
    return drawn, exact.set_index(["sample_id", "step"])["label"].loc[keys].to_numpy()


def _sorm(lab: Replication, steps: pd.DataFrame, labels: np.ndarray, optimiser_steps: int | None) -> Artifact:
    """Train a SORM on labels [steps], balanced if the run's are; a share counts there as what it is nearest to.

    It takes ``optimiser_steps``, or as many as the run's parameters say.
    """
    run, p = lab.run, lab.run.params.reward_models
    labelled = steps.assign(label=labels)[~np.isnan(labels)]
    if p.balance_steps:
        seed = run.seed("labels", "sorm", lab.data.samples.record["name"])  # that of the SORM
        sides = labelled.assign(label=(labelled["label"] >= 0.5).astype(int))
        labelled = labelled.loc[step_labels.balance_steps(sides, seed).index]
    labelled = labelled[list(SCHEMAS["soft_labels"])]
    rows = {"rows": int(pd.util.hash_pandas_object(labelled, index=False).sum())}
    stored = run.frame("labels-noise", "soft_labels", lambda: labelled, rows, [lab.data.samples])
    exactly = {"max_steps": optimiser_steps, "epochs": optimiser_steps} if optimiser_steps else {}
    training = p.training.model_copy(update=exactly)
    return train_on_labels(run, f"noise-{lab.student.policy}", lab.student, lab.data.samples, stored, training)


def _validation_answers(lab: Replication) -> DraftSet:
    """Return the drafts of the validation split, labelled by rollouts and exactly, and the samples of Bo3, exactly."""
    validation, known = lab.validation, lab.validation.draft_set

    def make() -> pd.DataFrame:
        return pd.concat([validation.drafts.read(), validation.samples], ignore_index=True)

    every = lab.run.frame("answers-noise", "samples", make, {}, [validation.drafts, validation.pool])
    exact = step_labels.exact_labels(lab.run, every.read(), "validation")
    return DraftSet(every, known.rollouts, known.labels, exact)


def _powers(k: int) -> list[int]:
    return [2**i for i in range(k.bit_length())]


def _check(**counts: int) -> None:
    """Raise ParamsError if a count is less than 1."""
    for name, count in counts.items():
        if count < 1:
            raise ParamsError(f"{name} = {count}: must be a whole number greater than 0")
