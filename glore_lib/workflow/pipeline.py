"""papermill over the notebooks: 01-05 for each params file, after them those of the appendix where they are asked for,
then 06 once over all of them; finished ones are kept.

A rendered notebook carries the hashes of its parameters, its source and the library in its metadata, so that a second
run knows what is done, and a reader what a committed result was made with. Between the stages everything lies in the
artifacts, where a notebook that is executed again finds its own work.
"""

import ast
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from packaging.requirements import Requirement
from papermill.exceptions import PapermillExecutionError

import glore_lib
from glore_lib.artifacts.keys import source_digest
from glore_lib.artifacts.locks import only_run
from glore_lib.artifacts.manifest import MANIFEST, REPORT, read_manifest, stage_record, stage_record_path
from glore_lib.artifacts.records import NOTE, UNFINISHED, checksum, write
from glore_lib.params import Params, ParamsError, digest, load_params
from glore_lib.tasks import checked_task
from glore_lib.workflow.kernels import kernels

LIBRARY = Path(glore_lib.__file__).resolve().parent
ROOT = LIBRARY.parent
# The notebooks in their order, and the share of the time that each takes: for the time left, nothing else.
STAGES = {
    "01_expert_iteration": 0.25,
    "02_orm": 0.15,
    "03_sorm": 0.25,
    "04_refiners": 0.15,
    "05_evaluation": 0.19,
    "06_figures": 0.01,
}
FIGURES = "06_figures"
APPENDIX = {
    "appendix/g_label_quality": 0.02,
    "appendix/j_value_refinement": 0.05,
    "appendix/ablation_labels": 0.1,
    "appendix/ablation_refinement": 0.1,
}
FULL = 2**24  # bytes free, of a disk that is full: what failed to be written is removed, and a little fits again


class StageError(RuntimeError):
    """A notebook that did not run to its end: one line that names it, its cell, the error and what is kept of it."""

    def __init__(self, failure: str, partial: Path):
        super().__init__(f"{failure}; rendered so far: {partial}")
        self.failure = failure


@dataclass
class Job:
    """One notebook to render. ``run`` is None for the figures, which are of all runs."""

    stage: str
    run: str | None
    source: Path
    target: Path
    parameters: dict[str, Any]
    hashes: dict[str, str]
    due: bool = True  # to be executed, because it is not done or was asked for

    @property
    def partial(self) -> Path:
        """Where a notebook lies while it runs, and what is kept of one that failed."""
        return self.target.with_suffix(".partial.ipynb")

    @property
    def label(self) -> str:
        """The job as progress and errors name it."""
        return f"{self.run} {self.stage}" if self.run else self.stage

    @property
    def share(self) -> float:
        """Its part of the time that a whole run takes."""
        return (STAGES | APPENDIX)[self.stage]


Progress = Callable[[Job, float], None]  # told of a job and the share of it that is done, 1.0 once it is rendered


