"""The command ``glore``. Exit codes: 0 done, 1 a stage failed, 2 bad input, 130 or 143 interrupted."""

import errno
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from glore_lib.params import Params, ParamsError, expanded, explain_yaml, load_params, read_yaml
from glore_lib.tasks.benchmarks import DATA_DIR
from glore_lib.workflow import StageError, environment
from glore_lib.workflow.processes import default_jobs
from glore_lib.workflow.runs import STAGES, parse_seeds, read_runs, slow_bfloat16, with_seeds

if TYPE_CHECKING:  # commands import what takes seconds themselves
    from glore_lib.workflow.pipeline import Job, Results


class Commands(TyperGroup):
    """Commands that print expected errors as one line, and exit with the code that stands for them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Expand the ``~`` of paths: shells leave it in ``--out=~/results``."""
        parts = [arg.partition("=") if arg.startswith("--") else ("", "", arg) for arg in args]
        whole = [f"{a}{sign}{expanded(b) if b.startswith('~') else b}" for a, sign, b in parts]
        return super().parse_args(ctx, whole)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with 2 for bad input, 1 for a failed notebook or a full disk, 128 + n for a signal n.

        Batch systems and ``docker stop`` send SIGTERM, and closed terminals SIGHUP: both end a run as Ctrl-C does.
        """
        received = [signal.SIGINT]

        def interrupt(number: int, frame: object) -> None:
            received.append(signal.Signals(number))  # Ray raises another KeyboardInterrupt in place of this one
            raise KeyboardInterrupt

        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, interrupt)
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may know few characters
        if folder := os.environ.get(DATA_DIR):  # the kernels run in another folder
            os.environ[DATA_DIR] = str(expanded(folder).absolute())
        try:
            environment.provide_home()
            return super().invoke(ctx)
        except KeyboardInterrupt:
            code = 128 + received[-1]
            line = "interrupted: finished work is kept, and the same command continues from there"
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
                code, line = 2, f"error: {error}"
            elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                code, line = 1, f"error: {error}; finished work is kept: free disk space and run again"
            else:
                raise
        except (ParamsError, StageError) as error:
            code, line = 2 if isinstance(error, ParamsError) else 1, f"error: {' '.join(str(error).split())}"
        typer.echo(line, err=True)
        raise typer.Exit(code)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Replicate GLoRe (arXiv 2402.10963): reward models, refinements, and the paper's tables and figures. "
    "Exit codes: 0 done, 1 a notebook failed or numbers differ, 2 bad input, 130 or 143 interrupted.",
)
console = Console(soft_wrap=True, highlight=False)

# fmt: off
ParamsFiles = Annotated[list[Path], typer.Argument(help="Params files, one for each (task, model) run.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="KEY.SUB=VALUE", default_factory=list, show_default=False,
                                             help="Override a parameter in every file.")]
Artifacts = Annotated[Path, typer.Option(default_factory=lambda: environment.ROOT / "artifacts", show_default=False,
                                         help="Folder of intermediate results; by default artifacts/ in the clone.")]
Recompute = Annotated[bool, typer.Option("--recompute", help="Compute artifacts of older code again.")]
KeepStale = Annotated[bool, typer.Option("--keep-stale", help="Use artifacts of older code, marked in the results.")]
Retrain = Annotated[bool, typer.Option(
    "--retrain", help="Train models again whose weights were not packed, where they are needed.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run or of a comparison.")]
Root = Annotated[Path, typer.Option(help="Folder of results; each run and the comparison is a folder in it.")]
Name = Annotated[str | None, typer.Option(
    help="Folder of the comparison; the default is RUN-figures, of several runs comparison.")]
Start = Annotated[str | None, typer.Option(
    "--from", metavar="STAGE", help="Execute again from this stage on, such as 03.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Replace the results of these runs; artifacts are kept.")]
Appendix = Annotated[str | None, typer.Option(
    metavar="LIST", help="Add notebooks of the appendix: all, or names such as label_noise,c_refiner_rl.",
    show_default=False)]
Seeds = Annotated[str | None, typer.Option(
    metavar="LIST", help="Seeds of each run, such as 0-4 or 0,2,5; by default the one in its params file.",
    show_default=False)]
Jobs = Annotated[int | None, typer.Option(
    min=1, help="Runs to do side by side; by default all, if each gets a core and none uses a GPU.",
    show_default=False)]
Hardware = Annotated[str, typer.Option(help="What runs it: cpu, cpu-avx2, a100-80gb, h100-80gb or rtx-4090.")]
Accuracy = Annotated[float, typer.Option(help="Share of samples that are assumed right, between 0 and 1.")]
# fmt: on


def _examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\n".join(["Examples:", *lines])


def _show_version(asked: bool) -> None:
    if asked:
        commit = environment.git()
        made = f", commit {commit['commit'][:12]}{' with changes' if commit['dirty'] else ''}" if commit else ""
        typer.echo(f"glore {version('glore_lib')}{made}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version and the commit, and exit.")] = False,
) -> None:  # fmt: skip
    """Parse the options that come before a command."""


@app.command(
    epilog=_examples(
        "glore run params/mini-hard.yaml params/mini-easy.yaml --name mini",
        "glore run params/mini-hard.yaml --set run=mine --set student.rounds=3",
        "glore run params/mini-hard.yaml --seeds 0-4",
    )
)
def run(
    params: ParamsFiles, settings: Settings, artifacts: Artifacts, out: Root = Path("results"), name: Name = None,
    seeds: Seeds = None, start: Start = None, fresh: Fresh = False, appendix: Appendix = None,
    recompute: Recompute = False, keep_stale: KeepStale = False, jobs: Jobs = None, retrain: Retrain = False,
) -> None:  # fmt: skip
    """Run notebooks 01-05 for each params file, then 06, which compares the runs. Finished notebooks are kept.

    Of several seeds, the first (that of the params file if it is among them) is rendered; the others are computed
    without notebooks, into seeds/ in the run's folder.
    """
    os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported: seeds are computed under the bar of this command
    from glore_lib.workflow.pipeline import Pipeline, parse_appendix

    _set("GLORE_RETRAIN", retrain)
    overrides, numbers = _parse(settings), parse_seeds(seeds)
    added = parse_appendix(appendix)
    pipeline = Pipeline(params, out, artifacts, overrides, start, fresh, added, name, recompute, numbers)
    if any(job.due for job in pipeline.jobs):
        runs = [made.params for made in pipeline.results if made.params]
        _settle_stale(artifacts, runs, recompute, keep_stale)
    _render(pipeline.results, jobs or default_jobs([*pipeline.runs.values()]))


@app.command(
    epilog=_examples(
        "glore compute params/llama2-7b-gsm8k.yaml",
        "glore compute params/llama2-7b-gsm8k.yaml --seeds 0-4",
    )
)
def compute(
    params: ParamsFiles, settings: Settings, artifacts: Artifacts, seeds: Seeds = None, recompute: Recompute = False,
    keep_stale: KeepStale = False, jobs: Jobs = None, retrain: Retrain = False,
) -> None:  # fmt: skip
    """Compute all artifacts of notebooks 01-05 in this process, for example on a GPU server, and render nothing.

    `glore run` then renders the notebooks in minutes. What only the appendix needs is computed by
    `glore run --appendix all`.
    """
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported: no bars in a log
    overrides, numbers = _parse(settings), parse_seeds(seeds)
    _set("GLORE_RETRAIN", retrain)
    runs = [*read_runs(params, overrides, artifacts).values()]
    each = [made for run in runs for made, _ in with_seeds(run, overrides, numbers)]
    _settle_stale(artifacts, each, recompute, keep_stale)
    from glore_lib.workflow.compute import compute  # imports torch

    jobs = jobs or default_jobs(runs)
    compute(params, overrides, numbers, artifacts, lambda line: typer.echo(line, err=True), jobs)
    typer.echo(f"done: {artifacts}")


@app.command(
    epilog=_examples(
        "glore pack params/mini-hard.yaml",
        "glore pack params/llama2-7b-gsm8k.yaml --seeds 0-4 --out llama2.tar.gz",
        "glore pack params/mini-hard.yaml --dataset",
    )
)
def pack(
    params: ParamsFiles, settings: Settings, artifacts: Artifacts, seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(
        help="Archive, by default RUN.tar.gz of the first run, or folder of the data set, by default RUN-dataset.",
        show_default=False)
    ] = None,
    dataset: Annotated[bool, typer.Option(
        "--dataset", help="Write a data set that datasets.load_dataset reads instead.")] = False,
) -> None:  # fmt: skip
    """Write the samples, rollouts, labels, scores, refinements and records of runs to one archive, without weights.

    `glore unpack` adds it to the artifacts of another machine, where `glore run` renders the notebooks and `glore
    check` recomputes every number.
    """
    from glore_lib.artifacts.manifest import stage_record_path
    from glore_lib.artifacts.packed import pack

    overrides, numbers = _parse(settings), parse_seeds(seeds)
    runs = [made for path in params for made, _ in with_seeds(load_params(path, overrides), overrides, numbers)]
    if dataset:
        _write_dataset(runs, artifacts, out or Path(f"{runs[0].run}-dataset"))
        return
    archive = out or Path(f"{runs[0].run}.tar.gz")
    packed = pack(artifacts, runs, archive)
    for made in runs:
        if missing := [stage for stage in STAGES if not stage_record_path(artifacts, made, stage).exists()]:
            typer.echo(f"{made.run} seed {made.seed}: not computed to the end: {', '.join(missing)}", err=True)
    typer.echo(f"done: {archive} ({len(packed)} artifacts, {archive.stat().st_size / 1e6:,.1f} MB)")


@app.command(
    epilog=_examples(
        "glore unpack mini-hard.tar.gz",
        "glore unpack llama2.tar.gz.* --artifacts elsewhere",
    )
)
def unpack(
    archive: Annotated[list[Path], typer.Argument(help="An archive of glore pack, or its pieces in order.")],
    artifacts: Artifacts,
) -> None:
    """Add the artifacts in an archive of `glore pack` to those of this machine. What is there is kept."""
    from glore_lib.artifacts.packed import unpack

    new, present = unpack(archive, artifacts)
    typer.echo(f"done: {artifacts} ({len(new)} new artifacts, {len(present)} were there)")


@app.command(epilog=_examples("glore compare results/mini-hard results/mini-easy --out results/mini"))
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_FOLDER...", help="Folders of runs.")],
    out: Annotated[Path | None, typer.Option(
        help="Folder of the comparison; by default named as by glore run, beside the first run.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the comparison in OUT.")] = False,
) -> None:  # fmt: skip
    """Build a comparison (notebook 06, tables, figures, report) from existing run folders, without artifacts."""
    from glore_lib.artifacts.manifest import SEEDS, folder_name
    from glore_lib.workflow.pipeline import Results, comparison_hashes, comparison_name

    comparison_hashes(folders)  # raises if one is no run folder
    place = folders[0].resolve().parent
    place = place.parents[1] if place.name == SEEDS else place
    default = place / comparison_name([folder_name(folder) for folder in folders])
    _render([Results(out or default, fresh=fresh, compared=folders)])


@app.command(epilog=_examples("glore figures results"))
def figures(
    root: Annotated[Path, typer.Argument(metavar="[ROOT]", help="Folder of results.")] = Path("results"),
) -> None:
    """Redraw the tables, figures, scoreboard and report of every comparison in ROOT from its run folders."""
    from glore_lib.artifacts.manifest import MANIFEST, read_manifest, run_folders
    from glore_lib.reporting.results import write_comparison

    folders = sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    comparisons = [folder for folder in folders if "runs" in read_manifest(folder)]
    if not comparisons:
        raise ParamsError(f"folder {root}: has no folder of a comparison; glore run and glore compare write one")
    for folder in comparisons:
        write_comparison(run_folders(folder), folder)
        report(folder)


@app.command(epilog=_examples("glore status results/mini-hard"))
def status(out: Folder, artifacts: Artifacts) -> None:
    """Show which stages are done, running or failed, what they took, and the state of unfinished artifacts."""
    from glore_lib.artifacts.locks import is_used
    from glore_lib.artifacts.manifest import read_manifest, seed_folders
    from glore_lib.artifacts.packed import without_weights
    from glore_lib.artifacts.store import unfinished

    manifest, used = read_manifest(out), is_used(out)
    parts = [manifest, *manifest["stages"]]
    states = [p["status"] if used else p["status"].replace("running", "interrupted") for p in parts]  # it was killed
    rows = []
    for stage, state in zip(manifest["stages"], states[1:], strict=True):
        seconds = f"{stage['seconds']:.0f}" if "seconds" in stage else ""
        tokens = f"{sum(stage['tokens'].values()):,}" if stage.get("tokens") else ""
        rows.append((manifest.get("run", "all"), stage["stage"], state, seconds, tokens))
    _print_table(("run", "stage", "status", "seconds", "tokens"), rows, left=3)
    lines = [
        f"{e['error']}; rendered so far: {out / e['partial']}" if "partial" in e else e["error"]
        for e in manifest["stages"] if "error" in e
    ]  # fmt: skip
    lines += [f"compares: {out / run['folder']}" for run in manifest.get("runs", {}).values()]
    lines += [f"seed: {folder}" for folder in seed_folders(out)]
    lines += [f"computed by older code: {name} ({why})" for name, why in manifest.get("stale", {}).items()]
    if absent := without_weights(artifacts):
        lines.append(f"without weights, which were not packed: {', '.join(absent)}")
    lines += [f"unfinished: {name}: {kept}" for name, kept in unfinished(artifacts).items()]
    lines.append(f"{states[0]}, {timedelta(seconds=round(manifest['seconds']))} of work")
    console.print("\n".join(lines), markup=False)


@app.command(epilog=_examples("glore report results/mini"))
def report(out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a comparison.")]) -> None:
    """Write DIR/report.html, a self-contained page of all results. `glore run` writes it too."""
    from glore_lib.reporting.report import write_report

    typer.echo(f"done: {write_report(out)}")


@app.command(epilog=_examples("glore check results/mini-hard", "glore check results/mini"))
def check(out: Folder, artifacts: Artifacts) -> None:
    """Recompute every number: of a run from its stored samples, labels and scores; of a comparison from its runs."""
    from glore_lib.workflow.check import check

    compared, differences = check(out, artifacts)
    if differences:
        _print_table(("file", "row", "stored", "recomputed"), differences, left=4)
        typer.echo(f"error: {out}: {len(differences):,} of {compared:,} numbers differ", err=True)
        raise typer.Exit(1)
    typer.echo(f"{out}: all {compared:,} numbers agree")


@app.command(
    epilog=_examples(
        "glore plan params/mini-hard.yaml",
        "glore plan params/llama2-7b-gsm8k.yaml --hardware a100-80gb",
    )
)
def plan(
    params: ParamsFiles, settings: Settings, seeds: Seeds = None, hardware: Hardware = "cpu",
    accuracy: Accuracy = 0.6,
) -> None:  # fmt: skip
    """Show what a run will take, by stage, and what that is estimated from.

    Of the appendix, only the further training of the refiner is planned, for one seed, where refiner_rl has other
    values than its defaults.
    """
    from glore_lib.artifacts.manifest import duration
    from glore_lib.cost.plan import plan

    def count(number: float) -> str:
        return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,.0f}"

    numbers = parse_seeds(seeds)
    runs = [load_params(path, _parse(settings)) for path in params]
    for run in runs if hardware == "cpu" else []:
        if slow := slow_bfloat16(run):
            typer.echo(f"{slow}. --hardware cpu-avx2 plans for such a CPU.", err=True)
    for made in [plan(run, accuracy, hardware) for run in runs]:
        rows = []
        for row in made.stages:
            counts = map(count, (row.samples, row.generated, row.trained, row.steps))
            sizes = (f"{size / 2**30:,.2f}" for size in (row.memory, row.disk))
            rows.append((row.stage, *counts, *sizes, duration(row.seconds)))
        amounts = ("samples", "tokens\ngenerated", "tokens\ntrained", "steps", "memory\nGiB", "disk\nGiB", "time")
        _print_table(("stage", *amounts), rows, left=1, title=made.run)
        if len(numbers) > 1:
            total = made.stages[-1]
            each = f"{duration(len(numbers) * total.seconds)}, {len(numbers) * total.disk / 2**30:,.2f} GiB of disk"
            console.print(f"{len(numbers)} seeds, each as the table says: {each}", markup=False)
        console.print("\n".join(f"{name}: {source}" for name, source in made.sources.items()), markup=False)


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int, title: str | None = None) -> None:
    """Print a table without borders; ``left`` is the number of columns aligned at the left."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _settle_stale(root: Path, runs: Sequence[Params], recompute: bool, keep_stale: bool) -> None:
    """List the artifacts that older code computed, and settle what is done with them. Nothing is deleted.

    Asks on a terminal; elsewhere raises ParamsError unless one of the two flags is given.
    """
    from glore_lib.artifacts.manifest import duration
    from glore_lib.artifacts.upgrades import describe, find_stale

    if recompute and keep_stale:
        raise ParamsError("--recompute --keep-stale: give one of them")
    stale, total = find_stale(root, runs)
    if stale and not (recompute or keep_stale):
        for artifact in stale:
            typer.echo(f"  {artifact.id}: {artifact.reason} ({duration(artifact.seconds)})", err=True)
        what = f"the library has changed since it computed {describe(stale, total)}"
        if not _is_interactive():
            remedy = "give --recompute to compute them again, or --keep-stale to use them as they are"
            raise ParamsError(f"artifacts {root}: {what}; {remedy}")
        typer.echo(f"T{what[1:]}.", err=True)
        answer = ""
        while answer not in ("recompute", "keep", "abort"):
            answer = typer.prompt("recompute, keep or abort?", default="abort", err=True)
        if answer == "abort":
            raise ParamsError("aborted: nothing was computed or changed")
        keep_stale = answer == "keep"
    _set("GLORE_KEEP_STALE", keep_stale)


