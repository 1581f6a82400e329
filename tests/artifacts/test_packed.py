"""Runs that travel: what an archive holds, what is refused, and what artifacts without weights allow."""

import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from typer.testing import CliRunner, Result

from clone import TINY
from glore_lib.artifacts.manifest import stage_record_path, stage_records, training_warnings
from glore_lib.artifacts.packed import CONTENTS, is_packed, pack, packed_base, unpack, without_weights
from glore_lib.artifacts.records import LEFT_OUT, RETRAIN, checksum, verify_record, write_record
from glore_lib.artifacts.store import KEEP_STALE, Artifact, Store
from glore_lib.artifacts.upgrades import find_stale
from glore_lib.cli import app
from glore_lib.params import Params, ParamsError, load_params
from glore_lib.run import Run
from glore_lib.workflow.runs import read_runs
from tiny import open_tiny

TEXTS = pd.DataFrame({"question_id": ["q"], "text": ["1 + 1 = 2\n#### 2"], "source": ["reference"]})


def glore(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def model(folder: Path, weights: bytes = b"weights") -> dict:
    """Fill the folder of a model."""
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    return {"steps": 3}


def make_run(root: Path, params: Params, weights: bytes = b"weights", text: str = "1 + 1 = 2\n#### 2") -> list[str]:
    """Make a frame and a model of a run, with a stage record; return their ids."""
    store = Store(root)
    data = store.frame("data", "solutions", {"seed": params.seed}, lambda: TEXTS.assign(text=text))
    trained = store.folder("student", {"inputs": [data.id]}, lambda folder: model(folder, weights))
    path = stage_record_path(root, params, "01_expert_iteration")
    path.parent.mkdir(parents=True, exist_ok=True)
    records = {id: {"seconds": 0.0, "info": a.record["info"]} for id, a in store.used.items()}
    path.write_text(json.dumps({"artifacts": records}, indent=1))
    return [data.id, trained.id]


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(TINY)


@pytest.fixture
def packed(tmp_path, params) -> tuple[Path, list[str]]:
    """Pack a small run; return the archive and the ids."""
    ids = make_run(tmp_path / "there", params)
    pack(tmp_path / "there", [params], tmp_path / "run.tar.gz")
    return tmp_path / "run.tar.gz", ids


def files(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): checksum(path) for path in sorted(root.rglob("*")) if path.is_file()}


def refusal(archive: Path, root: Path) -> str:
    """Return why an archive is refused; assert that this is one line, and that nothing is left of it."""
    before = files(root) if root.exists() else {}
    with pytest.raises(ParamsError) as error:
        unpack([archive], root)
    assert "\n" not in str(error.value)
    assert files(root) == before if root.exists() else not before
    assert not list(root.glob(".unpack-*"))
    return str(error.value)


def test_an_archive_has_everything_but_weights(packed, tmp_path, params):
    archive, (data, trained) = packed
    assert unpack([archive], tmp_path / "here") == (sorted([data, trained]), [])
    here, there = files(tmp_path / "here"), files(tmp_path / "there")
    stage = stage_record_path(Path(), params, "01_expert_iteration").as_posix()
    assert here.keys() == {stage, f"{data}/artifact.json", f"{data}/data.parquet", f"{trained}/artifact.json",
                           f"{trained}/{LEFT_OUT}"}  # fmt: skip
    assert all(here[name] == there[name] for name in here.keys() - {stage, f"{trained}/{LEFT_OUT}"})
    assert stage_records(tmp_path / "here", params) == stage_records(tmp_path / "there", params)
    pd.testing.assert_frame_equal(Artifact(tmp_path / "here" / data).read(), Artifact(tmp_path / "there" / data).read())
    assert without_weights(tmp_path / "here") == [trained] and without_weights(tmp_path / "there") == []
    assert (is_packed(tmp_path / "here", params), is_packed(tmp_path / "there", params)) == (True, False)


