"""The smoke run of benchmarks/, at its smallest: a random model instead of SmolLM2."""

import json
import runpy

import pandas as pd
import pytest

from glore_lib.params import ParamsError
from glore_lib.pipeline import ROOT

bench = runpy.run_path(str(ROOT / "benchmarks" / "gpu_smoke.py"))


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), [("bf16", "lora"), ("qlora", "qlora")])
@pytest.mark.parametrize(("task", "first"), [("gsm8k", "sft: "), ("svamp", "base, one example: ")])
def test_a_row_counts_what_the_records_hold(data_dir, wide_base, tmp_path, path, method, task, first):
    overrides = bench["sizes"](2, 8) | {"base_model.source": str(wide_base)}
    row = bench["smoke"](path, task, overrides, tmp_path)
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*/artifact.json")]
    names = {record["name"] for record in records}
    assert {"student-ei1", "refiner", "numbers-test"} <= names
    # Of the student that is better on so few questions.
    assert {"reward-model-orm", "reward-model-sorm"} <= {name.rpartition("-")[0] for name in names}
    assert {r["key"]["params"]["finetuning"]["method"] for r in records if r["name"] == "student-ei1"} == {method}
    for column, name in (("sampled tokens/s", "tokens_generated"), ("trained tokens/s", "tokens_trained")):
        counted = [record for record in records if record["info"].get(name)]
        seconds = sum(record["seconds"] for record in counted)
        assert row[column] == pytest.approx(sum(record["info"][name] for record in counted) / seconds)
    assert row["seconds"] == pytest.approx(sum(record["seconds"] for record in records))
    assert (row["path"], row["task"], row["test questions"]) == (path, task, 2)
    assert row["first policy"].startswith(first)
    assert pd.DataFrame([row]).to_markdown(index=False).count("\n") == 2


def test_more_questions_than_there_are_is_told_in_one_line(data_dir, tmp_path):
    with pytest.raises(ParamsError, match=r"^task\.test_questions = 301: must be at most 300"):
        bench["smoke"]("bf16", "svamp", bench["sizes"](301, 8), tmp_path)
