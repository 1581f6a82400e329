"""The released package: its sdist and wheel, and an installed ``glore`` outside a clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clone import TINY

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("glore_lib", "notebooks", "params")
FILES = (
    "CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "codemeta.json", "environment.yml",
    "pyproject.toml", "requirements.lock", "setup.py",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Build the sdist, from it the wheel, and unpack that into a folder."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    for name in BUILT_FROM:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "setup.py", "-q", "sdist", "-d", folder], cwd=source, check=True)
    shutil.rmtree(source)
    (sdist,) = folder.glob("glore_lib-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, sdist], cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def files(folder: Path, *patterns: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)}


@pytest.mark.long
def test_the_wheel_from_the_sdist_has_every_module_asset_notebook_and_params_file(site):
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "glore_lib").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    assert package <= files(site, "glore_lib/**/*")
    shipped = site / "glore_lib" / "shipped"
    patterns = ("notebooks/*.ipynb", "notebooks/appendix/*.ipynb", "params/*.yaml")
    assert files(shipped, *patterns) == files(ROOT, *patterns)
    assert files(shipped, "*/*", "*/*/*") - {"notebooks/appendix"} == files(ROOT, *patterns)


@pytest.mark.long
def test_an_installed_glore_runs_outside_a_clone(site, tmp_path):
    """With a params file of its own, and those that the package ships; all results are written where it was called."""
    shutil.copy(TINY, tmp_path / "mine.yaml")
    start = [sys.executable, "-c", "from glore_lib.cli import app; app()"]

    def glore(*arguments: str) -> str:
        command = [*start, *arguments]
        env = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout

    assert "01_expert_iteration" in glore("plan", "params/mini-hard.yaml")
    glore("run", "mine.yaml", "--name", "all")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml", "artifacts", "results"}
    rendered = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.ipynb"))
    assert [path.name[:2] for path in rendered] == ["06", "01", "02", "03", "04", "05"]
    assert not [path for path in rendered if str(tmp_path) in (tmp_path / path).read_text()]
    assert "done" in glore("status", "results/tiny")
    assert not list(site.rglob("results"))
