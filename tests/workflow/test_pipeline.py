"""The pipeline over stand-in notebooks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from clone import HEADER, PARAMETERS, WORK, Clone, write_notebook, write_stage
from glore_lib.params import ParamsError, load_params
from glore_lib.workflow import kernels, pipeline
from glore_lib.workflow.pipeline import STAGES, StageError

STAND_IN_IMPORTS = ("ipykernel.kernelapp", "ipykernel.ipkernel")  # the stand-ins need no model


def use_two_stages(patch: pytest.MonkeyPatch) -> None:
    """Kernels take a second to start: two stages and the figures show what six would."""
    patch.setattr(pipeline, "STAGES", {"01_expert_iteration": 0.5, "02_orm": 0.4, "06_figures": 0.1})
    patch.setattr(pipeline, "APPENDIX", {"appendix/j_value": 0.1})
    patch.setattr(kernels, "IMPORTS", STAND_IN_IMPORTS)
    patch.setattr(pipeline, "code_hash", lambda: "c0de")  # so that an editor that saves a module does not fail a test


@pytest.fixture
def two_stages(monkeypatch):
    use_two_stages(monkeypatch)


@pytest.fixture
def clone(two_stages, tmp_path) -> Clone:
    return Clone(tmp_path / "clone")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Clone:
    """A clone whose two stages and figures are rendered; tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        use_two_stages(patch)
        clone = Clone(tmp_path_factory.mktemp("rendered") / "clone")
        clone.run()
    return clone


@pytest.fixture
def done(rendered, two_stages, tmp_path) -> Clone:
    shutil.copytree(rendered.root, tmp_path / "clone")
    clone = object.__new__(Clone)
    clone.root, clone.notebooks, clone.out = (tmp_path / "clone" / part for part in ("", "notebooks", "results/x"))
    clone.params = clone.root / "params" / "tiny.yaml"
    return clone


@pytest.mark.slow
def test_runs_every_stage_of_every_params_file_then_the_figures_once(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "IMPORTS", STAND_IN_IMPORTS)
    clone = Clone(tmp_path)
    other = clone.params.with_name("other.yaml")
    other.write_text(clone.params.read_text().replace("run: tiny", "run: other"))
    stages = [stage for stage in STAGES if stage != "06_figures"]
    told = []
    running = clone.pipeline(clone.params, other, overrides={"student.rounds": 3})
    running.execute(lambda job, share: told.append((job.label, share)))
    assert clone.log.read_text().splitlines() == [
        *(f"tiny {stage} 3" for stage in stages), *(f"other {stage} 3" for stage in stages), "2 06_figures",
    ]  # fmt: skip
    assert {str(p.relative_to(clone.out)) for p in clone.out.rglob("*.ipynb")} == {
        "06_figures.ipynb", *(f"{run}/{stage}.ipynb" for run in ("tiny", "other") for stage in stages),
    }  # fmt: skip
    assert [label for label, share in told if share == 1] == [job.label for job in running.jobs]
    shares = [share for label, share in told if label == "tiny 01_expert_iteration"]
    assert shares == sorted(shares)
    assert shares[0] == 0


def test_a_second_run_executes_nothing_and_leaves_every_file_as_it_is(done):
    before = done.files()
    assert done.run() == []
    assert done.files() == before


def test_the_report_comes_last_and_is_made_again_alone_where_it_is_lost(done):
    before = done.files()
    assert b"01_expert_iteration.ipynb" in before["report.html"]
    assert b"not finished" not in before["report.html"]
    (done.out / "report.html").unlink()
    assert done.run() == []
    assert done.files() == before


def test_results_that_came_with_a_clone_are_made_anew(done):
    shutil.rmtree(done.root / "artifacts")
    assert done.run() == ["tiny 01_expert_iteration 1", "tiny 02_orm 1", "1 06_figures"]
    assert done.run() == []


