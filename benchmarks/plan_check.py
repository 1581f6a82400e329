"""Compare the plan of the runs of a comparison with what they needed: `python benchmarks/plan_check.py`."""

import re
import sys
from pathlib import Path

import pandas as pd

from glore_lib.artifacts.manifest import read_manifest, run_folders
from glore_lib.cost.plan import plan
from glore_lib.params import Params


def planned_and_actual(folder: Path) -> pd.DataFrame:
    """Return planned and actual tokens and seconds of every run and stage.

    The plan gets what cannot be known before a run: the accuracy of the greedy drafts, and after which round expert
    iteration ends.
    """
    rows = []
    for made in run_folders(folder):
        manifest = read_manifest(made)
        run, params = manifest["run"], Params.model_validate(manifest["params"])
        greedy = _accuracy(made, "greedy")
        assert greedy is not None, f"{made} has no greedy accuracy"
        rounds = max(
            map(int, re.findall(r"student-ei(\d+)-", (made / "01_expert_iteration.ipynb").read_text(encoding="utf-8")))
        )
        params = params.model_copy(update={"student": params.student.model_copy(update={"rounds": rounds})})
        took = {stage["stage"]: stage for stage in manifest["stages"]}
        for stage in plan(params, greedy).stages[:-1]:
            actual = took[stage.stage]
            for what, planned, spent in (
                ("generated", stage.generated, actual["tokens"].get("tokens_generated", 0)),
                ("trained", stage.trained, actual["tokens"].get("tokens_trained", 0)),
                ("seconds", stage.seconds, actual["seconds"]),
            ):
                rows.append({"run": run, "stage": stage.stage, "what": what, "planned": planned, "actual": spent})
    return pd.DataFrame(rows)


def _accuracy(folder: Path, method: str) -> float | None:
    numbers = pd.read_csv(folder / "tables" / "numbers.csv")
    found = numbers[(numbers["method"] == method) & (numbers["metric"] == "accuracy")]
    return found["value"].item() if len(found) else None


if __name__ == "__main__":
    frame = planned_and_actual(Path(sys.argv[1] if len(sys.argv) > 1 else "results/mini"))
    total = frame.groupby(["run", "what"], as_index=False)[["planned", "actual"]].sum().assign(stage="total")
    frame = pd.concat([frame, total])
    frame["ratio"] = frame["planned"] / frame["actual"]
    print(frame.set_index(["run", "what", "stage"]).sort_index().round({"planned": 0, "ratio": 2}).to_string())
