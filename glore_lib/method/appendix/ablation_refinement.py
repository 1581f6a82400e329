"""Ablations of the refinement: what the refiner is shown, thresholds, repeated refinement, gates and votes."""

from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np
import pandas as pd

from glore_lib import statistics as st
from glore_lib.artifacts.store import Artifact
from glore_lib.method import step_labels
from glore_lib.method.appendix.measures import LOCATORS, true_errors
from glore_lib.method.evaluation import Numbers, pick
from glore_lib.method.refinement import (
    RefinementSpec,
    locate_first_error,
    marked_step,
    refine,
    solve_without_draft,
    train_refiner,
)
from glore_lib.method.replication import Replication, SplitEvaluation
from glore_lib.method.reward_models import answer_scores
from glore_lib.params import ParamsError

TWICE = {"global_twice": "global", "local+sorm_twice": "local+sorm", "global_then_local+sorm": "global"}
REFINED = ["draft", "global", "local"]
SAMPLED = [f"sample{i}" for i in range(5)]
POOLS = {"refined": [*REFINED, *SAMPLED[:3]], "sampled": ["draft", *SAMPLED]}
CHOICE_PAIRS = (
    ("gated_global", "greedy"), ("gated_local+sorm", "greedy"), ("reranked", "gated_global"),
    ("reranked", "gated_local+sorm"), ("refined_weighted", "reranked"), ("refined_weighted", "refined_orm"),
    ("refined_weighted", "refined_vote"), ("refined_weighted", "sampled_weighted"), ("refined_orm", "sampled_orm"),
)  # fmt: skip
# What each refinement is compared with: a model that saw less of the draft, then a second try of the same cost.
CONTROL_PAIRS = (
    ("retrained", "greedy"), ("refiner_no_draft", "retrained"), ("global", "retrained"), ("global", "refiner_no_draft"),
    ("global", "unmarked"), ("local+sorm", "unmarked"), ("local+oracle", "unmarked"), ("local+oracle", "global"),
    ("global+local+sorm", "global+retrained_sampled"), ("global+local+sorm", "global+resample"),
    ("global+local+oracle", "global+retrained_sampled"), ("global+local+oracle", "global+resample"),
)  # fmt: skip
SECONDS = (
    "local+sorm", "local+oracle", "unmarked", "refiner_no_draft", "global_sampled", "retrained", "retrained_sampled",
    "resample",
)  # fmt: skip


def controls(lab: Replication, split: str) -> pd.DataFrame:
    """Compare refinements of a split's drafts with what models of equal training do that see less of the draft.

    ``unmarked`` is a refiner trained and used without ``[BAD]``. ``retrained`` is the student trained further on the
    refiner's targets, as many steps; it answers the question alone, as ``refiner_no_draft`` does. For each, and with
    the global refinement (``global+…``): the share of wrong drafts fixed; alone also accuracy on all questions.
    """
    run, of_split = lab.run, lab.validation if split == "validation" else lab.test
    unmarked = train_refiner(run, lab.student, lab.data, "unmarked")
    retrained = train_refiner(run, lab.student, lab.data, "nothing")
    kinds = ("global", *(kind for kind in SECONDS if kind in of_split.refined))
    refined = {kind: of_split.refined[kind] for kind in kinds}
    refined |= refine(run, unmarked, of_split.drafts, split, {"unmarked": RefinementSpec(marked=False)})
    for kind, temperature in {"retrained": 0.0, "retrained_sampled": run.params.evaluation.temperature}.items():
        refined[kind] = solve_without_draft(run, retrained, of_split.drafts, split, temperature)
    right = lab.tables.right(of_split.drafts, refined)
    both = {f"global+{kind}": right["global"] | right[kind] for kind in SECONDS if kind in refined}
    wrong = right.assign(**both)[~right["greedy"]]
    alone, fixed = ["greedy", *refined], [*refined, *both]
    numbers = [lab.tables.row(kind, "accuracy_all_drafts", st.proportion(right[kind])) for kind in alone]
    numbers += [lab.tables.row(kind, "fixed_fraction", st.proportion(wrong[kind])) for kind in fixed]
    for a, b in CONTROL_PAIRS:
        if b == "greedy":
            numbers += lab.tables.compared(a, b, right, "accuracy_all_drafts")
        elif {a, b} <= set(wrong):
            numbers += lab.tables.compared(a, b, wrong, "fixed_fraction")
    return pd.DataFrame(numbers)


def thresholds(lab: Replication, ts: Sequence[float]) -> pd.DataFrame:
    """Sweep the threshold T of each locator on the validation split.

    Measured are the share of first errors located (by exact labels, otherwise by rollouts) and, of the wrong drafts,
    those without a located error, those refined from step 1 (as globally), and those fixed. Every draft is refined once
    from every step, and T selects among these. Raises ParamsError if a threshold is not between 0 and 1.
    """
    for t in ts:
        if not 0 < t < 1:
            raise ParamsError(f"thresholds = {t}: must be between 0 and 1 (0 and 1 excluded)")
    validation = lab.validation
    drafts = validation.drafts.read().set_index("sample_id")
    steps = drafts["text"].map(lambda text: len(step_labels.split_steps(text)))
    specs = {
        f"from-{i}": RefinementSpec(pd.Series(i, steps.index).where(steps >= i, 0)) for i in range(1, steps.max() + 1)
    }
    refined = refine(lab.run, lab.refiner, validation.drafts, "validation", specs)
    right = lab.tables.right(validation.drafts, refined)
    wrong = ~right["greedy"].to_numpy()
    labels = validation.draft_set.labels if validation.draft_set.exact is None else validation.draft_set.exact
    truth = true_errors(validation.drafts, labels)
    numbers = []
    for t in ts:
        for locator in LOCATORS:
            found = locate_first_error(validation.scores[locator].read(), t).reindex(steps.index, fill_value=0)
            at = pd.Series(map(marked_step, found, steps, repeat(lab.run.params.refiner)), steps.index)
            column = right.columns.get_indexer(["greedy" if i == 0 else f"from-{i}" for i in at])  # type: ignore[arg-type]
            fixed = right.to_numpy()[np.arange(len(right)), column]
            values = {
                "first_error_accuracy": st.proportion(found[truth.index] == truth),
                "no_error_found": st.proportion(found[wrong] == 0),
                "begun_at_first_step": st.proportion(at[wrong] == 1), "fixed_fraction": st.proportion(fixed[wrong]),
            }  # fmt: skip
            numbers += [lab.tables.row(f"local+{locator}", f"{m}@{t:g}", e) for m, e in values.items()]
    return pd.DataFrame(numbers)