def test_equal_artifacts_give_equal_bytes_also_after_a_journey(packed, tmp_path, params):
    archive, _ = packed
    os.utime(next((tmp_path / "there").rglob("data.parquet")), (0, 0))
    pack(tmp_path / "there", [params], tmp_path / "again.tar.gz")
    unpack([archive], tmp_path / "here")
    pack(tmp_path / "here", [params], tmp_path / "onwards.tar.gz")
    assert archive.read_bytes() == (tmp_path / "again.tar.gz").read_bytes()
    assert archive.read_bytes() == (tmp_path / "onwards.tar.gz").read_bytes()


def test_an_archive_comes_in_pieces_and_twice(packed, tmp_path):
    archive, ids = packed
    content = archive.read_bytes()
    pieces = []
    for i in range(0, len(content), 1000):
        pieces.append(tmp_path / f"run.tar.gz.{i // 1000:02}")
        pieces[-1].write_bytes(content[i : i + 1000])
    assert len(pieces) > 1
    assert unpack(pieces, tmp_path / "here") == (sorted(ids), [])
    before = files(tmp_path / "here")
    assert unpack(pieces, tmp_path / "here") == ([], sorted(ids))
    assert files(tmp_path / "here") == before
    shown = glore("unpack", *reversed(pieces), "--artifacts", tmp_path / "other")
    assert shown.exit_code == 2 and len(shown.stderr.splitlines()) == 1
    assert not list((tmp_path / "other").iterdir())


def test_the_machine_that_has_the_weights_keeps_them(packed, tmp_path):
    archive, ids = packed
    before = files(tmp_path / "there")
    assert unpack([archive], tmp_path / "there") == ([], sorted(ids))
    assert files(tmp_path / "there") == before


@pytest.mark.parametrize(("weights", "text"), [(b"other", "1 + 1 = 2\n#### 2"), (b"weights", "1 + 1 = 3\n#### 3")])
def test_another_artifact_of_the_same_id_is_never_replaced(packed, tmp_path, params, weights, text):
    archive, ids = packed
    assert make_run(tmp_path / "here", params, weights, text) == ids  # as another machine computes it
    changed = ids[1] if weights == b"other" else ids[0]
    why = refusal(archive, tmp_path / "here")
    assert f"has another {changed}, computed elsewhere" in why and "--artifacts" in why


def test_models_may_differ_in_what_names_a_version(packed, tmp_path, params):
    archive, ids = packed
    make_run(tmp_path / "here", params)
    trained = tmp_path / "here" / ids[1]
    (trained / "config.json").write_text('{"transformers_version": "6"}')
    record = json.loads((trained / "artifact.json").read_text())
    write_record(trained, {name: value for name, value in record.items() if name not in ("files", "checksum")})
    before = files(tmp_path / "here")
    assert unpack([archive], tmp_path / "here") == ([], sorted(ids))
    assert files(tmp_path / "here") == before


def test_a_damaged_artifact_is_named(packed, tmp_path, params):
    archive, (data, _) = packed
    make_run(tmp_path / "here", params)
    (tmp_path / "here" / data / "data.parquet").write_bytes(b"damaged")
    why = refusal(archive, tmp_path / "here")
    assert f"{data}: data.parquet was modified" in why and "remove it, and unpack again" in why
    shown = glore("pack", TINY, "--artifacts", tmp_path / "here", "--out", tmp_path / "x.tar.gz")
    assert shown.exit_code == 2 and f"{data}: data.parquet was modified" in shown.stderr
    assert not (tmp_path / "x.tar.gz").exists()


@settings(max_examples=40)
@given(share=some.floats(0, 1, exclude_max=True), flip=some.integers(0, 255))
def test_damaged_archives_are_refused_wherever_the_damage_is(tmp_path_factory, params, share, flip):
    folder = tmp_path_factory.mktemp("damaged")
    make_run(folder / "there", params)
    pack(folder / "there", [params], folder / "run.tar.gz")
    content = bytearray((folder / "run.tar.gz").read_bytes())
    at = int(share * len(content))
    if flip:
        content[at] ^= flip
    else:
        content = content[:at]
    (folder / "run.tar.gz").write_bytes(content)
    try:
        unpack([folder / "run.tar.gz"], folder / "here")
    except ParamsError as error:
        assert "damaged" in str(error) and "\n" not in str(error)
        assert not [path for path in (folder / "here").iterdir() if not path.name.startswith(".glore")]
    else:  # the byte is in gzip's header, or in what pads the end
        unpacked = files(folder / "here")
        assert all(verify_record(folder / "here" / name.split("/")[0]) for name in unpacked if "artifact.json" in name)
        assert len(unpacked) == 5


