"""The (Q, D) test set, Tables 1-3, reranking and its baselines (paper, sections 4.2 and 5).

The tables are outcomes by method and metric (:class:`glore_lib.statistics.Outcome`), computed from stored samples and
scores. :func:`numbers` turns them, of one or several seeds, into rows with intervals.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from glore_lib import statistics as st
from glore_lib.artifacts.records import SCHEMAS
from glore_lib.artifacts.store import Artifact
from glore_lib.method import rollouts, step_labels
from glore_lib.method.refinement import locate_first_error
from glore_lib.method.reward_models import answer_scores
from glore_lib.method.schedule import KINDS
from glore_lib.method.students import Student, sample_solutions
from glore_lib.models.tokens import encode
from glore_lib.run import Run
from glore_lib.solutions import ANSWER_MARK, split_steps

Numbers = list[dict]
Outcomes = dict[tuple[str, str], st.Outcome]  # by method and metric

# Columns of a frame of numbers: shares with their 95 % intervals. ``seed`` is empty over several seeds.
NUMBERS = ["task", "model", "seed", "method", "metric", "value", "ci_low", "ci_high", "n", "clusters"]
SUFFIXES = re.compile(r"(_all)?(_exact|_human)?(@\d+)?$")  # after a metric's name: steps, labels, K
_OVER_ORM = [*((kind, "orm") for kind in KINDS if kind != "orm"), ("sorm", "sorm_raw")]
_REFINED = ("global", "local+orm", "local+balanced_orm", "local+sorm")
# The paired differences in the numbers, by metric without its suffixes.
COMPARED: dict[str, list[tuple[str, str]]] = {
    **dict.fromkeys(
        ("step_accuracy", "step_balanced_accuracy", "step_auc", "first_error_accuracy", "final_accuracy",
         "final_balanced_accuracy", "final_auc", "rerank_accuracy"), _OVER_ORM),
    "label_accuracy": [("consistent", "monotone")],
    "fixed_fraction": [
        ("local+sorm", "local+orm"), ("local+sorm", "local+balanced_orm"), ("local+sorm", "global"),
        ("global+local+sorm", "global"), ("global+local+sorm", "local+sorm"), ("global+local+sorm", "resample"),
        ("global+local+sorm", "global+global_sampled"), ("global+local+sorm", "global+resample"),
    ],
    "accuracy_all_drafts": [*((kind, "greedy") for kind in _REFINED), ("local+sorm", "global")],
    "accuracy_incorrect_drafts": [(kind, "greedy") for kind in _REFINED],
    "accuracy": [
        ("reranked", "greedy"), ("reranked", "bo3"), ("bo3", "greedy"), ("oracle_reranked", "oracle_bo3")
    ],
}  # fmt: skip


@dataclass(frozen=True)
class DraftSet:
    """Greedy drafts on the questions of a split, with rollout labels of their steps and, where known, exact ones."""

    drafts: Artifact
    rollouts: Artifact
    labels: pd.DataFrame
    exact: pd.DataFrame | None

    @property
    def truths(self) -> dict[str, pd.DataFrame]:
        """Step labels by metric suffix: by rollouts as in the paper (""), and exact ("_exact")."""
        return {"": self.labels} | ({"_exact": self.exact} if self.exact is not None else {})


def draft_set(run: Run, student: Student, split: str) -> DraftSet:
    """Return the (Q, D) set of a split: one greedy draft per question (paper, section 4.2)."""
    p = run.params.reward_models
    drafts = sample_solutions(run, student, split, 1, 0.0, f"greedy-{student.policy}")
    rolled_out = rollouts.rollouts(run, student, drafts.read(), split, f"drafts-{split}", [drafts])
    labels = step_labels.rollout_labels(rolled_out.read(), p.monotone, p.consistent)
    return DraftSet(drafts, rolled_out, labels, step_labels.exact_labels(run, drafts.read(), split))


class Tables:
    """The tables of one run as outcomes by method and metric."""

    def __init__(self, run: Run):
        self.run, self.threshold = run, run.params.reward_models.threshold

    def row(self, method: str, metric: str, estimate: st.Estimate) -> dict:
        """Return an estimate as a row of numbers."""
        p = self.run.params
        cells = st.row(p.run, p.base_model.source, method, metric, estimate) | {"seed": p.seed}
        return {name: cells[name] for name in NUMBERS}

    def numbers(self, outcomes: Outcomes) -> pd.DataFrame:
        """Return outcomes of this run and their differences as :func:`numbers` does."""
        p = self.run.params
        return numbers(p.run, p.base_model.source, p.seed, [outcomes])

    def compared(
        self, a: str, b: str, hits: Mapping[str, ArrayLike] | pd.DataFrame, metric: str, suffix: str = ""
    ) -> Numbers:
        """Compare two methods on the same questions: the paired difference a - b, and McNemar's exact p value.

        ``suffix`` names the labels, as in :attr:`DraftSet.truths`.
        """
        difference = st.paired_difference(hits[a], hits[b])
        p = st.Estimate(st.mcnemar_p(hits[a], hits[b]), nan, nan, difference.n) if difference.n else st.NO_DATA
        return [
            self.row(f"{a}-{b}", f"{metric}_difference{suffix}", difference),
            self.row(f"{a}-{b}", f"{metric}_difference{suffix}_p", p),
        ]

    def table1(self, draft_set: DraftSet, scores: Mapping[str, Artifact]) -> Outcomes:
        """Compute how well each reward model judges steps (paper, Table 1), and how often it locates the first error.

        Metrics without a suffix count the intermediate steps; ``_all`` adds the line with the answer. Labels are those
        by rollouts and, with the suffix ``_exact``, the exact ones. ``step_false_negative_share`` is the share of false
        negatives among the errors. ``all_positive`` and ``all_negative`` are the constant predictions.
        """
        outcomes: Outcomes = {}
        for suffix, labels in draft_set.truths.items():
            outcomes |= self.steps(draft_set.drafts.read(), labels, scores, suffix)
        return outcomes | self._first_errors(draft_set, scores)

    def steps(
        self, samples: pd.DataFrame, labels: pd.DataFrame, scores: Mapping[str, Artifact], suffix: str
    ) -> Outcomes:  # fmt: skip
        """Compute the step metrics of :meth:`table1` for one set of labels, named by ``suffix``."""
        truth = labels.set_index(["sample_id", "step"])
        predicted = pd.DataFrame(
            {m: a.read().set_index(["sample_id", "step"])["score"].reindex(truth.index) for m, a in scores.items()}
        )
        intermediate = ~is_answer(samples, truth.index)
        outcomes: Outcomes = {}
        for name, rows in (("", intermediate), ("_all", np.ones_like(intermediate))):
            y, questions = truth["label"].to_numpy()[rows], truth["question_id"].to_numpy()[rows]
            of_rows = {method: column.to_numpy()[rows] for method, column in predicted.items()}
            outcomes |= self._judged("step", f"{name}{suffix}", y, questions, of_rows)  # type: ignore[arg-type]
        return outcomes

    def _judged(
        self, what: str, suffix: str, labels: np.ndarray, questions: np.ndarray, scores: Mapping[str, np.ndarray]
    ) -> Outcomes:  # fmt: skip
        """Compare scores above the threshold, and constant predictions, with 0/1 labels, all [n]."""
        outcomes: Outcomes = {}
        constant = {"all_positive": np.ones_like(labels), "all_negative": np.zeros_like(labels)}
        guesses = {m: (s > self.threshold).astype(int) for m, s in scores.items()}
        for method, guess in (guesses | constant).items():
            rates = st.confusion(labels, guess, questions)
            names = ["accuracy"] if method in constant else [
                "accuracy", "false_positive_rate", "false_negative_rate", "false_negative_share"
            ]  # fmt: skip
            outcomes |= {(method, f"{what}_{name}{suffix}"): rates[name] for name in names}
        for method, guess in guesses.items():
            balanced = st.Outcome.balanced(labels, guess, questions)
            outcomes[method, f"{what}_balanced_accuracy{suffix}"] = balanced
            outcomes[method, f"{what}_auc{suffix}"] = st.Outcome.auc(labels, scores[method], questions)
        return outcomes

    def _first_errors(self, draft_set: DraftSet, scores: Mapping[str, Artifact]) -> Outcomes:
        """Compute the share of wrong drafts whose first error is located.

        Wrong drafts whose labels show no error, which rollout labels allow, do not count.
        """
        drafts = draft_set.drafts.read()
        outcomes: Outcomes = {}
        for suffix, labels in draft_set.truths.items():
            truth = drafts["sample_id"].map(step_labels.first_errors(labels)).fillna(0)
            counted = ~drafts["is_correct"] & (truth > 0)
            for method, artifact in scores.items():
                errors = locate_first_error(artifact.read(), self.threshold)
                found = errors.reindex(drafts["sample_id"], fill_value=0).to_numpy()
                hits = st.Outcome.of(found == truth, drafts["question_id"], counted)
                outcomes[method, f"first_error_accuracy{suffix}"] = hits
        return outcomes

    def table2(self, draft_set: DraftSet, scores: Mapping[str, Artifact]) -> Outcomes:
        """Compute how well the score after the last step predicts the final answer's correctness (paper, Table 2)."""
        drafts = draft_set.drafts.read()
        right, questions = drafts["is_correct"].to_numpy().astype(int), drafts["question_id"].to_numpy()
        predicted = {
            method: answer_scores(artifact.read()).reindex(drafts["sample_id"], fill_value=0.0).to_numpy()
            for method, artifact in scores.items()
        }
        return self._judged("final", "", right, questions, predicted)

    def label_quality(self, draft_set: DraftSet) -> Outcomes:
        """Compute the share of positive labels, and precision and recall of rollout labels against exact ones.

        Labels are compared raw and after each post-processing step.
        """
        every = draft_set.labels
        outcomes: Outcomes = {("labels", "positive_labels"): st.Outcome.of(every["label"], every["question_id"])}
        if draft_set.exact is None:
            return outcomes
        exact = draft_set.exact
        outcomes["labels", "positive_labels_exact"] = st.Outcome.of(exact["label"], exact["question_id"])
        return outcomes | rule_outcomes(draft_set.rollouts.read(), exact)

    def table3(self, drafts: Artifact, refined: Mapping[str, Artifact]) -> Outcomes:
        """Compute the share of wrong drafts that each refinement fixes, and two together (paper, Table 3).

        A union cannot lose: ``global+global_sampled`` and ``global+resample`` show what a second try adds.
        ``fixed_jaccard`` is the share of the drafts fixed by either that both fix.
        """
        right, questions = self.right(drafts, refined), drafts.read()["question_id"]
        wrong = ~right["greedy"]
        seconds = [
            kind for kind in map(str, right) if kind.startswith("local+") or kind in ("global_sampled", "resample")
        ]
        fixed = right.drop(columns="greedy").assign(
            **{f"global+{kind}": right["global"] | right[kind] for kind in seconds}
        )
        outcomes = {(kind, "fixed_fraction"): st.Outcome.of(fixed[kind], questions, wrong) for kind in fixed}
        for kind in seconds:
            both, either = right["global"] & right[kind], right["global"] | right[kind]
            outcomes[f"global+{kind}", "fixed_jaccard"] = st.Outcome.of(both, questions, wrong & either)
        return outcomes  # type: ignore[return-value]

    def figure5(self, drafts: Artifact, refined: Mapping[str, Artifact]) -> Outcomes:
        """Compute accuracy after refining all drafts, and only the wrong ones, without reranking (paper, Figure 5)."""
        every, questions = self.right(drafts, refined), drafts.read()["question_id"]
        outcomes = {}
        for kind in every:
            outcomes[kind, "accuracy_all_drafts"] = st.Outcome.of(every[kind], questions)
            outcomes[kind, "accuracy_incorrect_drafts"] = st.Outcome.of(every[kind] | every["greedy"], questions)
        return outcomes  # type: ignore[return-value]

    def right(self, drafts: Artifact, refined: Mapping[str, Artifact]) -> pd.DataFrame:
        """Return whether each draft (``greedy``) and each of its refinements is correct, one row per draft."""
        right = drafts.read().set_index("sample_id")["is_correct"].to_frame("greedy")
        for method, artifact in refined.items():
            right[method] = artifact.read().set_index("sample_id")["is_correct"].reindex(right.index)
        return right

    def choices(
        self, candidates: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]], samples: pd.DataFrame, scores: pd.DataFrame
    ) -> pd.DataFrame:
        """Return whether each way to choose an answer is correct, one row per draft (index ``sample_id``).

        The ways: greedy draft, best of three, majority of three, reranking of draft, global and local refinement, and
        the same with a perfect reranker. ``candidates`` holds (answers, step scores by the ORM) of the ``draft`` and of
        each refinement; ``samples`` are three per question with the ORM's ``scores``. Ties go to the draft, then to the
        global refinement.
        """
        right = pd.DataFrame(
            {k: answers.set_index("sample_id")["is_correct"] for k, (answers, _) in candidates.items()}
        )
        pool = samples.assign(score=answer_scores(scores).reindex(samples["sample_id"], fill_value=0.0).to_numpy())
        pools = pool.sort_values("sample_id").groupby("question_id", sort=False)
        of_question = pd.DataFrame(
            [
                {"question_id": q, "bo3": g["is_correct"].to_numpy()[g["score"].argmax()],
                 "majority": _majority(g), "oracle_bo3": g["is_correct"].any()}
                for q, g in pools
            ]
        ).set_index("question_id")  # fmt: skip
        question = candidates["draft"][0].set_index("sample_id")["question_id"].reindex(right.index)
        fresh = of_question.loc[question].set_index(right.index)
        return pd.DataFrame(
            {
                "greedy": right["draft"], "bo3": fresh["bo3"], "majority": fresh["majority"],
                "reranked": reranked(candidates)["is_correct"], "oracle_bo3": fresh["oracle_bo3"],
                "oracle_reranked": right.any(axis=1),
            }
        )  # fmt: skip

    def figure6(self, choices: pd.DataFrame, drafts: Artifact, samples: pd.DataFrame) -> Outcomes:
        """Compute the accuracy of each of the :meth:`choices`, and of a random one of the ``samples``."""
        ids = drafts.read()
        chosen = choices.loc[ids["sample_id"]]
        outcomes = {(way, "accuracy"): st.Outcome.of(chosen[way], ids["question_id"]) for way in chosen}
        outcomes["random_sample", "accuracy"] = st.Outcome.of(samples["is_correct"], samples["question_id"])
        return outcomes  # type: ignore[return-value]

    def figure4(self, samples: pd.DataFrame, scores: Mapping[str, pd.DataFrame], greedy: pd.DataFrame) -> Outcomes:
        """Compute the accuracy of the top-scored of K samples, K in powers of two, with greedy, majority and oracle.

        ``random`` takes one of the samples at random: what a constant score gives.
        """
        pool = Pool.of(samples)
        curves = {
            (method, "rerank_accuracy"): st.best_of_k(pool.scored(frame), pool.right, pool.ks)
            for method, frame in scores.items()
        }
        curves["random", "rerank_accuracy"] = np.tile(pool.right.mean(axis=1), (len(pool.ks), 1))
        curves["majority", "majority"] = st.majority_at_k(pool.answers, pool.right, pool.ks, seed=0)
        curves["oracle", "rerank_accuracy"] = st.oracle_at_k(pool.right, pool.ks)
        greedy_sft = st.Outcome.of(greedy["is_correct"], greedy["question_id"])
        return {("greedy_sft", "accuracy"): greedy_sft} | pool.outcomes(curves)