@dataclass
class Pipeline:
    """A checked request to render the notebooks of ``params_files`` into ``out``; :meth:`execute` does it.

    Building one writes nothing, and raises :class:`ParamsError` where the parameters, the data, the stage name or the
    output folder can't be used. ``overrides`` go over every params file, ``start`` names the first stage to execute
    even if it is done, ``fresh`` takes away what an earlier run left in ``out``, and ``appendix`` renders the notebooks
    of the appendix too. Artifacts are always kept: they are keyed by what made them.
    """

    params_files: Sequence[Path]
    out: Path
    artifacts: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    fresh: bool = False
    appendix: bool = False
    notebooks: Path = field(default_factory=lambda: ROOT / "notebooks")
    runs: dict[str, Params] = field(init=False)
    jobs: list[Job] = field(init=False)

    def __post_init__(self) -> None:
        stages = [stage for stage in STAGES if stage != FIGURES] + self._of_appendix + [FIGURES]
        start = stages.index(_stage(self.start, stages)) if self.start else len(stages)
        self.runs = {}
        for path in self.params_files:
            params = load_params(path, self.overrides)
            if params.run in (*self.runs, "tables", "figures"):
                why = "is taken: every params file needs its own" if params.run in self.runs else "is an output folder"
                raise ParamsError(f"params file {path}: run = {params.run!r}: this name {why}")
            self.runs[params.run] = params
        for params in self.runs.values():
            checked_task(params)
            if self.appendix and params.task.name != "arithmetic":
                from glore_lib.tasks.mr_gsm8k import MRGSM8K  # with pandas, for which a status need not wait

                MRGSM8K(params.task.calculator_annotations, params.task.test_questions).check_data({})
        self._earlier = self._check_out()
        self._code = code_hash()
        self.jobs = self._plan()
        for job in self.jobs:
            job.due = self.fresh or stages.index(job.stage) >= start or not is_done(job.target, job.hashes)
            # Results that came with a clone are to be made anew: here nothing stands behind them yet.
            job.due |= any(stage_record(record) is None for record in self._records(job))

    @property
    def _of_appendix(self) -> list[str]:
        return list(APPENDIX) if self.appendix else []

    def _records(self, job: Job) -> list[Path]:
        """The records that must be there for a job to be done; the figures rest on those of every stage."""
        if job.run:
            return [stage_record_path(self.artifacts, self.runs[job.run], job.stage)]
        return [
            stage_record_path(self.artifacts, p, stage)
            for p in self.runs.values()
            for stage in STAGES
            if stage != FIGURES
        ]

    def _check_out(self) -> dict[str, Any]:
        """The manifest that is in ``out``, empty where there is none."""
        folder = self.out
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ParamsError(f"output folder {self.out}: must be a folder that can be written, and {folder} is not")
        if not (self.out / MANIFEST).exists():
            return {}
        try:
            earlier = read_manifest(self.out)
        except ParamsError:
            if self.fresh:
                return {}
            raise
        for run, held in earlier["runs"].items():
            ours = self.runs[run].digest() if run in self.runs else "not asked for now"
            if ours != held["params_hash"] and not self.fresh:
                raise ParamsError(
                    f"output folder {self.out}: holds run {run} of other parameters (hash {held['params_hash']}, here "
                    f"{ours}): give another folder, or --fresh to replace its results"
                )
        return earlier

    def _plan(self) -> list[Job]:
        code, jobs = self._code, []
        files = [self._from_notebooks(path) for path in self.params_files]
        shared = {"overrides": self.overrides, "artifacts": self._from_notebooks(self.artifacts)}
        for (run, params), file in zip(self.runs.items(), files, strict=True):
            hashes = {"params_hash": params.digest(), "code_hash": code}
            for stage in STAGES:
                if stage != FIGURES:
                    jobs.append(self._job(stage, run, {"params_file": file} | shared, hashes))
            for stage in self._of_appendix:
                out = {"out": self._from_notebooks(self.out / run / "appendix")}
                jobs.append(self._job(stage, run, {"params_file": file} | shared | out, hashes))
        every = digest([params.digest() for params in self.runs.values()])
        figures = {"params_files": files, "out": self._from_notebooks(self.out)} | shared
        return [*jobs, self._job(FIGURES, None, figures, {"params_hash": every, "code_hash": code})]

    def _from_notebooks(self, path: Path) -> str:
        """A path as a notebook is given it: relative, so that no rendered notebook tells where the clone lies."""
        return os.path.relpath(path.resolve(), self.notebooks.resolve())

    def _job(self, stage: str, run: str | None, parameters: dict[str, Any], hashes: dict[str, str]) -> Job:
        source = self.notebooks / f"{stage}.ipynb"
        if not source.is_file():
            raise ParamsError(
                f"notebook {source}: not there; glore runs the notebooks of a clone of the repository, "
                "installed with: pip install -e ."
            )
        unread = set(parameters) - _declared(source)
        if unread:  # papermill would only warn, and the run would end with other values than those asked for
            raise ParamsError(
                f"notebook {source}: its cell tagged 'parameters' must set {', '.join(sorted(parameters))}, "
                f"and does not set {', '.join(sorted(unread))}"
            )
        target = self.out / (run or "") / f"{stage}.ipynb"
        return Job(stage, run, source, target, parameters, hashes | {"notebook_hash": notebook_hash(source)})

    def execute(self, progress: Progress = lambda job, share: None) -> None:
        """Renders every due notebook in order, keeps the manifest and writes the report. Raises :class:`StageError` at
        the first that fails; what was rendered before it stays, and so does its own part up to the failing cell. Raises
        :class:`ParamsError` where another run has one of the folders."""
        os.environ["TQDM_DISABLE"] = "1"  # the kernels' bars would fill the rendered notebooks; this process shows one
        done = not any(job.due for job in self.jobs) and self._earlier.get("status") == "done"
        if done and (self.out / REPORT).exists():
            return
        with ExitStack() as held:
            for folder in sorted({self.out.resolve(), self.artifacts.resolve()}):
                held.enter_context(only_run(folder))
            if self.fresh:
                self._remove_results()
            if not done:  # else the manifest goes on saying how the results were made
                kernel = held.enter_context(kernels(self.notebooks, copies=sum(job.due for job in self.jobs) > 1))
                self._execute(progress, kernel)
            from glore_lib.reporting.report import write_report  # its imports take seconds

            write_report(self.out)

    def _execute(self, progress: Progress, kernel: type[AsyncKernelManager]) -> None:
        manifest = self._manifest()
        for job, entry in zip(self.jobs, manifest["stages"], strict=True):
            if not job.due:
                continue
            entry["status"] = "running"
            self._write(manifest)
            before = self._outputs()
            try:
                made = self._render(job, lambda share, job=job: progress(job, share), kernel)
                entry.update(made, status="done")
            except StageError as error:
                entry |= {"error": error.failure, "partial": str(job.partial.relative_to(self.out))}
                manifest["status"] = entry["status"] = "failed"
                raise
            except BaseException:
                manifest["status"] = entry["status"] = "interrupted"
                raise
            finally:
                if "out" in job.parameters:
                    changed = {path for path, state in self._outputs().items() if before.get(path) != state}
                    manifest["outputs"] = sorted(changed | set(manifest["outputs"]))
                self._write(manifest)
            progress(job, 1.0)
        manifest["status"], manifest["finished"] = "done", _now()
        self._write(manifest)

    def _render(self, job: Job, progress: Callable[[float], None], kernel: type[AsyncKernelManager]) -> dict[str, Any]:
        """Executes one notebook; its seconds and tokens."""
        job.target.parent.mkdir(parents=True, exist_ok=True)
        ready = {path.name for path in self.artifacts.glob("*")}
        cells = _Cells(job.source, progress)
        started = time.perf_counter()
        try:
            notebook = papermill.execute_notebook(
                job.source.resolve(), job.partial.resolve(), job.parameters, cwd=self.notebooks,
                kernel_name="python3", language="python", kernel_manager_class=kernel,
                extra_arguments=["--log-level=CRITICAL"], progress_bar=False,
                on_cell_execute=cells.start, on_cell_executed=cells.end,
            )  # fmt: skip
        except BaseException as error:
            _keep_partial(job)
            if isinstance(error, PapermillExecutionError):
                why = f"{error.ename}: {error.evalue}".strip().splitlines()[0]
            elif isinstance(error, DeadKernelError):
                why = self._lower(job)
            elif isinstance(error, Exception):
                why = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            else:
                raise
            full = [str(folder) for folder in (self.out, self.artifacts) if shutil.disk_usage(folder).free < FULL]
            if full:
                why += f" (the disk of {' and '.join(full)} is full: free some of it and run again)"
            failure = _without_paths(f"{job.label} failed {cells.where}: {why}")
            raise StageError(failure, job.partial) from error
        wall = time.perf_counter() - started
        cost = self._cost(job, wall, ready)
        _finish(notebook, job.hashes | {"complete": True} | cost)
        nbformat.write(notebook, job.partial)
        job.partial.replace(job.target)
        return cost

    def _lower(self, job: Job) -> str:
        """Why a kernel died, what it was making, and which setting makes it need less memory."""
        why = "its Python process was killed, as the system does where the machine's memory runs out"
        making = sorted(self.artifacts.glob(f".*/{UNFINISHED}"), key=lambda path: path.stat().st_mtime)
        if not job.run or not making:
            return why
        made, params = making[-1].parent, self.runs[job.run]
        if (made / UNFINISHED / "training").exists():
            remedy = f"finetuning.micro_batch_size (here {params.finetuning.micro_batch_size}) or finetuning.max_length"
        else:
            remedy = f"sampling.rows (here {params.sampling.rows})"
        return f"{why}, while it made {made.name[1:]}; free memory, or lower {remedy}, and run again"

    def _cost(self, job: Job, wall: float, ready: set[str]) -> dict[str, Any]:
        """What a job costs from nothing: its own wall time and the recorded seconds of the work that it found done.

        An artifact that several stages use is counted with the first of them.
        """
        counted: set[str] = set()
        for earlier in self.jobs[: self.jobs.index(job)]:
            counted |= set(self._used(earlier))
        used = {name: record for name, record in self._used(job).items() if name not in counted}
        reused = sum(record["seconds"] for name, record in used.items() if name in ready)
        tokens: dict[str, int] = {}
        for record in used.values():
            for name, count in record["info"].items():
                if "tokens" in name and isinstance(count, int):
                    tokens[name] = tokens.get(name, 0) + count
        return {"seconds": round(wall + reused, 1), "reused_seconds": round(reused, 1), "tokens": tokens}

    def _used(self, job: Job) -> dict[str, Any]:
        """The artifacts that a job's notebook reported in its last cell."""
        used: dict[str, Any] = {}
        for run, params in self.runs.items():
            if job.run in (run, None):
                used |= stage_record(stage_record_path(self.artifacts, params, job.stage)) or {}
        return used

    def _manifest(self) -> dict[str, Any]:
        stages = []
        for job in self.jobs:
            entry = {"run": job.run, "stage": job.stage, "status": "waiting"}
            if not job.due:
                made = nbformat.read(job.target, as_version=4).metadata["glore"]
                entry |= {"status": "done"} | {name: made[name] for name in ("seconds", "reused_seconds", "tokens")}
            stages.append(entry)
        return {
            "status": "running",
            "started": _now(),
            "finished": None,
            "runs": {
                run: {"params_hash": params.digest(), "seed": params.seed, "params": params.model_dump(mode="json")}
                for run, params in self.runs.items()
            },
            "stages": stages,
            "outputs": self._earlier.get("outputs", []),
            "code_hash": self._code,
            "git": _git(),
            "versions": _versions(),
            "hardware": _hardware(),
        }

    def _write(self, manifest: dict[str, Any]) -> None:
        done = [entry for entry in manifest["stages"] if entry["status"] == "done"]
        manifest["seconds"] = round(sum(entry["seconds"] for entry in done), 1)
        self.out.mkdir(parents=True, exist_ok=True)
        write(self.out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")

    def _outputs(self) -> dict[str, tuple[int, int]]:
        """Size and time of every file in ``out`` that a notebook which is told of ``out`` may have written."""
        files = [path for path in self.out.rglob("*") if path.is_file() and path.suffix != ".ipynb"]
        return {
            str(path.relative_to(self.out)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in files
            if MANIFEST not in path.name and not path.resolve().is_relative_to(self.artifacts.resolve())
        }

    def _remove_results(self) -> None:
        """Takes away what a run wrote in ``out``, and no file that it did not write."""
        runs = {*self.runs, *self._earlier.get("runs", {})}
        renderings = [self.out / run / f"{stage}.ipynb" for run in runs for stage in (STAGES | APPENDIX)]
        renderings.append(self.out / f"{FIGURES}.ipynb")
        results = [self.out / name for name in self._earlier.get("outputs", [])]
        partial = [path.with_suffix(".partial.ipynb") for path in renderings]
        inside = self.out.resolve()
        removed = [p for p in (*renderings, *partial, *results) if p.parent.resolve().is_relative_to(inside)]
        for path in (*removed, self.out / MANIFEST, self.out / REPORT):
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in removed} - {self.out}, reverse=True):  # what is in one before it
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self._earlier = {}


