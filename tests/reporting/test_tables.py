"""Tables of one run as notebooks show them."""

from types import SimpleNamespace

import pandas as pd
import pytest

from clone import TINY
from glore_lib.params import _names, load_params
from glore_lib.reporting import tables


def test_every_parameter_has_a_row_under_the_name_that_set_takes():
    changes = {
        "student.training.learning_rate": 0.25,
        "finetuning.method": "lora",
        "finetuning.lora_targets": ["q"] * 40,
    }
    params = load_params(TINY, changes)
    shown = tables.parameters(SimpleNamespace(params=params), "finetuning", "student", "reward_models")["value"]
    assert shown["student.training.learning_rate"] == "0.25"
    assert shown["student.sft.max_steps"] == "1"
    assert shown["reward_models.monotone"] == "True"
    assert set(shown.index) <= set(_names())
    html = shown.to_frame()._repr_html_()
    assert str(["q"] * 40) in html
    assert "..." not in html


@pytest.mark.parametrize(
    ("changes", "read", "unread"),
    [
        ({"finetuning.method": "full"}, "finetuning.batch_size", "finetuning.lora_rank"),
        ({"finetuning.method": "lora"}, "finetuning.lora_rank", "finetuning.double_quantisation"),
        ({"finetuning.method": "qlora"}, "finetuning.double_quantisation", None),
        ({"student.start": "one_shot"}, "student.start", "student.sft.epochs"),
        ({"reward_models.early_stop": False}, "reward_models.early_stop", "reward_models.rollouts_per_wave"),
        ({"reward_models.figure4": False}, "reward_models.figure4", "reward_models.figure4_training"),
        ({}, "task.difficulty", "task.svamp_split"),
    ],
)
def test_parameters_that_the_run_does_not_read_are_not_shown(changes, read, unread):
    shown = tables.parameters(
        SimpleNamespace(params=load_params(TINY, changes)), "task", "finetuning", "student", "reward_models"
    )
    assert read in shown.index and unread not in shown.index


def test_every_condition_is_of_a_parameter():
    assert all(any(name.startswith(start) for name in _names()) for start in tables.READ_IF)


def test_wide_frames_are_shown_whole():
    html = pd.DataFrame([[f"{i} {'x' * 300}" for i in range(40)]])._repr_html_()
    assert "..." not in html
    assert all(f"<td>{i} {'x' * 300}</td>" in html for i in range(40))
