"""Run the examples of Markdown pages: ``python`` blocks, files (``python file=PATH``) and changes to files (``diff``).

    python tests/examples.py PAGE...

executes the ``python`` blocks of each page in the current folder. The last line of its output is a JSON object: page ->
traceback, empty if all blocks ran.
"""

import json
import os
import re
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it stands for, its text, and the number of its first line in the page."""

    language: str
    file: str | None
    text: str
    line: int


def blocks(page: str, language: str = "") -> list[Block]:
    """Return the fenced blocks of a page in order, of one language or all."""
    found = [
        Block(match[1], match[2], match[3], page.count("\n", 0, match.start(3)) + 1) for match in _BLOCK.finditer(page)
    ]
    return [block for block in found if language in ("", block.language)]


def apply(page: str, root: Path) -> None:
    """Write the files of a page under ``root``, then apply its changes with git; raise ValueError if one does not."""
    for block in blocks(page):
        if block.file:
            (root / block.file).write_text(block.text)
    for block in blocks(page, "diff"):
        done = subprocess.run(["git", "apply", "-"], cwd=root, input=block.text, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(done.stderr)


def main(pages: list[Path]) -> None:
    """Execute each page in its own namespace and with its own environment variables."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so small a model is slower on more
    environment = dict(os.environ)
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
