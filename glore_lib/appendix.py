"""The appendix: labels against people (paper, appendix G), value-based refinement (appendix J), and ablations.

The paper's appendix is not at hand: what is compared follows the main text's words on it. Every experiment returns a
``numbers`` frame (see :data:`glore_lib.store.SCHEMAS`), in which ``metric@x`` is a metric at a point of a sweep; what
it samples and scores is kept as that of the other notebooks is. What could be tuned is tried on the validation split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from glore_lib import figures, step_labels
from glore_lib import statistics as st
from glore_lib.evaluation import DraftSet, Numbers, Tables, pick, wide
from glore_lib.params import ParamsError, Section, digest
from glore_lib.refinement import Guide, locate_first_error, marked_step, refine
from glore_lib.replication import Evaluated, Replication
from glore_lib.reward_models import answer_scores, score_steps
from glore_lib.run import Run
from glore_lib.step_labels import first_errors, rollout_labels
from glore_lib.store import Artifact
from glore_lib.students import sample_solutions
from glore_lib.tasks.mr_gsm8k import MRGSM8K

KINDS = ("orm", "balanced_orm", "sorm")
LOCATORS = ("orm", "sorm")
# Post-processing 1 and 2 on and off, as (monotone, consistent).
RULES = {
    "raw": (False, False),
    "monotone": (True, False),
    "consistent_alone": (False, True),
    "consistent": (True, True),
}
JUDGES = {"exact": "the exact labels", "human": "people"}
QUALITY = ("label_precision", "label_recall", "label_accuracy")
TWICE = {"global_twice": "global", "local+sorm_twice": "local+sorm", "global_then_local+sorm": "global"}
REFINED = ["draft", "global", "local"]
SAMPLED = [f"sample{i}" for i in range(5)]
POOLS = {"refined": [*REFINED, *SAMPLED[:3]], "sampled": ["draft", *SAMPLED]}
CHOICE_PAIRS = (
    ("gated_global", "greedy"), ("gated_local+sorm", "greedy"), ("reranked", "gated_global"),
    ("reranked", "gated_local+sorm"), ("refined_weighted", "reranked"), ("refined_weighted", "refined_orm"),
    ("refined_weighted", "refined_vote"), ("refined_weighted", "sampled_weighted"), ("refined_orm", "sampled_orm"),
)  # fmt: skip


# Appendix G: labels by rollouts, and reward models, against someone who knows


@dataclass(frozen=True)
class Judged:
    """Solutions, the labels of ``judge`` (the task's own checker, or people), and scores by reward models; with labels
    by rollouts too, ``rolled_out``, where the solutions are to questions like those that the student learned from."""

    judge: Literal["exact", "human"]
    samples: Artifact
    truth: pd.DataFrame
    scores: Mapping[str, Artifact]
    rolled_out: DraftSet | None


def judged_solutions(lab: Replication) -> Judged:
    """The drafts on the test split where their true labels are known; else the solutions of MR-GSM8K in which people
    found the first error, as many as the run has test questions. From its first error on a solution's steps are
    labelled 0, as they are by rollouts: a label is about the prefix that the step ends."""
    drafts, p = lab.test, lab.run.params
    if p.task.name == "arithmetic":
        scores, known = {kind: drafts.scores[kind] for kind in KINDS}, drafts.draft_set
        return Judged("exact", drafts.drafts, known.exact, scores, known)
    task = MRGSM8K(p.task.calculator_annotations, p.task.test_questions)
    judged = task.judged()
    counts = p.task.model_copy(update={"test_questions": len(task.splits["test"])})
    lab.run.free()  # two runs would have two engines
    run = Run(p.model_copy(update={"task": counts}), lab.run.store, task)
    texts = digest([(s.sample_id, s.text) for s in judged])
    samples = run.frame("samples-human", "samples", task.samples, {"texts": texts}, [])
    steps = step_labels.orm_labels(samples.read())  # for its rows: one a step
    before = (steps["step"] < steps["sample_id"].map({s.sample_id: s.first_error for s in judged})).astype(int)
    people = steps.assign(label_raw=before, label=before, source="human")
    scores = {
        kind: score_steps(run, lab.reward_models[kind], f"{kind}-human", samples.read(), "test", samples)
        for kind in KINDS
    }  # fmt: skip
    if p.task.name != "gsm8k":
        return Judged("human", samples, people, scores, None)
    rollouts = step_labels.rollouts(run, lab.student, samples.read(), "test", "human", [samples])
    labels = rollout_labels(rollouts.read(), p.reward_models.monotone, p.reward_models.consistent)
    return Judged("human", samples, people, scores, DraftSet(samples, rollouts, labels, people))


def label_quality(lab: Replication) -> pd.DataFrame:
    """Labels by rollouts and the reward models' verdicts against the judge's: steps, and first errors.

    ``label_…`` are against the judge; so is what ends in ``_exact`` or ``_human``, and else it is against those labels.
    First errors are of the solutions with a wrong answer in which the judge sees one.
    """
    judged, tables, numbers = judged_solutions(lab), lab.tables, []
    suffix, threshold = f"_{judged.judge}", lab.run.params.reward_models.threshold
    if judged.rolled_out:
        numbers += tables.label_quality(judged.rolled_out)
        numbers += tables.steps(judged.rolled_out.labels, judged.scores, "")
    else:
        positive = st.clustered(judged.truth["label"], judged.truth["question_id"], tables.seed)
        numbers.append(tables.row("labels", f"positive_labels{suffix}", positive))
    numbers += tables.steps(judged.truth, judged.scores, suffix)
    found = {kind: locate_first_error(scores.read(), threshold) for kind, scores in judged.scores.items()}
    if judged.rolled_out:
        rollouts = judged.rolled_out.rollouts.read()
        by_rule = {rule: rollout_labels(rollouts, *on) for rule, on in step_labels.POSTPROCESSING.items()}
        found = {rule: first_errors(labels) for rule, labels in by_rule.items()} | found
    errors = _true_errors(judged.samples, judged.truth)
    numbers += _first_errors(tables, errors, found, suffix, [("sorm", "orm"), ("balanced_orm", "orm")])
    frame = pd.DataFrame(numbers)
    return frame.assign(metric=frame["metric"].str.replace("_exact", suffix))


def _true_errors(drafts: Artifact, labels: pd.DataFrame) -> pd.Series:
    """The first step labelled 0 of each draft that is wrong and has one."""
    samples, errors = drafts.read(), first_errors(labels)
    return errors[errors.index.isin(samples.loc[~samples["is_correct"], "sample_id"])]


def _first_errors(
    tables: Tables, truth: pd.Series, found: Mapping[str, pd.Series], suffix: str, pairs: Sequence[tuple[str, str]] = ()
) -> Numbers:
    """How often the first error of a solution is put where it is, before it, after it, and nowhere.

    ``truth`` and each of ``found`` are steps by ``sample_id``; 0 and what is missing in ``found`` stand for nowhere.
    """
    numbers, hits = [], {}
    for method, places in found.items():
        at = places.reindex(truth.index, fill_value=0)
        hits[method] = at == truth
        outcomes = {
            "accuracy": hits[method], "early": (at > 0) & (at < truth), "late": at > truth, "missed": at == 0,
        }  # fmt: skip
        numbers += [tables.row(method, f"first_error_{name}{suffix}", st.proportion(o)) for name, o in outcomes.items()]
    for a, b in pairs:
        numbers += tables.compared(a, b, hits, "first_error_accuracy", suffix)
    return numbers


# Appendix J: value-based refinement


def best_prefixes(step_scores: pd.DataFrame) -> pd.Series:
    """The step at which value-based refinement begins in each sample: the one after the prefix P_i that is scored
    highest (the shortest of equals), by ``sample_id``.

    The last step is no prefix to go on from, and the question alone (P_0) has no score: a sample of one step begins
    anew, and no other does.
    """
    last = step_scores.groupby("sample_id")["step"].transform("max")
    inner = step_scores[step_scores["step"] < last].sort_values(["score", "step"], ascending=[False, True])
    best = inner.groupby("sample_id")["step"].first() + 1
    return best.reindex(step_scores["sample_id"].unique(), fill_value=1)


def value_refinement(lab: Replication) -> pd.DataFrame:
    """Of the wrong drafts of the test split: the share fixed from the step after the most valued prefix (``value+…``)
    and from the first step at or below T (``local+…``), both with the prefix left to the refiner and forced on it; and
    where each begins, seen from the true first error."""
    test, force = lab.test, lab.run.params.refiner.force_prefix
    other = "free" if force else "forced"
    begins = {f"local+{k}": errors for k, errors in test.first_errors.items()}
    every = test.drafts.read()["sample_id"]
    values = {f"value+{k}": best_prefixes(test.scores[k].read()).reindex(every, fill_value=0) for k in LOCATORS}
    guides = {kind: Guide(steps) for kind, steps in values.items()}
    guides |= {f"{kind}_{other}": Guide(steps, not force) for kind, steps in values.items()}
    guides[f"local+orm_{other}"] = Guide(begins["local+orm"], not force)
    refined = {kind: test.refined[kind] for kind in begins} | refine(lab.run, lab.refiner, test.drafts, "test", guides)
    refined[f"local+sorm_{other}"] = test.refined[f"local+sorm_{other}"]
    right = lab.tables.right(test.drafts, refined)
    fixed = right[~right["greedy"]].drop(columns="greedy")
    numbers = [lab.tables.row(kind, "fixed_fraction", st.proportion(fixed[kind])) for kind in fixed]
    pairs = [(f"value+{k}{way}", f"local+{k}{way}") for way in ("", f"_{other}") for k in LOCATORS]
    for a, b in pairs:
        numbers += lab.tables.compared(a, b, fixed, "fixed_fraction")
    if test.draft_set.exact is not None:
        numbers += _first_errors(lab.tables, _true_errors(test.drafts, test.draft_set.exact), begins | values, "_exact")
    return pd.DataFrame(numbers)


# Ablations of the labels


def label_rules(lab: Replication) -> pd.DataFrame:
    """The SORM's training labels with each of the three post-processing steps on and off: how many are positive (also
    by step number, with all three and without balancing) and, where the exact labels are known, how good they are."""
    tables, rollouts, samples = lab.tables, lab.data.rollouts.read(), lab.data.samples.read()
    labelled = samples[samples["sample_id"].isin(rollouts["sample_id"])]
    exact = step_labels.exact_labels(lab.run, labelled, "train")
    seed = lab.run.seed("labels", "sorm", lab.data.samples.record["name"])  # as the SORM's own
    numbers = []
    for rule, switches in RULES.items():
        every = rollout_labels(rollouts, *switches)
        for method, labels in {rule: every, f"{rule}+balanced": step_labels.balance_steps(every, seed)}.items():
            numbers.append(_positive(tables, method, "positive_labels", labels))
            numbers += _quality(tables, method, labels, exact)
            if rule == "consistent":
                for step, of_step in labels.groupby("step"):
                    numbers.append(_positive(tables, method, f"positive_labels_of_step@{step}", of_step))
    return pd.DataFrame(numbers)


def rollout_counts(lab: Replication, drafts: int) -> pd.DataFrame:
    """Labels by the first K rollouts, for K up to twice the run's in powers of two, of the first ``drafts`` drafts of
    the validation split (or all, where there are fewer), on which all rollouts are drawn."""
    if drafts < 1:
        raise ParamsError(f"drafts = {drafts}: must be a whole number greater than 0")
    rm, validation = lab.run.params.reward_models, lab.validation
    most = 2 * rm.rollouts_per_step
    exhaustive = _with(lab.run, "reward_models", rollouts_per_step=most, early_stop=False)
    chosen = validation.drafts.read().head(drafts)
    rollouts = step_labels.rollouts(
        exhaustive, lab.student, chosen, "validation", "drafts-validation", [validation.drafts]
    ).read()
    exhaustive.free()
    exact = step_labels.exact_labels(lab.run, chosen, "validation")
    numbers = []
    for k in (2**i for i in range(most.bit_length()) if 2**i <= most):
        for rule in ("raw", "consistent"):
            labels = rollout_labels(rollouts[rollouts["rollout"] < k], *RULES[rule])
            at_k = [_positive(lab.tables, rule, "positive_labels", labels), *_quality(lab.tables, rule, labels, exact)]
            numbers += [row | {"metric": f"{row['metric']}@{k}"} for row in at_k]
    return pd.DataFrame(numbers)


def _with(run: Run, section: str, **values: Any) -> Run:
    """The run with other parameters in a section, on the same artifacts."""
    run.free()  # two runs would have two engines
    changed: Section = getattr(run.params, section).model_copy(update=values)
    return Run(run.params.model_copy(update={section: changed}), run.store, run.task)


def _positive(tables: Tables, method: str, metric: str, labels: pd.DataFrame) -> dict:
    return tables.row(method, metric, st.clustered(labels["label"], labels["question_id"], tables.seed))


def _quality(tables: Tables, method: str, labels: pd.DataFrame, exact: pd.DataFrame | None) -> Numbers:
    if exact is None:
        return []
    keys = ["sample_id", "step"]
    truth = exact.set_index(keys)["label"].reindex(pd.MultiIndex.from_frame(labels[keys]))
    c = st.confusion(truth, labels["label"], labels["question_id"], tables.seed)
    return [tables.row(method, m, e) for m, e in zip(QUALITY, (c.precision, c.recall, c.accuracy), strict=True)]


# Ablations of the refinement


def thresholds(lab: Replication, ts: Sequence[float]) -> pd.DataFrame:
    """On the validation split, for each threshold T and locator: the share of first errors found (against the exact
    labels, else those by rollouts), and of wrong drafts those in which none is seen, those refined from their first
    step on (as globally), and those fixed. Every draft is refined once from every step; what T chooses is looked up."""
    for t in ts:
        if not 0 < t < 1:
            raise ParamsError(f"thresholds = {t}: must be between 0 and 1 (0 and 1 excluded)")
    validation = lab.validation
    drafts = validation.drafts.read().set_index("sample_id")
    steps = drafts["text"].map(lambda text: len(step_labels.split_steps(text)))
    guides = {f"from-{i}": Guide(pd.Series(i, steps.index).where(steps >= i, 0)) for i in range(1, steps.max() + 1)}
    refined = refine(lab.run, lab.refiner, validation.drafts, "validation", guides)
    right = lab.tables.right(validation.drafts, refined)
    wrong = ~right["greedy"].to_numpy()
    labels = validation.draft_set.labels if validation.draft_set.exact is None else validation.draft_set.exact
    truth = _true_errors(validation.drafts, labels)
    numbers = []
    for t in ts:
        for locator in LOCATORS:
            found = locate_first_error(validation.scores[locator].read(), t).reindex(steps.index, fill_value=0)
            at = pd.Series(map(marked_step, found, steps, repeat(lab.run.params.refiner)), steps.index)
            column = right.columns.get_indexer(["greedy" if i == 0 else f"from-{i}" for i in at])
            fixed = right.to_numpy()[np.arange(len(right)), column]
            values = {
                "first_error_accuracy": st.proportion(found[truth.index] == truth),
                "no_error_found": st.proportion(found[wrong] == 0),
                "begun_at_first_step": st.proportion(at[wrong] == 1), "fixed_fraction": st.proportion(fixed[wrong]),
            }  # fmt: skip
            numbers += [lab.tables.row(f"local+{locator}", f"{m}@{t:g}", e) for m, e in values.items()]
    return pd.DataFrame(numbers)


def chosen_thresholds(swept: pd.DataFrame, usual: float) -> dict[str, float]:
    """For each locator the T of :func:`thresholds` that fixes most wrong drafts, of equals the one nearest to the
    ``usual`` one; that one where there was no wrong draft."""
    shares = swept[swept["metric"].str.startswith("fixed_fraction@") & (swept["n"] > 0)]
    shares = shares.assign(t=shares["metric"].str.extract(r"@(.+)", expand=False).astype(float))
    best = shares.assign(far=(shares["t"] - usual).abs()).sort_values(["value", "far"], ascending=[False, True])
    found = best.groupby("method")["t"].first()
    return {locator: float(found.get(f"local+{locator}", usual)) for locator in LOCATORS}


def refined_otherwise(lab: Replication, ts: Mapping[str, float]) -> pd.DataFrame:
    """On the test split, the share of wrong drafts that is fixed, and the accuracy with all drafts refined: local
    refinements at the thresholds ``ts`` of each locator, chosen elsewhere, and refinements refined again."""
    run, test = lab.run, lab.test
    once = {kind: test.refined[kind] for kind in ("global", *(f"local+{locator}" for locator in LOCATORS))}
    tuned = {
        f"local+{locator}_tuned": Guide(_located(test, test.scores[locator], t)) for locator, t in ts.items()
    }  # fmt: skip
    refined = once | refine(run, lab.refiner, test.drafts, "test", tuned)
    refined |= refine(run, lab.refiner, once["global"], "test", {"global_twice": Guide()})
    threshold = run.params.reward_models.threshold
    for kind in ("local+sorm_twice", "global_then_local+sorm"):
        first = once[TWICE[kind]]
        guide = Guide(_located(test, test.score("sorm", first, f"-{TWICE[kind]}"), threshold))
        refined |= refine(run, lab.refiner, first, "test", {kind: guide})
    right = lab.tables.right(test.drafts, refined)
    wrong = right[~right["greedy"]]
    numbers: Numbers = []
    for kind in refined:
        numbers.append(lab.tables.row(kind, "fixed_fraction", st.proportion(wrong[kind])))
        numbers.append(lab.tables.row(kind, "accuracy_all_drafts", st.proportion(right[kind])))
    pairs = [*((f"local+{locator}_tuned", f"local+{locator}") for locator in ts), *TWICE.items()]
    for a, b in pairs:
        numbers += lab.tables.compared(a, b, wrong, "fixed_fraction")
    return pd.DataFrame(numbers)


def _located(split: Evaluated, scores: Artifact, threshold: float) -> pd.Series:
    found = locate_first_error(scores.read(), threshold)
    return found.reindex(split.drafts.read()["sample_id"], fill_value=0)


def choices(lab: Replication) -> pd.DataFrame:
    """Accuracy on the test split by how the answer is picked. ``gated_…``: the refinement (global, or local + SORM)
    where the ORM gives the draft at most T, else the draft. Of six answers each, ``refined`` (the draft, both
    refinements, the three samples of Bo3) and ``sampled`` (the draft and five samples), ``…_orm``: the one the ORM
    scores highest, ``…_vote``: the most frequent, ``…_weighted``: the one whose scores by the ORM sum to most."""
    right, scores, answers = _answers(lab)
    doubted = scores["draft"] <= lab.run.params.reward_models.threshold

    def picked(names: list[str]) -> np.ndarray:
        return pick(right[names].to_numpy(), scores[names].to_numpy())

    hits = {"greedy": right["draft"], "reranked": picked(REFINED)}
    for method, refinement in {"gated_global": "global", "gated_local+sorm": "local"}.items():
        hits[method] = right["draft"].where(~doubted, right[refinement])
    for pool, names in POOLS.items():
        hits[f"{pool}_orm"] = picked(names)
        equal = pd.DataFrame(1.0, scores.index, scores.columns)
        for method, weights in {f"{pool}_vote": equal, f"{pool}_weighted": scores}.items():
            rows = zip(*(frame[names].to_numpy().tolist() for frame in (answers, right, weights)), strict=True)
            hits[method] = [is_right_vote(*row) for row in rows]
    numbers = [lab.tables.row(method, "accuracy", st.proportion(outcomes)) for method, outcomes in hits.items()]
    numbers.append(lab.tables.row("orm", "drafts_doubted", st.proportion(doubted)))
    for a, b in CHOICE_PAIRS:
        numbers += lab.tables.compared(a, b, hits, "accuracy")
    return pd.DataFrame(numbers)


def _answers(lab: Replication) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Of every answer to a test question, a column each: whether it is right, its score by the ORM, and the answer."""
    test, p = lab.test, lab.run.params.evaluation
    sources = {"draft": test.drafts, "global": test.refined["global"], "local": test.refined["local+sorm"]}
    scores = {"draft": test.scores["orm"]} | {k: test.score("orm", sources[k], f"-{k}") for k in REFINED[1:]}
    more = sample_solutions(lab.run, lab.student, "test", len(SAMPLED) - 3, p.temperature, "bo3-more")
    parts = [sources[k].read().assign(source=k, score=_of_answers(scores[k], sources[k])) for k in REFINED]
    for samples, name, first in ((test.samples, "bo3", 0), (more, "bo3-more", 3)):
        frame = samples.read().assign(score=_of_answers(test.score("orm", samples, f"-{name}"), samples))
        place = frame.groupby("question_id").cumcount() + first
        parts.append(frame.assign(source="sample" + place.astype(str)))
    every = pd.concat(parts)
    columns = ("is_correct", "score", "final_answer")
    right, score, answer = (every.pivot(index="question_id", columns="source", values=c) for c in columns)
    return right.astype(bool), score, answer


