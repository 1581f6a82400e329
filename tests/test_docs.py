"""Check the documentation: links, names in the code, parameters, tests, commands, wording; and run its examples."""

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
from glore_lib.params import _names, load_params
from glore_lib.reporting.scoreboard import CLAIMS
from glore_lib.workflow.pipeline import ROOT, comparison_name

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "results/README.md")), *DOCS]
INDEX = ROOT / "docs" / "paper_index.md"
WITH_EXAMPLES = [page for page in DOCS if blocks(page.read_text(), "python")]
GROUP = typer.main.get_command(app)
COMMANDS, OPTIONS = GROUP.commands, {option for parameter in GROUP.params for option in parameter.opts}
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()
CALLS = dict(re.findall(r"^([\w-]+): .*\n\t@\.venv/bin/(glore .*)$", MAKEFILE, re.MULTILINE))  # of targets
TESTS = {
    node.name
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef)
}
# Word for word from another language, or riddles: say "Replicated", "warned", "compared with", "human labels".
BANNED = re.compile(
    r"\b(so it is(?=[.:;])|(?:is|are) told|tells nothing|to be looked at|what was there|for want of|of its own accord"
    r"|held against|by lots|mends?|mended|people's labels)\b",
    re.IGNORECASE,
)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _links(page: Path) -> list[tuple[str, str]]:
    """Return (text, target) of the links to files of the repository."""
    found = re.findall(r"\[([^\[\]]*)\]\(([^()\s]+)\)", _prose(page))
    return [(text, target) for text, target in found if not target.startswith("http")]


def _anchors(page: Path) -> set[str]:
    """Return the anchors of the page's headings, as on GitHub."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of a module's functions, classes and constants."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from _defined(node.body, f"{prefix}{node.name}.")
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


def _shell(page: Path) -> str:
    """Return the page's shell blocks, without the breaks of long lines."""
    return "".join(block.text for block in blocks(page.read_text(), "bash")).replace("\\\n", " ")


def _calls(page: Path) -> list[list[str]]:
    """Return the words of each ``glore ...`` line in the page's shell blocks, without variables set before it.

    A line that calls make counts as what its target calls.
    """
    shell = re.sub(r"^make ([\w-]+).*$", lambda m: CALLS.get(m[1], ""), _shell(page), flags=re.MULTILINE).splitlines()
    lines = [shlex.split(line, comments=True) for line in shell if re.match(r"(\w+=\S+ )*glore ", line)]
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
        if name.partition(".")[0] in {known_name.partition(".")[0] for known_name in known if "." in known_name}:
            assert name in known, name


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_tests_that_are_named_exist(page: Path):
    assert set(re.findall(r"`(test_\w+)`", _prose(page))) <= TESTS


def _rows(page: Path) -> dict[str, str]:
    """Return first cell -> line of all tables; lines with the same first cell are joined."""
    rows: dict[str, str] = {}
    for line in _prose(page).splitlines():
        if found := re.match(r"\| ([^|]+) \|", line):
            rows[found[1]] = rows.get(found[1], "") + line
    return rows


def test_the_paper_index_covers_the_paper():
    parts = ["2, 3", "4", "4.1, step 1", "4.1, step 2", "4.1, step 3", "4.2", "5.1", "5.2"]
    parts += [f"Figure {i}" for i in range(1, 7)] + [f"Table {i}" for i in range(1, 4)]
    claims = [f"c{i}" for i in range(1, 18)]
    rows = _rows(INDEX)
    assert {*parts, *claims, *(f"Appendix {letter}" for letter in "ABCGJ")} <= set(rows)
    untested = {claim.id for claim in CLAIMS if not claim.metric}
    for name in (*parts, *claims):
        wanted = ["../tests/"] if name not in untested else ["not tested"]
        wanted += ["../glore_lib/", "../notebooks/"] if name not in untested else []
        wanted += ["../results/"] if name not in ("2, 3", "4") else []
        for part in wanted:
            assert part in rows[name], f"{name}: {part}"


def test_nothing_to_read_has_a_banned_phrase():
    sources = [
        path
        for pattern in ("glore_lib/**/*.py", "notebooks/**/*.ipynb", "params/*.yaml")
        for path in ROOT.glob(pattern)
    ]
    assert len(sources) > 50
    for path in [*PAGES, *sources]:
        text = re.sub(r"`[^`\n]*`", "", path.read_text())
        assert not BANNED.findall(text), path


def test_every_page_is_in_the_index():
    index = {(ROOT / "docs" / target).resolve() for _, target in _links(ROOT / "docs" / "README.md")}
    assert set(DOCS) - index == {ROOT / "docs" / "README.md"}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_can_be_called_as_they_are_shown(page: Path):
    made: set[Path] = set()  # the folders of results that the commands before make
    for command, *arguments in _calls(page):
        if any("$" in argument for argument in arguments):
            continue  # in a script
        if command.startswith("--"):
            assert command in OPTIONS
            continue
        given = COMMANDS[command].make_context(command, list(arguments)).params  # rejects unknown options
        settings = _parse(given.get("settings") or [])
        runs = [load_params(ROOT / path, settings).run for path in given.get("params", [])]
        if command == "run":
            made |= {given["out"] / name for name in [*runs, given["name"] or comparison_name(runs)]}
        read = {"compare": given.get("folders", []), "figures": [given.get("root")]}.get(command, [given.get("out")])
        for folder in read if command in ("status", "check", "report", "compare", "figures") else []:
            assert folder in made or any((ROOT / folder).glob("**/manifest.json")), f"glore {command} {folder}"
        if command == "compare":
            made.add(given["out"])
    for target in re.findall(r"^make ([\w-]+)", _shell(page), re.MULTILINE):
        assert target in TARGETS, f"make {target}"
    for command, rest in re.findall(r"`glore (\w+)([^`]*)`", _prose(page)):
        known = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known, f"glore {command}{rest}"


@pytest.fixture(scope="module")
def errors(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the traceback of each page, empty if its examples ran.

    One process executes all pages, in a copy of the library with the files and changes of all pages, and with a
    tiny.yaml that uses the tiny random model.
    """
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
def test_examples_do_what_they_claim(page: Path, errors: dict[str, str]):
    assert errors[str(page)] == ""


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text(), "diff")], ids=_name)
def test_changes_apply_to_the_library_with_git(page: Path):
    for block in blocks(page.read_text(), "diff"):
        command = ["git", "apply", "--check", "-"]
        done = subprocess.run(command, cwd=ROOT, input=block.text, capture_output=True, text=True)
        assert done.returncode == 0, f"line {block.line}: {done.stderr}"


def test_a_change_that_fits_nowhere_is_an_error(tmp_path: Path):
    (tmp_path / "a.py").write_text("one\ntwo\n")
    page = "```diff\n--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n one\n-{}\n+three\n```\n"
    with pytest.raises(ValueError, match=r"patch failed: a\.py:1"):
        apply(page.format("four"), tmp_path)
    apply(page.format("two"), tmp_path)
    assert (tmp_path / "a.py").read_text() == "one\nthree\n"
