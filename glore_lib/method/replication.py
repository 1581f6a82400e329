"""The whole method on one run. Each part is computed on first use and stored in the artifacts.

Every notebook starts from here, so each can run alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from math import isnan

import pandas as pd

from glore_lib.artifacts.store import Artifact
from glore_lib.method import diagnostics, expert_iteration, refinement, reward_models, step_labels, students
from glore_lib.method.evaluation import (
    DraftSet,
    Outcomes,
    Tables,
    draft_set,
    from_frame,
    reranked,
    to_frame,
    written_tokens,
)
from glore_lib.method.refinement import RefinementSpec
from glore_lib.method.reward_models import RewardModelData, score_steps
from glore_lib.method.schedule import KINDS, pool_size
from glore_lib.method.students import Student, sample_solutions
from glore_lib.run import Run
from glore_lib.statistics import Outcome


class LazyMapping(Mapping[str, Artifact]):
    """A mapping with fixed keys whose values are made on first use."""

    def __init__(self, keys: Sequence[str], make: Callable[[str], Artifact]):
        self._keys, self._make, self._made = keys, make, {}  # type: ignore[var-annotated]

    def __getitem__(self, key: str) -> Artifact:
        if key not in self._made:
            if key not in self._keys:
                raise KeyError(key)
            self._made[key] = self._make(key)
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class Replication:
    """Students, reward models, refiner and evaluation of one :class:`glore_lib.run.Run`."""

    def __init__(self, run: Run):
        self.run, self.tables = run, Tables(run)

    # Students (notebook 01)

    @cached_property
    def sft_student(self) -> Student:
        """The student of supervised fine-tuning, with which expert iteration begins where there are SFT data."""
        return students.sft_student(self.run)

    @cached_property
    def _expert_iteration(self) -> tuple[Student, pd.DataFrame]:
        return expert_iteration.expert_iteration(self.run)

    @property
    def student(self) -> Student:
        """The student of expert iteration, the policy of all later stages."""
        return self._expert_iteration[0]

    @property
    def rounds(self) -> pd.DataFrame:
        """Expert iteration, one row per round."""
        return self._expert_iteration[1]

    @cached_property
    def sft_control(self) -> Student:
        """The base model trained on the SFT data alone, for as many steps as the student."""
        return students.sft_control(self.run, self.student)

    @property
    def compared_students(self) -> list[Student]:
        """The SFT student, its control and the student of expert iteration, of those that the run has."""
        first = [self.sft_student] if self.run.params.student.start == "sft" else []
        return [*first, *([self.sft_control] if self.run.params.student.sft_control else []), self.student]

    # Reward models (notebooks 02 and 03)

    @cached_property
    def data(self) -> RewardModelData:
        """Samples and rollouts of the student, the training data of its reward models and of the refiner."""
        return reward_models.reward_model_data(self.run, self.student)

    @cached_property
    def reward_models(self) -> Mapping[str, Artifact]:
        """ORM, balanced ORM, SORM and raw SORM of the student."""
        training = self.run.params.reward_models.training
        return LazyMapping(
            KINDS, lambda k: reward_models.train_reward_model(self.run, k, self.student, self.data, training)
        )

    @cached_property
    def sft_data(self) -> RewardModelData:
        """Samples and rollouts of the SFT student, for Figure 4."""
        return reward_models.reward_model_data(self.run, self.sft_student)

    @cached_property
    def sft_reward_models(self) -> dict[str, Artifact]:
        """The same four of the SFT student, for Figure 4; empty if ``reward_models.figure4`` is off."""
        p = self.run.params.reward_models
        if not p.figure4:
            return {}
        return {
            k: reward_models.train_reward_model(self.run, k, self.sft_student, self.sft_data, p.figure4_training)  # type: ignore[arg-type]
            for k in KINDS
        }  # fmt: skip

    # Refiner (notebook 04)

    @cached_property
    def refiner(self) -> Artifact:
        """The one model for local and global refinements."""
        return refinement.train_refiner(self.run, self.student, self.data)

    # Evaluation (notebook 05; the validation split serves the choices made in 01-04)

    @cached_property
    def validation(self) -> "SplitEvaluation":
        """The validation split, evaluated."""
        return SplitEvaluation(self, "validation")

    @cached_property
    def test(self) -> "SplitEvaluation":
        """The test split, evaluated."""
        return SplitEvaluation(self, "test")

    def gate(self) -> pd.DataFrame:
        """Check on the validation split that the ORM's best of three beats a random sample and the SORM finds errors.

        If a gate fails, refinement is not expected to work: improve the base model, and leave the test split alone.
        """
        outcomes = self.validation.outcomes
        exact = "_exact" if ("sorm", "first_error_accuracy_exact") in outcomes else ""
        random = outcomes["bo3", "accuracy"].value - outcomes["random_sample", "accuracy"].value
        located = outcomes["sorm", f"first_error_accuracy{exact}"].value
        rows = [("best of 3 by the ORM − random sample", random, 0.05), ("first error found by the SORM", located, 0.5)]
        holds = ["n = 0" if isnan(v) else bool(v >= w) for _, v, w in rows]
        return pd.DataFrame(rows, columns=["gate", "value", "wanted"]).assign(holds=holds)

    @cached_property
    def _figure4(self) -> Outcomes:
        """Figure 4's curves: the SFT student's samples on the test split, reranked by reward models of that student."""
        if not self.run.params.reward_models.figure4:
            return {}
        p = self.run.params.evaluation
        samples = sample_solutions(self.run, self.sft_student, "test", p.rerank_samples, p.temperature, "figure4")
        greedy = sample_solutions(self.run, self.sft_student, "test", 1, 0.0, "greedy-sft")
        scores = {
            k: score_steps(self.run, m, f"{k}-figure4", samples.read(), "test", samples)
            for k, m in self.sft_reward_models.items()
        }  # fmt: skip

        def make() -> pd.DataFrame:
            curves = {k: a.read() for k, a in scores.items()}
            return to_frame(self.tables.figure4(samples.read(), curves, greedy.read()))

        made = self.run.frame("outcomes-figure4", "outcomes", make, {}, [samples, greedy, *scores.values()])
        return from_frame(made.read())

    @cached_property
    def outcomes(self) -> Outcomes:
        """The outcomes of the test split behind Tables 1-3 and Figures 4-6."""
        return self.test.outcomes | self._figure4

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """All numbers of the test split: :attr:`outcomes` and their differences, with intervals."""
        return self.tables.numbers(self.outcomes)


class SplitEvaluation:
    """A split's drafts, scores, refinements and numbers."""

    def __init__(self, replication: Replication, split: str):
        self.replication, self.run, self.split = replication, replication.run, split

    @cached_property
    def draft_set(self) -> DraftSet:
        """The split's (Q, D) set."""
        return draft_set(self.run, self.replication.student, self.split)

    @cached_property
    def drafts(self) -> Artifact:
        """The student's greedy answer to every question of the split (record ``samples``)."""
        return self.draft_set.drafts

    @cached_property
    def scores(self) -> Mapping[str, Artifact]:
        """Step scores of the drafts by every reward model."""
        return LazyMapping(KINDS, lambda k: self.score(k, self.drafts))

    def score(self, kind: str, answers: Artifact, name: str = "") -> Artifact:
        """Score the steps of answers to the split's questions; ``name`` distinguishes them from the drafts'."""
        model = self.replication.reward_models[kind]
        return score_steps(self.run, model, f"{kind}{name}", answers.read(), self.split, answers)

    @cached_property
    def first_errors(self) -> dict[str, pd.Series]:
        """The first error of every draft by each locator (0: none).

        Locators are ``orm``, ``balanced_orm``, ``sorm`` and, where the truth is known, ``oracle``.
        """
        threshold = self.run.params.reward_models.threshold
        locators = ("orm", "balanced_orm", "sorm")
        found = {k: refinement.locate_first_error(self.scores[k].read(), threshold) for k in locators}
        if self.draft_set.exact is not None:
            true = step_labels.first_errors(self.draft_set.exact)
            found["oracle"] = true.reindex(self.drafts.read()["sample_id"], fill_value=0)
        # A draft without a single step has no step to score.
        return {k: errors.reindex(self.drafts.read()["sample_id"], fill_value=0) for k, errors in found.items()}

    @cached_property
    def refined(self) -> dict[str, Artifact]:
        """All refinements of the drafts, and four controls.

        The controls are a fresh sample of the student, a second, sampled global refinement, the refiner without a
        draft, and local refinement with ``force_prefix`` negated.
        """
        refiner, force = self.replication.refiner, self.run.params.refiner.force_prefix
        specs = {"global": RefinementSpec(), "global_sampled": RefinementSpec(sampled=True)}
        specs |= {f"local+{locator}": RefinementSpec(errors) for locator, errors in self.first_errors.items()}
        specs["local+sorm_free" if force else "local+sorm_forced"] = RefinementSpec(
            self.first_errors["sorm"], not force
        )
        refined = refinement.refine(self.run, refiner, self.drafts, self.split, specs)
        refined["refiner_no_draft"] = refinement.solve_without_draft(self.run, refiner, self.drafts, self.split)
        refined["resample"] = self._resampled
        return refined

    @cached_property
    def _resampled(self) -> Artifact:
        """The first sample of the pool, under the drafts' ids."""

        def make() -> pd.DataFrame:
            first = self.samples.groupby("question_id").head(1).set_index("question_id")
            drafts = self.drafts.read()[["question_id", "sample_id"]]
            answers = first.loc[drafts["question_id"], ["text", "final_answer", "is_correct"]].reset_index(drop=True)
            return pd.concat([drafts, answers], axis=1).assign(kind="resample", first_error=0)

        return self.run.frame(f"resampled-{self.split}", "refinements", make, {}, [self.pool, self.drafts])

    @cached_property
    def pool(self) -> Artifact:
        """Fresh samples of the student, equally many per question (:func:`glore_lib.method.schedule.pool_size`)."""
        p, student = self.run.params, self.replication.student
        count = pool_size(p, self.split)
        return sample_solutions(self.run, student, self.split, count, p.evaluation.temperature, "pool")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The first three of the pool for each question, for Bo3."""
        return self.pool.read().groupby("question_id", sort=False).head(3)

    @cached_property
    def candidates(self) -> dict[str, tuple[Artifact, Artifact]]:
        """What is reranked, and its scores by the ORM."""
        answers = {"draft": self.drafts, "global": self.refined["global"], "local": self.refined["local+sorm"]}
        return {
            name: (artifact, self.scores["orm"] if name == "draft" else self.score("orm", artifact, f"-{name}"))
            for name, artifact in answers.items()
        }  # fmt: skip

    @cached_property
    def pool_scores(self) -> Artifact:
        """Step scores of the pool by the ORM."""
        return self.score("orm", self.pool, "-pool")

    @property
    def choices(self) -> pd.DataFrame:
        """Whether each way to choose an answer is correct on each question (:meth:`Tables.choices`)."""
        candidates = {name: (a.read(), scores.read()) for name, (a, scores) in self.candidates.items()}
        return self.replication.tables.choices(candidates, self.samples, self.pool_scores.read())

    @cached_property
    def outcomes(self) -> Outcomes:
        """Tables 1-3, Figures 5 and 6, label quality (:class:`glore_lib.method.evaluation.Tables`) and diagnostics."""
        tables = self.replication.tables

        def make() -> pd.DataFrame:
            return to_frame(
                tables.label_quality(self.draft_set) | tables.table1(self.draft_set, self.scores)
                | tables.table2(self.draft_set, self.scores) | tables.table3(self.drafts, self.refined)
                | tables.figure5(self.drafts, self.refined)
                | tables.figure6(self.choices, self.drafts, self.samples) | self._diagnostics()
            )  # fmt: skip

        rm = self.run.params.reward_models
        switches = {"t": rm.threshold, "monotone": rm.monotone, "consistent": rm.consistent}
        judged = [self, self.replication.validation] if self.split == "test" else [self]
        inputs = [
            *(a for split in judged for a in (split.draft_set.rollouts, split.drafts, *split.scores.values())),
            self.pool_scores,
            self.pool,
            *self.refined.values(),
            *(scores for _, scores in self.candidates.values()),
        ]
        return from_frame(self.run.frame(f"outcomes-{self.split}", "outcomes", make, switches, inputs).read())

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """All numbers of the split: :attr:`outcomes` and their differences, with intervals."""
        return self.replication.tables.numbers(self.outcomes)

    def _diagnostics(self) -> Outcomes:
        """Compute transitions, accuracy against tokens and how the reward models score.

        On the test split also their calibration, as they are and refitted on the validation split.
        """
        drafts, pool = self.drafts.read(), self.pool.read()
        candidates = {name: (answers.read(), scores.read()) for name, (answers, scores) in self.candidates.items()}
        answers = {method: self.refined[method].read() for method in diagnostics.TRANSITIONS}
        found = diagnostics.transitions(drafts, answers | {"reranked": reranked(candidates).reset_index()})
        found |= diagnostics.accuracy_by_tokens(pool, self.pool_scores.read(), written_tokens(self.run, pool))
        spent = pd.DataFrame({name: written_tokens(self.run, frame) for name, (frame, _) in candidates.items()})
        spent = spent.loc[drafts["sample_id"]]
        found["greedy", "tokens"] = Outcome.of(spent["draft"], drafts["question_id"])
        found["reranked", "tokens"] = Outcome.of(spent.sum(axis=1), drafts["question_id"])
        found |= diagnostics.aggregation(drafts, {method: scores.read() for method, scores in self.scores.items()})
        for (method, suffix), steps in self.judged_steps.items():
            found |= diagnostics.auc_by_step(steps, method, suffix)
            if self.split == "test":
                before = self.replication.validation.judged_steps[method, suffix]
                fitted = diagnostics.platt(before["score"], before["label"])
                found |= diagnostics.calibration(steps, fitted, method, suffix)
        return found

    @cached_property
    def judged_steps(self) -> dict[tuple[str, str], pd.DataFrame]:
        """The drafts' intermediate steps with label and score, by reward model and suffix of the labels."""
        return diagnostics.judged_steps(self.draft_set, self.scores)

    def costs(self) -> pd.DataFrame:
        """Return the tokens and the gain of each way to solve more problems than the greedy drafts, per draft.

        Columns: task, setting, method, tokens, gain. Setting ``wrong drafts``: what each refinement or a fresh sample
        fixes. Setting ``all questions``: what the ORM's choice among three samples, or among draft and refinements,
        gains. Tokens are those generated beyond the draft, which three samples do without.
        """
        drafts, kinds = self.drafts.read().set_index("sample_id"), ("global", "local+orm", "local+sorm", "resample")
        refined = {k: self.refined[k].read() for k in kinds}
        tokens = pd.DataFrame({k: written_tokens(self.run, frame) for k, frame in refined.items()}).loc[drafts.index]
        fixed = pd.DataFrame({k: frame.set_index("sample_id")["is_correct"] for k, frame in refined.items()})
        both = ["global", "local+sorm"]
        tokens["global+local+sorm"], fixed["global+local+sorm"] = tokens[both].sum(axis=1), fixed[both].any(axis=1)
        samples = self.samples
        by_question = written_tokens(self.run, samples).groupby(samples["question_id"].to_numpy()).sum()
        spent = written_tokens(self.run, drafts.reset_index())
        choices = self.choices
        gain = choices.loc[drafts.index].astype(int).sub(choices["greedy"].astype(int), axis=0)
        wrong = drafts.index[~drafts["is_correct"]]
        parts = {
            ("wrong drafts", k): (tokens.loc[wrong, k], fixed.loc[wrong, k].astype(int)) for k in tokens  # type: ignore[index]
        } | {
            ("all questions", "bo3"): (by_question.loc[drafts["question_id"]].to_numpy() - spent, gain["bo3"]),
            ("all questions", "reranked"): (tokens["global+local+sorm"], gain["reranked"]),
        }  # fmt: skip
        return pd.concat(
            [
                pd.DataFrame({"setting": setting, "method": method, "tokens": t.to_numpy(), "gain": g.to_numpy()})
                for (setting, method), (t, g) in parts.items()
            ]
        ).assign(task=self.run.params.run)  # fmt: skip

    def no_error_found(self) -> pd.DataFrame:
        """Count the drafts in which each locator finds no error (see ``refiner.no_error_found``)."""
        right = self.drafts.read().set_index("sample_id")["is_correct"]
        rows = []
        for locator, errors in self.first_errors.items():
            none = errors.reindex(right.index) == 0
            rows.append(
                {
                    "locator": locator,
                    "right drafts": int((none & right).sum()),
                    "wrong drafts": int((none & ~right).sum()),
                }
            )
        return pd.DataFrame(rows).set_index("locator")
