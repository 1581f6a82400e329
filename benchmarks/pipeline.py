"""Measure where the time of `glore run` goes, and how it grows with the questions: `python benchmarks/pipeline.py`.

Every size is a run without existing artifacts. "Library" is the time of the artifacts that a notebook made; the rest of
the wall time is papermill, kernels, imports, tables and figures.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import psutil
import typer

from glore_lib.cli import _parse
from glore_lib.params import load_params
from glore_lib.workflow.pipeline import ROOT

FACTORS = (1, 2, 4)


class PeakMemory(threading.Thread):
    """The peak memory of all children of this process (PSS if available, which counts shared memory once)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            self.peak = max(self.peak, sum(map(_memory, psutil.Process().children(recursive=True))))


def _memory(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
        return getattr(info, "pss", info.rss)
    except psutil.Error:  # it has exited
        return 0


def sizes(params_file: Path, questions: int) -> dict[str, int]:
    """Return overrides for this number of training questions, and validation, test and SFT questions in proportion."""
    params = load_params(params_file, {})
    share = questions / params.task.train_questions
    counts = {f"task.{name}_questions": count for name, count in params.task.counts.items()}
    if params.student.sft_questions:
        counts["student.sft_questions"] = params.student.sft_questions
    return {name: max(1, round(count * share)) for name, count in counts.items()}


def measure(params_file: Path, overrides: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """Return one row per stage and one for the whole run, and the peak memory in GiB."""
    memory = PeakMemory()
    with TemporaryDirectory(prefix="glore-pipeline-") as folder:
        out, artifacts = Path(folder, "out"), Path(folder, "artifacts")
        settings = [f"--set={key}={json.dumps(value)}" for key, value in overrides.items()]
        command = [sys.executable, "-c", "from glore_lib.cli import app; app()", "run", str(params_file)]
        memory.start()
        started = time.perf_counter()
        subprocess.run([*command, f"--out={out}", f"--artifacts={artifacts}", *settings], check=True)
        wall = time.perf_counter() - started
        memory.done.set()
        manifests = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/manifest.json"))]
        rows, counted = [], set()
        for stage in (stage for manifest in manifests for stage in manifest["stages"]):
            used: dict[str, Any] = {}
            for path in artifacts.glob(f"stages/*/{stage['stage']}.json"):
                used |= json.loads(path.read_text(encoding="utf-8"))["artifacts"]
            library = sum(record["seconds"] for name, record in used.items() if name not in counted)
            counted |= set(used)
            rows.append({"stage": stage["stage"], "wall": stage["seconds"], "library": library})
    rows.append({"stage": "run", "wall": wall, "library": sum(row["library"] for row in rows)})
    return rows, memory.peak / 2**30


def main(
    params_file: Annotated[Path, typer.Argument(help="The params file.")] = ROOT / "params" / "mini-hard.yaml",
    questions: Annotated[int, typer.Option(min=1, help="Training questions of the smallest run.")] = 140,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Where to write the numbers.")] = None,
) -> None:
    """Run with once, twice and four times the questions and print a table."""
    columns, made, memory = {}, {}, {}
    for factor in FACTORS:
        rows, memory[factor] = measure(params_file, sizes(params_file, factor * questions) | _parse(settings or []))
        made[factor] = frame = pd.DataFrame(rows).set_index("stage")
        columns[f"{factor}x, s"], columns[f"{factor}x library, s"] = frame["wall"], frame["library"]
        columns[f"{factor}x added, %"] = 100 * (frame["wall"] / frame["library"] - 1)
    table = pd.DataFrame(columns)
    for name in ("wall", "library"):
        table[f"{FACTORS[-1]}x / 1x {name}"] = made[FACTORS[-1]][name] / made[1][name]
    print(table.round(1).to_string())
    print("peak memory, GiB:", ", ".join(f"{factor}x {gib:.2f}" for factor, gib in memory.items()))
    if report:
        sized = {str(factor): frame.reset_index().to_dict("records") for factor, frame in made.items()}
        record = {"questions": questions, "stages": sized, "peak_memory_gib": memory}
        report.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
