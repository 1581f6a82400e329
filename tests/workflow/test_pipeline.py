"""The pipeline over stand-in notebooks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from unittest.mock import Mock

import nbformat
import psutil
import pytest

from clone import HEADER, TABLES, WORK, Clone, stand_in_seeds, write_notebook, write_stage
from glore_lib.artifacts.locks import SIDE_BY_SIDE
from glore_lib.artifacts.manifest import read_manifest
from glore_lib.params import ROOT, ParamsError, load_params
from glore_lib.workflow import StageError, notebooks, pipeline
from glore_lib.workflow.pipeline import APPENDIX, STAGES, Job, Pipeline, Results, comparison_hashes, render

ADDED = ["appendix/j_value"]  # the appendix of these tests


def use_two_stages(patch: pytest.MonkeyPatch) -> None:
    """Kernels take a second to start: two stages and the figures show what six would."""
    patch.setattr(pipeline, "STAGES", {"01_expert_iteration": 0.5, "02_orm": 0.4, "06_figures": 0.1})
    patch.setattr(pipeline, "SAVES_TABLES", "02_orm")
    patch.setattr(pipeline, "APPENDIX", dict.fromkeys(ADDED, 0.1))
    patch.setattr(pipeline, "code_hash", lambda _: "c0de")  # so that an editor that saves a module does not fail a test


def test_finished_stages_in_a_row_are_named_by_the_first_and_the_last(tmp_path):
    results = Results(tmp_path / "tiny")
    for stage in [*STAGES, *APPENDIX]:
        due = stage in ("04_refiners", *[*APPENDIX][:-1])
        results.jobs.append(Job(stage, "", tmp_path, tmp_path / f"{stage}.ipynb", {}, due))
    assert results.finished == ["tiny 01-03", "tiny 05-06", f"tiny {[*APPENDIX][-1]}"]


@pytest.fixture
def two_stages(monkeypatch):
    use_two_stages(monkeypatch)


@pytest.fixture
def clone(two_stages, tmp_path) -> Clone:
    return Clone(tmp_path / "clone")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Clone:
    """Render a clone with two stages and the figures; tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        use_two_stages(patch)
        clone = Clone(tmp_path_factory.mktemp("rendered") / "clone")
        clone.run()
    return clone


@pytest.fixture
def done(rendered, two_stages, tmp_path) -> Clone:
    shutil.copytree(rendered.root, tmp_path / "clone")
    clone = object.__new__(Clone)
    clone.root, clone.notebooks, clone.results = (tmp_path / "clone" / part for part in ("", "notebooks", "results"))
    clone.params = clone.root / "params" / "tiny.yaml"
    return clone


def add_run(clone: Clone, name: str = "other") -> Path:
    """Write the params file of another run."""
    path = clone.params.with_name(f"{name}.yaml")
    path.write_text(clone.params.read_text().replace("run: tiny", f"run: {name}"))
    return path


@pytest.mark.slow
def test_runs_every_stage_of_every_params_file_then_the_figures_once(tmp_path):
    clone = Clone(tmp_path)
    other = add_run(clone)
    stages = [stage for stage in STAGES if stage != "06_figures"]
    reported = []
    running = clone.pipeline(clone.params, other, overrides={"student.rounds": 3})
    render(running.results, lambda job, share: reported.append((job.label, share)))
    assert clone.log.read_text().splitlines() == [
        *(f"tiny {stage} 3" for stage in stages), *(f"other {stage} 3" for stage in stages), "2 06_figures",
    ]  # fmt: skip
    assert {str(p.relative_to(clone.results)) for p in clone.results.rglob("*.ipynb")} == {
        "comparison/06_figures.ipynb", *(f"{run}/{stage}.ipynb" for run in ("tiny", "other") for stage in stages),
    }  # fmt: skip
    assert [label for label, share in reported if share == 1] == [job.label for job in running.jobs]
    shares = [share for label, share in reported if label == "tiny 01_expert_iteration"]
    assert shares == sorted(shares)
    assert shares[0] == 0
    compared = json.loads((clone.results / "comparison" / "manifest.json").read_text())
    about = json.loads((clone.results / "other" / "manifest.json").read_text())
    assert about["params_hash"] == load_params(other, {"student.rounds": 3}).digest()
    hashes = {name: about[name] for name in ("params_hash", "code_hash")}
    assert compared["runs"]["other"] == {"folder": "../other", **hashes}


def test_a_second_run_executes_nothing_and_leaves_every_file_as_it_is(done):
    before = done.files()
    assert done.run() == []
    assert done.files() == before


def test_results_that_came_with_a_clone_are_made_anew(done):
    shutil.rmtree(done.root / "artifacts")
    assert done.run() == ["tiny 01_expert_iteration 1", "tiny 02_orm 1", "1 06_figures"]
    assert done.run() == []


