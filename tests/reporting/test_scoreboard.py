"""The verdicts: what the rule says of intervals worked out by hand."""

import math

import pandas as pd
import pytest

from glore_lib.params import Task
from glore_lib.reporting import scoreboard as sb
from glore_lib.statistics import NO_DATA, Estimate, row

COUNTS = {"train_questions": 1, "validation_questions": 1, "test_questions": 1}


@pytest.mark.parametrize(
    ("low", "high", "side", "expected"),
    [
        (0.01, 0.05, sb.ABOVE, "replicated"),
        (-0.05, -0.01, sb.ABOVE, "not replicated"),
        (-0.01, 0.05, sb.ABOVE, "inconclusive"),
        (0.0, 0.05, sb.ABOVE, "inconclusive"),  # 0 is neither side
        (-0.05, 0.0, sb.ABOVE, "inconclusive"),
        (-0.05, -0.01, sb.BELOW, "replicated"),
        (0.01, 0.05, sb.BELOW, "not replicated"),
        (-0.02, 0.02, sb.SAME, "replicated"),
        (-0.03, 0.02, sb.SAME, "inconclusive"),
        (-0.2, 0.2, sb.SAME, "inconclusive"),  # wider than the margins on both sides
        (0.03, 0.05, sb.SAME, "not replicated"),
        (-0.09, -0.03, sb.SAME, "not replicated"),
        (math.nan, math.nan, sb.ABOVE, "not tested here"),
    ],
)
def test_the_rule(low, high, side, expected):
    assert sb.verdict(low, high, side) == expected
    mirrored = (-side[1], -side[0])
    assert sb.verdict(-high, -low, mirrored) == expected


def numbers(*runs: str) -> pd.DataFrame:
    """Two runs, in place of GSM8K and SVAMP; every interval lies above 0 by less than the margin."""
    measured = {(c.method, c.metric.replace("@", "@8")) for c in sb.CLAIMS if c.method}
    rows = [row(task, "m", *key, Estimate(0.01, 0.005, 0.015, 600)) for task in runs for key in sorted(measured)]
    return pd.DataFrame(rows)


def score(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the scoreboard of runs that stand in for GSM8K and SVAMP in turn."""
    return sb.scoreboard(frame, dict(zip(frame["task"].unique(), ("gsm8k", "svamp"), strict=False)))


def test_a_row_a_claim_and_run_and_a_verdict_in_each():
    scores = score(numbers("a", "b"))
    assert list(scores) == sb.COLUMNS
    assert scores["id"].tolist() == [c.id for c in sb.CLAIMS for _ in "ab"]
    assert set(scores["verdict"]) <= set(sb.VERDICTS)
    assert {c.id.split(",")[0] for c in sb.CLAIMS} >= {f"c{i}" for i in range(1, 18)}
    verdicts = scores.set_index(["id", "task"])["verdict"]
    assert verdicts["c14", "a"] == verdicts["c14", "b"] == "replicated"
    assert verdicts["c10, raw", "a"] == "not replicated"
    assert verdicts["c3", "a"] == "replicated"  # about the same
    assert verdicts["c11", "a"] == "inconclusive"  # at most one point more
    untested = scores[scores["verdict"] == "not tested here"]
    assert untested[["ours", "ci_low", "ci_high", "n"]].isna().all(axis=None)
    assert scores.drop(untested.index)[["ours", "ci_low", "ci_high", "n"]].notna().all(axis=None)


def test_a_claim_about_one_benchmark_is_tested_by_its_stand_in_alone():
    verdicts = score(numbers("a", "b")).set_index(["id", "task"])["verdict"]
    for claim in sb.CLAIMS:
        if claim.about:
            (elsewhere,) = {"gsm8k", "svamp"} - {claim.about}
            places = {"gsm8k": "a", "svamp": "b"}
            assert verdicts[claim.id, places[claim.about]] != "not tested here"
            assert verdicts[claim.id, places[elsewhere]] == "not tested here"
    assert sb.benchmark(Task(name="arithmetic", difficulty="hard", **COUNTS)) == "gsm8k"
    assert sb.benchmark(Task(name="arithmetic", difficulty="easy", **COUNTS)) == "svamp"
    assert sb.benchmark(Task(name="svamp", **COUNTS)) == "svamp"


def test_the_reranking_is_taken_at_the_largest_number_of_samples():
    frame = numbers("a")
    more = frame[frame["metric"] == "rerank_accuracy_difference@8"].assign(
        metric="rerank_accuracy_difference@16", value=-0.2, ci_low=-0.3, ci_high=-0.1
    )
    scores = score(pd.concat([frame, more])).set_index("id")
    assert scores.loc["c10, raw", "verdict"] == "replicated"
    assert scores.loc["c10, all", "ours"] == -0.2


def test_what_was_not_counted_is_not_tested():
    frame = numbers("a")
    lost = frame["method"] == "reranked-greedy"
    nothing = pd.DataFrame([row("a", "m", "reranked-greedy", "accuracy_difference", NO_DATA)])
    scores = score(pd.concat([frame[~lost], nothing])).set_index("id")
    assert scores.loc["c14", "verdict"] == "not tested here"
    assert sb.to_read(scores.reset_index()).loc["c14", "a"] == "not tested here"
    assert sb.to_read(scores.reset_index()).loc["c8", "a"] == "not tested here: one size of model"


def test_a_csv_read_again_gives_the_same_table(tmp_path):
    scores = score(numbers("a", "b"))
    scores.to_csv(tmp_path / "scoreboard.csv", index=False)
    table = sb.to_read(sb.read(tmp_path / "scoreboard.csv"))
    pd.testing.assert_frame_equal(table, sb.to_read(scores))
    assert table.loc["c14", "a"] == "+1.0 [0.5, 1.5] (n=600) replicated"