def notebook_hash(source: Path) -> str:
    """A hash of a notebook's source cells; outputs and metadata don't count."""
    return digest([[cell.cell_type, cell.source] for cell in nbformat.read(source, as_version=4).cells])


def code_hash() -> str:
    """A hash of the library: what its modules do, and the weights of the model that ships with it.

    Changes to comments and docstrings can't change one, nor can those to the modules that only run notebooks, plan,
    check, report, quote or explore.
    """
    apart = ("check.py", "cli.py", "explorer.py", "kernels.py", "pipeline.py", "plan.py", "readme.py", "report.py")
    modules = [path for path in sorted(LIBRARY.rglob("*.py")) if path.name not in apart]
    weights = sorted(LIBRARY.rglob("*.safetensors"))
    parts = {path: source_digest(path) for path in modules} | {path: checksum(path) for path in weights}
    return digest({str(path.relative_to(LIBRARY)): part for path, part in parts.items()})


def is_done(rendered: Path, hashes: dict[str, str]) -> bool:
    """Whether a notebook was rendered to its end from this source, with these parameters and this library."""
    if not rendered.is_file():
        return False
    try:
        made = nbformat.read(rendered, as_version=4).metadata.get("glore", {})
    except (ValueError, AttributeError, nbformat.ValidationError):  # AttributeError: JSON, but no notebook
        return False
    return made.get("complete") is True and all(made.get(name) == value for name, value in hashes.items())