def test_the_appendix_is_rendered_where_it_is_asked_for_and_follows_the_same_rules(done):
    assert not (done.out / "appendix").exists()
    assert done.run(appendix=ADDED) == ["tiny j_value 1"]
    rendered = done.out / "appendix" / "j_value.ipynb"
    made = nbformat.read(rendered, as_version=4).metadata["glore"]
    assert made["notebook_hash"] == pipeline.notebook_hash(done.notebooks / "appendix" / "j_value.ipynb")
    assert (made["params_hash"], made["code_hash"]) == (load_params(done.params).digest(), "c0de")
    manifest = done.manifest
    assert [entry["stage"] for entry in manifest["stages"]] == ["01_expert_iteration", "02_orm", "appendix/j_value"]
    assert manifest["outputs"] == ["appendix/experiment.csv", "run.json", "tables/numbers.csv"]
    assert manifest["stages"][2]["tokens"] == {"generated_tokens": 11}
    assert done.run(appendix=ADDED) == done.run() == []
    assert done.manifest == manifest

    write_stage(done.notebooks, "01_expert_iteration", WORK.replace("STAGE", "01_expert_iteration"), "'new cell'")
    assert done.run() == ["tiny 01_expert_iteration 1"]
    assert done.manifest["stages"][2] == manifest["stages"][2]  # not asked for now, and not forgotten
    assert done.manifest["outputs"] == manifest["outputs"]
    for start in ("appendix/j_value", "j_value", "value"):
        due = [job.stage for job in done.pipeline(appendix=ADDED, start=start).jobs if job.due]
        assert due == ["appendix/j_value", "06_figures"]
    with pytest.raises(ParamsError, match="--from j_value: no such stage"):
        done.pipeline(start="j_value")


def test_the_appendix_is_removed_by_fresh(done):
    done.run(appendix=ADDED)
    write_stage(done.notebooks, "01_expert_iteration", "1 / 0")
    with pytest.raises(StageError):
        done.run(fresh=True)
    assert not (done.out / "appendix").exists()
    assert done.out.is_dir()  # with what was rendered up to the failing cell


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
    overrides = {"task.name": task, "student.start": "one_shot"}
    clone.pipeline(overrides=overrides, appendix=ADDED)  # which reads none
    with pytest.raises(ParamsError, match=r"mr_gsm8k/human_first_error\.jsonl"):
        clone.pipeline(overrides=overrides, appendix=["appendix/g_label_quality"])


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        (None, []),
        ("all", [*APPENDIX]),
        ("label_noise", ["appendix/label_noise"]),
        ("c_refiner_rl, g_label_quality", ["appendix/g_label_quality", "appendix/c_refiner_rl"]),
    ],
)
def test_notebooks_of_the_appendix_are_named_and_keep_their_order(text, stages):
    assert pipeline.parse_appendix(text) == stages


@pytest.mark.parametrize("text", ["", "g", "label_noise,", "all,label_noise", "05_evaluation"])
def test_an_unknown_notebook_of_the_appendix_is_one_error(text):
    with pytest.raises(ParamsError, match=f"^--appendix {text}: must be all, or some of g_label_quality, j_value"):
        pipeline.parse_appendix(text)


def test_a_rendered_notebook_says_what_it_was_made_with(done):
    made = nbformat.read(done.out / "02_orm.ipynb", as_version=4).metadata["glore"]
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
    about = {name: manifest[name] for name in ("run", "params_hash", "seed", "params", "stale")}
    assert about == {
        "run": "tiny", "params_hash": params.digest(), "seed": 0, "params": params.model_dump(mode="json"), "stale": {},
    }  # fmt: skip
    assert [(e["stage"], e["status"]) for e in manifest["stages"]] == [
        ("01_expert_iteration", "done"),
        ("02_orm", "done"),
    ]
    # The base artifact is counted with the first stage that uses it, never twice.
    assert [e["tokens"] for e in manifest["stages"]] == [{"generated_tokens": 22}, {"generated_tokens": 11}]
    assert [e["reused_seconds"] for e in manifest["stages"]] == [0, 0]
    assert all(0 < e["seconds"] < 60 for e in manifest["stages"])
    assert manifest["seconds"] == pytest.approx(sum(e["seconds"] for e in manifest["stages"]), abs=0.05)
    assert manifest["outputs"] == ["run.json", "tables/numbers.csv"]
    assert {"python", "torch", "transformers", "papermill"} <= set(manifest["versions"])
    assert manifest["hardware"]["cpus"] >= 1
    assert manifest["hardware"]["memory_gib"] > 0


def test_trainings_that_lost_data_are_in_the_manifest(clone):
    lost = WORK.replace("STAGE", "01_expert_iteration").replace(
        '"generated_tokens": 11}', '"generated_tokens": 11, "sequences": 6, "too_long": 3}'
    )
    write_stage(clone.notebooks, "01_expert_iteration", lost)
    clone.run()
    told = "was trained without 3 of 9 sequences (33%): they are longer than finetuning.max_length."
    assert clone.manifest["warnings"] == [f"01_expert_iteration {told}"]