def test_the_appendix_is_rendered_where_it_is_asked_for_and_follows_the_same_rules(done):
    assert not (done.out / "tiny" / "appendix").exists()
    assert done.run(appendix=True) == ["tiny j_value 1"]
    rendered = done.out / "tiny" / "appendix" / "j_value.ipynb"
    made = nbformat.read(rendered, as_version=4).metadata["glore"]
    assert made["notebook_hash"] == pipeline.notebook_hash(done.notebooks / "appendix" / "j_value.ipynb")
    assert (made["params_hash"], made["code_hash"]) == (load_params(done.params).digest(), "c0de")
    manifest = done.manifest
    assert [entry["stage"] for entry in manifest["stages"]] == [
        "01_expert_iteration", "02_orm", "appendix/j_value", "06_figures",
    ]  # fmt: skip
    assert manifest["outputs"] == ["figures/figure4.png", "tables/table1.csv", "tiny/appendix/experiment.csv"]
    assert manifest["stages"][2]["tokens"] == {"generated_tokens": 11}
    assert done.run(appendix=True) == done.run() == []
    assert done.manifest == manifest

    write_stage(done.notebooks, "01_expert_iteration", WORK.replace("STAGE", "01_expert_iteration"), "'new cell'")
    assert done.run() == ["tiny 01_expert_iteration 1"]
    for start in ("appendix/j_value", "j_value", "value"):
        due = [job.stage for job in done.pipeline(appendix=True, start=start).jobs if job.due]
        assert due == ["appendix/j_value", "06_figures"]
    with pytest.raises(ParamsError, match="--from j_value: no such stage"):
        done.pipeline(start="j_value")


def test_the_appendix_is_removed_by_fresh(done):
    done.run(appendix=True)
    write_stage(done.notebooks, "01_expert_iteration", "1 / 0")
    with pytest.raises(StageError):
        done.run(fresh=True)
    assert not (done.out / "tiny" / "appendix").exists()
    assert (done.out / "tiny").is_dir()  # with what was rendered up to the failing cell


@pytest.mark.parametrize("task", ["gsm8k", "svamp"])
def test_the_appendix_needs_the_judged_solutions(clone, tmp_path, monkeypatch, task):
    monkeypatch.setenv("GLORE_DATA_DIR", str(tmp_path / "data"))
    for folder in ("gsm8k", "svamp"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for split in ("train", "test"):
        rows = [json.dumps({"question": f"{split} {i}?", "answer": f"{i}\n#### {i}"}) for i in range(200)]
        (tmp_path / "data" / "gsm8k" / f"{split}.jsonl").write_text("\n".join(rows))
    rows = [{"ID": f"chal-{i}", "Body": f"Ann has {i} pens.", "Question": "How many?", "Answer": 5} for i in range(900)]
    (tmp_path / "data" / "svamp" / "SVAMP.json").write_text(json.dumps(rows))
    clone.pipeline(overrides={"task.name": task})
    with pytest.raises(ParamsError, match=r"mr_gsm8k/human_first_error\.jsonl"):
        clone.pipeline(overrides={"task.name": task}, appendix=True)


def test_a_rendered_notebook_says_what_it_was_made_with(done):
    made = nbformat.read(done.out / "tiny" / "02_orm.ipynb", as_version=4).metadata["glore"]
    source = nbformat.read(done.notebooks / "02_orm.ipynb", as_version=4)
    assert made["complete"] is True
    assert made["params_hash"] == load_params(done.params).digest()
    assert made["notebook_hash"] == pipeline.notebook_hash(done.notebooks / "02_orm.ipynb")
    assert made["code_hash"] == done.manifest["code_hash"] == "c0de"
    source.cells[0].source = "# Another title"
    nbformat.write(source, done.notebooks / "02_orm.ipynb")
    assert made["notebook_hash"] != pipeline.notebook_hash(done.notebooks / "02_orm.ipynb")


def test_manifest(done):
    manifest, params = done.manifest, load_params(done.params)
    assert manifest["status"] == "done"
    assert manifest["runs"]["tiny"] == {
        "params_hash": params.digest(), "seed": 0, "params": params.model_dump(mode="json"),
    }  # fmt: skip
    assert [(e["run"], e["stage"], e["status"]) for e in manifest["stages"]] == [
        ("tiny", "01_expert_iteration", "done"), ("tiny", "02_orm", "done"), (None, "06_figures", "done"),
    ]  # fmt: skip
    # The base artifact is counted with the first stage that uses it, never twice.
    assert [e["tokens"] for e in manifest["stages"]] == [{"generated_tokens": 22}, {"generated_tokens": 11}, {}]
    assert [e["reused_seconds"] for e in manifest["stages"]] == [0, 0, 0]
    assert all(0 < e["seconds"] < 60 for e in manifest["stages"])
    assert manifest["seconds"] == pytest.approx(sum(e["seconds"] for e in manifest["stages"]), abs=0.05)
    assert manifest["outputs"] == ["figures/figure4.png", "tables/table1.csv"]
    assert {"python", "torch", "transformers", "papermill"} <= set(manifest["versions"])
    assert manifest["hardware"]["cpus"] >= 1
    assert manifest["hardware"]["memory_gib"] > 0


def test_nothing_that_is_committed_tells_where_or_by_whom_it_was_made(done):
    for name, content in done.files().items():
        text = content.decode()
        for private in (
            str(done.root.parent),
            sys.prefix,
            str(pipeline.ROOT),
            str(Path.home()) + "/",
            os.uname().nodename,
        ):
            assert private not in text, f"{private} in {name}"


def test_outputs_lose_paths_and_progress_bars(clone):
    write_stage(
        clone.notebooks, "01_expert_iteration",
        "import sys, warnings, glore_lib\nprint(glore_lib.__file__)\nwarnings.warn(sys.prefix + '/x', stacklevel=1)\n"
        "print('50%\\r100%', file=sys.stderr)",
    )  # fmt: skip
    clone.run()
    notebook = nbformat.read(clone.out / "tiny" / "01_expert_iteration.ipynb", as_version=4)
    text = "".join(output.text for output in notebook.cells[-1].outputs)
    assert "glore_lib/__init__.py\n" in text
    assert str(pipeline.ROOT) not in text
    assert sys.prefix not in text
    assert "100%" not in text


def test_kernel_is_the_running_python_whatever_is_registered(clone, monkeypatch, tmp_path):
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "other", "language": "python"}
    folder = tmp_path / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    write_stage(clone.notebooks, "01_expert_iteration", f"import sys\nassert sys.executable == {sys.executable!r}")
    clone.run()
    assert clone.manifest["status"] == "done"