def archive_of(path: Path, members: dict[str, bytes | tarfile.TarInfo], listed: dict[str, str] | None = None) -> Path:
    """Write an archive with these members after its contents."""
    import hashlib

    sums = {name: hashlib.sha256(data).hexdigest() for name, data in members.items() if isinstance(data, bytes)}
    about = {"format": 1, "runs": [], "files": sums if listed is None else listed}
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {CONTENTS: json.dumps(about).encode(), **members}.items():
            if isinstance(data, tarfile.TarInfo):
                tar.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def link(kind: bytes) -> tarfile.TarInfo:
    made = tarfile.TarInfo("student-0123456789ab/data.parquet")
    made.type, made.linkname = kind, "/etc/passwd"
    return made


@pytest.mark.parametrize(
    "name",
    ["../outside", "/tmp/outside", "x/../../outside", "a//b", ".hidden/x", "x/.y", "outside", "x\\..\\y/z", "C:/x"],
)
def test_paths_outside_are_refused(tmp_path, name):
    archive = archive_of(tmp_path / "x.tar.gz", {name: b"x"})
    assert "is no file of an artifact" in refusal(archive, tmp_path / "here")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_file_is_refused(tmp_path, kind):
    archive = archive_of(tmp_path / "x.tar.gz", {"x": link(kind)})
    assert "is no file of an artifact" in refusal(archive, tmp_path / "here")


def test_what_is_no_archive_is_refused(tmp_path, packed):
    here = tmp_path / "here"
    with pytest.raises(ParamsError, match=r"archive .*absent: no such file"):
        unpack([tmp_path / "absent"], here)
    assert not here.exists()
    for number, content in enumerate((b"", b"no archive", gzip.compress(b"no tar"), gzip.compress(b"\0" * 10240))):
        (tmp_path / f"{number}").write_bytes(content)
        assert "is no archive of glore pack, or is damaged" in refusal(tmp_path / f"{number}", here)
    file = {"student-0123456789ab/x": b"x"}
    contents = {"student-0123456789ab/x": "00"}
    assert "damaged" in refusal(archive_of(tmp_path / "a", file, {}), here)
    assert "student-0123456789ab/x is missing" in refusal(archive_of(tmp_path / "b", {}, contents), here)
    assert "x was modified" in refusal(archive_of(tmp_path / "c", file, contents), here)
    assert "artifact.json is missing" in refusal(archive_of(tmp_path / "d", file), here)


def test_an_artifact_under_the_id_of_another_is_refused(packed, tmp_path):
    archive, (data, _) = packed
    with tarfile.open(archive) as tar:
        content = {m.name: tar.extractfile(m).read() for m in tar if m.name.startswith(data)}
    moved = {name.replace(data, "data-0123456789ab"): text for name, text in content.items()}
    why = refusal(archive_of(tmp_path / "x", moved), tmp_path / "here")
    assert "data-0123456789ab holds another artifact" in why


def test_what_cannot_be_packed(tmp_path, params):
    shown = glore("pack", TINY, "--artifacts", tmp_path / "none")
    assert shown.exit_code == 2 and "has nothing of run tiny with these parameters and seed 0" in shown.stderr
    assert not (tmp_path / "none").exists()
    make_run(tmp_path / "there", params)
    shown = glore("pack", TINY, "--artifacts", tmp_path / "there", "--seeds", "0,1")
    assert shown.exit_code == 2 and "and seed 1; glore compute makes it" in shown.stderr
    shown = glore("pack", TINY, "--artifacts", tmp_path / "there", "--out", tmp_path / "run.tar.gz")
    assert shown.exit_code == 0
    assert shown.stderr == ("tiny seed 0: not computed to the end: 02_orm, 03_sorm, 04_refiners, 05_evaluation\n")
    assert shown.stdout.startswith(f"done: {tmp_path / 'run.tar.gz'} (2 artifacts, ")