@dataclass(frozen=True)
class Pool:
    """Equally many samples of every question, as arrays [questions, N]; ``ks`` are 1, 2, 4, ... up to N."""

    questions: np.ndarray  # [questions]
    ids: np.ndarray
    right: np.ndarray
    answers: list[list[str]]
    ks: list[int]

    @classmethod
    def of(cls, samples: pd.DataFrame) -> "Pool":
        """Arrange records ``samples``, the same number for every question."""
        ordered = samples.sort_values(["question_id", "sample_id"])
        n = int(ordered.groupby("question_id").size().iloc[0])
        ids, right, answers = (
            ordered[name].to_numpy().reshape(-1, n) for name in ("sample_id", "is_correct", "final_answer")
        )
        ks = [2**i for i in range(n.bit_length())]
        return cls(ordered["question_id"].to_numpy()[::n], ids, right, answers.tolist(), ks)

    def scored(self, step_scores: pd.DataFrame) -> np.ndarray:
        """Return the scores of the samples as whole answers; 0 for one without a step."""
        return answer_scores(step_scores).reindex(self.ids.ravel(), fill_value=0.0).to_numpy().reshape(self.ids.shape)

    def outcomes(self, curves: Mapping[tuple[str, str], np.ndarray]) -> Outcomes:
        """Return curves [ks, questions] by method and metric as outcomes, one for each K: ``metric@K``."""
        return {
            (method, f"{metric}@{k}"): st.Outcome.of(values, self.questions)
            for (method, metric), curve in curves.items()
            for k, values in zip(self.ks, curve, strict=True)
        }