def test_a_changed_notebook_is_rendered_again_alone_and_its_work_is_not_lost(done):
    write_stage(done.notebooks, "02_orm", WORK.replace("STAGE", "02_orm"), "'new cell'")
    before = done.manifest
    assert done.run() == ["tiny 02_orm 1"]
    assert "new cell" in (done.out / "tiny" / "02_orm.ipynb").read_text()
    first, second, figures = done.manifest["stages"]
    assert [first, figures] == [before["stages"][0], before["stages"][2]]
    assert second["reused_seconds"] == 7.5  # of its own artifact, found done; the base is the first stage's
    assert second["seconds"] > 7.5
    assert second["tokens"] == {"generated_tokens": 11}


def test_changed_library_renders_everything_again(done, monkeypatch):
    monkeypatch.setattr(pipeline, "code_hash", lambda: "0" * 12)
    assert done.run() == ["tiny 01_expert_iteration 1", "tiny 02_orm 1", "1 06_figures"]


def test_code_hash_covers_modules_and_shipped_models_but_not_caches(tmp_path, monkeypatch):
    assert len(pipeline.code_hash()) == 12
    monkeypatch.setattr(pipeline, "LIBRARY", tmp_path)
    (tmp_path / "module.py").write_text("x = 1")
    (tmp_path / "model.safetensors").write_bytes(b"w")
    hashes = [pipeline.code_hash()]
    for name, content in {"module.py": "x = 2", "model.safetensors": "v", "sub/new.py": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        hashes.append(pipeline.code_hash())
    assert len(set(hashes)) == len(hashes)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "module.cpython-311.pyc").write_bytes(b"c")
    assert pipeline.code_hash() == hashes[-1]


@pytest.mark.parametrize("start", ["02", "orm", "02_orm"])
def test_from_takes_a_number_or_a_name(done, start):
    assert [job.stage for job in done.pipeline(start=start).jobs if job.due] == ["02_orm", "06_figures"]


def test_from_executes_again_what_is_done(done):
    assert done.run(start="02") == ["tiny 02_orm 1", "1 06_figures"]


