"""What notebooks say they found: sentences by the scoreboard's rule."""

import numpy as np
import pytest

from glore_lib.method.evaluation import Outcomes
from glore_lib.reporting import scoreboard as sb
from glore_lib.reporting.findings import EXPECTED, LINES, PAPER, found_in, judged_finding, stated, tell
from glore_lib.statistics import NO_DATA, Estimate, Outcome

QUESTIONS = [f"q{i:03}" for i in range(400)]


def answers(right: int) -> Outcome:
    return Outcome.of(np.arange(400) < right, QUESTIONS)


def outcomes(reranked: int) -> Outcomes:
    return {("greedy", "accuracy"): answers(200), ("reranked", "accuracy"): answers(reranked)}


@pytest.mark.parametrize(
    ("reranked", "verdict", "surprising"), [(240, "Replicated.", False), (202, "Inconclusive.", False),
                                            (160, "Not replicated.", True)]
)  # fmt: skip
def test_a_claim_has_the_scoreboards_verdict(reranked, verdict, surprising):
    made = outcomes(reranked)
    (found,) = found_in(made, [("Reranked − draft", "c14", "", "", "", "")])
    run = {"run": "r", "model": "m", "stands_for": "gsm8k"}
    row = sb.scoreboard({"r": [made]}, [run]).set_index("id").loc["c14"]
    assert found.text.endswith(f"The paper: more. {verdict}") and row["verdict"].capitalize() + "." == verdict
    assert f"{100 * row['ours']:+.1f} points [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]" in found.text
    assert found.surprising == surprising


def test_what_we_expect_is_judged_by_the_same_rule_in_other_words():
    line = [("Reranked − draft", "", "reranked", "greedy", "accuracy", "more")]
    texts = [found_in(outcomes(right), line)[0].text for right in (240, 202, 160)]
    assert [text.partition("Expected: more. ")[2] for text in texts] == [
        "As expected.", "Inconclusive.", "Not as expected.",
    ]  # fmt: skip


def test_a_claim_about_another_benchmark_or_without_numbers_is_left_out():
    made = {("bo3", "accuracy"): answers(240), ("greedy", "accuracy"): answers(200)}
    line = [("Best of three − draft", "q3", "", "", "", "")]
    assert len(found_in(made, line, "svamp")) == 1
    assert found_in(made, line, "gsm8k") == []
    assert found_in({}, line, "svamp") == []
    assert found_in({}, [("Accuracy", "", "greedy", "", "accuracy", "")]) == []


def test_a_star_takes_the_best_labels_there_are():
    line = [("First errors", "", "sorm", "", "first_error_accuracy*", "")]
    by_rollouts = {("sorm", "first_error_accuracy"): answers(100)}
    assert "25.0 %" in found_in(by_rollouts, line)[0].text
    assert "50.0 %" in found_in(by_rollouts | {("sorm", "first_error_accuracy_exact"): answers(200)}, line)[0].text


def test_every_line_names_a_claim_or_what_to_compare():
    for text, claim, a, _, metric, side in (line for lines in LINES.values() for line in lines):
        assert text and (claim in {c.id for c in sb.CLAIMS} if claim else a and metric)
        assert side in ("", *sb.SIDES)


def test_nothing_to_count_is_said():
    assert stated("Right", NO_DATA).text == "Right: n = 0."


def test_surprises_are_told_again(capsys):
    share = stated("Right are", Estimate(0.5, 0.4, 0.6, n=100))
    judged = sb.Judgement(Estimate(-0.1, -0.2, -0.05, n=100), 0.01, float("nan"), sb.NOT_REPLICATED)
    surprise = judged_finding("This over that", judged, "more", EXPECTED)
    tell([share, surprise])
    first, again = capsys.readouterr().out.split("\nSurprises:\n")
    assert first.startswith("- Right are: 50.0 % [40.0, 60.0] (n = 100).\n- This over that: -10.0 points")
    assert again.startswith("- This over that") and "Right" not in again
    tell([share])
    assert "No surprises" in capsys.readouterr().out
    assert judged_finding("This over that", judged, "more", PAPER).text.endswith("The paper: more. Not replicated.")