def test_several_seeds_are_packed_together(tmp_path, params):
    seeds = [params.model_copy(update={"seed": seed}) for seed in (0, 3)]
    ids = {id for each in seeds for id in make_run(tmp_path / "there", each)}
    archive = tmp_path / "run.tar.gz"
    shown = glore("pack", TINY, "--artifacts", tmp_path / "there", "--seeds", "3,0", "--out", archive)
    assert shown.exit_code == 0, shown.stderr
    shown = glore("unpack", archive, "--artifacts", tmp_path / "here")
    assert shown.stdout == f"done: {tmp_path / 'here'} ({len(ids)} new artifacts, 0 were there)\n"
    shown = glore("pack", TINY, "--artifacts", tmp_path / "there", "--seeds", "3,0", "--dataset")
    assert shown.exit_code == 2 and "--dataset: must be of one run and one seed" in shown.stderr
    for each in seeds:
        assert stage_records(tmp_path / "here", each) == stage_records(tmp_path / "there", each)


def test_a_model_without_weights_is_an_input_and_cannot_be_opened(packed, tmp_path):
    archive, (data, trained) = packed
    unpack([archive], tmp_path / "here")
    store = Store(tmp_path / "here")
    found = store.folder("student", {"inputs": [data]}, lambda folder: pytest.fail("made again"))
    assert found.id == trained and found.record["info"] == {"steps": 3}
    with pytest.raises(
        ParamsError, match=rf"weights of {trained} were not packed; copy {trained} from where.*--retrain"
    ):
        store.open(found)
    shutil.copy(tmp_path / "there" / trained / "model.safetensors", tmp_path / "here" / trained)
    shutil.copy(tmp_path / "there" / trained / "config.json", tmp_path / "here" / trained)
    assert store.open(found) == found.folder and without_weights(store.root) == []
    (tmp_path / "here" / trained / "model.safetensors").write_bytes(b"of another model")
    made = Store(tmp_path / "here").folder("student", {"inputs": [data]}, lambda folder: model(folder, b"again"))
    assert (made.folder / "model.safetensors").read_bytes() == b"again"  # damaged, so made again


@pytest.mark.parametrize("weights", [b"weights", b"other"])
def test_a_model_is_trained_again_where_it_is_asked_for_and_needed(packed, tmp_path, monkeypatch, capsys, weights):
    archive, (data, trained) = packed
    unpack([archive], tmp_path / "here")
    monkeypatch.setenv(RETRAIN, "1")
    store = Store(tmp_path / "here")
    found = store.folder("student", {"inputs": [data]}, lambda folder: model(folder, weights))
    assert without_weights(store.root) == [trained]  # nobody needs them yet
    assert (store.open(found) / "model.safetensors").read_bytes() == weights
    assert f"{trained}: its weights were not packed; training it again" in capsys.readouterr().err
    assert without_weights(store.root) == [] and not list(store.root.glob(".student*"))
    record = verify_record(found.folder)
    records = {trained: store.used[trained].record}
    assert record["info"] == records[trained]["info"]
    told = ["student was trained again: its stored answers and scores are of weights that differ from these."]
    assert training_warnings(records) == (told if weights == b"other" else [])
    assert Store(tmp_path / "here").open(found) == found.folder