def test_fresh_replaces_results_and_touches_nothing_else(done):
    for name in ("tables/mine.csv", "notes.txt", "tiny/notes.ipynb"):
        (done.out / name).write_text("mine")
    (done.out / "tables" / "table1.csv").write_text("stale")
    done.params.write_text(done.params.read_text().replace("rounds: 1", "rounds: 2"))
    assert done.run(fresh=True) == ["tiny 01_expert_iteration 2", "tiny 02_orm 2", "1 06_figures"]
    files = done.files()
    assert [files[name] for name in ("tables/mine.csv", "notes.txt", "tiny/notes.ipynb")] == [b"mine"] * 3
    assert files["tables/table1.csv"] == HEADER.encode()
    assert done.manifest["runs"]["tiny"]["params"]["student"]["rounds"] == 2
    assert done.manifest["outputs"] == ["figures/figure4.png", "tables/table1.csv"]
    assert (done.root / "artifacts" / "base-00").is_dir()


def test_fresh_removes_nothing_outside_the_folder_whatever_the_manifest_says(done):
    outside = done.out.parent / "mine.csv"
    outside.write_text("mine")
    manifest = done.manifest
    manifest["outputs"].append("../mine.csv")
    (done.out / "manifest.json").write_text(json.dumps(manifest))
    write_stage(done.notebooks, "01_expert_iteration", "1 / 0")
    with pytest.raises(StageError):
        done.run(fresh=True)
    assert outside.read_text() == "mine"
    assert not (done.out / "tables").exists()


def test_fresh_takes_away_the_renderings_of_runs_that_are_no_longer_asked_for(done):
    other = done.params.with_name("other.yaml")
    other.write_text(done.params.read_text().replace("run: tiny", "run: other"))
    write_notebook(done.notebooks / "06_figures.ipynb", PARAMETERS["figures"], "raise ValueError")
    with pytest.raises(StageError):
        done.run(other, fresh=True)
    assert not (done.out / "tiny").exists()
    assert not (done.out / "tables").exists()


def test_a_failing_cell_keeps_what_was_rendered_and_a_second_run_goes_on_there(clone):
    write_stage(clone.notebooks, "02_orm", "print('before')", "\n# a comment\nraise ValueError('boom\\nand more')", "1")
    with pytest.raises(StageError) as failure:
        clone.run()
    partial = clone.out / "tiny" / "02_orm.partial.ipynb"
    # The parameters, those that were put in, the print, and then the failing cell.
    assert str(failure.value) == (
        f"tiny 02_orm failed in cell [4] (# a comment): ValueError: boom; rendered so far: {partial}"
    )
    assert sorted(p.name for p in (clone.out / "tiny").iterdir()) == ["01_expert_iteration.ipynb", partial.name]
    notebook = nbformat.read(partial, as_version=4)
    assert notebook.metadata["glore"]["complete"] is False
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3, 4, None]
    assert str(clone.root) not in partial.read_text()
    manifest = clone.manifest
    assert manifest["status"] == "failed"
    assert [entry["status"] for entry in manifest["stages"]] == ["done", "failed", "waiting"]
    assert manifest["stages"][1]["error"] == "tiny 02_orm failed in cell [4] (# a comment): ValueError: boom"
    assert manifest["stages"][1]["partial"] == "tiny/02_orm.partial.ipynb"

    write_stage(clone.notebooks, "02_orm")
    assert clone.run() == ["tiny 02_orm 1", "1 06_figures"]
    assert not partial.exists()
    assert [entry["status"] for entry in clone.manifest["stages"]] == ["done"] * 3
    assert clone.manifest["stages"][0] == manifest["stages"][0]


def test_a_failure_does_not_take_away_an_earlier_rendering(done):
    before = (done.out / "tiny" / "02_orm.ipynb").read_bytes()
    write_stage(done.notebooks, "02_orm", "1 / 0")
    with pytest.raises(StageError, match="ZeroDivisionError"):
        done.run()
    assert (done.out / "tiny" / "02_orm.ipynb").read_bytes() == before
    assert (done.out / "tiny" / "02_orm.partial.ipynb").exists()