def rule_outcomes(rollouts: pd.DataFrame, exact: pd.DataFrame) -> Outcomes:
    """Compute precision, recall and accuracy of rollout labels, raw and after each post-processing rule."""
    truth = exact.set_index(["sample_id", "step"])
    outcomes: Outcomes = {}
    for rule, switches in step_labels.POSTPROCESSING.items():
        made = step_labels.rollout_labels(rollouts, *switches).set_index(["sample_id", "step"])["label"]
        compared = st.confusion(truth["label"], made.reindex(truth.index), truth["question_id"])
        outcomes |= {(rule, f"label_{name}"): compared[name] for name in ("precision", "recall", "accuracy")}
    return outcomes


def is_answer(drafts: pd.DataFrame, steps: pd.Index) -> np.ndarray:
    """Return whether each (sample_id, step) is the line with the final answer."""
    lines = {
        (sample, i): ANSWER_MARK in step
        for sample, text in zip(drafts["sample_id"], drafts["text"], strict=True)
        for i, step in enumerate(split_steps(text), start=1)
    }
    return np.array([lines.get(step, False) for step in steps], dtype=bool)


def differences(metric: str) -> list[tuple[str, str]]:
    """Return the pairs of methods of :data:`COMPARED` for a metric with its suffixes."""
    return COMPARED.get(re.sub(SUFFIXES, "", metric, count=1), [])