def test_an_interrupted_training_leaves_the_record(packed, tmp_path, monkeypatch):
    archive, (data, _) = packed
    unpack([archive], tmp_path / "here")
    monkeypatch.setenv(RETRAIN, "1")
    before, store = files(tmp_path / "here"), Store(tmp_path / "here")

    def interrupted(folder: Path) -> dict:
        model(folder)
        raise KeyboardInterrupt

    found = store.folder("student", {"inputs": [data]}, interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.open(found)
    assert files(tmp_path / "here") == before


def test_newer_code_finds_unpacked_artifacts_stale(packed, tmp_path, monkeypatch):
    here = Store(tmp_path / "code")
    key = {"code": {"start": "method.students:fine_tune", "task": "", "backend": "", "modules": {"run.py": "before"}}}
    made = here.folder("student", key, model)
    params = load_params(TINY)
    path = stage_record_path(here.root, params, "01_expert_iteration")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"artifacts": {made.id: {"seconds": 0.0, "info": {}}}}))
    pack(here.root, [params], tmp_path / "x.tar.gz")
    unpack([tmp_path / "x.tar.gz"], tmp_path / "there again")
    root = tmp_path / "there again"
    assert [stale.id for stale in find_stale(root, [params])[0]] == [made.id]

    newer = {"code": key["code"] | {"modules": {"run.py": "after"}}}
    monkeypatch.setenv(KEEP_STALE, "1")
    store = Store(root)
    kept = store.folder("student", newer, lambda folder: pytest.fail("made again"))
    assert kept.id == made.id and store.stale == {made.id: "run.py"}
    monkeypatch.setenv(RETRAIN, "1")
    with pytest.raises(ParamsError, match=r"older code made it; give --recompute instead of --keep-stale"):
        store.open(kept)
    monkeypatch.delenv(KEEP_STALE)
    again = Store(root).folder("student", newer, model)
    assert again.id != made.id and (again.folder / "model.safetensors").exists()


def travelled(run: Run, root: Path) -> Run:
    """Pack a run, unpack it into another folder, and open it there without checks of the base model."""
    run.finish("01_expert_iteration")
    pack(run.store.root, [run.params], root.with_suffix(".tar.gz"))
    unpack([root.with_suffix(".tar.gz")], root)
    return Run(run.params, Store(root), run.task)