def _declared(source: Path) -> set[str]:
    """The names that a notebook's cell tagged ``parameters`` sets."""
    cells = nbformat.read(source, as_version=4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    lines = ast.parse("\n".join(tagged)).body
    return {name.id for line in lines if isinstance(line, ast.Assign) for name in line.targets}


class _Cells:
    """Which code cell a notebook is at, numbered as Jupyter numbers them."""

    def __init__(self, source: Path, progress: Callable[[float], None]):
        cells = nbformat.read(source, as_version=4).cells
        own = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells)
        self.total = own + 2  # papermill puts a cell of parameters in; the last share is for what comes after the cells
        self.number, self.where, self.progress = 0, "before its first cell", progress
        progress(0.0)

    def start(self, cell: nbformat.NotebookNode, **_: Any) -> None:
        self.number += 1
        lines = [line for line in cell.source.splitlines() if line.strip()]
        self.where = f"in cell [{self.number}] ({lines[0].strip()})"

    def end(self, cell: nbformat.NotebookNode, **_: Any) -> None:
        """Passes on what the store told, which is of this run and not of its results."""
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not line.startswith(NOTE))
                print(*(line for line in lines if line.startswith(NOTE)), sep="", end="", file=sys.stderr)
        cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
        self.progress(self.number / self.total)


