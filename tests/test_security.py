"""No one is let in: no code from models or files, no file outside the run's folders, no network, no secret written."""

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import nbformat
import pandas as pd
import pytest
import torch
from test_examples import an_example
from test_pipeline import clone, two_stages  # noqa: F401 fixtures
from test_replication import SETTINGS, script

from glore_lib.method.replication import Replication
from glore_lib.models.loading import load_model
from glore_lib.models.tokens import load_tokenizer
from glore_lib.params import Params, ParamsError, Section, _section, load_params
from glore_lib.reporting import examples, results, tables, walkthrough
from glore_lib.sampling import Completion
from glore_lib.workflow.pipeline import ROOT
from tiny import TINY, Scripted, open_tiny

# --- what the code may not do -------------------------------------------------------------------------------------

SOURCES = [p for folder in ("glore_lib", "notebooks", "benchmarks") for p in sorted((ROOT / folder).rglob("*"))]
SOURCES = [p for p in SOURCES if p.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in p.parts]
RUNS_CODE = {"eval", "exec", "compile", "__import__"}  # as functions: model.eval() and re.compile() are methods
UNPACKS = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "tarfile", "zipfile"}
READS_MEMBERS = ROOT / "glore_lib" / "artifacts" / "packed.py"  # of archives, whose names and checksums it checks
EXTRACTS = {"extractall", "_extract_member"}  # methods
FORBIDDEN = {
    "tar.extract",
    "torch.load",
    "torch.save",
    "os.system",
    "os.popen",
    "shutil.unpack_archive",
    "pd.read_pickle",
}


def code(path: Path) -> ast.Module:
    if path.suffix == ".py":
        return ast.parse(path.read_text(encoding="utf-8"))
    cells = nbformat.read(path, as_version=4).cells
    return ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))