def test_a_dead_kernel_is_a_failed_stage(clone):
    write_stage(clone.notebooks, "01_expert_iteration", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(
        StageError, match=r"01_expert_iteration failed in cell \[3\] \(import os\): .* process was killed"
    ):
        clone.run()
    assert clone.manifest["stages"][0]["status"] == "failed"
    assert (clone.out / "tiny" / "01_expert_iteration.partial.ipynb").exists()


PROCESS = """import json, os, sys, psutil
parent = psutil.Process(os.getppid())
open("../PATH", "w").write(json.dumps({"parent": parent.cmdline(), "ids": [os.getpid(), parent.pid],
    "cwd": os.getcwd(), "tqdm": os.environ.get("TQDM_DISABLE"), "python": sys.executable}))"""


def told(clone: Clone, stage: str) -> dict:
    return json.loads((clone.root / stage).read_text())


def test_kernels_are_copies_of_one_process_and_leave_nothing_running(clone):
    for stage in ("01_expert_iteration", "02_orm"):
        write_stage(clone.notebooks, stage, WORK.replace("STAGE", stage), PROCESS.replace("PATH", stage))
    clone.run()
    first, second = told(clone, "01_expert_iteration"), told(clone, "02_orm")
    assert "glore_lib.workflow.kernels" in first["parent"]
    assert first["ids"][1] == second["ids"][1]
    assert first["ids"][0] != second["ids"][0]
    assert (second["cwd"], second["tqdm"], second["python"]) == (str(clone.notebooks), "1", sys.executable)
    assert not any(psutil.pid_exists(pid) for pid in {*first["ids"], *second["ids"]})


def test_copies_show_figures_although_matplotlib_was_imported_before_there_was_a_kernel(clone, monkeypatch):
    monkeypatch.setattr(kernels, "IMPORTS", ("matplotlib.pyplot", *STAND_IN_IMPORTS))
    drawing = "import matplotlib.pyplot as plt\nplt.plot([1, 2])"
    write_stage(clone.notebooks, "01_expert_iteration", WORK.replace("STAGE", "01_expert_iteration"), drawing)
    clone.run()
    outputs = nbformat.read(clone.out / "tiny" / "01_expert_iteration.ipynb", as_version=4).cells[-1].outputs
    assert any("image/png" in output.data for output in outputs)


def test_without_the_original_a_kernel_is_a_process_of_its_own(clone):
    killing = "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(600)"
    write_stage(clone.notebooks, "01_expert_iteration", WORK.replace("STAGE", "01_expert_iteration"), killing)
    with pytest.raises(StageError, match="process was killed"):
        clone.run()

    class Lost(kernels.Original):
        def __init__(self, folder: Path):
            super().__init__(folder)
            self.process.kill()

    for stage in ("01_expert_iteration", "02_orm"):
        write_stage(clone.notebooks, stage, WORK.replace("STAGE", stage), PROCESS.replace("PATH", stage))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "Original", Lost)
        clone.run()
    assert told(clone, "02_orm")["ids"][1] == os.getpid()


def test_one_notebook_alone_and_a_changed_library_need_fresh_kernels(done, monkeypatch, tmp_path):
    write_stage(done.notebooks, "02_orm", WORK.replace("STAGE", "02_orm"), PROCESS.replace("PATH", "02_orm"))
    done.run()
    assert told(done, "02_orm")["ids"][1] == os.getpid()
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path)
    (tmp_path / "module.py").touch()
    os.utime(tmp_path / "module.py", (time.time() + 1000,) * 2)
    done.run(start="01")
    assert told(done, "02_orm")["ids"][1] == os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are copies on Linux only")