def test_notebooks_get_the_path_of_the_base_model_from_the_clone(clone, tmp_path, monkeypatch):
    """They run in another folder than the command, and no absolute path is in what is committed."""
    (tmp_path / "work" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    made = clone.pipeline(overrides={"base_model.source": "model", "student.rounds": 2})
    given = made.jobs[0].parameters["overrides"]
    assert given["student.rounds"] == 2
    assert not Path(given["base_model.source"]).is_absolute()
    monkeypatch.chdir(ROOT)
    params = load_params(clone.params, given)
    assert params.base_model.location == str(tmp_path / "work" / "model")
    assert params == made.runs["tiny"]
    assert clone.pipeline().jobs[0].parameters["overrides"] == {}


def test_manifest_of_a_comparison(done):
    compared = done.compared
    assert compared["status"] == "done"
    assert compared["runs"] == {
        "tiny": {"folder": "../tiny", "params_hash": load_params(done.params).digest(), "code_hash": "c0de"},
    }  # fmt: skip
    (stage,) = compared["stages"]
    assert (stage["stage"], stage["status"], stage["tokens"]) == ("06_figures", "done", {})
    assert compared["outputs"] == ["figures/figure4.png", "scoreboard.csv", "tables/table1.csv"]
    made = nbformat.read(done.comparison / "06_figures.ipynb", as_version=4).metadata["glore"]
    assert comparison_hashes([done.out]).items() <= made.items()
    assert not list(done.comparison.glob("0[1-5]*"))


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
    notebook = nbformat.read(clone.out / "01_expert_iteration.ipynb", as_version=4)
    text = "".join(output.text for output in notebook.cells[-1].outputs)
    assert "glore_lib/__init__.py\n" in text
    assert str(pipeline.ROOT) not in text
    assert sys.prefix not in text
    assert "100%" not in text


@pytest.mark.parametrize("home", ["/", "/me", "/home/me", None])
def test_only_texts_lose_paths(monkeypatch, tmp_path, reliability, home):
    if home:
        monkeypatch.setenv("HOME", home)
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user without a name, as in containers
    image = b64encode(bytes.fromhex("ffffff") * 10).decode() + f"/home/me/+{pipeline.ROOT}/{sys.prefix}/"
    svg = f"<svg><text>{pipeline.ROOT}/x</text></svg>"
    url = f'<img src="data:image/png;base64,{image}"> <a href="https://a.org/home/me/b//c">'
    place = f"File \x1b[32m{pipeline.ROOT}/a.py\x1b[0m in {sys.prefix}/b.py, 2//3"
    data = {"image/png": image, "image/svg+xml": svg, "text/html": url + place, "text/plain": place}
    outputs = [
        nbformat.v4.new_output("display_data", data),
        nbformat.v4.new_output("stream", text=f"{place} /home/me/x"),
        nbformat.v4.new_output("error", ename="E", evalue=place, traceback=[place, place]),
    ]
    cell = nbformat.v4.new_code_cell("1", outputs=outputs)
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {}})
    notebooks.finish(notebook, tmp_path / "rendered.ipynb", {})
    shown, stream, error = nbformat.read(tmp_path / "rendered.ipynb", as_version=4).cells[0].outputs
    short = "File \x1b[32ma.py\x1b[0m in b.py, 2//3"
    expected = {"image/png": image, "image/svg+xml": svg, "text/html": url + short, "text/plain": short}
    assert dict(shown.data) == expected
    assert stream.text == f"{short} {'~/' if home == '/home/me' else '/home/me/'}x"
    assert (error.evalue, error.traceback) == (short, [short, short])
    reliability("a home that is `/`, or none", "paths are shortened in texts only; images are kept")


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
    write_stage(done.notebooks, "02_orm", WORK.replace("STAGE", "02_orm"), TABLES, "'new cell'")
    before = done.manifest
    assert done.run() == ["tiny 02_orm 1", "1 06_figures"]  # its tables may be new
    assert "new cell" in (done.out / "02_orm.ipynb").read_text()
    first, second = done.manifest["stages"]
    assert first == before["stages"][0]
    assert second["reused_seconds"] == 7.5  # of its own artifact, found done; the base is the first stage's
    assert second["seconds"] > 7.5
    assert second["tokens"] == {"generated_tokens": 11}


def test_changed_library_renders_everything_again(done, monkeypatch):
    monkeypatch.setattr(pipeline, "code_hash", lambda _: "0" * 12)
    assert done.run() == ["tiny 01_expert_iteration 1", "tiny 02_orm 1", "1 06_figures"]


@pytest.mark.parametrize("start", ["02", "orm", "02_orm"])
def test_from_takes_a_number_or_a_name(done, start):
    assert [job.stage for job in done.pipeline(start=start).jobs if job.due] == ["02_orm", "06_figures"]


def test_from_executes_again_what_is_done(done):
    assert done.run(start="02") == ["tiny 02_orm 1", "1 06_figures"]


def test_fresh_replaces_results_and_touches_nothing_else(done):
    mine = [done.comparison / "tables" / "mine.csv", done.out / "notes.txt", done.out / "notes.ipynb"]
    for path in mine:
        path.write_text("mine")
    for table in (done.comparison / "tables" / "table1.csv", done.out / "tables" / "numbers.csv"):
        table.write_text("stale")
    done.params.write_text(done.params.read_text().replace("rounds: 1", "rounds: 2"))
    assert done.run(fresh=True) == ["tiny 01_expert_iteration 2", "tiny 02_orm 2", "1 06_figures"]
    assert [path.read_text() for path in mine] == ["mine"] * 3
    assert (done.comparison / "tables" / "table1.csv").read_text() == HEADER
    assert (done.out / "tables" / "numbers.csv").read_text() == HEADER
    assert done.manifest["params"]["student"]["rounds"] == 2
    assert done.compared["outputs"] == ["figures/figure4.png", "scoreboard.csv", "tables/table1.csv"]
    assert (done.root / "artifacts" / "base-00").is_dir()


def test_fresh_removes_nothing_outside_the_folder_whatever_the_manifest_says(done):
    outside = done.results / "mine.csv"
    outside.write_text("mine")
    manifest = done.manifest
    manifest["outputs"].append("../mine.csv")
    (done.out / "manifest.json").write_text(json.dumps(manifest))
    write_stage(done.notebooks, "01_expert_iteration", "1 / 0")
    with pytest.raises(StageError):
        done.run(fresh=True)
    assert outside.read_text() == "mine"
    assert not (done.out / "tables").exists()


def test_fresh_replaces_a_comparison_of_other_runs(done):
    other = add_run(done)
    done.run(other, name="tiny-figures", fresh=True)
    assert list(done.compared["runs"]) == ["other"]
    assert done.manifest["status"] == "done"  # the other run's folder is as it was


