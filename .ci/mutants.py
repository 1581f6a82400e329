"""Change the method in one place at a time and check that a test fails: `.venv/bin/python .ci/mutants.py`.

Each mutant is one plausible mistake. The tests named with it run on a copy of the tracked files; one that passes them
survives, which is a gap in the tests. With arguments, only the mutants whose names contain one of them are tried.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A change of the text ``old``, which occurs once in ``file``, and the tests that are to notice it."""

    name: str
    file: str
    old: str
    new: str
    tests: str


METHOD, TESTS = "glore_lib/method", "tests/method"
MUTANTS = [
    Mutant(
        "threshold: only below it",
        f"{METHOD}/refinement.py",
        '["score"] <= threshold',
        '["score"] < threshold',
        f"{TESTS}/test_refinement.py",
    ),
    Mutant(
        "first error: the last one",
        f"{METHOD}/step_labels.py",
        '== 0].groupby("sample_id")["step"].min()',
        '== 0].groupby("sample_id")["step"].max()',
        f"{TESTS}/test_step_labels.py",
    ),
    Mutant(
        "monotone rule: spreads forwards",
        f"{METHOD}/step_labels.py",
        "ascending=[True, False]",
        "ascending=[True, True]",
        f"{TESTS}/test_step_labels.py",
    ),
    Mutant(
        "monotone rule: left out",
        f"{METHOD}/step_labels.py",
        "return make_monotone(labels) if monotone else labels",
        "return labels",
        f"{TESTS}/test_step_labels.py",
    ),
    Mutant(
        "consistency rule: left out",
        f"{METHOD}/step_labels.py",
        '& (rollouts["is_consistent"] | (not consistent))\n    keys',
        "\n    keys",
        f"{TESTS}/test_step_labels.py",
    ),
    Mutant(
        "consistency rule: a result's own step counts as use",
        "glore_lib/solutions.py",
        "        if any(later.isdisjoint(_values(result)) for result in _computed(step)):\n            return False\n"
        "        later.update(*map(_values, _NUMBER.finditer(step)))\n",
        "        later.update(*map(_values, _NUMBER.finditer(step)))\n"
        "        if any(later.isdisjoint(_values(result)) for result in _computed(step)):\n            return False\n",
        "tests/test_solutions.py",
    ),
    Mutant(
        "balance of steps: over all steps together",
        f"{METHOD}/step_labels.py",
        'rank = shuffled.groupby(["step", "label"]).cumcount()',
        'rank = shuffled.groupby(["label"]).cumcount()',
        f"{TESTS}/test_step_labels.py",
    ),
    Mutant(
        "balanced ORM: one more of each",
        f"{METHOD}/step_labels.py",
        'shuffled[rank < shuffled["question_id"].map(keep)]',
        'shuffled[rank <= shuffled["question_id"].map(keep)]',
        f"{TESTS}/test_step_labels.py",
    ),
    Mutant(
        "drafts to label: repeated ones too",
        f"{METHOD}/step_labels.py",
        'samples.drop_duplicates(["question_id", "text"]).groupby',
        "samples.groupby",
        f"{TESTS}/test_step_labels.py",
    ),
    Mutant(
        "rollouts: from one step too few",
        f"{METHOD}/rollouts.py",
        "text = join_steps(steps[:i])",
        "text = join_steps(steps[: i - 1])",
        f"{TESTS}/test_step_labels.py {TESTS}/test_reward_models.py",
    ),
    Mutant(
        "rollouts: an inconsistent one verifies",
        f"{METHOD}/rollouts.py",
        "return self.is_correct and self.is_consistent",
        "return self.is_correct",
        f"{TESTS}/test_step_labels.py {TESTS}/test_reward_models.py",
    ),
    Mutant(
        "local pairs: a trace of the wrong step itself",
        f"{METHOD}/refinement.py",
        "traces.get((sample_id, i - 1), [])",
        "traces.get((sample_id, i), [])",
        f"{TESTS}/test_refinement.py",
    ),
    Mutant(
        "local pairs: the prefix has the wrong step",
        f"{METHOD}/refinement.py",
        "prefix_text(steps, i - 1) + end",
        "prefix_text(steps, i) + end",
        f"{TESTS}/test_refinement.py",
    ),
    Mutant(
        "global pairs: across questions",
        f"{METHOD}/refinement.py",
        'wrong.merge(right, on="question_id", suffixes=("", "_right"))',
        'wrong.merge(right, how="cross", suffixes=("", "_right"))',
        f"{TESTS}/test_refinement.py",
    ),
    Mutant(
        "pairs: one more per question",
        f"{METHOD}/refinement.py",
        ".cumcount() < cap].reset",
        ".cumcount() <= cap].reset",
        f"{TESTS}/test_refinement.py",
    ),
    Mutant(
        "[BAD]: one step later",
        "glore_lib/solutions.py",
        '[*steps[: i - 1], f"{BAD} {steps[i - 1]}", *steps[i:]]',
        '[*steps[:i], f"{BAD} {steps[i % len(steps)]}", *steps[i + 1 :]]',
        "tests/test_solutions.py",
    ),
    Mutant(
        "expert iteration: one more solution per question",
        f"{METHOD}/expert_iteration.py",
        "added.get(row.question_id, 0) < cap",
        "added.get(row.question_id, 0) <= cap",
        f"{TESTS}/test_students.py",
    ),
    Mutant(
        "expert iteration: wrong samples too",
        f"{METHOD}/expert_iteration.py",
        'samples[samples["is_correct"]].itertuples()',
        "samples.itertuples()",
        f"{TESTS}/test_students.py",
    ),
    Mutant(
        "expert iteration: forgets the earlier rounds",
        f"{METHOD}/expert_iteration.py",
        "return pd.concat([before, ",
        "return pd.concat([before[:0], ",
        f"{TESTS}/test_students.py",
    ),
    Mutant(
        "answers: scored at the first step",
        f"{METHOD}/reward_models.py",
        '.groupby("sample_id")["score"].last()',
        '.groupby("sample_id")["score"].first()',
        f"{TESTS}/test_evaluation.py {TESTS}/test_reward_models.py",
    ),
    Mutant(
        "reranking: the lowest score",
        f"{METHOD}/evaluation.py",
        "scores.argmax(axis=1)",
        "scores.argmin(axis=1)",
        f"{TESTS}/test_evaluation.py",
    ),
    Mutant(
        "Bo3: the lowest score",
        f"{METHOD}/evaluation.py",
        'g["score"].argmax()',
        'g["score"].argmin()',
        f"{TESTS}/test_evaluation.py",
    ),
    Mutant(
        "union: without the draft",
        f"{METHOD}/evaluation.py",
        '"oracle_reranked": right.any(axis=1)',
        '"oracle_reranked": right.drop(columns="draft").any(axis=1)',
        f"{TESTS}/test_evaluation.py",
    ),
    Mutant(
        "best of K: the first of ties wins",
        "glore_lib/statistics.py",
        'last = rankdata(-values, method="max", axis=1)',
        'last = 1 + rankdata(-values, method="min", axis=1)',
        "tests/test_statistics.py",
    ),
    Mutant(
        "pass@K: drawn with replacement",
        "glore_lib/statistics.py",
        "1 - binomial(wrong, k) / binomial(size, k)",
        "1 - (wrong / size) ** k",
        "tests/test_statistics.py",
    ),
    Mutant(
        "reward models: a label one token early",
        "glore_lib/models/tokens.py",
        "ends.append(len(ids) - 1)",
        "ends.append(len(ids) - 2)",
        "tests/models/test_loading.py tests/models/test_prefix_tree.py",
    ),
    Mutant(
        "packed rows: a token sees only its predecessor",
        "glore_lib/models/prefix_tree.py",
        "attended[i] |= attended[parent]",
        "attended[i, parent] = True",
        "tests/models/test_prefix_tree.py",
    ),
    Mutant(
        "improvement: not bounded at 0",
        f"{METHOD}/appendix/c_refiner_rl.py",
        "return max(0.0, after - before)",
        "return after - before",
        f"{TESTS}/test_refiner_rl.py",
    ),
    Mutant(
        "own pairs: a local target may rewrite the prefix",
        f"{METHOD}/appendix/c_refiner_rl.py",
        "after[:-1] == before[:-1] and",
        "",
        f"{TESTS}/test_refiner_rl.py",
    ),
    Mutant(
        "rounds of the refiner: the last is returned",
        f"{METHOD}/appendix/c_refiner_rl.py",
        '["fixed_validation"].fillna(0).to_numpy().argmax()',
        '["fixed_validation"].size - 1',
        f"{TESTS}/test_refiner_rl.py",
    ),
    Mutant(
        "step rewards: a token learns from its own step alone",
        "glore_lib/models/grpo.py",
        "[::-1].cumsum()[::-1]",
        "",
        "tests/models/test_grpo.py",
    ),
    Mutant(
        "GRPO: the reward's sign",
        "glore_lib/models/grpo.py",
        '"reward": self.written.rewards',
        '"reward": [-reward for reward in self.written.rewards]',
        "tests/models/test_grpo.py",
    ),
]


def tried(mutant: Mutant, copy: Path) -> bool:
    """Return whether a test fails with the mutant; the copy is as before afterwards."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.name}: occurs {text.count(mutant.old)} times in {mutant.file}"
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not long"]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*command, *mutant.tests.split()], cwd=copy, env=environment, capture_output=True, text=True
        )
    finally:
        path.write_text(text, encoding="utf-8")
    if done.returncode not in (0, 1):  # no test ran
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.returncode == 1


def main() -> None:
    """Try the mutants, print a line each, and fail if one survives."""
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    survived, started = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="glore-mutants-") as folder:
        copy = Path(folder)
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, tracked.split("\0")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
        for mutant in chosen:
            noticed = tried(mutant, copy)
            print(f"{'noticed' if noticed else 'SURVIVED'}  {mutant.name}", flush=True)
            survived += [] if noticed else [mutant.name]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} noticed in {time.monotonic() - started:.0f} s")
    raise SystemExit(1 if survived else 0)


if __name__ == "__main__":
    main()