def difference_name(metric: str) -> str:
    """Return the name of a metric's differences: "_difference" goes before what names labels or K."""
    return re.sub(SUFFIXES, r"_difference\g<0>", metric, count=1)


def numbers(task: str, model: str, seed: int | None, outcomes: Sequence[Outcomes]) -> pd.DataFrame:
    """Return the outcomes of one or several seeds of a run, and their differences, as a frame of :data:`NUMBERS`.

    ``seed`` is None over several seeds. A difference has a row ``..._p`` with its p value
    (:func:`glore_lib.statistics.paired_p`), unless its metric is a curve over K.
    """
    found = {key: [of_seed[key] for of_seed in outcomes] for key in outcomes[0]}
    rows = []
    for (method, metric), of_method in found.items():
        rows.append(st.row(task, model, method, metric, st.estimate(of_method)))
        for a, b in differences(metric):
            if a == method and (b, metric) in found:
                other, name = found[b, metric], difference_name(metric)
                change = st.difference(of_method, other).estimate()
                rows.append(st.row(task, model, f"{a}-{b}", name, change))
                if "@" not in metric:
                    p = st.paired_p(of_method, other) if change.n else nan
                    tested = st.Estimate(p, nan, nan, change.n, change.clusters)
                    rows.append(st.row(task, model, f"{a}-{b}", f"{name}_p", tested))
    frame = pd.DataFrame(rows).assign(seed=seed)
    return frame[NUMBERS].astype({"seed": "Int64"})


