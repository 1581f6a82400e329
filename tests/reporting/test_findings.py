"""What notebooks say they found: sentences by the scoreboard's rule."""

import pytest

from glore_lib.reporting.findings import EXPECTED, PAPER, compared, stated, tell
from glore_lib.statistics import NO_DATA, Estimate


@pytest.mark.parametrize(
    ("interval", "side", "told", "surprising"),
    [
        ((0.01, 0.05), "more", "Replicated.", False),
        ((-0.01, 0.05), "more", "Inconclusive.", False),
        ((-0.05, -0.01), "more", "Not replicated.", True),
        ((-0.05, -0.01), "less", "Replicated.", False),
        ((-0.02, 0.05), "no less", "Replicated.", False),  # by less than the margin, if at all
        ((-0.03, 0.05), "no less", "Inconclusive.", False),
        ((-0.05, -0.03), "no less", "Not replicated.", True),
        ((-0.05, 0.02), "no more", "Replicated.", False),
        ((-0.02, 0.02), "about the same", "Replicated.", False),
        ((-0.02, 0.03), "about the same", "Inconclusive.", False),
        ((0.03, 0.05), "about the same", "Not replicated.", True),
    ],
)
def test_a_difference_is_judged_by_the_scoreboards_rule(interval, side, told, surprising):
    found = compared("This over that", Estimate(sum(interval) / 2, *interval, n=600), side, PAPER)
    assert found.text.startswith("This over that: ") and found.text.endswith(f"The paper: {side}. {told}")
    assert f"[{100 * interval[0]:.1f}, {100 * interval[1]:.1f}] (n = 600)" in found.text
    assert found.surprising == surprising


def test_nothing_to_count_is_said():
    assert compared("This over that", NO_DATA, "more", PAPER).text == "This over that: nothing to compare (n = 0)."
    assert stated("Right", NO_DATA).text == "Right: n = 0."


def test_surprises_are_told_again(capsys):
    share = stated("Right are", Estimate(0.5, 0.4, 0.6, n=100))
    surprise = compared("This over that", Estimate(-0.1, -0.2, -0.05, n=100), "more", EXPECTED)
    tell([share, surprise])
    first, again = capsys.readouterr().out.split("\nSurprises:\n")
    assert first.startswith("- Right are: 50.0 % [40.0, 60.0] (n = 100).\n- This over that: -10.0 points")
    assert again.startswith("- This over that") and "Right" not in again
    tell([share])
    assert "No surprises" in capsys.readouterr().out