def _finish(notebook: nbformat.NotebookNode, made: dict[str, Any]) -> None:
    """Notes in a notebook how it was made, and takes out what is of this machine or moment only."""
    notebook.metadata["glore"] = made
    notebook.metadata.pop("widgets", None)
    for name in ("input_path", "output_path"):
        notebook.metadata.papermill.pop(name, None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = json.dumps([output for output in cell.outputs if not _is_progress_bar(output)])
            cell.outputs = nbformat.from_dict(json.loads(_without_paths(outputs)))


def _is_progress_bar(output: nbformat.NotebookNode) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {}) or (
        output.output_type == "stream" and output.name == "stderr" and "\r" in output.text
    )


def _without_paths(text: str) -> str:
    """A text, such as a warning's, that no longer says where on this machine the packages and the clone lie."""
    for folder, short in ((sys.prefix, ""), (sys.base_prefix, ""), (ROOT, ""), (Path.home(), "~/")):
        text = text.replace(f"{folder}/", short)
    return text


def _keep_partial(job: Job) -> None:
    with suppress(OSError, ValueError):  # the disk is full, or papermill's own writing was cut short
        notebook = nbformat.read(job.partial, as_version=4)
        _finish(notebook, job.hashes | {"complete": False})
        nbformat.write(notebook, job.partial)


def _stage(name: str, stages: Sequence[str]) -> str:
    """The stage that a name or its number stands for."""
    for stage in stages:
        number, _, words = stage.partition("_")
        if name in (stage, Path(stage).name, number, words):
            return stage
    raise ParamsError(f"--from {name}: no such stage; must be one of {', '.join(stages)}, or its number")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git() -> dict[str, Any]:
    """The commit that the code is at, and whether what results depend on differs from it; empty without git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "glore_lib", "notebooks", "params", "requirements.lock")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _versions() -> dict[str, str]:
    """The versions of Python and of the packages that this one requires, those of its extras where installed."""
    versions = {"python": platform.python_version()}
    for name in sorted({Requirement(line).name for line in metadata.requires("glore_lib") or []}):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
    return versions


def _hardware() -> dict[str, Any]:
    gpus = []
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