def to_frame(outcomes: Outcomes) -> pd.DataFrame:
    """Return outcomes as the record ``outcomes``, a row per method, metric, part and question."""
    parts = [
        pd.DataFrame(
            {"method": method, "metric": metric, "part": part, "question_id": o.questions, "hits": hits, "counts": n}
        )
        for (method, metric), o in outcomes.items()
        for part, (hits, n) in enumerate(zip(o.hits, o.counts, strict=True))
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)[list(SCHEMAS["outcomes"])]


def from_frame(frame: pd.DataFrame) -> Outcomes:
    """Return the outcomes in a frame that :func:`to_frame` made."""
    outcomes: Outcomes = {}
    for (method, metric), rows in frame.groupby(["method", "metric"], sort=False):
        parts = rows["part"].nunique()
        hits, counts = (rows[name].to_numpy().reshape(parts, -1) for name in ("hits", "counts"))
        outcomes[str(method), str(metric)] = st.Outcome(
            rows["question_id"].to_numpy(str)[: hits.shape[1]], hits, counts
        )
    return outcomes


def written_tokens(run: Run, answers: pd.DataFrame) -> pd.Series:
    """Count the tokens generated for each answer (records ``samples`` or ``refinements``; index ``sample_id``).

    They are counted from the texts, since several kinds may share a refinement. Forced steps cost nothing, and neither
    does a draft that is kept because no error was found.
    """
    p, counts = run.params.refiner, []
    for answer in answers.itertuples():
        steps, first_error = split_steps(answer.text), getattr(answer, "first_error", None)
        if getattr(answer, "kind", "").startswith("local"):
            if p.force_prefix:
                steps = steps[max(first_error - 1, 0) :]  # type: ignore[operator]
            if p.no_error_found == "keep_draft" and first_error == 0:
                steps = []
        counts.append(len(encode(run.tokenizer, "", steps).ids) - len(encode(run.tokenizer, "").ids))
    return pd.Series(counts, answers["sample_id"].to_numpy())


def _majority(samples: pd.DataFrame) -> bool:
    """Return whether the majority vote of a question's samples is correct."""
    vote = st.majority_vote(list(samples["final_answer"]))
    return bool(vote) and bool(samples.loc[samples["final_answer"] == vote, "is_correct"].any())


def reranked(candidates: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """Return the text and the correctness of the top-scored of the candidates of each draft (index ``sample_id``).

    ``candidates`` are those of :meth:`Tables.choices`.
    """
    ids = next(iter(candidates.values()))[0]["sample_id"]
    scores = [answer_scores(step_scores).reindex(ids, fill_value=0.0) for _, step_scores in candidates.values()]
    answers = [answers.set_index("sample_id").loc[ids] for answers, _ in candidates.values()]
    chosen = {
        column: pick(np.column_stack([frame[column] for frame in answers]), np.column_stack(scores))
        for column in ("text", "is_correct")
    }
    return pd.DataFrame(chosen, index=pd.Index(ids, name="sample_id"))


def pick(values: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the value of the top-scored candidate; both are [questions, candidates], ties go to the first."""
    return values[np.arange(len(values)), scores.argmax(axis=1)]
