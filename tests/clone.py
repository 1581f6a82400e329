"""A clone of the repository with stand-in notebooks: they do no learning, and write what the real ones must."""

import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from glore_lib.params import load_params
from glore_lib.reporting.scoreboard import COLUMNS
from glore_lib.workflow import pipeline
from glore_lib.workflow.pipeline import Pipeline, render

TINY = Path(__file__).parent / "params" / "tiny.yaml"
PARAMETERS = {
    "stage": 'params_file = "params/x.yaml"\noverrides = {}\nartifacts = "artifacts"',
    "out": 'params_file = "params/x.yaml"\noverrides = {}\nartifacts = "artifacts"\nout = "results/x"',
    "figures": 'runs = []\nout = "results/x"',
}
WORK = """import json
from pathlib import Path
from glore_lib.params import load_params
params = load_params(params_file, overrides)
root = Path(artifacts)
with open("log.txt", "a") as log:
    log.write(f"{params.run} STAGE {params.student.rounds}\\n")
used = {"base-00": 100.0, f"STAGE-{params.digest()}": 7.5}  # every stage reads the base, and makes one artifact
for name in used:
    (root / name).mkdir(parents=True, exist_ok=True)
folder = root / "stages" / f"{params.run}-{params.digest()}"
folder.mkdir(parents=True, exist_ok=True)
records = {name: {"seconds": s, "info": {"rows": 3, "generated_tokens": 11}} for name, s in used.items()}
(folder / "STAGE.json").write_text(json.dumps({"artifacts": records}))"""
HEADER = "task,model,method,metric,value,ci_low,ci_high,n"
TABLES = """for name, content in {"tables/numbers.csv": "HEADER", "run.json": "{}"}.items():
    path = Path(out) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)""".replace("HEADER", HEADER)
FIGURES = """from pathlib import Path
with open("log.txt", "a") as log:
    log.write(f"{len(runs)} 06_figures\\n")
assert all((Path(run) / "run.json").exists() for run in runs)
scores = "SCORES\\nc1,,,tiny,m,1,0.2,0.1,0.3,9,9,,,,replicated\\n"
for name, content in {
    "tables/table1.csv": "HEADER", "figures/figure4.png": "value", "scoreboard.csv": scores
}.items():
    path = Path(out) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)""".replace("HEADER", HEADER).replace("SCORES", ",".join(COLUMNS))

APPENDIX = """path = Path(out) / "experiment.csv"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("value")"""


def stand_in_seeds(patch: pytest.MonkeyPatch, log: Path) -> None:
    """Compute further seeds as the stand-in notebooks do: log each stage, record artifacts, and write the tables."""

    def open_lab(file: Path, overrides: dict, artifacts: Path) -> SimpleNamespace:
        params = load_params(file, overrides)

        def finish(stage: str) -> None:
            record = pipeline.stage_record_path(artifacts, params, stage)
            record.parent.mkdir(parents=True, exist_ok=True)
            used = {"base-00": 100.0, f"{stage}-{params.digest()}": 7.5}
            records = {name: {"seconds": s, "info": {"generated_tokens": 11}} for name, s in used.items()}
            record.write_text(json.dumps({"artifacts": records}))

        return SimpleNamespace(run=SimpleNamespace(params=params, finish=finish, free=lambda: None))

    def compute(stage: str, lab: SimpleNamespace) -> None:
        with log.open("a") as file:
            file.write(f"{lab.run.params.run} {lab.run.params.seed} {stage}\n")

    def save_run(lab: SimpleNamespace, out: Path) -> None:
        (out / "tables").mkdir(parents=True, exist_ok=True)
        (out / "tables" / "numbers.csv").write_text(f"{HEADER}\n{lab.run.params.seed}")
        (out / "run.json").write_text(json.dumps({"seed": lab.run.params.seed}))

    patch.setattr("glore_lib.workflow.compute.open_lab", open_lab)
    stages = {stage: partial(compute, stage) for stage in pipeline.STAGES if stage != pipeline.FIGURES}
    patch.setattr("glore_lib.workflow.compute.STAGES", stages)
    patch.setattr("glore_lib.reporting.results.save_run", save_run)


def write_notebook(path: Path, *cells: str) -> None:
    parameters, *rest = [nbformat.v4.new_code_cell(source) for source in cells]
    parameters.metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title"), parameters, *rest])
    nbformat.write(notebook, path)


def write_stage(notebooks: Path, stage: str, *cells: str) -> None:
    work = [WORK.replace("STAGE", stage)]
    if stage == pipeline.SAVES_TABLES:
        work.append(TABLES)
    parameters = PARAMETERS["out" if stage == pipeline.SAVES_TABLES else "stage"]
    write_notebook(notebooks / f"{stage}.ipynb", parameters, *(cells or work))


class Clone:
    """A clone with stand-in notebooks and one params file; ``out`` is the run's folder, ``comparison`` that of 06."""

    def __init__(self, root: Path):
        self.root, self.notebooks, self.results = root, root / "notebooks", root / "results"
        self.params = root / "params" / "tiny.yaml"
        for folder in (self.notebooks, self.params.parent):
            folder.mkdir(parents=True)
        shutil.copy(TINY, self.params)
        for stage in pipeline.STAGES:
            if stage != pipeline.FIGURES:
                write_stage(self.notebooks, stage)
        write_notebook(self.notebooks / "06_figures.ipynb", PARAMETERS["figures"], FIGURES)
        (self.notebooks / "appendix").mkdir()
        for stage in pipeline.APPENDIX:
            work = WORK.replace("STAGE", Path(stage).name)
            write_notebook(self.notebooks / f"{stage}.ipynb", PARAMETERS["out"], work, APPENDIX)

    @property
    def out(self) -> Path:
        return self.results / "tiny"

    @property
    def comparison(self) -> Path:
        return self.results / "tiny-figures"

    def pipeline(self, *files: Path, **options) -> Pipeline:
        return Pipeline(
            files or [self.params], self.results, self.root / "artifacts", notebooks=self.notebooks, **options
        )

    def run(self, *files: Path, jobs: int = 1, **options) -> list[str]:
        """Run the pipeline; return what the notebooks logged."""
        self.log.unlink(missing_ok=True)
        render(self.pipeline(*files, **options).results, jobs=jobs)
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def manifest(self) -> dict:
        """That of the run."""
        return json.loads((self.out / "manifest.json").read_text())

    @property
    def compared(self) -> dict:
        """The manifest of the comparison."""
        return json.loads((self.comparison / "manifest.json").read_text())

    def files(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.results)): p.read_bytes() for p in self.results.rglob("*") if p.is_file()}