def test_one_run_touches_no_folder_of_another(done):
    before = done.files()
    done.run(add_run(done))
    after = done.files()
    assert {name: after[name] for name in before} == before
    assert {name.partition("/")[0] for name in set(after) - set(before)} == {"other", "other-figures"}


def test_a_failing_cell_keeps_what_was_rendered_and_a_second_run_goes_on_there(clone):
    write_stage(clone.notebooks, "02_orm", "print('before')", "\n# a comment\nraise ValueError('boom\\nand more')", "1")
    with pytest.raises(StageError) as failure:
        clone.run()
    partial = clone.out / "02_orm.partial.ipynb"
    # The parameters, those that were put in, the print, and then the failing cell.
    assert str(failure.value) == (
        f"tiny 02_orm failed in cell [4] (# a comment): ValueError: boom; rendered so far: {partial}"
    )
    assert sorted(p.name for p in clone.out.iterdir()) == ["01_expert_iteration.ipynb", partial.name, "manifest.json"]
    notebook = nbformat.read(partial, as_version=4)
    assert notebook.metadata["glore"]["complete"] is False
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3, 4, None]
    assert str(clone.root) not in partial.read_text()
    manifest = clone.manifest
    assert manifest["status"] == "failed"
    assert [entry["status"] for entry in manifest["stages"]] == ["done", "failed"]
    assert not list(clone.comparison.iterdir())
    assert manifest["stages"][1]["error"] == "tiny 02_orm failed in cell [4] (# a comment): ValueError: boom"
    assert manifest["stages"][1]["partial"] == "02_orm.partial.ipynb"

    write_stage(clone.notebooks, "02_orm")
    assert clone.run() == ["tiny 02_orm 1", "1 06_figures"]
    assert not partial.exists()
    assert [entry["status"] for entry in clone.manifest["stages"]] == ["done"] * 2
    assert clone.manifest["stages"][0] == manifest["stages"][0]


def test_a_failure_does_not_take_away_an_earlier_rendering(done):
    before = (done.out / "02_orm.ipynb").read_bytes()
    write_stage(done.notebooks, "02_orm", "1 / 0")
    with pytest.raises(StageError, match="ZeroDivisionError"):
        done.run()
    assert (done.out / "02_orm.ipynb").read_bytes() == before
    assert (done.out / "02_orm.partial.ipynb").exists()