def chosen_thresholds(swept: pd.DataFrame, usual: float) -> dict[str, float]:
    """Return for each locator the T of :func:`thresholds` that fixes most wrong drafts.

    Ties go to the T nearest to the ``usual`` one, which is also returned if there are no wrong drafts.
    """
    shares = swept[swept["metric"].str.startswith("fixed_fraction@") & (swept["n"] > 0)]
    shares = shares.assign(t=shares["metric"].str.extract(r"@(.+)", expand=False).astype(float))
    best = shares.assign(far=(shares["t"] - usual).abs()).sort_values(["value", "far"], ascending=[False, True])
    found = best.groupby("method")["t"].first()
    return {locator: float(found.get(f"local+{locator}", usual)) for locator in LOCATORS}


def refined_otherwise(lab: Replication, ts: Mapping[str, float]) -> pd.DataFrame:
    """Measure local refinement at the thresholds ``ts``, and repeated refinement, on the test split.

    For each: the share of wrong drafts fixed, and accuracy with all drafts refined.
    """
    run, test = lab.run, lab.test
    once = {kind: test.refined[kind] for kind in ("global", *(f"local+{locator}" for locator in LOCATORS))}
    tuned = {
        f"local+{locator}_tuned": RefinementSpec(_located(test, test.scores[locator], t)) for locator, t in ts.items()
    }  # fmt: skip
    refined = once | refine(run, lab.refiner, test.drafts, "test", tuned)
    refined |= refine(run, lab.refiner, once["global"], "test", {"global_twice": RefinementSpec()})
    threshold = run.params.reward_models.threshold
    for kind in ("local+sorm_twice", "global_then_local+sorm"):
        first = once[TWICE[kind]]
        spec = RefinementSpec(_located(test, test.score("sorm", first, f"-{TWICE[kind]}"), threshold))
        refined |= refine(run, lab.refiner, first, "test", {kind: spec})
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


def _located(split: SplitEvaluation, scores: Artifact, threshold: float) -> pd.Series:
    found = locate_first_error(scores.read(), threshold)
    return found.reindex(split.drafts.read()["sample_id"], fill_value=0)


def choices(lab: Replication) -> pd.DataFrame:
    """Compare ways to choose an answer by their accuracy on the test split.

    ``gated_…`` takes the refinement if the ORM scores the draft at most T, otherwise the draft. Of six answers each,
    ``refined_…`` (draft, both refinements, the samples of Bo3) and ``sampled_…`` (draft and five samples), ``…_orm``
    takes the one with the highest score, ``…_vote`` the most frequent, and ``…_weighted`` the one with the highest sum
    of scores.
    """
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
    numbers = [lab.tables.row(method, "accuracy", st.proportion(outcomes)) for method, outcomes in hits.items()]  # type: ignore[arg-type]
    numbers.append(lab.tables.row("orm", "drafts_doubted", st.proportion(doubted)))
    for a, b in CHOICE_PAIRS:
        numbers += lab.tables.compared(a, b, hits, "accuracy")  # type: ignore[arg-type]
    return pd.DataFrame(numbers)


def _answers(lab: Replication) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return whether each answer to a test question is correct, its score by the ORM, and the answer itself."""
    test = lab.test
    sources = {"draft": test.drafts, "global": test.refined["global"], "local": test.refined["local+sorm"]}
    scores = {"draft": test.scores["orm"]} | {k: test.score("orm", sources[k], f"-{k}") for k in REFINED[1:]}
    parts = [sources[k].read().assign(source=k, score=_of_answers(scores[k], sources[k])) for k in REFINED]
    pool = test.pool.read().assign(score=_of_answers(test.pool_scores, test.pool))
    some = pool.groupby("question_id").head(len(SAMPLED))
    parts.append(some.assign(source="sample" + some.groupby("question_id").cumcount().astype(str)))
    every = pd.concat(parts)
    columns = ("is_correct", "score", "final_answer")
    right, score, answer = (every.pivot(index="question_id", columns="source", values=c) for c in columns)
    return right.astype(bool), score, answer


def _of_answers(scores: Artifact, answers: Artifact) -> np.ndarray:
    return answer_scores(scores.read()).reindex(answers.read()["sample_id"], fill_value=0.0).to_numpy()


def is_right_vote(answers: Sequence[str], right: Sequence[bool], weights: Sequence[float]) -> bool:
    """Return whether the answer with the highest sum of weights, the first of ties, is correct.

    Empty answers do not vote; without votes the result is False.
    """
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer:
            votes[answer] = votes.get(answer, 0.0) + weight
    winner = max(votes, key=lambda answer: votes[answer], default="")
    return any(r for a, r in zip(answers, right, strict=True) if a and a == winner)
