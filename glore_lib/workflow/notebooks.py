"""Execute one notebook with papermill: fresh kernel, progress by cell, outputs without traces of this machine."""

import ast
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from glore_lib.artifacts.records import NOTE
from glore_lib.params import ParamsError, digest
from glore_lib.tasks.benchmarks import DATA_DIR
from glore_lib.workflow import StageError
from glore_lib.workflow.environment import ROOT

FINDINGS = "## Findings"  # the heading of a notebook's last section
FOREMOST = 5  # findings that a rendered notebook begins with
KILLED = "its Python process was killed, as the system does when memory runs out"


class Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whatever is registered, encrypted since others can reach its ports."""

    def _transport_encryption_default(self) -> str:
        return "auto"

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def execute(
    source: Path, target: Path, parameters: dict[str, Any], folder: Path, hashes: dict[str, str],
    progress: Callable[[float], None],
) -> nbformat.NotebookNode:  # fmt: skip
    """Execute a notebook in ``folder``, and save it to ``target`` after every cell; return it.

    ``progress`` is given the share of cells done. ``hashes`` go into the metadata of what a failure leaves in
    ``target``, the cells up to the failing one. Raises :class:`StageError`.
    """
    cells = _Cells(source, progress)
    try:
        return papermill.execute_notebook(
            source.resolve(), target.resolve(), parameters, cwd=folder,
            kernel_name="python3", language="python", kernel_manager_class=Kernel,
            extra_arguments=["--log-level=CRITICAL"], progress_bar=False,
            on_cell_execute=cells.start, on_cell_executed=cells.end,
        )  # fmt: skip
    except BaseException as error:
        with suppress(OSError, ValueError):  # the disk is full, or papermill's own writing was interrupted
            finish(nbformat.read(target, as_version=4), target, hashes | {"complete": False})
        if not isinstance(error, Exception):
            raise
        killed = isinstance(error, DeadKernelError)
        raised = error if isinstance(error, PapermillExecutionError) else None  # by a cell
        name, value = (raised.ename, raised.evalue) if raised else (type(error).__name__, error)
        why = KILLED if killed else f"{name}: {value}".strip().splitlines()[0]
        raise StageError(without_paths(f"failed {cells.where}: {why}"), target, killed) from error


def finish(notebook: nbformat.NotebookNode, target: Path, made: dict[str, Any]) -> None:
    """Save a notebook with a record of how it was made, and without what belongs to this machine or moment.

    Its foremost findings are repeated below its title.
    """
    notebook.metadata["glore"] = made
    notebook.metadata.pop("widgets", None)
    for name in ("input_path", "output_path"):
        notebook.metadata.papermill.pop(name, None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress_bar(output)]
            for output in cell.outputs:
                texts = [kind for kind in output.get("data", {}) if kind.startswith("text/")]
                for owner, names in ((output, ("text", "evalue")), (output.get("data", {}), texts)):
                    owner.update({name: without_paths(owner[name]) for name in names if name in owner})
                if "traceback" in output:
                    output.traceback = [without_paths(line) for line in output.traceback]
    if found := _findings(notebook):
        some = "more" if len(found) > FOREMOST else "also"
        text = "\n".join(f"- {finding}" for finding in found[:FOREMOST])
        cell = nbformat.v4.new_markdown_cell(f"**Findings** ({some} [at the end](#Findings))\n\n{text}", id="findings")
        notebook.cells.insert(1, cell)
    nbformat.write(notebook, target)


def _findings(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the sentences that the cell below the heading :data:`FINDINGS` prints, up to an empty line."""
    for heading, cell in pairwise(notebook.cells):
        if heading.source.startswith(FINDINGS) and cell.cell_type == "code":
            printed = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
            # A sentence begins where a line is not indented.
            findings = re.split(r"\n(?!  )", re.split(r"(?m)^$", printed)[0].strip())
            return [re.sub(r"\s+", " ", finding).removeprefix("- ") for finding in findings if finding]
    return []


def is_done(rendered: Path, hashes: dict[str, str]) -> bool:
    """Return whether a notebook was rendered to its end with these hashes of source, parameters and library."""
    try:
        made = dict(nbformat.read(rendered, as_version=4).metadata["glore"])
    except (OSError, ValueError, KeyError, AttributeError, nbformat.ValidationError):  # AttributeError: other JSON
        return False
    return made.get("complete") is True and hashes.items() <= made.items()


def notebook_hash(source: Path) -> str:
    """Return a hash of a notebook's source cells; outputs and metadata do not count."""
    return digest([[cell.cell_type, cell.source] for cell in nbformat.read(source, as_version=4).cells])


def declared_parameters(source: Path) -> set[str]:
    """Return the names that a notebook's cell tagged ``parameters`` sets."""
    cells = nbformat.read(source, as_version=4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    try:
        tree = ast.parse("\n".join(tagged))
    except SyntaxError as error:
        raise ParamsError(f"notebook {source}: its cell tagged 'parameters' must be Python: {error}") from None
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


class _Cells:
    """Keep track of the code cell at work, numbered as Jupyter does."""

    def __init__(self, source: Path, progress: Callable[[float], None]):
        cells = nbformat.read(source, as_version=4).cells
        own = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in cells)
        self.total = own + 2  # papermill's cell of parameters, and what comes after the cells
        self.number, self.where, self.progress = 0, "before its first cell", progress
        progress(0.0)

    def start(self, cell: nbformat.NotebookNode, **_: Any) -> None:
        self.number += 1
        lines = [line for line in cell.source.splitlines() if line.strip()]
        self.where = f"in cell [{self.number}] ({lines[0].strip()})"

    def end(self, cell: nbformat.NotebookNode, **_: Any) -> None:
        """Print warnings about damaged files to stderr: they belong to this run and not to its results."""
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not line.startswith(NOTE))
                print(*(line for line in lines if line.startswith(NOTE)), sep="", end="", file=sys.stderr)
        cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
        self.progress(self.number / self.total)


def _is_progress_bar(output: nbformat.NotebookNode) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {}) or (
        output.output_type == "stream" and output.name == "stderr" and "\r" in output.text
    )


def without_paths(text: str) -> str:
    """Return a text, such as a warning, without the folders of this machine; data URLs, such as images, are kept."""
    home = os.path.expanduser("~")  # noqa: PTH111  # Path.home() raises where there is none
    data = os.environ.get(DATA_DIR, "").rstrip("/")
    folders = dict.fromkeys([sys.prefix, sys.base_prefix, str(ROOT)], ("/", "")) | {home: ("/", "~/")}
    if Path(data).is_absolute():
        folders[data] = (r"(?![\w.-])", f"${DATA_DIR}")  # messages name it, too, and not only files in it
    parts = re.split(r"(data:\w+/[\w.+-]+[;,][^\s\"'<>)]*)", text)
    for folder, (end, short) in folders.items():
        if len(folder) > 3:  # the home of a container's user may be "/"
            path = rf"(\x1b\[[\d;]*m|(?<![\w./~-])){re.escape(folder)}{end}"
            parts[::2] = [re.sub(path, rf"\g<1>{short}", part) for part in parts[::2]]
    return "".join(parts)
