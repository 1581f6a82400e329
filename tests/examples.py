"""The examples of a Markdown page: ``python`` blocks, files (``python file=PATH``) and changes to files (``diff``).

    python tests/examples.py PAGE...

executes the ``python`` blocks of each page in the folder that it is called from; its last line says, as JSON, what went
wrong on each page.
"""

import json
import os
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is, and the number of its first line in the page."""

    language: str
    file: str | None
    text: str
    line: int


def blocks(page: str, language: str = "") -> list[Block]:
    """The fenced blocks of a page in their order, of one language or all."""
    found = [
        Block(match[1], match[2], match[3], page.count("\n", 0, match.start(3)) + 1) for match in _BLOCK.finditer(page)
    ]
    return [block for block in found if language in ("", block.language)]


def apply(page: str, root: Path) -> None:
    """Writes the files of a page under ``root``, and changes those that it changes. What is taken away or stays in a
    change must stand in the file once; raises ValueError where it does not."""
    for block in blocks(page):
        if block.file:
            (root / block.file).write_text(block.text)
    for block in blocks(page, "diff"):
        for _, file, changes in re.findall(r"^--- (\S+)\n\+\+\+ (\S+)\n((?:(?!---).*\n)+)", block.text, re.MULTILINE):
            text = (root / file).read_text()
            for change in changes.split("@@\n"):
                before, after = (
                    "".join(line[1:] + "\n" for line in change.splitlines() if line[:1] != sign) for sign in "+-"
                )
                if text.count(before) != 1:
                    raise ValueError(f"{file} has {text.count(before)} times:\n{before}")
                text = text.replace(before, after)
            (root / file).write_text(text)


def main(pages: list[Path]) -> None:
    """Each page in a namespace and an environment of its own."""
    from glore_lib import run  # takes seconds, and who only reads pages need not wait

    environment = dict(os.environ)
    run._cores = lambda: 1  # so small a model is slower on more
    wrong = {}
    for path in pages:
        names: dict = {}
        wrong[str(path)] = ""
        try:
            for block in blocks(path.read_text(), "python"):
                if not block.file:
                    # Blank lines before it, so that a traceback has the page's line numbers.
                    exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), names)
        except Exception:
            wrong[str(path)] = traceback.format_exc()
        os.environ.clear()
        os.environ.update(environment)
    print(json.dumps(wrong))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
