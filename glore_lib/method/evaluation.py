"""The (Q, D) test set, Tables 1-3, reranking and its baselines (paper, sections 4.2 and 5).

Every function returns rows of the long ``numbers`` table (:data:`glore_lib.artifacts.records.SCHEMAS`), computed from
stored samples and scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from glore_lib import statistics as st
from glore_lib.artifacts.store import Artifact
from glore_lib.method import rollouts, step_labels
from glore_lib.method.refinement import locate_first_error
from glore_lib.method.reward_models import answer_scores
from glore_lib.method.students import Student, sample_solutions
from glore_lib.models.tokens import encode
from glore_lib.run import Run
from glore_lib.solutions import split_steps

Numbers = list[dict]


@dataclass(frozen=True)
class DraftSet:
    """Greedy drafts on the questions of a split, with step labels by rollouts and, where known, exact ones."""

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
    """The tables of one run as rows of numbers; ``seed`` drives the bootstraps."""

    def __init__(self, run: Run):
        self.run, self.seed, self.threshold = run, run.seed("statistics"), run.params.reward_models.threshold

    def row(self, method: str, metric: str, estimate: st.Estimate) -> dict:
        """Return an estimate as a row of the ``numbers`` table."""
        return st.row(self.run.params.run, self.run.params.base_model.source, method, metric, estimate)

    def table1(self, draft_set: DraftSet, scores: Mapping[str, Artifact]) -> Numbers:
        """Compute step accuracy, false positives and false negatives of every reward model, and differences to the ORM.

        Labels are those by rollouts and, with the suffix ``_exact``, the exact ones. ``step_error_balance`` is
        (false negatives - false positives) / errors, in [-1, 1].
        """
        numbers: Numbers = []
        for suffix, labels in draft_set.truths.items():
            numbers += self.steps(labels, scores, suffix)
        return numbers + self._first_errors(draft_set, scores)

    def steps(self, labels: pd.DataFrame, scores: Mapping[str, Artifact], suffix: str) -> Numbers:
        """Compute the step rows of :meth:`table1` for one set of labels, named by ``suffix``."""
        truth = labels.set_index(["sample_id", "step"])
        y, questions = truth["label"].to_numpy(), truth["question_id"].to_numpy()
        guesses = {m: self._step_guesses(artifact, truth.index) for m, artifact in scores.items()}
        numbers: Numbers = []
        for method, guess in (guesses | {"all_positive": np.ones_like(y)}).items():
            c = st.confusion(y, guess, questions, self.seed)
            numbers += [
                self.row(method, f"step_accuracy{suffix}", c.accuracy),
                self.row(method, f"step_false_positive_rate{suffix}", c.false_positive_rate),
                self.row(method, f"step_false_negative_rate{suffix}", c.false_negative_rate),
            ]
            if method == "all_positive":
                continue
            errors = guess != y
            balance = st.clustered((y - guess)[errors], questions[errors], self.seed, bounds=(-1.0, 1.0))
            numbers.append(self.row(method, f"step_error_balance{suffix}", balance))
            if method != "orm":
                difference = st.paired_difference(guess == y, guesses["orm"] == y, questions, self.seed)
                numbers.append(self.row(f"{method}-orm", f"step_accuracy_difference{suffix}", difference))
        return numbers

    def _step_guesses(self, scores: Artifact, index: pd.Index) -> np.ndarray:
        predicted = scores.read().set_index(["sample_id", "step"])["score"].reindex(index)
        return (predicted > self.threshold).to_numpy().astype(int)

    def _first_errors(self, draft_set: DraftSet, scores: Mapping[str, Artifact]) -> Numbers:
        """Compute the share of wrong drafts whose first error is located.

        Wrong drafts whose labels show no error, which labels by rollouts allow, are left out.
        """
        drafts = draft_set.drafts.read()
        wrong = set(drafts.loc[~drafts["is_correct"], "sample_id"])
        numbers = []
        for suffix, labels in draft_set.truths.items():
            truth = step_labels.first_errors(labels)
            truth = truth[truth.index.isin(wrong)]
            for method, artifact in scores.items():
                found = locate_first_error(artifact.read(), self.threshold).reindex(truth.index, fill_value=0)
                numbers.append(self.row(method, f"first_error_accuracy{suffix}", st.proportion(found == truth)))
        return numbers

    def table2(self, draft_set: DraftSet, scores: Mapping[str, Artifact]) -> Numbers:
        """Compute how well the score after the last step predicts that the final answer is correct."""
        drafts = draft_set.drafts.read().set_index("sample_id")
        right, questions = drafts["is_correct"].to_numpy().astype(int), drafts["question_id"].to_numpy()
        numbers, hits = [], {}
        for method, artifact in scores.items():
            guess = (answer_scores(artifact.read()).reindex(drafts.index, fill_value=0) > self.threshold).to_numpy()
            hits[method] = guess == right
            c = st.confusion(right, guess.astype(int), questions, self.seed)
            numbers += [
                self.row(method, "final_accuracy", st.proportion(hits[method])),
                self.row(method, "final_false_positive_rate", c.false_positive_rate),
                self.row(method, "final_false_negative_rate", c.false_negative_rate),
            ]
            if method != "orm":
                numbers += self.compared(method, "orm", hits, "final_accuracy")
        numbers.append(self.row("all_positive", "final_accuracy", st.proportion(right)))
        return numbers

    def label_quality(self, draft_set: DraftSet) -> Numbers:
        """Compute the share of positive labels, and precision and recall of labels by rollouts against exact ones.

        Labels are compared raw and after each post-processing step.
        """
        numbers = [self.row("labels", "positive_labels", self._clustered(draft_set.labels))]
        if draft_set.exact is None:
            return numbers
        numbers.append(self.row("labels", "positive_labels_exact", self._clustered(draft_set.exact)))
        truth = draft_set.exact.set_index(["sample_id", "step"])
        for method, (monotone, consistent) in step_labels.POSTPROCESSING.items():
            made = step_labels.rollout_labels(draft_set.rollouts.read(), monotone, consistent)
            guess = made.set_index(["sample_id", "step"])["label"].reindex(truth.index).to_numpy()
            c = st.confusion(truth["label"], guess, truth["question_id"], self.seed)
            numbers += [
                self.row(method, "label_precision", c.precision),
                self.row(method, "label_recall", c.recall),
                self.row(method, "label_accuracy", c.accuracy),
            ]
        return numbers

    def _clustered(self, labels: pd.DataFrame) -> st.Estimate:
        return st.clustered(labels["label"], labels["question_id"], self.seed)

    def table3(self, drafts: Artifact, refined: Mapping[str, Artifact]) -> Numbers:
        """Compute the share of wrong drafts that each refinement, and global or local together, fixes."""
        right = self.right(drafts, refined)
        fixed = right[~right["greedy"]]
        for locator in ("orm", "sorm"):
            fixed[f"global+local+{locator}"] = fixed["global"] | fixed[f"local+{locator}"]
        numbers = [
            self.row(method, "fixed_fraction", st.proportion(fixed[method])) for method in fixed if method != "greedy"  # type: ignore[arg-type]
        ]  # fmt: skip
        for a, b in (
            ("local+sorm", "local+orm"), ("local+sorm", "global"), ("global+local+sorm", "global"),
            ("global+local+sorm", "local+sorm"), ("global+local+sorm", "resample"),
        ):  # fmt: skip
            numbers += self.compared(a, b, fixed, "fixed_fraction")
        return numbers

    def compared(
        self, a: str, b: str, hits: Mapping[str, ArrayLike] | pd.DataFrame, metric: str, suffix: str = ""
    ) -> Numbers:
        """Compare two methods on the same questions: the paired difference a - b, and McNemar's exact p value.

        ``suffix`` names the labels, as in :attr:`DraftSet.truths`.
        """
        difference = st.paired_difference(hits[a], hits[b], seed=self.seed)
        p = st.Estimate(st.mcnemar_p(hits[a], hits[b]), nan, nan, difference.n) if difference.n else st.NO_DATA
        return [
            self.row(f"{a}-{b}", f"{metric}_difference{suffix}", difference),
            self.row(f"{a}-{b}", f"{metric}_difference{suffix}_p", p),
        ]

    def figure5(self, drafts: Artifact, refined: Mapping[str, Artifact]) -> Numbers:
        """Compute accuracy after refining all drafts, and only the wrong ones, with differences to the drafts.

        For all drafts, local and global refinement are also compared.
        """
        every = self.right(drafts, refined)
        only_wrong = every.apply(lambda right: right | every["greedy"])
        numbers: Numbers = []
        for method in refined:
            for metric, right in (("accuracy_all_drafts", every), ("accuracy_incorrect_drafts", only_wrong)):
                numbers.append(self.row(method, metric, st.proportion(right[method])))
                numbers += self.compared(method, "greedy", right, metric)
        return numbers + self.compared("local+sorm", "global", every, "accuracy_all_drafts")

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
        right, score = {}, {}
        for name, (answers, step_scores) in candidates.items():
            by_sample = answers.set_index("sample_id")
            right[name] = by_sample["is_correct"]
            score[name] = answer_scores(step_scores).reindex(by_sample.index, fill_value=0.0)
        right, score = pd.DataFrame(right), pd.DataFrame(score)  # type: ignore[assignment]
        pool = samples.assign(score=answer_scores(scores).reindex(samples["sample_id"], fill_value=0.0).to_numpy())
        pools = pool.sort_values("sample_id").groupby("question_id", sort=False)
        of_question = pd.DataFrame(
            [
                {"question_id": q, "bo3": g["is_correct"].to_numpy()[g["score"].argmax()],
                 "majority": _majority(g), "oracle_bo3": g["is_correct"].any()}
                for q, g in pools
            ]
        ).set_index("question_id")  # fmt: skip
        question = candidates["draft"][0].set_index("sample_id")["question_id"].reindex(right.index)  # type: ignore[attr-defined]
        fresh = of_question.loc[question].set_index(right.index)  # type: ignore[attr-defined]
        return pd.DataFrame(
            {
                "greedy": right["draft"], "bo3": fresh["bo3"], "majority": fresh["majority"],
                "reranked": pick(right.to_numpy(), score.to_numpy()), "oracle_bo3": fresh["oracle_bo3"],  # type: ignore[attr-defined]
                "oracle_reranked": right.any(axis=1),  # type: ignore[attr-defined]
            }
        )  # fmt: skip

    def figure6(self, choices: pd.DataFrame, samples: pd.DataFrame) -> Numbers:
        """Compute the accuracy of each of the :meth:`choices`, and of a random one of the ``samples``."""
        numbers = [self.row(method, "accuracy", st.proportion(choices[method])) for method in choices]  # type: ignore[arg-type]
        random_pick = st.clustered(samples["is_correct"], samples["question_id"], self.seed)
        numbers.append(self.row("random_sample", "accuracy", random_pick))
        for a, b in (("reranked", "greedy"), ("reranked", "bo3"), ("bo3", "greedy"), ("oracle_reranked", "oracle_bo3")):
            numbers += self.compared(a, b, choices, "accuracy")
        return numbers

    def figure4(self, samples: pd.DataFrame, scores: Mapping[str, pd.DataFrame], greedy: pd.DataFrame) -> Numbers:
        """Compute the accuracy of the top-scored of K samples, K in powers of two, with greedy, majority and oracle."""
        pool = samples.sort_values(["question_id", "sample_id"])
        n = int(pool.groupby("question_id").size().iloc[0])
        questions = pool["question_id"].to_numpy()[::n]
        right = pool["is_correct"].to_numpy().reshape(-1, n)
        answers = pool["final_answer"].to_numpy().reshape(-1, n).tolist()
        ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
        curves = {
            method: st.best_of_k(
                answer_scores(frame).reindex(pool["sample_id"], fill_value=0.0).to_numpy().reshape(-1, n), right, ks
            )
            for method, frame in scores.items()
        }
        numbers = [self.row("greedy_sft", "accuracy", st.proportion(greedy["is_correct"]))]
        for method, curve in curves.items():
            numbers += self._curve(method, "rerank_accuracy", ks, curve, questions)
        for a, b in [*((method, "orm") for method in curves if method != "orm"), ("sorm", "sorm_raw")]:
            for k, first, second in zip(ks, curves[a], curves[b], strict=True):
                difference = st.paired_difference(first, second, questions, self.seed)
                numbers.append(self.row(f"{a}-{b}", f"rerank_accuracy_difference@{k}", difference))
        numbers += self._curve("majority", "majority", ks, st.majority_at_k(answers, right, ks, self.seed), questions)
        return numbers + self._curve("oracle", "rerank_accuracy", ks, st.oracle_at_k(right, ks), questions)

    def _curve(self, method: str, metric: str, ks: list[int], curve: np.ndarray, questions: np.ndarray) -> Numbers:
        return [
            self.row(method, f"{metric}@{k}", st.clustered(values, questions, self.seed))
            for k, values in zip(ks, curve, strict=True)
        ]  # fmt: skip


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


def pick(right: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return whether the top-scored candidate is correct; both are [questions, candidates], ties go to the first."""
    return right[np.arange(len(right)), scores.argmax(axis=1)]