@pytest.fixture
def moved(tiny_base, tmp_path) -> Path:
    """Return a copy of the tiny base model, which a test may remove."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def test_a_run_finds_its_keys_without_its_base_model(moved, tmp_path, monkeypatch):
    run = open_tiny(moved, tmp_path / "there")
    key, ids = run.base_key, run.tokenizer("1 + 1").input_ids
    there = travelled(run, tmp_path / "with")
    assert there.base == str(moved) and there.base_key == key
    assert there.path(None) == str(moved)

    away = moved.rename(tmp_path / "away")
    gone = travelled(run, tmp_path / "without")
    assert gone.base_key == key and gone.tokenizer("1 + 1").input_ids == ids
    assert gone.support == run.support
    assert {*gone.store.used} == {*run.store.used}
    reopened = open_tiny(moved, tmp_path / "without")
    assert reopened.base_key == key
    for use in (gone.load, gone.sampler, gone.path):
        with pytest.raises(ParamsError, match=r"base_model.source = .*no such folder") as error:
            use(None)
        assert "\n" not in str(error.value)
    with pytest.raises(ParamsError, match="no such folder"):
        open_tiny(moved, tmp_path / "empty")

    # The folder holds another model now: its keys are its own.
    shutil.copytree(away, moved)
    (moved / "generation_config.json").write_text('{"max_length": 7}')
    other = travelled(run, tmp_path / "other")
    assert other.base == str(moved) and other.base_key != key


def test_a_run_from_scratch_keeps_the_key_of_its_base_model(moved, tmp_path, monkeypatch):
    def pretrain(folder: Path, steps: int) -> dict:
        shutil.copytree(moved, folder, dirs_exist_ok=True)
        return {"steps": steps}

    monkeypatch.setattr("glore_lib.pretraining.pretrain.pretrain", pretrain)
    monkeypatch.setattr("glore_lib.artifacts.keys.start_of", lambda make: "method.students:fine_tune")
    run = open_tiny(moved, tmp_path / "there")
    asked = run.params.base_model.model_copy(update={"source": "scratch"})
    first = Run(run.params.model_copy(update={"base_model": asked}), Store(tmp_path / "there"), run.task)
    key, base = first.base_key, Path(first.base)
    there = travelled(first, tmp_path / "here")
    monkeypatch.setattr("glore_lib.pretraining.pretrain.pretrain", lambda *_, **__: pytest.fail("trained"))
    assert there.base_key == key and there.tokenizer("1").input_ids == run.tokenizer("1").input_ids
    with pytest.raises(ParamsError, match=rf"the weights of {base.name} were not packed"):
        there.path(None)


def test_a_hub_model_keeps_its_commit(moved, tmp_path, monkeypatch):
    run = open_tiny(moved, tmp_path / "there")
    asked = []

    def pin(source: str) -> str:
        asked.append(source)
        if "offline" in os.environ:
            raise ParamsError("offline")
        return source if "@" in source else f"{source}@c0ffee"

    monkeypatch.setattr("glore_lib.models.loading.pin", pin)
    monkeypatch.setattr("glore_lib.models.loading.adapter_base", lambda source: None)
    monkeypatch.setattr("glore_lib.models.loading.copy_description", lambda source, folder: shutil.copytree(
        moved, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors")))  # fmt: skip
    monkeypatch.setattr(Run, "tokenizer", run.tokenizer)
    on_hub = run.params.model_copy(
        update={"base_model": run.params.base_model.model_copy(update={"source": "some/one"})}
    )
    first = Run(on_hub, Store(tmp_path / "there"), run.task)
    assert first.base == "some/one@c0ffee"
    assert first._base_fingerprint == {"source": "some/one", "commit": "c0ffee"}
    there = travelled(first, tmp_path / "here")
    monkeypatch.setattr("glore_lib.models.loading.pin", lambda source: pin(source).replace("c0ffee", "c0ffee"))
    assert there.base == "some/one@c0ffee" and asked[-1] == "some/one@c0ffee"  # whatever the hub has by now
    monkeypatch.setenv("offline", "1")
    offline = Run(on_hub, Store(tmp_path / "here"), run.task)
    assert Path(offline.base).parent == tmp_path / "here"
    assert offline._base_fingerprint == {"source": "some/one", "commit": "c0ffee"}
    with pytest.raises(ParamsError, match="offline"):
        offline.path(None)


def test_packages_of_the_cluster_need_not_be_here(tmp_path, monkeypatch):
    monkeypatch.setattr("glore_lib.params.find_spec", lambda name: None)
    on_cluster = {"sampling.backend": "vllm"}
    params = load_params(TINY, on_cluster)
    make_run(tmp_path / "there", params)
    pack(tmp_path / "there", [params], tmp_path / "run.tar.gz")
    unpack([tmp_path / "run.tar.gz"], tmp_path / "here")
    assert read_runs([TINY], on_cluster, tmp_path / "here") == {"tiny": params}
    for root in ("there", "none"):
        with pytest.raises(ParamsError, match="needs the package vllm"):
            read_runs([TINY], on_cluster, tmp_path / root)
    monkeypatch.setenv(RETRAIN, "1")
    with pytest.raises(ParamsError, match="needs the package vllm"):
        read_runs([TINY], on_cluster, tmp_path / "here")


def test_two_models_under_one_name_are_told_apart_by_the_run(tmp_path, params, monkeypatch):
    roots = []
    for content in ("one", "two"):
        store = Store(tmp_path / content)

        def make(folder: Path, content: str = content) -> dict:
            (folder / "config.json").write_text(content)
            return {"source": params.base_model.source, "model": {"commit": content}}

        made = store.folder("base-model", {"source": params.base_model.source, "model": {"commit": content}}, make)
        seed = params.model_copy(update={"seed": len(roots)})
        path = stage_record_path(store.root, seed, "01_expert_iteration")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"artifacts": {made.id: {"seconds": 0.0, "info": {}}}}))
        pack(store.root, [seed], tmp_path / f"{content}.tar.gz")
        unpack([tmp_path / f"{content}.tar.gz"], tmp_path / "here")
        roots.append(seed)
    commits = [packed_base(tmp_path / "here", seed).record["info"]["model"]["commit"] for seed in roots]
    assert commits == ["one", "two"]
    with pytest.raises(ParamsError, match="was another model in two runs"):
        packed_base(tmp_path / "here", params.model_copy(update={"seed": 9}))


def test_a_missing_model_is_one_line_in_a_notebook():
    from IPython.testing.globalipapp import get_ipython, start_ipython

    shell = start_ipython() or get_ipython()
    ran = shell.run_cell("from glore_lib.params import ParamsError\nraise ParamsError('the weights were not packed')")
    assert isinstance(ran.error_in_exec, ParamsError)
    assert ran.error_in_exec._render_traceback_() == ["ParamsError: the weights were not packed"]
