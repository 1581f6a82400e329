"""What the documentation says is so: links, names in the code, parameters, commands; and its examples run."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from examples import apply, blocks
from glore_lib.cli import _parse, app
from glore_lib.params import Params, _names, load_params
from glore_lib.workflow.pipeline import ROOT

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS]
WITH_EXAMPLES = [page for page in DOCS if blocks(page.read_text(), "python")]
COMMANDS = typer.main.get_command(app).commands


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _links(page: Path) -> list[tuple[str, str]]:
    """(text, target) of the links to files of the repository."""
    found = re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", _prose(page))
    return [(text, target) for text, target in found if not target.startswith("http")]


def _anchors(page: Path) -> set[str]:
    """What headings are linked by, as on GitHub."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """The dotted names of functions, classes and constants of a module."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _defined(node.body, f"{prefix}{node.name}.")
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


def _calls(page: Path) -> list[list[str]]:
    """The words of each ``glore ...`` line in the page's shell blocks, without what is set before it."""
    text = "".join(block.text for block in blocks(page.read_text(), "bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if re.match(r"(\w+=\S+ )*glore ", line)]
    return [line[line.index("glore") + 1 :] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path):
    for text, target in _links(page):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"[{text}]({target})"
        assert not anchor or anchor in _anchors(linked), f"[{text}]({target})"


@pytest.mark.parametrize("page", DOCS, ids=_name)
def test_names_that_link_to_code_are_defined_there(page: Path):
    for text, target in _links(page):
        if target.endswith(".py"):
            defined = set(_defined(ast.parse((page.parent / target).read_text()).body))
            assert text.strip("`") in {*defined, Path(target).name}, f"[{text}]({target})"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_parameters_that_are_named_exist(page: Path):
    known = set(_names())
    for name in re.findall(r"`([a-z_0-9]+(?:\.[a-z_0-9]+)+)(?:[:=][^`]*)?`", _prose(page)):
        if name.partition(".")[0] in Params.model_fields:
            assert name in known, name


def test_every_page_is_in_the_index():
    index = {(ROOT / "docs" / target).resolve() for _, target in _links(ROOT / "docs" / "README.md")}
    assert set(DOCS) - index == {ROOT / "docs" / "README.md"}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_can_be_called_as_they_are_shown(page: Path):
    for command, *arguments in _calls(page):
        if any("$" in argument for argument in arguments):
            continue  # of a script
        context = COMMANDS[command].make_context(command, list(arguments))  # refuses what it does not know
        settings = _parse(context.params.get("settings") or [])
        for path in context.params.get("params", []):
            assert load_params(ROOT / path, settings)
    for command, rest in re.findall(r"`glore (\w+)([^`]*)`", _prose(page)):
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known, f"glore {command}{rest}"


@pytest.fixture(scope="module")
def said(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong on each page, where something did. All are executed by one process, in a clone that has the files
    and changes of all of them, and whose params/tiny.yaml is of the tiny random model."""
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "glore_lib", clone / "glore_lib", ignore=shutil.ignore_patterns("__pycache__"))
    tiny = Path("tests", "params", "tiny.yaml")
    params = yaml.safe_load((ROOT / tiny).read_text())
    (clone / tiny).parent.mkdir(parents=True)
    (clone / tiny).write_text(yaml.safe_dump(params | {"base_model": {"source": str(tiny_base)}}))
    for page in WITH_EXAMPLES:
        apply(page.read_text(), clone)
    command = [sys.executable, str(ROOT / "tests" / "examples.py"), *map(str, WITH_EXAMPLES)]
    environment = os.environ | {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=_name)
def test_examples_do_what_they_claim(page: Path, said: dict[str, str]):
    assert said[str(page)] == ""


def test_a_change_that_fits_nowhere_is_told(tmp_path: Path):
    (tmp_path / "a.py").write_text("one\ntwo\n")
    page = "```diff\n--- a.py\n+++ a.py\n one\n-{}\n+three\n```\n"
    with pytest.raises(ValueError, match=r"a\.py has 0 times"):
        apply(page.format("four"), tmp_path)
    apply(page.format("two"), tmp_path)
    assert (tmp_path / "a.py").read_text() == "one\nthree\n"
