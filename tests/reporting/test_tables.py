"""Tables of one run as notebooks show them."""

from types import SimpleNamespace

import pandas as pd

from clone import TINY
from glore_lib.params import _names, load_params
from glore_lib.reporting import tables


def test_every_parameter_has_a_row_under_the_name_that_set_takes():
    params = load_params(TINY, {"student.training.learning_rate": 0.25, "finetuning.lora_targets": ["q"] * 40})
    shown = tables.parameters(SimpleNamespace(params=params), "finetuning", "student", "reward_models")["value"]
    assert shown["student.training.learning_rate"] == "0.25"
    assert shown["student.sft.max_steps"] == "1"
    assert shown["reward_models.monotone"] == "True"
    assert shown["reward_models.figure4_training"] == "None"
    assert set(shown.index) - {"reward_models.figure4_training"} <= set(_names())
    html = shown.to_frame()._repr_html_()
    assert str(["q"] * 40) in html
    assert "..." not in html


def test_wide_frames_are_shown_whole():
    html = pd.DataFrame([[f"{i} {'x' * 300}" for i in range(40)]])._repr_html_()
    assert "..." not in html
    assert all(f"<td>{i} {'x' * 300}</td>" in html for i in range(40))
