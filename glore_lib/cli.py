"""The command ``glore``. Exit codes: 0 done, 1 a stage failed, 2 bad input, 130 interrupted."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from glore_lib.params import ParamsError, explain_yaml, read_yaml

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Replicates GLoRe (arXiv 2402.10963): reward models, refinements, and the paper's tables and figures.",
)

Artifacts = Annotated[
    Path | None, typer.Option(help="Folder for what lies between the stages; artifacts/ in the clone if not given.")
]


@contextmanager
def _errors() -> Iterator[None]:
    """What the user can mend is one line on stderr: 2 for bad input, 1 for a notebook that failed, 130 for Ctrl-C."""
    try:
        from glore_lib.workflow.pipeline import StageError

        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: what is done is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        typer.echo(f"error: {error}; what was done is kept: free some of the disk and run again", err=True)
        raise typer.Exit(1) from None
    except (ParamsError, StageError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2 if isinstance(error, ParamsError) else 1) from None


@app.command()
def run(
    params: Annotated[list[Path], typer.Argument(help="Params files, one for each (task, model) run.")],
    out: Annotated[Path, typer.Option(help="Folder for rendered notebooks, tables, figures and the manifest.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Execute again from this stage on, such as 03.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a parameter in every file.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace the results in OUT; artifacts are kept.")] = False,
    appendix: Annotated[
        bool, typer.Option("--appendix", help="Also the appendix: labels by people, value-based refinement, ablations.")
    ] = False,
    artifacts: Artifacts = None,
) -> None:
    """Run notebooks 01-05 (and the appendix's) for each params file, then 06 over all. What is done already is kept.

    Exit codes: 0 done, 1 a notebook failed, 2 bad input, 130 interrupted.
    """
    with _errors():
        from glore_lib.workflow.pipeline import ROOT, Pipeline

        pipeline = Pipeline(
            params, out, artifacts or ROOT / "artifacts", _parse(settings or []), start, fresh, appendix
        )
        _execute(pipeline)
    typer.echo(f"done: {out}")


@app.command()
def status(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a run.")],
    artifacts: Artifacts = None,
) -> None:
    """Show which stages of a run are done, running or failed, what they took, and what is kept of begun artifacts."""
    from glore_lib.artifacts.locks import is_used
    from glore_lib.artifacts.manifest import read_manifest
    from glore_lib.artifacts.store import unfinished
    from glore_lib.workflow.pipeline import ROOT

    with _errors():
        manifest = read_manifest(out)
    if not is_used(out):  # it was killed, and could not say so
        for part in (manifest, *manifest["stages"]):
            part["status"] = part["status"].replace("running", "interrupted")
    table = Table("run", "stage", "status", "seconds", "tokens", box=None)
    for stage in manifest["stages"]:
        seconds = f"{stage['seconds']:.0f}" if "seconds" in stage else ""
        tokens = f"{sum(stage['tokens'].values()):,}" if stage.get("tokens") else ""
        table.add_row(stage["run"] or "all", stage["stage"], stage["status"], seconds, tokens)
    console = Console()
    console.print(table)
    for stage in manifest["stages"]:
        if "error" in stage:
            console.print(
                f"{stage['error']}; rendered so far: {out / stage['partial']}",
                soft_wrap=True,
                markup=False,
                highlight=False,
            )
    for name, kept in unfinished(artifacts or ROOT / "artifacts").items():
        console.print(f"begun: {name}: {kept}", soft_wrap=True, highlight=False)
    console.print(f"{manifest['status']}, {timedelta(seconds=round(manifest['seconds']))} of work", highlight=False)


@app.command()
def report(out: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a run.")]) -> None:
    """Write DIR/report.html, one page of all results that needs no other file. A run does so at its end.

    Exit codes: 0 done, 2 bad input.
    """
    with _errors():
        from glore_lib.reporting.report import write_report

        path = write_report(out)
    typer.echo(f"done: {path}")


@app.command()
def check(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a run.")],
    artifacts: Artifacts = None,
) -> None:
    """Recompute every number in a run's tables, figures and scoreboard from the stored samples, labels and scores.

    Exit codes: 0 all agree, 1 some differ, 2 the results or artifacts behind them are missing.
    """
    with _errors():
        from glore_lib.workflow.check import check
        from glore_lib.workflow.pipeline import ROOT

        compared, differences = check(out, artifacts or ROOT / "artifacts")
    if not differences:
        typer.echo(f"{out}: all {compared:,} numbers are what the artifacts give")
        return
    table = Table("file", "row", "stored", "recomputed", box=None)
    for found in differences:
        table.add_row(*map(escape, (found.file, found.row, found.stored, found.recomputed)))
    Console().print(table)
    typer.echo(f"error: {out}: {len(differences):,} of {compared:,} numbers differ", err=True)
    raise typer.Exit(1)


@app.command()
def plan(
    params: Annotated[list[Path], typer.Argument(help="Params files, one for each (task, model) run.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a parameter in every file.")
    ] = None,
    hardware: Annotated[str, typer.Option(help="What runs it: cpu, a100-80gb, h100-80gb or rtx-4090.")] = "cpu",
    accuracy: Annotated[float, typer.Option(help="Share of samples that are assumed right, between 0 and 1.")] = 0.6,
) -> None:
    """Show what a run will take, stage by stage without the appendix, and what that is estimated from. Nothing is run.

    Exit codes: 0 done, 2 bad input.
    """
    from glore_lib.cost.plan import plan
    from glore_lib.params import load_params

    with _errors():
        plans = [plan(load_params(path, _parse(settings or [])), accuracy, hardware) for path in params]
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


def _parse(settings: list[str]) -> dict[str, Any]:
    """The overrides in ``--set key.sub=value`` texts; the value is read as YAML."""
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


class _TimeLeft(ProgressColumn):
    """Time left if the rest goes at the pace of all that was done: cells take minutes, too long for a recent pace."""

    def render(self, task: Task) -> Text:
        if not task.completed or not task.total or task.elapsed is None:
            return Text("-:--:-- left")
        left = task.elapsed * (task.total - task.completed) / task.completed
        return Text(f"{timedelta(seconds=round(left))} left")


def _execute(pipeline: Any) -> None:
    from glore_lib.workflow.pipeline import Job

    due = [job for job in pipeline.jobs if job.due]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    bar = Progress(*columns, TimeElapsedColumn(), _TimeLeft(), console=Console(stderr=True))
    task = bar.add_task("starting", total=sum(job.share for job in due))
    done = 0.0

    def progress(job: Job, share: float) -> None:
        nonlocal done
        bar.start()  # where the run is refused, that is all there is to see
        bar.update(task, description=job.label, completed=done + share * job.share)
        if share == 1.0:
            done += job.share
            bar.console.print(f"{job.label} rendered", highlight=False)

    try:
        pipeline.execute(progress)
    finally:
        if bar.live.is_started:
            bar.stop()
