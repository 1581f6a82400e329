"""Run the smoke benchmark at its smallest size, with a random model instead of SmolLM2."""

import json
import runpy
import shutil

import pandas as pd
import pytest

from glore_lib.workflow.pipeline import ROOT

bench = runpy.run_path(str(ROOT / "benchmarks" / "gpu_smoke.py"))


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method"), [("bf16", "lora"), ("qlora", "qlora")])
def test_a_row_counts_what_the_records_hold(data_dir, llama2_base, tmp_path, path, method):
    base = shutil.copytree(llama2_base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))  # for GSM8K's prompts
    overrides = bench["sizes"](2, 8) | {"base_model.source": str(base)}
    row = bench["smoke"](path, "gsm8k", overrides, tmp_path)
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*/artifact.json")]
    names = {record["name"] for record in records}
    assert {"student-ei1", "refiner", "outcomes-test"} <= names
    # For the student that is better on so few questions.
    assert {"reward-model-orm", "reward-model-sorm"} <= {name.rpartition("-")[0] for name in names}
    assert {r["key"]["params"]["finetuning"]["method"] for r in records if r["name"] == "student-ei1"} == {method}
    for column, name in (("sampled tokens/s", "tokens_generated"), ("trained tokens/s", "tokens_trained")):
        counted = [record for record in records if record["info"].get(name)]
        seconds = sum(record["seconds"] for record in counted)
        assert row[column] == pytest.approx(sum(record["info"][name] for record in counted) / seconds)
    assert row["seconds"] == pytest.approx(sum(record["seconds"] for record in records))
    assert (row["path"], row["task"], row["test questions"]) == (path, "gsm8k", 2)
    assert row["first policy"].startswith("sft: ")
    assert pd.DataFrame([row]).to_markdown(index=False).count("\n") == 2


def test_the_table_has_a_row_for_every_path_and_task(monkeypatch, capsys):
    def smoke(path, task, overrides, artifacts):
        return {"path": path, "task": task, "tokens/s": 12345.6, "test questions": overrides["task.test_questions"]}

    monkeypatch.setitem(bench["main"].__globals__, "smoke", smoke)
    bench["main"](3, 8)
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
    assert rows == [[path, task, "12,346", "3"] for path in ("bf16", "qlora") for task in ("gsm8k", "svamp")]
