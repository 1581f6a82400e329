"""The command ``glore``. Exit codes: 0 done, 1 a stage failed, 2 bad input, 130 interrupted."""

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from glore_lib.params import ParamsError, explain_yaml, read_yaml
from glore_lib.workflow import StageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Replicate GLoRe (arXiv 2402.10963): reward models, refinements, and the paper's tables and figures. "
    "Exit codes: 0 done, 1 a notebook failed or numbers differ, 2 bad input, 130 interrupted.",
)

ParamsFiles = Annotated[list[Path], typer.Argument(help="Params files, one for each (task, model) run.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a parameter in every file.")
]
Artifacts = Annotated[
    Path | None, typer.Option(help="Folder of intermediate results; the default is artifacts/ in the clone.")
]
Appendix = Annotated[
    bool, typer.Option("--appendix", help="Add the appendix: human labels, value-based refinement, ablations.")
]
Recompute = Annotated[bool, typer.Option("--recompute", help="Compute artifacts of older code again.")]
ANSWERS = ("recompute", "keep", "abort")
KeepStale = Annotated[bool, typer.Option("--keep-stale", help="Use artifacts of older code, marked in the results.")]


@contextmanager
def _errors() -> Iterator[None]:
    """Print expected errors as one line; exit with 2 for bad input, 1 for a failed notebook, 130 for Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: finished work is kept, and the same command continues from there", err=True)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        typer.echo(f"error: {error}; finished work is kept: free disk space and run again", err=True)
        raise typer.Exit(1) from None
    except (ParamsError, StageError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2 if isinstance(error, ParamsError) else 1) from None


@app.command()
def run(
    params: ParamsFiles,
    out: Annotated[Path, typer.Option(help="Folder of results; each run and the comparison is a folder in it.")] = Path(
        "results"
    ),
    name: Annotated[
        str | None,
        typer.Option(help="Folder of the comparison; the default is RUN-figures, of several runs comparison."),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Execute again from this stage on, such as 03.")
    ] = None,
    settings: Settings = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replace the results of these runs; artifacts are kept.")
    ] = False,
    appendix: Appendix = False,
    recompute: Recompute = False,
    keep_stale: KeepStale = False,
    artifacts: Artifacts = None,
) -> None:
    """Run notebooks 01-05 for each params file, then 06, which compares the runs. Finished notebooks are kept."""
    with _errors():
        from glore_lib.artifacts.manifest import REPORT
        from glore_lib.workflow.pipeline import ROOT, Pipeline

        store = artifacts or ROOT / "artifacts"
        pipeline = Pipeline(params, out, store, _parse(settings), start, fresh, appendix, name, recompute)
        due = any(job.due for job in pipeline.jobs)
        if due:
            _settle_stale(store, list(pipeline.runs.values()), recompute, keep_stale)
        _execute(pipeline.results, [store])
        if due or not (pipeline.out / REPORT).exists():
            _write_report(pipeline.out)
    typer.echo(f"done: {pipeline.out}")


@app.command()
def compute(
    params: ParamsFiles,
    settings: Settings = None,
    appendix: Appendix = False,
    recompute: Recompute = False,
    keep_stale: KeepStale = False,
    artifacts: Artifacts = None,
) -> None:
    """Compute all artifacts of runs in this process, without rendering notebooks; `glore run` then renders them."""
    with _errors():
        from glore_lib.workflow.pipeline import ROOT, Pipeline
        from glore_lib.workflow.pipeline import compute as execute

        store = artifacts or ROOT / "artifacts"
        pipeline = Pipeline(params, store, store, _parse(settings), appendix=appendix)
        _settle_stale(store, list(pipeline.runs.values()), recompute, keep_stale)
        execute(pipeline, lambda label: typer.echo(label, err=True))
    typer.echo(f"done: {store}")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN_FOLDER...", help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the comparison in OUT.")] = False,
) -> None:
    """Build a comparison (notebook 06, tables, figures, report) from existing run folders, without artifacts."""
    with _errors():
        from glore_lib.artifacts.manifest import REPORT
        from glore_lib.workflow.pipeline import Results, comparison_hashes

        comparison_hashes(folders)
        made = Results(out, fresh=fresh, compared=folders)
        done = made.done
        _execute([made], [])
        if not done or not (out / REPORT).exists():
            _write_report(out)
    typer.echo(f"done: {out}")


@app.command()
def figures(
    root: Annotated[Path, typer.Argument(metavar="[ROOT]", help="Folder of results.")] = Path("results"),
) -> None:
    """Redraw the tables, figures, scoreboard and report of every comparison in ROOT from its run folders."""
    with _errors():
        from glore_lib.artifacts.manifest import MANIFEST, read_manifest, run_folders
        from glore_lib.reporting.results import write_comparison

        folders = sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
        comparisons = [folder for folder in folders if "runs" in read_manifest(folder)]
        if not comparisons:
            raise ParamsError(f"folder {root}: has no folder of a comparison; glore run and glore compare write one")
        for folder in comparisons:
            write_comparison(run_folders(folder), folder)
            _write_report(folder)
            typer.echo(f"done: {folder}")


@app.command()
def status(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run or of a comparison.")],
    artifacts: Artifacts = None,
) -> None:
    """Show which stages are done, running or failed, what they took, and the state of unfinished artifacts."""
    with _errors():
        from glore_lib.artifacts.locks import is_used
        from glore_lib.artifacts.manifest import read_manifest
        from glore_lib.artifacts.store import unfinished
        from glore_lib.workflow.environment import ROOT

        manifest = read_manifest(out)
    if not is_used(out):  # it was killed before it could record that
        for part in (manifest, *manifest["stages"]):
            part["status"] = part["status"].replace("running", "interrupted")
    table = Table("run", "stage", "status", "seconds", "tokens", box=None)
    for stage in manifest["stages"]:
        seconds = f"{stage['seconds']:.0f}" if "seconds" in stage else ""
        tokens = f"{sum(stage['tokens'].values()):,}" if stage.get("tokens") else ""
        table.add_row(manifest.get("run", "all"), stage["stage"], stage["status"], seconds, tokens)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    lines = [f"{e['error']}; rendered so far: {out / e['partial']}" for e in manifest["stages"] if "error" in e]
    lines += [f"compares: {out / run['folder']}" for run in manifest.get("runs", {}).values()]
    lines += [f"computed by older code: {name} ({why})" for name, why in manifest.get("stale", {}).items()]
    lines += [f"unfinished: {name}: {kept}" for name, kept in unfinished(artifacts or ROOT / "artifacts").items()]
    lines.append(f"{manifest['status']}, {timedelta(seconds=round(manifest['seconds']))} of work")
    for line in lines:
        console.print(line, markup=False)


@app.command()
def report(out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a comparison.")]) -> None:
    """Write DIR/report.html, a self-contained page of all results. `glore run` writes it too."""
    with _errors():
        path = _write_report(out)
    typer.echo(f"done: {path}")


@app.command()
def check(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run or of a comparison.")],
    artifacts: Artifacts = None,
) -> None:
    """Recompute every number: of a run from its stored samples, labels and scores; of a comparison from its runs."""
    with _errors():
        from glore_lib.workflow.check import check
        from glore_lib.workflow.environment import ROOT

        compared, differences = check(out, artifacts or ROOT / "artifacts")
    if not differences:
        typer.echo(f"{out}: all {compared:,} numbers agree")
        return
    table = Table("file", "row", "stored", "recomputed", box=None)
    for found in differences:
        table.add_row(*map(escape, (found.file, found.row, found.stored, found.recomputed)))
    Console().print(table)
    typer.echo(f"error: {out}: {len(differences):,} of {compared:,} numbers differ", err=True)
    raise typer.Exit(1)


@app.command()
def plan(
    params: ParamsFiles,
    settings: Settings = None,
    hardware: Annotated[str, typer.Option(help="What runs it: cpu, a100-80gb, h100-80gb or rtx-4090.")] = "cpu",
    accuracy: Annotated[float, typer.Option(help="Share of samples that are assumed right, between 0 and 1.")] = 0.6,
) -> None:
    """Show what a run will take, by stage and without the appendix, and what that is estimated from."""
    from glore_lib.cost.plan import plan
    from glore_lib.params import load_params

    with _errors():
        plans = [plan(load_params(path, _parse(settings)), accuracy, hardware) for path in params]
    console = Console()
    for made in plans:
        table = Table("stage", title=made.run, title_justify="left", box=None, pad_edge=False)
        table.columns[0].no_wrap = True
        for name in ("samples", "tokens\ngenerated", "tokens\ntrained", "steps", "memory\nGiB", "disk\nGiB", "hours"):
            table.add_column(name, justify="right")
        for row in made.stages:
            amounts = [_amount(n) for n in (row.samples, row.generated, row.trained, row.steps)]
            sizes = [f"{n:,.2f}" for n in (row.memory / 2**30, row.disk / 2**30, row.seconds / 3600)]
            table.add_row(row.stage, *amounts, *sizes)
        console.print(table)
        for name, source in made.sources.items():
            console.print(f"{name}: {source}", soft_wrap=True, markup=False, highlight=False)


def _amount(number: float) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,.0f}"


def _settle_stale(root: Path, runs: Sequence[Any], recompute: bool, keep_stale: bool) -> None:
    """List the artifacts that older code computed, and settle what is done with them. Nothing is deleted.

    Asks on a terminal; elsewhere raises ParamsError unless one of the two flags is given.
    """
    from glore_lib.artifacts.upgrades import describe, find_stale

    stale, total = find_stale(root, runs)
    if recompute and keep_stale:
        raise ParamsError("--recompute --keep-stale: give one of them")
    if stale and not (recompute or keep_stale):
        for artifact in stale:
            typer.echo(f"  {artifact.id}: {artifact.reason} ({artifact.seconds / 3600:.1f} h)", err=True)
        if not _is_interactive():
            raise ParamsError(
                f"artifacts {root}: the library has changed since it computed {describe(stale, total)}; give "
                "--recompute to compute them again, or --keep-stale to use them as they are"
            )
        typer.echo(f"The library has changed since it computed {describe(stale, total)}.", err=True)
        while (answer := typer.prompt("recompute, keep or abort?", default="abort", err=True)) not in ANSWERS:
            pass
        if answer == "abort":
            raise ParamsError("aborted: nothing was computed or changed")
        keep_stale = answer == "keep"
    if keep_stale:
        os.environ["GLORE_KEEP_STALE"] = "1"  # for the kernels too
    else:
        os.environ.pop("GLORE_KEEP_STALE", None)


def _is_interactive() -> bool:
    return sys.stdin.isatty()


def _parse(settings: list[str] | None) -> dict[str, Any]:
    """Return the overrides in ``--set key.sub=value`` texts, with values read as YAML."""
    overrides: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise ParamsError(f"--set {setting}: must be key.sub=value, such as student.rounds=2")
        try:
            overrides[key] = read_yaml(value)
        except yaml.YAMLError as error:
            raise ParamsError(f"--set {setting}: the value must be YAML, and is not: {explain_yaml(error)}") from None
    return overrides


def _write_report(out: Path) -> Path:
    from glore_lib.reporting.report import write_report  # its imports take seconds

    return write_report(out)


def _execute(results: Sequence[Any], used: Sequence[Path]) -> None:
    """Render results folders, with a progress bar."""
    from glore_lib.workflow.pipeline import Job, render

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())  # at the average pace so far: cells take minutes
    bar = Progress(*columns, *times, console=Console(stderr=True), speed_estimate_period=1e9)
    task = bar.add_task("starting", total=sum(job.share for made in results for job in made.jobs if job.due))
    done = 0.0

    def progress(job: Job, share: float) -> None:
        nonlocal done
        bar.start()  # a refused run shows its error alone
        bar.update(task, description=job.label, completed=done + share * job.share)
        if share == 1.0:
            done += job.share
            bar.console.print(f"{job.label} rendered", highlight=False)

    try:
        render(results, used, progress)
    finally:
        if bar.live.is_started:
            bar.stop()
