"""What a newcomer meets first is so: the README's commands and pictures, the licence, how to cite."""

import re
import subprocess
import tomllib

import pytest
import yaml

from examples import Block, blocks
from glore_lib.params import load_params
from glore_lib.workflow.pipeline import ROOT

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHELL = [
    (name, block)
    for name in ("README.md", "CONTRIBUTING.md", "docs/tour.md", "docs/scale.md", "docs/performance.md")
    for block in blocks((ROOT / name).read_text(), "bash")
]


@pytest.mark.parametrize(("page", "block"), SHELL, ids=[f"{page}:{block.line}" for page, block in SHELL])
def test_shell_blocks_parse(page: str, block: Block):
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_block_that_does_not_parse_would_be_seen():
    assert subprocess.run(
        ["bash", "-n"], input="for x in; done (", capture_output=True, text=True, check=False
    ).returncode


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/tour.md"])
def test_make_has_what_it_is_called_with(page: str):
    makefile = (ROOT / "Makefile").read_text()
    called = re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / page).read_text(), re.MULTILINE)
    assert called
    for target in called:
        assert f"\n{target}: " in makefile, target


def test_the_two_commands_of_the_readme_are_the_first_things_in_it():
    (first, *_) = blocks(README, "bash")
    assert re.findall(r"^make (\w+)", first.text, re.MULTILINE) == ["replicate", "test"]


def test_params_files_that_are_named_are_there():
    for found in re.findall(r"params/[\w.{},-]+\.yaml", README):
        names = subprocess.run(
            ["bash", "-c", f"echo {found}"], capture_output=True, text=True, check=True
        ).stdout.split()
        for name in names:
            assert load_params(ROOT / name)


def test_pictures_are_there_and_say_what_they_show():
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", README)
    assert pictures
    for text, target in pictures:
        assert text and (ROOT / target).is_file(), target


def test_licence_and_citation_are_the_packages():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert str(citation["version"]) == PROJECT["version"]
    (paper,) = citation["references"]
    assert paper["title"] in " ".join(README.split()).replace("*", "")
    assert paper["url"] in README
