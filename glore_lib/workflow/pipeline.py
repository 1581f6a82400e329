"""Render the notebooks: 01-05 of every params file into a folder of its own, then 06, which compares the runs.

Further seeds of a run are computed without notebooks, into folders inside the run's.

A rendered notebook carries the hashes of its parameters, its source and the library in its metadata, so that a later
run knows what is done, and a reader what a committed result was made with. All intermediate results are artifacts:
a notebook that is executed again finds its own work there.
"""

import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glore_lib.artifacts.keys import code_hash, notebooks_of
from glore_lib.artifacts.locks import SIDE_BY_SIDE, check_writable, only_run
from glore_lib.artifacts.manifest import (
    MANIFEST,
    REPORT,
    RUN_FILE,
    SEEDS,
    folder_name,
    read_manifest,
    seed_folders,
    stage_record,
    stage_record_path,
    stage_records,
    training_warnings,
)
from glore_lib.artifacts.records import UNFINISHED, checksum, write
from glore_lib.params import SHIPPED, Params, ParamsError, digest, from_root
from glore_lib.workflow import StageError, environment, notebooks
from glore_lib.workflow.environment import ROOT
from glore_lib.workflow.notebooks import is_done, notebook_hash
from glore_lib.workflow.processes import Tell, side_by_side
from glore_lib.workflow.runs import read_runs, with_seeds

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from glore_lib.method.replication import Replication

# The notebooks in order, with the share of the time that each takes, which serves to show the time left.
STAGES = {
    "01_expert_iteration": 0.25, "02_orm": 0.15, "03_sorm": 0.25, "04_refiners": 0.15, "05_evaluation": 0.19,
    "06_figures": 0.01,
}  # fmt: skip
APPENDIX = {
    "appendix/g_label_quality": 0.02, "appendix/j_value_refinement": 0.05, "appendix/ablation_labels": 0.1,
    "appendix/ablation_refinement": 0.2, "appendix/label_noise": 0.6, "appendix/c_refiner_rl": 1.5,
}  # fmt: skip
SAVES_TABLES, FIGURES = "05_evaluation", "06_figures"
OUTPUTS = (RUN_FILE, "*.csv", "tables/*", "figures/*", "appendix/*")  # what notebooks write, besides themselves
FULL = 2**24  # bytes: with less space free a disk counts as full, since the file that failed is removed again


@dataclass
class Job:
    """One notebook to render into a results folder, or to compute the tables of, for a further seed.

    ``label`` names it in progress and error messages.
    """

    stage: str
    label: str
    source: Path
    target: Path
    parameters: dict[str, Any]
    due: bool = True  # to be executed, because it is not done or was asked for
    place: str = ""  # among the jobs of a pipeline, before the label in the progress bar
    done: str = "rendered"  # what is said once it is

    def __post_init__(self) -> None:
        self.share = (STAGES | APPENDIX)[self.stage]  # of the time that a run takes
        self.number = self.stage if self.stage in APPENDIX else self.stage.partition("_")[0]
        self.partial = self.target.with_suffix(".partial.ipynb")  # while it is executed, and after a failure


Progress = Callable[[Job, float], None]  # called with a job and its share that is done, 1.0 once it is rendered