def test_a_dead_kernel_is_a_failed_stage(clone):
    write_stage(clone.notebooks, "01_expert_iteration", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(
        StageError, match=r"01_expert_iteration failed in cell \[3\] \(import os\): .* process was killed"
    ):
        clone.run()
    assert clone.manifest["stages"][0]["status"] == "failed"
    assert (clone.out / "01_expert_iteration.partial.ipynb").exists()


PROCESS = """import json, os, sys, psutil
parent = psutil.Process(os.getppid())
open("PATH", "w").write(json.dumps({"ids": [os.getpid(), parent.pid],
    "cwd": os.getcwd(), "tqdm": os.environ.get("TQDM_DISABLE"), "python": sys.executable}))"""


def test_every_notebook_has_a_kernel_of_its_own_which_ends_with_it(clone):
    for stage in ("01_expert_iteration", "02_orm"):
        cells = [WORK.replace("STAGE", stage), PROCESS.replace("PATH", stage), *([TABLES] * (stage == "02_orm"))]
        write_stage(clone.notebooks, stage, *cells)
    clone.run()
    first, second = (json.loads((clone.root / stage).read_text()) for stage in ("01_expert_iteration", "02_orm"))
    assert first["ids"][1] == second["ids"][1] == os.getpid()
    assert first["ids"][0] != second["ids"][0]
    assert (second["cwd"], second["tqdm"], second["python"]) == (str(clone.root), "1", sys.executable)
    assert not any(psutil.pid_exists(reported["ids"][0]) for reported in (first, second))


def test_kernels_are_encrypted_and_show_figures(clone):
    drawing = "import matplotlib.pyplot as plt\nplt.plot([1, 2])"
    connection = (
        "import json\nfrom ipykernel.connect import get_connection_info\n'curve_publickey' in get_connection_info()"
    )
    write_stage(
        clone.notebooks, "01_expert_iteration", WORK.replace("STAGE", "01_expert_iteration"), connection, drawing
    )
    clone.run()
    cells = nbformat.read(clone.out / "01_expert_iteration.ipynb", as_version=4).cells
    assert cells[-2].outputs[0].data["text/plain"] == "True"
    assert any("image/png" in output.data for output in cells[-1].outputs)


PROGRAM = (
    # A suite that was itself started in the background has SIGINT ignored, and hands that on.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "import sys; from pathlib import Path; from glore_lib.workflow import pipeline\n"
    "pipeline.STAGES = {'01_expert_iteration': 0.5, '02_orm': 0.4, '06_figures': 0.1}\n"
    "pipeline.SAVES_TABLES = '02_orm'\n"
    "pipeline.code_hash = lambda _: 'c0de'\n"
    "root = Path(sys.argv[1])\n"
    "pipeline.render(pipeline.Pipeline([root / 'params' / 'tiny.yaml'], root / 'results', root / 'artifacts',"
    " notebooks=root / 'notebooks').results)"
)


def start(clone: Clone, reached: str) -> subprocess.Popen:
    """Start a process that runs the clone; return once it has written the file ``reached``."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(clone.root)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not ((clone.root / reached).exists() and (clone.root / reached).read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def test_a_killed_run_leaves_no_kernel(clone):
    write_stage(
        clone.notebooks, "01_expert_iteration", PROCESS.replace("PATH", "reported"), "import time\ntime.sleep(600)"
    )
    process = start(clone, "reported")
    process.kill()
    process.wait()
    kernel = json.loads((clone.root / "reported").read_text())["ids"][0]
    deadline = time.monotonic() + 60
    while psutil.pid_exists(kernel) and psutil.Process(kernel).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_interrupting_keeps_what_was_rendered(clone):
    write_stage(clone.notebooks, "02_orm", "open('reached', 'w').write('x')\nimport time\ntime.sleep(600)")
    process = start(clone, "reached")
    try:
        process.send_signal(signal.SIGINT)
        assert process.wait(90) != 0
    finally:
        process.kill()
    assert [entry["status"] for entry in clone.manifest["stages"]] == ["done", "interrupted"]
    write_stage(clone.notebooks, "02_orm")
    assert clone.run() == ["tiny 02_orm 1", "1 06_figures"]


def test_other_parameters_are_refused_before_anything_is_written(done):
    before = done.files()
    done.params.write_text(done.params.read_text().replace("rounds: 1", "rounds: 2"))
    with pytest.raises(ParamsError) as refusal:
        done.pipeline()
    held = json.loads(before["tiny/manifest.json"])["params_hash"]
    for part in (str(done.out), "tiny", held, load_params(done.params).digest(), "--fresh"):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert done.files() == before


def test_overrides_count_as_parameters(done):
    with pytest.raises(ParamsError, match="other parameters"):
        done.pipeline(overrides={"student.rounds": 2})


@pytest.mark.parametrize("setting", [{"sampling.rows": 2}, {"finetuning.micro_batch_size": 1}, {"caption": "Another."}])
def test_what_computes_nothing_may_change(done, setting):
    """Lowering them is the advice after running out of memory."""
    assert load_params(done.params, setting) != load_params(done.params)
    assert not any(job.due for job in done.pipeline(overrides=setting).jobs)
    write_stage(done.notebooks, "02_orm", WORK.replace("STAGE", "02_orm"), TABLES, "'new cell'")
    assert done.run(overrides=setting) == ["tiny 02_orm 1", "1 06_figures"]
    assert done.manifest["params"] == load_params(done.params, setting).model_dump(mode="json")


def test_a_run_can_be_added_to_a_comparison_but_not_left_out(done):
    other = add_run(done)
    due = [job.label for job in done.pipeline(done.params, other, name="tiny-figures").jobs if job.due]
    assert due == ["other 01_expert_iteration", "other 02_orm", "06_figures"]
    with pytest.raises(ParamsError, match=r"tiny-figures: also compares tiny, which this command does not include"):
        done.pipeline(other, name="tiny-figures")


def test_folders_of_runs_and_of_comparisons_do_not_mix(done):
    with pytest.raises(ParamsError, match="tiny: holds the run tiny; give another --out or --name"):
        done.pipeline(add_run(done), name="tiny")
    with pytest.raises(ParamsError, match="tiny-figures: holds a comparison"):
        done.pipeline(add_run(done, "tiny-figures"), fresh=True)
    with pytest.raises(ParamsError, match="tiny-figures: holds a comparison; give the folders of its runs"):
        comparison_hashes([done.comparison])


@pytest.mark.parametrize("name", ["tiny", "", "a/b", "..", ".x"])
def test_names_that_a_comparison_cannot_have(clone, name):
    with pytest.raises(ParamsError, match=f"--name {name}: must be the name of a folder, other than that of a run"):
        clone.pipeline(name=name)


def test_notebooks_are_given_paths_relative_to_the_clone(clone, tmp_path, monkeypatch):
    monkeypatch.chdir(clone.root / "params")  # where the command is given does not matter
    given = {job.stage: job.parameters for job in clone.pipeline(Path("tiny.yaml"), appendix=ADDED).jobs}
    stage = {"params_file": "params/tiny.yaml", "overrides": {}, "artifacts": "artifacts"}
    assert given == {
        "01_expert_iteration": stage,
        "02_orm": stage | {"out": "results/tiny"},
        "appendix/j_value": stage | {"out": "results/tiny/appendix"},
        "06_figures": {"runs": ["results/tiny"], "out": "results/tiny-figures"},
    }
    outside = Pipeline([clone.params], tmp_path / "out", tmp_path / "artifacts", notebooks=clone.notebooks)
    assert outside.jobs[1].parameters == stage | {"artifacts": "../artifacts", "out": "../out/tiny"}


def test_a_comparison_is_built_from_run_folders_alone(done):
    done.run(add_run(done))
    shutil.rmtree(done.root / "artifacts")
    done.log.unlink()
    out = done.root / "elsewhere" / "both"

    def made() -> Results:
        return Results(out, done.notebooks, compared=[done.out, done.results / "other"])

    render([made()])
    assert done.log.read_text() == "2 06_figures\n"
    compared = json.loads((out / "manifest.json").read_text())
    assert [run["folder"] for run in compared["runs"].values()] == ["../../results/tiny", "../../results/other"]
    assert made().done
    table = done.out / "tables" / "numbers.csv"
    table.write_text(table.read_text() + "\ntiny,m,orm,accuracy,1,1,1,1")
    assert not made().done


# Side by side


def test_runs_and_seeds_side_by_side_are_those_one_after_another(seeds):
    other = add_run(seeds)
    reported = []
    pipeline = seeds.pipeline(seeds.params, other, seeds=[0, 1], name="tiny-figures", appendix=ADDED)
    seeds.log.unlink()
    render(pipeline.results, lambda job, share: reported.append((job.label, share)), jobs=2)
    made = seeds.log.read_text().splitlines()
    assert made[-1] == "2 06_figures"
    of_runs = [[line for line in made if line.startswith(start)] for start in ("tiny 1", "other 0", "other 1")]
    assert of_runs[0] == COMPUTED[:2] and of_runs[2] == [line.replace("tiny", "other") for line in COMPUTED[:2]]
    assert {label for label, share in reported if share == 1.0} == {job.label for job in pipeline.jobs if job.due}
    side_by_side = seeds.files()
    seeds.run(seeds.params, other, seeds=[0, 1], name="tiny-figures", appendix=ADDED, fresh=True)
    assert side_by_side.keys() == seeds.files().keys()
    tables = [name for name in side_by_side if "tables" in name]
    assert [side_by_side[name] for name in tables] == [seeds.files()[name] for name in tables]
    assert seeds.run(seeds.params, other, seeds=[0, 1], name="tiny-figures", appendix=ADDED, jobs=2) == []


def test_a_run_goes_on_beside_one_that_fails(clone):
    other = add_run(clone)
    write_stage(clone.notebooks, "02_orm", WORK.replace("STAGE", "02_orm"), "assert params.run != 'tiny'", TABLES)
    with pytest.raises(StageError, match=r"^tiny 02_orm failed in cell \[4\]"):
        clone.run(clone.params, other, jobs=2)
    assert clone.manifest["status"] == "failed"
    assert read_manifest(clone.results / "other")["status"] == "done"
    assert SIDE_BY_SIDE not in os.environ  # which is for the processes
    assert not list((clone.results / "comparison").glob("*.ipynb"))
    write_stage(clone.notebooks, "02_orm")
    *beside, last = clone.run(clone.params, other, jobs=2)
    assert (sorted(beside), last) == (["other 02_orm 1", "tiny 02_orm 1"], "2 06_figures")


# Several seeds


@pytest.fixture
def seeds(done, monkeypatch) -> Clone:
    """Return a clone with seed 0 rendered; further seeds are computed by stand-ins."""
    stand_in_seeds(monkeypatch, done.log)
    return done


STAGES_OF_SEED = ["01_expert_iteration", "02_orm"]
COMPUTED = [f"tiny {seed} {stage}" for seed in (1, 2) for stage in STAGES_OF_SEED]


def test_further_seeds_are_computed_without_notebooks_and_found_finished(seeds):
    before = seeds.files()
    assert seeds.run(seeds=[0, 1, 2]) == [*COMPUTED, "1 06_figures"]
    files = seeds.files()
    of_run = {name: content for name, content in before.items() if name.startswith("tiny/")}
    assert {name: files[name] for name in of_run} == of_run
    written = {"manifest.json", "run.json", "tables/numbers.csv"}
    assert set(files) - set(before) == {f"tiny/seeds/{seed}/{name}" for seed in (1, 2) for name in written}
    assert seeds.run(seeds=[0, 1, 2]) == seeds.run() == []
    assert seeds.files() == files
    assert seeds.run(seeds=[0, 1, 3]) == [line.replace(" 2 ", " 3 ") for line in COMPUTED[2:]] + ["1 06_figures"]


def test_the_manifest_of_a_seed_is_that_of_a_run(seeds):
    seeds.run(seeds=[0, 1])
    manifest, params = read_manifest(seeds.out / "seeds" / "1"), load_params(seeds.params, {"seed": 1})
    assert manifest.keys() == seeds.manifest.keys()
    assert (manifest["status"], manifest["run"], manifest["seed"], manifest["stale"]) == ("done", "tiny", 1, {})
    assert (manifest["params_hash"], manifest["code_hash"]) == (params.digest(), "c0de")
    assert manifest["params"] == params.model_dump(mode="json")
    assert [entry["tokens"] for entry in manifest["stages"]] == [{"generated_tokens": 22}, {"generated_tokens": 11}]
    # Seed 0 made the base.
    assert [entry["reused_seconds"] for entry in manifest["stages"]] == [100, 0]
    assert all(entry["seconds"] >= entry["reused_seconds"] for entry in manifest["stages"])
    assert manifest["outputs"] == ["run.json", "tables/numbers.csv"]
    assert seeds.compared["runs"]["tiny"]["seeds"] == [0, 1]


def test_the_seed_of_the_run_is_rendered_or_else_the_first(clone, monkeypatch):
    stand_in_seeds(monkeypatch, clone.log)

    def planned(**options: object) -> list[tuple[str, int]]:
        made = [results for results in clone.pipeline(**options).results if results.params]
        return [(results.out.relative_to(clone.results).as_posix(), results.params.seed) for results in made]

    assert planned(seeds=[2, 0]) == [("tiny", 0), ("tiny/seeds/2", 2)]
    assert planned(seeds=[2, 1]) == [("tiny", 2), ("tiny/seeds/1", 1)]
    assert planned(seeds=[2, 1], overrides={"seed": 1}) == [("tiny", 1), ("tiny/seeds/2", 2)]
    with pytest.raises(ParamsError, match=r"--set seed=7: must be one of --seeds 2,1"):
        planned(seeds=[2, 1], overrides={"seed": 7})
    assert clone.pipeline(seeds=[2, 0]).jobs[0].parameters["overrides"] == {}
    assert clone.pipeline(seeds=[2, 1]).jobs[0].parameters["overrides"] == {"seed": 2}
    clone.run(seeds=[2, 1])
    assert (clone.manifest["seed"], clone.compared["runs"]["tiny"]["seeds"]) == (2, [1, 2])
    with pytest.raises(ParamsError, match=r"holds run tiny of other parameters \(hash \w+, here \w+, seed 2, here 0\)"):
        clone.pipeline(seeds=[0, 1])


def test_all_runs_are_rendered_before_further_seeds_are_computed(seeds):
    pipeline = seeds.pipeline(seeds.params, add_run(seeds), seeds=[0, 1], name="tiny-figures", appendix=ADDED)
    assert [(job.place, job.label, job.done) for job in pipeline.jobs if job.stage != "01_expert_iteration"] == [
        ("run 1 of 2, seed 1 of 2, stage 2 of 4: ", "tiny 02_orm", "rendered"),
        ("run 1 of 2, seed 1 of 2, stage 3 of 4: ", "tiny appendix/j_value", "rendered"),
        ("run 2 of 2, seed 1 of 2, stage 2 of 4: ", "other 02_orm", "rendered"),
        ("run 2 of 2, seed 1 of 2, stage 3 of 4: ", "other appendix/j_value", "rendered"),
        ("run 1 of 2, seed 2 of 2, stage 2 of 2: ", "tiny seed 1 02_orm", "computed"),
        ("run 2 of 2, seed 2 of 2, stage 2 of 2: ", "other seed 1 02_orm", "computed"),
        ("stage 4 of 4: ", "06_figures", "rendered"),
    ]


def test_a_seed_that_fails_or_is_interrupted_continues_with_the_stage_at_work(seeds, monkeypatch):
    from glore_lib.workflow import compute

    right, folder = compute.STAGES["02_orm"], seeds.out / "seeds" / "1"
    for error, status in ((ValueError(f"{ROOT}/x\nmore"), "failed"), (KeyboardInterrupt(), "interrupted")):
        monkeypatch.setitem(compute.STAGES, "02_orm", Mock(side_effect=error))
        with pytest.raises(StageError if status == "failed" else KeyboardInterrupt) as raised:
            seeds.run(seeds=[0, 1, 2])
        manifest = read_manifest(folder)
        assert [manifest["status"], *(entry["status"] for entry in manifest["stages"])] == [status, "done", status]
        if status == "failed":
            again = f"glore compute {seeds.params} --seeds 1 shows where"
            assert str(raised.value) == f"tiny seed 1 02_orm failed: ValueError: x; {again}"
            assert manifest["stages"][1]["error"] == str(raised.value)
        assert not (folder / "run.json").exists()
        assert not (folder.with_name("2") / "manifest.json").exists()
    monkeypatch.setitem(compute.STAGES, "02_orm", right)
    assert seeds.run(seeds=[0, 1, 2]) == [*COMPUTED[1:], "1 06_figures"]


@pytest.mark.parametrize(
    ("lost", "due"),
    [("manifest", STAGES_OF_SEED), ("tables", ["02_orm"]), ("artifacts", ["01_expert_iteration"]),
     ("code", STAGES_OF_SEED)],
)  # fmt: skip
def test_a_seed_whose_results_are_lost_or_of_other_code_is_computed_again(seeds, monkeypatch, lost, due):
    seeds.run(seeds=[0, 1])
    folder, params = seeds.out / "seeds" / "1", load_params(seeds.params, {"seed": 1})
    record = pipeline.stage_record_path(seeds.root / "artifacts", params, "01_expert_iteration")
    files = {"manifest": folder / "manifest.json", "tables": folder / "run.json", "artifacts": record}
    if lost == "code":
        monkeypatch.setattr(pipeline, "code_hash", lambda _: "other")
    else:
        files[lost].unlink()
    of_seed = seeds.pipeline(seeds=[0, 1]).results[1]
    assert [job.stage for job in of_seed.jobs if job.due] == due


def test_fresh_and_from_apply_to_seeds(seeds):
    seeds.run(seeds=[0, 1, 2])
    assert seeds.run(seeds=[0, 1], start="02") == ["tiny 02_orm 1", "tiny 1 02_orm", "1 06_figures"]
    (seeds.out / "seeds" / "1" / "mine.txt").write_text("")
    main = ["tiny 01_expert_iteration 1", "tiny 02_orm 1"]
    assert seeds.run(seeds=[0, 1], fresh=True) == [*main, *COMPUTED[:2], "1 06_figures"]
    assert sorted(path.name for path in (seeds.out / "seeds").iterdir()) == ["1"]  # seed 2 was not asked for
    assert seeds.run(fresh=True) == [*main, "1 06_figures"]
    assert [path.name for path in (seeds.out / "seeds").rglob("*")] == ["1", "mine.txt"]
    assert "seeds" not in seeds.compared["runs"]["tiny"]


def test_a_seed_with_artifacts_of_older_code_is_computed_again_where_asked_for(seeds):
    seeds.run(seeds=[0, 1])
    params = load_params(seeds.params, {"seed": 1})
    record = pipeline.stage_record_path(seeds.root / "artifacts", params, "02_orm")
    made = json.loads(record.read_text())
    made["artifacts"]["base-00"]["stale"] = "method/step_labels.py"
    record.write_text(json.dumps(made))
    due = [job.label for job in seeds.pipeline(seeds=[0, 1], recompute=True).jobs if job.due]
    assert due == ["tiny seed 1 02_orm", "06_figures"]


def test_a_comparison_is_due_when_a_seed_is_added_changed_or_removed(seeds):
    def made() -> bool:
        return Results(seeds.comparison, seeds.notebooks, compared=[seeds.out]).done

    assert made()
    seeds.run(seeds=[0, 1])
    assert made()
    folder = seeds.out / "seeds" / "1"
    for name in ("tables/numbers.csv", "run.json"):
        content = (folder / name).read_text()
        (folder / name).write_text(content + "\n")
        assert not made()
        (folder / name).write_text(content)
        assert made()
    for outcomes in (folder / "tables" / "outcomes.parquet", seeds.out / "tables" / "outcomes.parquet"):
        outcomes.write_bytes(b"new")
        assert not made()
        outcomes.unlink()
    shutil.copytree(folder, folder.with_name("2"))
    assert not made()
    shutil.rmtree(folder.with_name("2"))
    assert made()
    shutil.rmtree(folder)
    assert not made()


def test_a_seed_can_be_compared_alone_and_is_not_taken_for_that_of_another_run(seeds):
    seeds.run(add_run(seeds), seeds=[0, 1], name="others")
    seeds.run(seeds=[0, 1])
    out = seeds.results / "alone"
    render([Results(out, seeds.notebooks, compared=[seeds.out / "seeds" / "1"])])
    params_hash = load_params(seeds.params, {"seed": 1}).digest()
    held = {"folder": "../tiny/seeds/1", "params_hash": params_hash, "code_hash": "c0de"}
    assert read_manifest(out)["runs"] == {"tiny": held}
    with pytest.raises(ParamsError, match="alone: also compares tiny-seed-1, which this command does not include"):
        Results(out, seeds.notebooks, compared=[seeds.results / "other" / "seeds" / "1"])


@pytest.mark.parametrize("stale", [False, True])
def test_artifacts_of_older_code_are_marked_and_computed_again_where_asked_for(done, stale):
    record = next((done.root / "artifacts" / "stages").glob("tiny-*/02_orm.json"))
    made = json.loads(record.read_text())
    if stale:
        made["artifacts"]["base-00"]["stale"] = "method/step_labels.py"
        record.write_text(json.dumps(made))
    due = [job.stage for job in done.pipeline(recompute=True).jobs if job.due]
    assert due == (["02_orm", "06_figures"] if stale else [])
    write_stage(done.notebooks, "01_expert_iteration", WORK.replace("STAGE", "01_expert_iteration"), "'new cell'")
    done.run()
    assert done.manifest["stale"] == ({"base-00": "method/step_labels.py"} if stale else {})


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": 1}', '{"runs": {"tiny": {}}, "stages": []}', "\xff"])
def test_an_unreadable_manifest_is_refused(clone, content):
    clone.out.mkdir(parents=True)
    (clone.out / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ParamsError, match=r"manifest\.json: is no manifest of glore"):
        clone.pipeline()
    assert clone.pipeline(fresh=True).jobs[0].due


@pytest.mark.parametrize(
    ("name", "folder"),
    [("output folder", "results/tiny"), ("output folder", "results"), ("output folder", "results/tiny-figures"),
     ("artifacts", "artifacts")],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is(clone, reliability, name, folder):
    (clone.root / folder).parent.mkdir(parents=True, exist_ok=True)
    (clone.root / folder).write_text("", encoding="utf-8")
    before = sorted(clone.root.rglob("*"))
    with pytest.raises(ParamsError) as refusal:
        clone.pipeline()
    assert str(refusal.value).startswith(f"{name} {clone.root / folder}")
    assert str(refusal.value).endswith(f"and {clone.root / folder} is not: Not a directory")
    with pytest.raises(ParamsError, match="must be a folder that can be written, and /proc is not: "):
        Results(Path("/proc/results"), clone.notebooks)
    assert sorted(clone.root.rglob("*")) == before
    reliability("a folder of results or artifacts that cannot be written", "rejected in one line; exit code 2")


def test_two_params_files_of_one_name(clone):
    with pytest.raises(ParamsError, match="run = 'tiny': every params file needs a name of its own"):
        clone.pipeline(clone.params, clone.params)


def test_unknown_stage(clone):
    with pytest.raises(ParamsError, match="--from 07: no such stage; must be one of 01_expert_iteration"):
        clone.pipeline(start="07")


def test_missing_notebook(clone):
    (clone.notebooks / "02_orm.ipynb").unlink()
    with pytest.raises(ParamsError, match=r"02_orm\.ipynb: no such file"):
        clone.pipeline()


def test_a_parameter_that_no_notebook_reads_is_an_error(clone):
    write_notebook(clone.notebooks / "02_orm.ipynb", 'params_file = "x"\nartifacts = "x"', "1")
    with pytest.raises(ParamsError, match="does not set out, overrides"):
        clone.pipeline()


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("a, b = 1, 2", {"a", "b"}), ("(a, [b, *c]), d = (1, [2, 3]), 4", {"a", "b", "c", "d"}),
        ("a: int = 1\nb: str", {"a", "b"}), ("a = b = c[0] = 1", {"a", "b"}), ("# none", set()),
    ],
)  # fmt: skip
def test_a_parameters_cell_may_assign_in_any_way(tmp_path, cell, names):
    write_notebook(tmp_path / "notebook.ipynb", cell, "other = 1")
    assert notebooks.declared_parameters(tmp_path / "notebook.ipynb") == names


def test_a_parameters_cell_that_is_no_python(clone):
    write_notebook(clone.notebooks / "02_orm.ipynb", "params_file = =", "1")
    with pytest.raises(
        ParamsError, match=r"02_orm\.ipynb: its cell tagged 'parameters' must be Python: invalid syntax"
    ):
        clone.pipeline()


@pytest.mark.parametrize("damage", ["", "{}", "[]"])
def test_a_damaged_rendering_is_rendered_again(done, damage):
    (done.out / "01_expert_iteration.ipynb").write_text(damage)
    assert [job.stage for job in done.pipeline().jobs if job.due] == ["01_expert_iteration"]