def _of_answers(scores: Artifact, answers: Artifact) -> np.ndarray:
    return answer_scores(scores.read()).reindex(answers.read()["sample_id"], fill_value=0.0).to_numpy()


def is_right_vote(answers: Sequence[str], right: Sequence[bool], weights: Sequence[float]) -> bool:
    """Whether the answer is right whose weights sum to most; of equals the first. Empty answers never vote, and where
    none does nothing is right."""
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer:
            votes[answer] = votes.get(answer, 0.0) + weight
    winner = max(votes, key=lambda answer: votes[answer], default="")
    return any(r for a, r in zip(answers, right, strict=True) if a and a == winner)


# What the notebooks show and keep


def sweep_table(numbers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """``metric@x`` to read: a row a method, a column an x."""
    return wide(numbers, [m for m in numbers["metric"].unique() if m.startswith(f"{metric}@")])


def save(figure: Figure, name: str, out: str, *numbers: pd.DataFrame) -> Figure:
    """Writes a figure as PNG and SVG, and all numbers of its experiment as CSV, into the folder ``out``."""
    figures.save(figure, pd.concat(numbers, ignore_index=True), Path(out), name)
    return figure


def judge_suffix(numbers: pd.DataFrame) -> str:
    """What the metrics of :func:`label_quality` end in that are against the judge."""
    metrics = set(numbers["metric"])
    return next(f"_{judge}" for judge in JUDGES if f"first_error_accuracy_{judge}" in metrics)


@dataclass(frozen=True)
class Told:
    """Numbers in words: "not known" where there is none, or nothing to count."""

    numbers: pd.DataFrame

    def value(self, method: str, metric: str) -> str:
        """A number in per cent, with its interval and n."""
        row = self._row(method, metric)
        return f"{st.estimate(row).percent(' %')} (n = {row.n:,})" if row else "not known"

    def difference(self, a: str, b: str, metric: str, suffix: str = "") -> str:
        """a - b in points, and on which side of 0 its interval lies."""
        row = self._row(f"{a}-{b}", f"{metric}_difference{suffix}")
        if row is None:
            return "not known"
        verdict = "more" if row.ci_low > 0 else "less" if row.ci_high < 0 else "no clear difference"
        return f"{st.estimate(row).percent(' points', '+')}, {verdict}"

    def _row(self, method: str, metric: str) -> Any:
        rows = self.numbers[(self.numbers["method"] == method) & (self.numbers["metric"] == metric)]
        return next(rows[rows["n"] > 0].itertuples(), None)


def found_label_quality(numbers: pd.DataFrame) -> list[str]:
    """What :func:`label_quality` found, a sentence each."""
    told = Told(numbers)
    suffix = judge_suffix(numbers)
    lines = [f"The judge: {JUDGES[suffix[1:]]}."]
    if "raw" in set(numbers["method"]):
        lines += [
            f"Positive labels by rollouts that are right: raw {told.value('raw', 'label_precision')}, after "
            f"post-processing 1 and 2 {told.value('consistent', 'label_precision')}.",
            f"Right steps that they find: raw {told.value('raw', 'label_recall')}, after post-processing "
            f"{told.value('consistent', 'label_recall')}.",
            "First errors put where the judge puts them, labels by rollouts: raw "
            f"{told.value('raw', f'first_error_accuracy{suffix}')}, after post-processing "
            f"{told.value('consistent', f'first_error_accuracy{suffix}')}.",
        ]
    for kind, name in (("orm", "ORM"), ("balanced_orm", "balanced ORM"), ("sorm", "SORM")):
        lines.append(
            f"The {name} judges {told.value(kind, f'step_accuracy{suffix}')} of the steps as the judge does, and puts "
            f"{told.value(kind, f'first_error_accuracy{suffix}')} of the first errors in their place."
        )
    return [
        *lines,
        f"SORM − ORM: steps {told.difference('sorm', 'orm', 'step_accuracy', suffix)}; first errors "
        f"{told.difference('sorm', 'orm', 'first_error_accuracy', suffix)}.",
    ]


def found_value_refinement(numbers: pd.DataFrame) -> list[str]:
    """What :func:`value_refinement` found, a sentence each."""
    told, lines = Told(numbers), []
    ways = [way for way in ("", "_forced", "_free") if f"value+orm{way}" in set(numbers["method"])]
    for locator in LOCATORS:
        for way in ways:
            value, process = f"value+{locator}{way}", f"local+{locator}{way}"
            lines.append(
                f"{value} fixes {told.value(value, 'fixed_fraction')} of the wrong drafts, {process} "
                f"{told.value(process, 'fixed_fraction')}: {told.difference(value, process, 'fixed_fraction')}."
            )
        places = [told.value(f"value+{locator}", f"first_error_{p}_exact") for p in ("accuracy", "early", "late")]
        lines.append(
            f"value+{locator} begins at the true first error in {places[0]}, before it in {places[1]}, after it in "
            f"{places[2]}."
        )
    return lines


def found_labels(rules: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    """What :func:`label_rules` and :func:`rollout_counts` found, a sentence each."""
    told, curve = Told(rules), Told(counts)
    lines = [
        f"{rule}: positive {told.value(rule, 'positive_labels')}; precision {told.value(rule, 'label_precision')}, "
        f"recall {told.value(rule, 'label_recall')}."
        for rule in (*RULES, "consistent+balanced")
    ]
    ks = sorted(int(metric.partition("@")[2]) for metric in counts["metric"].unique() if "positive" in metric)
    for metric in (f"{name}@" for name in ("positive_labels", *QUALITY)):
        ends = [f"{curve.value('consistent', f'{metric}{k}')} with K = {k}" for k in (ks[0], ks[-2], ks[-1])]
        lines.append(f"{metric.strip('@').replace('_', ' ')}: {'; '.join(ends)}.")
    return lines


def found_refinement(
    swept: pd.DataFrame, otherwise: pd.DataFrame, chosen: pd.DataFrame, ts: Mapping[str, float]
) -> list[str]:
    """What :func:`thresholds`, :func:`refined_otherwise` and :func:`choices` found, a sentence each."""
    validation, told, picked = Told(swept), Told(otherwise), Told(chosen)
    lines = []
    for locator, t in ts.items():
        kind = f"local+{locator}"
        lines.append(
            f"{kind}: T = {t:g} fixes most on validation, {validation.value(kind, f'fixed_fraction@{t:g}')}, and "
            f"begins at the first step in {validation.value(kind, f'begun_at_first_step@{t:g}')}. On test it fixes "
            f"{told.value(f'{kind}_tuned', 'fixed_fraction')}, the usual T "
            f"{told.value(kind, 'fixed_fraction')}: {told.difference(f'{kind}_tuned', kind, 'fixed_fraction')}."
        )
    for twice, once in TWICE.items():
        lines.append(
            f"{twice} fixes {told.value(twice, 'fixed_fraction')}, {once} {told.value(once, 'fixed_fraction')}: "
            f"{told.difference(twice, once, 'fixed_fraction')}."
        )
    lines.append(f"The ORM doubts {picked.value('orm', 'drafts_doubted')} of the drafts.")
    for a, b in CHOICE_PAIRS:
        lines.append(
            f"{a} against {b}: {picked.value(a, 'accuracy')} and {picked.value(b, 'accuracy')}, "
            f"{picked.difference(a, b, 'accuracy')}."
        )
    return lines