@dataclass
class Results:
    """A results folder: its notebooks to render, and its manifest.

    A run folder (``params``) holds notebooks 01-05, the appendix and tables; a comparison of the run folders
    ``compared`` holds notebook 06, which reads these folders and nothing else.
    """

    out: Path
    notebooks: Path = field(default_factory=lambda: notebooks_of(ROOT))
    fresh: bool = False  # replace what earlier runs left
    artifacts: Path | None = None
    params: Params | None = None
    compared: Sequence[Path] = ()
    jobs: list[Job] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.earlier = self._read_earlier()
        self.earlier_stages = {entry["stage"]: entry for entry in self.earlier.get("stages", [])}
        if self.compared:
            runs = [self._from_clone(folder) for folder in self.compared]
            self._add_notebook(FIGURES, {"runs": runs, "out": self._from_clone(self.out)})

    @property
    def name(self) -> str:
        """What messages call this folder."""
        return self.out.name

    @property
    def folder(self) -> Path:
        """The folder that notebooks run in, where relative paths in their parameters start."""
        return ROOT if self.notebooks.parent == SHIPPED else self.notebooks.parent

    @property
    def done(self) -> bool:
        """Whether there is nothing to do."""
        return not any(job.due for job in self.jobs) and self.earlier.get("status") == "done"

    @property
    def finished(self) -> list[str]:
        """The notebooks that need no work, such as "mini-hard 01-03" and "mini-hard 05"."""
        spans = [[*part] for due, part in groupby(self.jobs, lambda job: job.due) if not due]
        return [f"{self.name} {'-'.join(dict.fromkeys(job.number for job in (s[0], s[-1])))}" for s in spans]

    def plan(self, file: Path, overrides: dict[str, Any], stages: Iterable[str]) -> None:
        """Add the notebooks of some stages of a run."""
        assert self.artifacts and self.params
        self.file, self.overrides = file, overrides
        shared = {"params_file": file, "artifacts": self.artifacts}
        given: dict[str, Any] = {name: self._from_clone(path) for name, path in shared.items()}
        given["overrides"] = from_root(self.params, overrides)
        folders = dict.fromkeys(APPENDIX, self.out / "appendix") | {SAVES_TABLES: self.out}
        for stage in stages:
            out = {"out": self._from_clone(folders[stage])} if stage in folders else {}
            self._add_notebook(stage, given | out)

    def _add_notebook(self, stage: str, parameters: dict[str, Any]) -> None:
        source = self.notebooks / f"{stage}.ipynb"
        if not source.is_file():
            clone = "a clone of the repository, installed with: pip install -e ."
            raise ParamsError(f"notebook {source}: no such file; glore runs the notebooks of {clone}")
        if unread := sorted(set(parameters) - notebooks.declared_parameters(source)):  # papermill would only warn
            missing = f"must set {', '.join(sorted(parameters))}, and does not set {', '.join(unread)}"
            raise ParamsError(f"notebook {source}: its cell tagged 'parameters' {missing}")
        label = f"{self.name} {stage}" if self.params else stage
        self._add(Job(stage, label, source, self.out / f"{stage}.ipynb", parameters))

    def _add(self, job: Job) -> None:
        known = self.earlier_stages.get(job.stage, {}).get("status") == "done" and not self.fresh
        # Results that came with a clone are rendered again: their artifacts are not on this machine.
        if known and self._record(job) is not None and all((folder / MANIFEST).exists() for folder in self.compared):
            job.due = not self._is_done(job)
        self.jobs.append(job)

    def _is_done(self, job: Job) -> bool:
        return is_done(job.target, self._hashes(job))

    def _hashes(self, job: Job) -> dict[str, str]:
        made = {"params_hash": self.params.digest()} if self.params else comparison_hashes(self.compared)
        return made | {"code_hash": code_hash(self.params), "notebook_hash": notebook_hash(job.source)}

    def _from_clone(self, path: Path) -> str:
        """Return a path relative to the clone, so that no rendered notebook shows where the clone is."""
        return os.path.relpath(path.resolve(), self.folder.resolve())

    def _about(self) -> dict[str, Any]:
        """Return what the manifest says of this folder alone."""
        if self.params and self.artifacts:
            used = stage_records(self.artifacts, self.params)
            return {
                "run": self.params.run, "params_hash": self.params.digest(), "seed": self.params.seed,
                "params": self.params.model_dump(mode="json"),
                "stale": {name: record["stale"] for name, record in used.items() if "stale" in record},
                "warnings": training_warnings(used),
            }  # fmt: skip
        runs = {}
        for folder in self.compared:
            run, path = read_manifest(folder), os.path.relpath(folder.resolve(), self.out.resolve())
            runs[run["run"]] = {"folder": path, "params_hash": run["params_hash"], "code_hash": run["code_hash"]}
            if further := seed_folders(folder):
                runs[run["run"]]["seeds"] = sorted([run["seed"], *(int(seed.name) for seed in further)])
        return {"runs": runs}

    def _read_earlier(self) -> dict[str, Any]:
        """Return the manifest in ``out``, empty if there is none; raise ParamsError if a folder cannot be used."""
        check_writable("output folder", self.out)
        if self.artifacts:
            check_writable("artifacts", self.artifacts)
        if not (self.out / MANIFEST).exists():
            return {}
        try:
            earlier = read_manifest(self.out)
        except ParamsError:
            if self.fresh:
                return {}
            raise
        folders = {folder_name(self.out / run["folder"]) for run in earlier.get("runs", {}).values()}
        missing = ", ".join(sorted(folders - {folder_name(folder) for folder in self.compared}))
        if ("runs" in earlier) != (self.params is None):
            held = "a comparison" if self.params else f"the run {earlier['run']}"
            other = f"holds {held}; give another --out or --name"
        elif self.params and earlier["params_hash"] != (own := self.params.digest()) and not self.fresh:
            pairs = {"hash": (earlier["params_hash"], own), "seed": (earlier.get("seed"), self.params.seed)}
            differ = ", ".join(f"{name} {held}, here {given}" for name, (held, given) in pairs.items() if held != given)
            other = f"holds run {earlier['run']} of other parameters ({differ}): "
            other += "give another --out, or --fresh to replace its results"
        elif missing and not self.fresh:
            remedy = "include it, give another --out or --name, or --fresh to replace the comparison"
            other = f"also compares {missing}, which this command does not include: {remedy}"
        else:
            return earlier
        raise ParamsError(f"output folder {self.out}: {other}")

    def render(self, progress: Progress) -> None:
        """Render every due notebook in order and keep the manifest; raise :class:`StageError` at the first failure."""
        due = {job.stage: {"stage": job.stage, "status": "waiting"} for job in self.jobs if job.due}
        stages: dict[str, dict[str, Any]] = self.earlier_stages | due  # those of the appendix stay
        manifest = {
            "status": "running", "started": _now(), "finished": None, **self._about(), "stages": [*stages.values()],
            "outputs": self.earlier.get("outputs", []), "code_hash": code_hash(self.params), "git": environment.git(),
            "versions": environment.versions(), "hardware": environment.hardware(),
        }  # fmt: skip
        for job in (job for job in self.jobs if job.due):
            entry = stages[job.stage]
            entry["status"] = "running"
            self._write(manifest)
            before = self._outputs()
            try:
                entry.update(self._render(job, partial(progress, job)), status="done")
            except BaseException as error:
                manifest["status"] = entry["status"] = "interrupted"
                if isinstance(error, StageError):
                    manifest["status"] = entry["status"] = "failed"
                    entry["error"] = error.failure
                    if error.partial:
                        entry["partial"] = job.partial.relative_to(self.out).as_posix()
                raise
            finally:
                if "out" in job.parameters:
                    manifest["outputs"] = sorted({*manifest["outputs"], *dict(self._outputs() - before)})
                self._write(manifest)
            progress(job, 1.0)
        manifest["status"], manifest["finished"] = "done", _now()
        self._write(manifest)

    def render_apart(self, tell: Tell) -> None:
        """Render in another process than the one that ``tell`` tells the number of a job and its share."""
        self.render(lambda job, share: tell(self.jobs.index(job), share))

    def compute_ahead(self, tell: Tell) -> None:
        """Make, beside the process that renders this run, what its last notebooks need; leave errors to them."""
        from glore_lib.workflow import compute

        assert self.artifacts
        with (
            Path(os.devnull).open("w", encoding="utf-8") as null,
            redirect_stdout(null),
            redirect_stderr(null),
            suppress(Exception),
        ):
            compute.ahead(compute.open_lab(self.file, self.overrides, self.artifacts))

    def _render(self, job: Job, progress: Callable[[float], None]) -> dict[str, Any]:
        """Do one job; return its seconds and tokens."""
        ready = {path.name for path in self.artifacts.glob("*")} if self.artifacts else set()
        started = time.perf_counter()
        try:
            self._execute(job, progress)
        except StageError as error:
            error.failure = f"{job.label} {error.failure}{self._remedy() if error.killed else ''}"
            disks = [folder for folder in (self.out, self.artifacts) if folder and folder.exists()]
            if full := [str(folder) for folder in disks if shutil.disk_usage(folder).free < FULL]:
                error.failure += f" (the disk of {' and '.join(full)} is full: free some of it and run again)"
            raise
        return self._cost(job, time.perf_counter() - started, ready)

    def _execute(self, job: Job, progress: Callable[[float], None]) -> None:
        hashes = self._hashes(job)  # of a comparison: the runs as they are now
        job.target.parent.mkdir(parents=True, exist_ok=True)
        notebook = notebooks.execute(job.source, job.partial, job.parameters, self.folder, hashes, progress)
        notebooks.finish(notebook, job.partial, hashes | {"complete": True})
        job.partial.replace(job.target)

    def _record(self, job: Job) -> dict[str, Any] | None:
        """Return the artifacts that a job's last cell listed; None if it has not run on this machine."""
        if not (self.params and self.artifacts):
            return {}
        return stage_record(stage_record_path(self.artifacts, self.params, job.stage))

    def is_stale(self, job: Job) -> bool:
        """Return whether a rendered notebook used artifacts of older code."""
        return any("stale" in record for record in (self._record(job) or {}).values())

    def _cost(self, job: Job, wall: float, ready: set[str]) -> dict[str, Any]:
        """Return what a job costs from nothing: its wall time and the recorded seconds of the artifacts that it found.

        An artifact that several stages use is counted with the first of them.
        """
        counted = {name for earlier in self.jobs[: self.jobs.index(job)] for name in self._record(earlier) or {}}
        used = {name: record for name, record in (self._record(job) or {}).items() if name not in counted}
        reused = sum(record["seconds"] for name, record in used.items() if name in ready)
        tokens: Counter[str] = Counter()
        for record in used.values():
            tokens.update({name: n for name, n in record["info"].items() if "tokens" in name and isinstance(n, int)})
        return {"seconds": round(wall + reused, 1), "reused_seconds": round(reused, 1), "tokens": dict(tokens)}

    def _remedy(self) -> str:
        """Return what to lower after a notebook ran out of memory."""
        making = sorted((self.artifacts or self.out).glob(f".*/{UNFINISHED}"), key=lambda path: path.stat().st_mtime)
        if not making or not self.params:
            return ""
        remedy = f"sampling.rows (here {self.params.sampling.rows})"
        if (making[-1] / "training").exists():
            size = self.params.finetuning.micro_batch_size
            remedy = f"finetuning.micro_batch_size (here {size}) or finetuning.max_length"
        return f", while it made {making[-1].parent.name[1:]}; free memory, or lower {remedy}, and run again"

    def _write(self, manifest: dict[str, Any]) -> None:
        manifest |= self._about()
        manifest["seconds"] = round(sum(e["seconds"] for e in manifest["stages"] if e["status"] == "done"), 1)
        self.out.mkdir(parents=True, exist_ok=True)
        write(self.out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")

    def _outputs(self) -> set[tuple[str, int]]:
        """Return the name and time of every file in ``out`` that a notebook may have written."""
        files = [path for pattern in OUTPUTS for path in self.out.glob(pattern) if path.suffix != ".ipynb"]
        return {(path.relative_to(self.out).as_posix(), path.stat().st_mtime_ns) for path in files if path.is_file()}

    def remove(self) -> None:
        """Remove what earlier runs wrote in ``out``, and no other file."""
        rendered = [f"{stage}{suffix}.ipynb" for stage in STAGES | APPENDIX for suffix in ("", ".partial")]
        paths = [self.out / name for name in (*rendered, *self.earlier.get("outputs", []), MANIFEST, REPORT)]
        for folder in self.out.glob(f"{SEEDS}/*"):
            paths += [folder / MANIFEST, *(p for pattern in OUTPUTS for p in folder.glob(pattern) if p.is_file())]
        own = [path for path in paths if path.parent.resolve().is_relative_to(self.out.resolve())]
        for path in own:
            path.unlink(missing_ok=True)
        inner = {folder for path in own for folder in path.parents if folder.is_relative_to(self.out)} - {self.out}
        for folder in sorted(inner, reverse=True):  # the inner ones first
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self.earlier, self.earlier_stages = {}, {}


@dataclass
class SeedResults(Results):
    """The folder of a further seed of a run: its tables and manifest, computed in this process without notebooks."""

    def plan(self, file: Path, overrides: dict[str, Any], stages: Iterable[str]) -> None:
        """Add some stages of a run to compute."""
        self.file, self.overrides = file, overrides
        for stage in stages:
            source, target = self.notebooks / f"{stage}.ipynb", self.out / RUN_FILE
            out = {"out": self.out} if stage == SAVES_TABLES else {}
            self._add(Job(stage, f"{self.name} {stage}", source, target, out, done="computed"))

    @property
    def name(self) -> str:
        """What messages call this folder."""
        assert self.params
        return f"{self.params.run} seed {self.params.seed}"

    def _is_done(self, job: Job) -> bool:
        saved = job.stage != SAVES_TABLES or job.target.exists()
        return saved and self.earlier.get("code_hash") == code_hash(self.params)

    def render(self, progress: Progress) -> None:
        """Compute every due stage as :meth:`Results.render` does."""
        from glore_lib.workflow.compute import open_lab

        assert self.artifacts
        self._lab: Replication | None = open_lab(self.file, self.overrides, self.artifacts)
        try:
            super().render(progress)
        finally:
            self._lab.run.free()
            self._lab = None  # its frames are no longer needed

    def _execute(self, job: Job, progress: Callable[[float], None]) -> None:
        from glore_lib.reporting.results import save_run
        from glore_lib.workflow import compute

        assert self._lab
        progress(0.0)
        try:
            with redirect_stdout(sys.stderr):  # warnings, which the manifest has too
                compute.STAGES[job.stage](self._lab)
                if job.stage == SAVES_TABLES:
                    save_run(self._lab, self.out)
                self._lab.run.finish(job.stage)
        except Exception as error:
            why = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            again = f"glore compute {self.file} --seeds {self._lab.run.params.seed} shows where"
            raise StageError(f"failed: {notebooks.without_paths(why)}; {again}") from error


def comparison_hashes(folders: Sequence[Path]) -> dict[str, str]:
    """Return hashes of the parameters and of the tables in some run folders, those of their seeds included."""
    manifests = [read_manifest(folder) for folder in folders]
    if compared := [folder for folder, made in zip(folders, manifests, strict=True) if "runs" in made]:
        raise ParamsError(f"run folder {compared[0]}: holds a comparison; give the folders of its runs")
    parts = [(f, part) for f in folders for part in (f, *seed_folders(f))]
    files = [(f, path) for f, part in parts for path in sorted([*part.glob("tables/*"), *part.glob(RUN_FILE)])]
    tables = [[f.resolve().name, path.relative_to(f).as_posix(), checksum(path)] for f, path in files]
    return {"params_hash": digest([made["params_hash"] for made in manifests]), "tables_hash": digest(tables)}


def comparison_name(runs: Sequence[str]) -> str:
    """Return the default name of the folder that compares some runs."""
    return "comparison" if len(runs) > 1 else f"{runs[0]}-figures"


@dataclass
class Pipeline:
    """A checked request to render the runs of ``params_files`` below ``root``, and their comparison ``name``.

    Of several ``seeds``, the run's own is rendered, or else the first; the others are computed without notebooks.

    Building one writes nothing, and raises :class:`ParamsError` where the parameters, the data, a stage name or an
    output folder cannot be used. ``overrides`` apply to every params file; ``start`` is the first stage to execute
    even if it is done; ``fresh`` removes what earlier runs left in the folders; ``appendix`` adds notebooks of
    :data:`APPENDIX`; ``recompute`` executes again what used artifacts of older code. Artifacts are always kept.
    """

    params_files: Sequence[Path]
    root: Path
    artifacts: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    start: str | None = None
    fresh: bool = False
    appendix: Sequence[str] = ()
    name: str | None = None
    recompute: bool = False
    seeds: Sequence[int] = ()
    notebooks: Path = field(default_factory=lambda: notebooks_of(ROOT))
    runs: dict[str, Params] = field(init=False)
    # Those of the runs, then of their further seeds, and then the comparison.
    results: list[Results] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        stages = [stage for stage in STAGES if stage != FIGURES] + [*self.appendix]
        again = _from(self.start, [*stages, FIGURES]) if self.start else []
        self.runs = read_runs(self.params_files, self.overrides, self.artifacts, self.appendix)
        name = comparison_name([*self.runs]) if self.name is None else self.name
        if name in self.runs or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise ParamsError(f"--name {name}: must be the name of a folder, other than that of a run")
        further: list[Results] = []
        for number, (path, (run, of_run)) in enumerate(zip(self.params_files, self.runs.items(), strict=True), start=1):
            out, place = self.root / run, f"run {number} of {len(self.runs)}, "
            for i, (params, overrides) in enumerate(with_seeds(of_run, self.overrides, self.seeds)):
                folder, kind = (out / SEEDS / str(params.seed), SeedResults) if i else (out, Results)
                made = kind(folder, self.notebooks, self.fresh, self.artifacts, params)
                made.plan(path, overrides, [stage for stage in stages if not i or stage in STAGES])
                seed = f"seed {i + 1} of {len(self.seeds)}, " if len(self.seeds) > 1 else ""
                for j, job in enumerate(made.jobs, start=1):
                    job.due |= job.stage in again or (self.recompute and made.is_stale(job))
                    job.place = f"{place}{seed}stage {j} of {len(made.jobs) + (not i)}: "
                (further if i else self.results).append(made)
        folders = [made.out for made in self.results]
        self.results += further
        comparison = Results(self.root / name, self.notebooks, self.fresh, compared=folders)
        new_tables = any(job.due for job in self.jobs if job.stage == SAVES_TABLES)
        comparison.jobs[0].due |= bool(again) or new_tables
        comparison.jobs[0].place = f"stage {len(stages) + 1} of {len(stages) + 1}: "
        self.results.append(comparison)

    @property
    def jobs(self) -> list[Job]:
        """The jobs of all runs, of their further seeds, and of their comparison."""
        return [job for made in self.results for job in made.jobs]


def render(
    results: Sequence[Results], progress: Progress = lambda job, share: None, jobs: int = 1
) -> None:  # fmt: skip
    """Do the due jobs of some results folders, holding these and their artifacts for this run.

    Runs and seeds are done ``jobs`` at a time, each in a process of its own; one that is free at the end works ahead
    for a run that is not done. Raises :class:`StageError` at the first that fails, once those beside it are done; what
    was rendered before stays, and so does its own part up to the failing cell. Raises :class:`ParamsError` where
    another run uses one of the folders.
    """
    os.environ["TQDM_DISABLE"] = "1"  # bars would fill the rendered notebooks; this process shows one
    due = [made for made in results if not made.done]  # the manifest of the others stays as it is
    used = [folder for made in results if due for folder in (made.out, made.artifacts) if folder]
    with only_run(*used):
        for made in due:
            if made.fresh:
                made.remove()
        if jobs > 1:
            runs, due = [made for made in due if made.params], [made for made in due if not made.params]
            os.environ[SIDE_BY_SIDE] = "1"
            try:
                side_by_side(
                    [made.render_apart for made in runs], jobs,
                    lambda number, job, share: progress(runs[number].jobs[job], share),
                    [made.compute_ahead for made in runs],
                )  # fmt: skip
            finally:
                del os.environ[SIDE_BY_SIDE]
        for made in due:
            made.render(progress)


def _from(name: str, stages: Sequence[str]) -> Sequence[str]:
    """Return the stages from the one on that a name or its number stands for."""
    for index, stage in enumerate(stages):
        number, _, words = stage.partition("_")
        if name in (stage, Path(stage).name, number, words):
            return stages[index:]
    raise ParamsError(f"--from {name}: no such stage; must be one of {', '.join(stages)}, or its number")


def parse_appendix(text: str | None) -> list[str]:
    """Return the stages that ``all``, or names separated by commas such as ``label_noise``, stand for; None: none."""
    if text is None:
        return []
    names = {Path(stage).name: stage for stage in APPENDIX}
    given = [*names] if text == "all" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in given if name not in names]:
        known = f"must be all, or some of {', '.join(names)}, separated by commas"
        raise ParamsError(f"--appendix {text}: {known}; not {', '.join(map(repr, unknown))}")
    return [stage for name, stage in names.items() if name in given]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
