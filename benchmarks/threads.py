"""Compare settings of the OpenMP threads on a quiet and on a busy machine: `python benchmarks/threads.py`.

Every setting gets a new process, which takes training steps of the mini base model (8 sequences of 160 tokens) and
chains of a thousand small matrix products, as in decoding. Beside it run no, one or two processes that only count, or
one that trains with libgomp's defaults. Settings take turns; a figure is the median of the repeats. `glore` is what
the package sets on import. The number of threads is left alone: results depend on it in the last digits.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import pandas as pd
import typer

SETTINGS = {
    "glore": {},
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BASELINE = "libgomp's default"
COUNT = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1_000_000))"


def rate(work: Callable[[], object], seconds: float) -> float:
    """Return how often per second ``work`` is done."""
    work()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        done += 1
    return done / (time.perf_counter() - start)


def measure(seconds: float) -> dict[str, float]:
    """Return training steps, and chains of small products, per second."""
    from glore_lib.models.loading import load_model  # sets the threads before torch is imported
    from glore_lib.models.sources import MINI_BASE

    import torch  # isort: skip

    torch.manual_seed(0)
    model = load_model(str(MINI_BASE), "float32", torch.device("cpu"))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    ids = torch.randint(0, model.config.vocab_size, (8, 160))
    rows, weight = torch.randn(64, 192), torch.randn(192, 192)

    def train() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    def multiply() -> None:
        product = rows
        for _ in range(1000):
            product = (product @ weight).softmax(-1)

    return {"training": rate(train, seconds), "products": rate(multiply, seconds)}


def run(setting: str, seconds: float) -> dict[str, float]:
    """Measure one setting in a new process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--child", "--seconds", str(seconds)]
    return json.loads(subprocess.check_output(command, env=kept | SETTINGS[setting], encoding="utf-8"))


@contextmanager
def beside(commands: list[list[str]]) -> Iterator[None]:
    """Keep other processes at work."""
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        time.sleep(8 if any("--child" in command for command in commands) else 0.5)  # it imports torch first
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(
    seconds: Annotated[float, typer.Option(help="Seconds of each measurement.")] = 3.0,
    repeats: Annotated[int, typer.Option(help="Measurements of each setting.")] = 3,
    child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
) -> None:
    """Print the rates of every setting, and its time relative to libgomp's default on the quiet machine."""
    if child:
        print(json.dumps(measure(seconds)))
        return
    counting = [sys.executable, "-c", COUNT]
    training = ["env", "GOMP_SPINCOUNT=300000", sys.executable, __file__, "--child", "--seconds", "100000"]
    loads = {"quiet": [], "one counts": [counting], "two count": [counting] * 2, "one trains": [training]}
    tables = []
    for load, commands in loads.items():
        with beside(commands):
            rows = [run(s, seconds) | {"setting": s} for _ in range(repeats) for s in SETTINGS]
        tables.append(pd.DataFrame(rows).groupby("setting").median().assign(load=load))
    table = pd.concat(tables).set_index("load", append=True).unstack("load").reindex(list(SETTINGS))
    for what in ("training", "products"):
        rates = table[what][list(loads)]
        print(f"\n{what}: per second\n{rates.round(2).to_string()}")
        print(f"\n{what}: time\n{(rates.loc[BASELINE, 'quiet'] / rates).round(2).to_string()}")


if __name__ == "__main__":
    typer.run(main)
