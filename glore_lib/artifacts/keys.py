"""Hash the code that an artifact depends on."""

import ast
from functools import cache
from pathlib import Path

from glore_lib.params import digest


def source_digest(path: Path) -> str:
    """A hash of what a module does: its comments, docstrings and layout don't count."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return digest(ast.dump(tree))


@cache
def code_digest(*modules: str) -> str:
    """A hash of ``glore_lib`` modules and of all that they import: part of an artifact's key, so that results of other
    code are never taken for this code's. Of the tasks that :mod:`glore_lib.tasks` can load, those of ``modules`` alone
    count."""
    seen: dict[str, str] = {}
    todo = [*modules]
    while todo:
        name = todo.pop()
        path = Path(__file__).parents[2].joinpath(*name.split("."))
        source = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()), None)
        if source and name not in seen:
            tree = ast.parse(source.read_text())
            seen[name] = source_digest(source)
            if name != "glore_lib.tasks":
                todo += [imported for node in ast.walk(tree) for imported in _imports(node)]
    return digest(seen)


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("glore_lib"):
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.startswith("glore_lib")]
    return []