def test_a_killed_run_leaves_no_kernel(clone):
    program = (
        "import sys; from pathlib import Path; from glore_lib import kernels\n"
        "kernels.IMPORTS = ()\n"
        "original = kernels.Original(Path('.'))\n"
        "command = [sys.executable, '-m', 'timeit', '-n1', '-r1', 'import time; time.sleep(600)']\n"
        "import os; copy = original.copy(command, dict(os.environ), Path('.'))\n"
        "print(original.process.pid, copy.pid, flush=True); copy.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        process.kill()
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_interrupting_keeps_what_was_rendered(clone):
    write_stage(clone.notebooks, "02_orm", "open('../reached', 'w').close()\nimport time\ntime.sleep(600)")
    program = (
        # A suite that was itself started in the background has SIGINT ignored, and hands that on.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path; from glore_lib import kernels, pipeline\n"
        "kernels.IMPORTS = ('ipykernel.kernelapp',)\n"
        "pipeline.STAGES = {'01_expert_iteration': 0.5, '02_orm': 0.4, '06_figures': 0.1}\n"
        "pipeline.code_hash = lambda: 'c0de'\n"
        "root = Path(sys.argv[1])\n"
        "pipeline.Pipeline([root / 'params' / 'tiny.yaml'], root / 'results' / 'x', root / 'artifacts',"
        " notebooks=root / 'notebooks').execute()"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(clone.root)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 180
        while not (clone.root / "reached").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) != 0
    finally:
        process.kill()
    assert [entry["status"] for entry in clone.manifest["stages"]] == ["done", "interrupted", "waiting"]
    write_stage(clone.notebooks, "02_orm")
    assert clone.run() == ["tiny 02_orm 1", "1 06_figures"]


def test_other_parameters_are_refused_before_anything_is_written(done):
    before = done.files()
    done.params.write_text(done.params.read_text().replace("rounds: 1", "rounds: 2"))
    with pytest.raises(ParamsError) as refusal:
        done.pipeline()
    held = json.loads(before["manifest.json"])["runs"]["tiny"]["params_hash"]
    for part in (str(done.out), "tiny", held, load_params(done.params).digest(), "--fresh"):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert done.files() == before


def test_overrides_count_as_parameters(done):
    with pytest.raises(ParamsError, match="other parameters"):
        done.pipeline(overrides={"student.rounds": 2})


def test_a_run_can_be_added_to_a_folder_but_not_left_out(done):
    other = done.params.with_name("other.yaml")
    other.write_text(done.params.read_text().replace("run: tiny", "run: other"))
    due = [job.label for job in done.pipeline(done.params, other).jobs if job.due]
    assert due == ["other 01_expert_iteration", "other 02_orm", "06_figures"]
    with pytest.raises(ParamsError, match=r"holds run tiny of other parameters .*not asked for now"):
        done.pipeline(other)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": 1}', "\xff"])
def test_an_unreadable_manifest_is_refused(clone, content):
    clone.out.mkdir(parents=True)
    (clone.out / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ParamsError, match=r"manifest\.json: is no manifest of glore"):
        clone.pipeline()
    assert clone.pipeline(fresh=True).jobs[0].due


def test_output_folder_that_is_a_file(clone):
    clone.out.parent.mkdir(parents=True)
    clone.out.write_text("")
    with pytest.raises(ParamsError, match="must be a folder"):
        clone.pipeline()


def test_two_params_files_of_one_name(clone):
    with pytest.raises(ParamsError, match="run = 'tiny': this name is taken"):
        clone.pipeline(clone.params, clone.params)


def test_a_run_can_not_be_named_as_an_output_folder(clone):
    with pytest.raises(ParamsError, match="run = 'tables'"):
        clone.pipeline(overrides={"run": "tables"})


def test_unknown_stage(clone):
    with pytest.raises(ParamsError, match="--from 07: no such stage; must be one of 01_expert_iteration"):
        clone.pipeline(start="07")


def test_missing_notebook(clone):
    (clone.notebooks / "02_orm.ipynb").unlink()
    with pytest.raises(ParamsError, match=r"02_orm\.ipynb: not there"):
        clone.pipeline()


def test_a_parameter_that_no_notebook_reads_is_an_error(clone):
    write_notebook(clone.notebooks / "02_orm.ipynb", 'params_file = "x"\nartifacts = "x"', "1")
    with pytest.raises(ParamsError, match="does not set overrides"):
        clone.pipeline()


@pytest.mark.parametrize("damage", ["", "{}", "[]"])
def test_a_damaged_rendering_is_rendered_again(done, damage):
    (done.out / "tiny" / "02_orm.ipynb").write_text(damage)
    assert [job.stage for job in done.pipeline().jobs if job.due] == ["02_orm"]