def offences(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            yield from (name for name in names if name and name.split(".")[0] in UNPACKS)
        if isinstance(node, ast.Attribute) and (ast.unparse(node) in FORBIDDEN or node.attr in EXTRACTS):
            yield ast.unparse(node)
        if isinstance(node, ast.Call):
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in RUNS_CODE or (called == "yaml.load" and "_Loader" not in ast.unparse(node)):
                yield called
            off = ("trust_remote_code", "allow_pickle", "shell")
            yield from (name for name in off if given.get(name, "False") != "False")
            if called.endswith("save_pretrained") and given.get("safe_serialization", "True") != "True":
                yield "safe_serialization"
            if called == "EngineArgs" and given.get("load_format") != "'safetensors'":
                yield "load_format"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_code_runs_text_unpickles_or_unpacks(path: Path, reliability):
    assert list(offences(code(path))) == (["tarfile"] if path == READS_MEMBERS else [])
    reliability("source files: eval, exec, pickle, archives, trust_remote_code, a shell", "none")


def test_offences_are_seen():
    bad = "import pickle\nfrom zipfile import ZipFile\ntorch.load(x)\neval('1')\nyaml.load(x)\n"
    bad += "f(trust_remote_code=1)\nEngineArgs()\ntar.extractall(x)"
    assert len(list(offences(ast.parse(bad)))) == 8
    assert not list(offences(ast.parse("model.eval()\nre.compile('x')\nyaml.load(t, _Loader)")))


# --- models -------------------------------------------------------------------------------------------------------


def test_a_model_that_brings_code_is_refused_and_its_code_not_run(tiny_base, tmp_path, reliability):
    folder, trap = tmp_path / "model", tmp_path / "ran"
    model, tokenizer = load_model(str(tiny_base), "float32"), load_tokenizer(str(tiny_base))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')")
    for name, classes in (
        ("config.json", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.Slow", "evil.Fast"]}),
    ):
        settings = json.loads((folder / name).read_text())
        unknown = {"model_type": "evil"} if name == "config.json" else {"tokenizer_class": "Evil"}
        (folder / name).write_text(json.dumps(settings | unknown | {"auto_map": classes}))
    for load in (lambda: load_model(str(folder), "float32"), lambda: load_tokenizer(str(folder))):
        with pytest.raises(ParamsError) as error:
            load()
        assert "\n" not in str(error.value)
        assert not trap.exists()
        reliability("a model folder with its own code", "rejected in one line, the code is not executed")


def test_weights_that_are_pickled_are_not_read(tiny_base, tmp_path, reliability):
    model = load_model(str(tiny_base), "float32")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ParamsError, match=r"^base_model.source = .*no model there"):
        load_model(str(tmp_path), "float32")
    reliability("a model folder with pickled weights", "rejected in one line")


# --- files and the network ----------------------------------------------------------------------------------------


def texts(section: type[Section] = Params, prefix: str = "") -> Iterator[str]:
    """Return the parameters that accept any text."""
    for name, field in section.model_fields.items():
        if inner := _section(field.annotation):
            yield from texts(inner, f"{prefix}{name}.")
        elif str in (field.annotation, *get_args(field.annotation)):
            yield prefix + name


def test_no_parameter_names_a_place_to_write_to(reliability):
    # The base model is read, the caption shown, and the targets are names of layers; the run's name is a folder's.
    assert set(texts()) == {"run", "caption", "base_model.source", "finetuning.lora_targets"}
    for name in ("../x", "/x", "a/b", "a\\b", "..", ".x", "", "x\n", "C:x", "x\0", "~", "-x", "X", "é"):
        with pytest.raises(ParamsError, match="run = "):
            load_params(TINY, {"run": name})
        reliability("params: a run name that is a path or a hidden file", "rejected in one line")


watched: list[tuple[str, str]] | None = None


def _watch(event: str, arguments: tuple) -> None:
    if watched is None:
        return
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        watched.append(("network", repr(arguments[1:])))
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        watched.append(("file", str(arguments[0])))
    inside = event == "os.remove" and arguments[1] != -1  # of a folder that rmtree, seen as well, takes away
    if event in ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree") and not inside:
        watched.append(("file", str(arguments[1 if event == "os.rename" else 0])))


sys.addaudithook(_watch)  # for good, and idle while nothing is watched


def test_a_run_reaches_no_network_and_writes_only_into_its_folders(tiny_base, tmp_path, monkeypatch, reliability):
    global watched
    out = tmp_path / "out"
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    script(run, monkeypatch)
    watched = []
    try:
        lab = Replication(run)
        results.save_run(lab, out)
        results.save_table(results.load_runs([out]), "table1", out)
        tables.stepwise(lab)
        run.finish("05_evaluation")
        seen = watched
    finally:
        watched = None
    assert [what for kind, what in seen if kind == "network"] == []
    files = {what for kind, what in seen if kind == "file"}
    assert any(what.startswith(str(run.store.root)) for what in files)
    own = (str(run.store.root), str(out), "/dev/null")
    assert {what for what in files if not what.startswith(own) and "__pycache__" not in what} == set()
    reliability("a whole run monitored: connections, files written", "no connection; no file outside its folders")
    left = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {".safetensors", ".json", ".parquet", ".jinja", ".csv", ".md"}
    reliability("a whole run's weights", "safetensors only")


# --- what is shown and kept ---------------------------------------------------------------------------------------

NASTY = "<script>alert(1)</script> <img src=x onerror=alert(1)> **bold** $a$ and $b$ | [x](javascript:1) &amp;"


def test_what_a_model_writes_stays_text_in_a_rendered_notebook(tiny_base, tmp_path, monkeypatch, reliability):
    """Shown are frames, whose HTML is escaped, and printed text; the frames tell MathJax to stay away."""
    run = open_tiny(tiny_base, tmp_path / "artifacts", **SETTINGS)
    sampler = Scripted(run.tokenizer, lambda *_: NASTY)
    monkeypatch.setattr(sampler, "_completion", lambda text: Completion(text, True, (1, 2, 3)))
    monkeypatch.setattr(type(run), "sampler", lambda self, source: sampler)
    lab = Replication(run)
    samples = walkthrough.Table(lab.data.samples.read()[["text", "is_correct"]])
    shown = [tables.stepwise(lab), examples.rollouts_of(lab, "test", "all drafts"), samples]
    for frame in shown:
        html = frame._repr_html_()
        assert "script" in html and "<script" not in html and "<img" not in html
        assert "tex2jax_ignore" in html
        reliability("model text: <script>, Markdown, formulas", "stays text in rendered notebooks")


def test_model_text_in_a_worked_example_stays_text():
    nasty = NASTY + r" $\frac{1}{2}$ \alpha_1^2"
    shown = an_example(nasty)
    html = examples.to_html(replace(shown, question=nasty, reference_answer=nasty))
    assert "<script" not in html and "<img" not in html and html.count("&lt;script&gt;") >= 6
    assert html.startswith('<div class="tex2jax_ignore mathjax_ignore">')
    assert "<script>" in examples.to_text(shown)


def test_notebooks_show_model_text_by_frames_and_print_alone():
    for path in (p for p in SOURCES if p.suffix == ".ipynb" or p.name in ("tables.py", "findings.py")):
        names = {getattr(node, "attr", getattr(node, "id", "")) for node in ast.walk(code(path))}
        assert not names & {"HTML", "Markdown", "Latex", "Javascript", "SVG", "to_html", "style"}, path.name


def test_no_secret_of_the_environment_is_written(clone, monkeypatch, reliability):  # noqa: F811
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hf_canary_0123456789")
    clone.run()
    for path in (path for path in clone.root.rglob("*") if path.is_file()):
        assert b"hf_canary" not in path.read_bytes(), path.name
    reliability("tokens in the environment", "in no manifest, log or rendered notebook", tried=4)


def test_parameters_have_no_place_for_a_token(reliability):
    for key in ("hf_token", "base_model.token", "base_model.api_key", "sampling.vllm.token"):
        with pytest.raises(ParamsError, match="no such parameter"):
            load_params(TINY, {key: "hf_canary"})
        reliability("params: a token", "rejected in one line")


def test_every_frame_is_escaped():
    html = pd.DataFrame({NASTY: [NASTY]}, index=[NASTY])._repr_html_()
    assert "<script" not in html and "<img" not in html