def _write_dataset(runs: Sequence[Params], artifacts: Path, out: Path) -> None:
    """Write the data set of one run, and print its rows."""
    from glore_lib.workflow.check import open_stored
    from glore_lib.workflow.dataset import write_dataset

    if len(runs) > 1:
        raise ParamsError("--dataset: must be of one run and one seed; give one params file, and no further --seeds")
    with TemporaryDirectory() as derived:
        rows = write_dataset(open_stored(runs[0], artifacts, Path(derived)), out)
    lines = [
        (name, *(f"{counts.get(split, 0):,}" for split in ("train", "validation", "test")))
        for name, counts in rows.items()
    ]
    _print_table(("configuration", "train", "validation", "test"), lines, left=1)
    typer.echo(f"done: {out}")


def _set(name: str, asked: bool) -> None:
    """Set or remove an environment variable, for this process and the kernels."""
    os.environ.pop(name, None)
    if asked:
        os.environ[name] = "1"


def _is_interactive() -> bool:
    return sys.stdin.isatty()


def _parse(settings: Sequence[str]) -> dict[str, Any]:
    """Return the overrides in ``--set key.sub=value`` texts, with values read as YAML."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise ParamsError(f"--set {setting}: must be key.sub=value, such as student.rounds=2")
        try:
            overrides[key] = read_yaml(value)
        except yaml.YAMLError as error:
            raise ParamsError(f"--set {setting}: the value must be YAML, and is not: {explain_yaml(error)}") from None
    return overrides


def _render(results: Sequence["Results"], jobs: int = 1) -> None:
    """Render results folders with a progress bar, and the report of the last, a comparison, where it may be new."""
    from glore_lib.artifacts.manifest import REPORT, duration
    from glore_lib.workflow.pipeline import FIGURES, render

    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())  # at the average pace so far: cells take minutes
    bar = Progress(*columns, *times, console=Console(stderr=True), speed_estimate_period=1e9)
    due = [job for made in results for job in made.jobs if job.due]
    task, shares = bar.add_task("starting", total=sum(job.share for job in due)), dict[str, tuple["Job", float]]()
    finished = [name for made in results for name in made.finished]

    def progress(job: "Job", share: float) -> None:
        if finished and not bar.live.is_started:
            bar.console.print(f"found finished: {', '.join(finished)}", highlight=False)
        bar.start()  # a refused run shows its error alone
        shares[job.label] = job, share
        working = [f"{j.place}{j.label}" for j, part in shares.values() if part < 1] or [f"{job.place}{job.label}"]
        done = sum(part * j.share for j, part in shares.values())
        bar.update(task, description="; ".join(working), completed=done)
        if share == 1.0:
            bar.console.print(f"{job.label} {job.done}", highlight=False)

    out = results[-1].out
    try:
        render(results, progress, jobs)
    finally:
        if bar.live.is_started:
            bar.stop()
    if not due:
        typer.echo(f"found finished: {', '.join(finished)}", err=True)
    from glore_lib.reporting.report import write_report  # imports what takes seconds
    from glore_lib.reporting.scoreboard import count_verdicts

    if due or not (out / REPORT).exists():
        write_report(out)
    for run, counts in count_verdicts(out).items():
        typer.echo(f"{run}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items() if count)}")
    typer.echo(f"see {out / FIGURES}.ipynb or {out / REPORT}")
    typer.echo(f"done: {out} ({duration(time.perf_counter() - started)})")


if __name__ == "__main__":  # where the package is not installed
    app()
