"""Hash the code that computes an artifact, definition by definition.

An artifact's key must change with every edit that can change its content, and with no other. Starting from the function
that makes an artifact, :func:`code_key` collects the functions, classes and constants of the library that it reaches
and hashes their syntax trees without docstrings, annotations, warnings and error messages. Code that only stores
results or validates parameters is left out. :func:`code_hash` does the same for rendered notebooks, where the packages
of :data:`NOT_COMPUTING` count too.

Names are resolved statically. A class is taken whole, except the facades in :data:`FACADES`, which give access to the
whole method: of these only the attributes in use are followed.
"""

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from glore_lib.params import SHIPPED, Params, digest

Definition = tuple[str, str]  # module, dotted name in it
PACKAGE = Path(__file__).resolve().parents[1]
# These store and validate. What they pass on (parameters, inputs) is in a key by its value.
NOT_COMPUTING = ("artifacts", "params", "workflow", "reporting", "cost", "cli")
# Of these packages a run uses one module, which its parameters choose.
ALTERNATIVES = ("sampling.transformers", "sampling.vllm", "sampling.ray", "tasks.")
FACADES = {"Run": "run", "Replication": "method.replication", "SplitEvaluation": "method.replication"}
ANY_OBJECT = "Run"  # its attributes are followed on every object, since it is passed around under many names
# How results are stored, where the base model comes from and what it supports: a key holds the model's files and that.
NOT_FOLLOWED = {
    f"Run.{name}"
    for name in (
        "base",
        "_own_base",
        "_packed_base",
        "base_key",
        "_base_fingerprint",
        "support",
        "frame",
        "folder",
        "_key",
        "finish",
    )
}
# What no notebook shows although its code reaches it, and assets that none shows.
NOT_SHOWN = ("workflow", "artifacts.keys", "artifacts.locks", "artifacts.manifest", "artifacts.packed", "sampling.ray")
ASSETS_NOT_SHOWN = ("assets/dataset.md", "assets/report.html.jinja")
# What only runs on published questions show.
BENCHMARKS = tuple(f"tasks.{name}" for name in ("benchmarks", "gsm8k", "svamp", "judged", "mr_gsm8k", "processbench"))
SCRIPT = "<script>"  # what stands for a script among the modules
SILENT = {"warn", "print"}  # calls whose arguments are messages


@dataclass
class _Module:
    """A parsed module: its definitions, its imports, and the statements that run when it is imported."""

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Definition] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)


class Library:
    """The source of a package in the folder ``root``, parsed when needed.

    Code is not followed into modules whose names begin with one of ``outside``, and into ``alternatives`` only if they
    are chosen. Classes in ``facades`` are not taken whole.
    """

    def __init__(
        self, root: Path, outside: tuple[str, ...] = NOT_COMPUTING, alternatives: tuple[str, ...] = ALTERNATIVES,
        facades: Mapping[str, str] = FACADES,
    ):  # fmt: skip
        self.root, self.outside, self.alternatives, self.facades = root, outside, alternatives, facades
        self._modules: dict[str, _Module] = {}
        self._paths: dict[str, Path | None] = {}
        self._visited: dict[tuple[Definition, str], tuple[str, set[Definition]]] = {}

    def code_key(self, start: str, task: str = "", backend: str = "") -> dict[str, str]:
        """Return the hash of the definitions that each module contributes to ``start``, by the module's path.

        Names are "module:definition" below the package. ``task`` is followed where the code uses a run's task,
        ``backend`` is the module that samples. Raises KeyError where ``start`` is not defined.
        """
        first = self._resolve(*start.split(":"))
        if first is None:
            raise KeyError(start)
        return self._by_path(self._reached({first}, task, backend))

    def script_key(self, source: str) -> dict[str, str]:
        """Return what :meth:`code_key` does for a script that imports from the package."""
        return self._by_path(self.reached_by(source))

    def reached_by(self, source: str) -> dict[str, dict[str, str]]:
        """Return the hashes of the definitions that a script reaches, by module and name."""
        tree = ast.parse(source)
        self._modules[SCRIPT] = _Module(imports=_imports(tree.body, self.root.name))
        return self._reached({d for node in tree.body for d in self._references(SCRIPT, "", node, "")}, "", "")

    def _reached(self, first: set[Definition], task: str, backend: str) -> dict[str, dict[str, str]]:
        reached: dict[str, dict[str, str]] = {}
        todo, seen = [*first], {*first}
        while todo:
            module, name = todo.pop()
            found: set[Definition] = set()
            for part in {name, ""} - set(reached.setdefault(module, {})):
                reached[module][part], references = self._visit((module, part), task)
                found |= references
            for definition in found - seen:
                where = definition[0]
                if not where.startswith(self.alternatives) or where in (backend, task.partition(":")[0]):
                    seen.add(definition)
                    todo.append(definition)
        return reached

    def _by_path(self, reached: dict[str, dict[str, str]]) -> dict[str, str]:
        paths = {module: self._path(module) for module in reached}
        return {
            path.relative_to(self.root).as_posix(): digest(reached[module])
            for module, path in sorted(paths.items())
            if path
        }

    def _visit(self, definition: Definition, task: str) -> tuple[str, set[Definition]]:
        """Return the hash and the references of a definition; for "", of what runs when the module is imported."""
        if (definition, task) not in self._visited:
            module, name = definition
            nodes = self._nodes(module, name) if name else self._module(module).effects
            references = {d for node in nodes for d in self._references(module, name, node, task)}
            self._visited[definition, task] = "".join(map(fingerprint, nodes)), references
        return self._visited[definition, task]

    def _nodes(self, module: str, name: str) -> list[ast.stmt]:
        """Return the statements that define a name; of a facade, only the member."""
        top, _, member = name.partition(".")
        nodes = self._module(module).definitions[top]
        if not member:
            return nodes
        children = [child for node in nodes if isinstance(node, ast.ClassDef) for child in node.body]
        return [child for child in children if getattr(child, "name", "") == member]

    def _references(self, module: str, name: str, node: ast.stmt, task: str) -> set[Definition]:
        """Return the definitions of the package that a statement names."""
        local = _imports([node], self.root.name) | self._module(module).imports
        facade = name.partition(".")[0]
        found: set[Definition | None] = set()
        if facade in self.facades:  # what it holds is built there
            found |= {self._member(other, "__init__") for other, place in self.facades.items() if place == module}
        for part in ast.walk(node):
            if isinstance(part, ast.Name):
                found.add(self._resolve(*local.get(part.id, (module, part.id))))
            elif isinstance(part, ast.Attribute):
                owner = part.value
                if isinstance(owner, ast.Name) and owner.id in local:
                    found.add(self._resolve(".".join(filter(None, local[owner.id])), part.attr))
                if isinstance(owner, ast.Name) and owner.id == "self" and facade in self.facades:
                    found.add(self._member(facade, part.attr))
                if ANY_OBJECT in self.facades:
                    found.add(self._member(ANY_OBJECT, part.attr))
                if part.attr == "task" and task:
                    found.add(self._resolve(*task.split(":")))
        return {definition for definition in found if definition}

    def _member(self, facade: str, name: str) -> Definition | None:
        definition = self.facades[facade], f"{facade}.{name}"
        if facade not in self._module(self.facades[facade]).definitions or definition[1] in NOT_FOLLOWED:
            return None
        return definition if self._nodes(*definition) else None

    def _resolve(self, module: str, name: str) -> Definition | None:
        """Return where a name is defined, followed through imports; None outside the code that counts."""
        top = name.partition(".")[0]
        while not module.startswith(self.outside) and self._path(module):
            source = self._module(module)
            if top in source.definitions:
                return (module, name) if top not in self.facades or "." in name else None
            if top not in source.imports:
                return None
            module, top = source.imports[top]
            name = top
        return None

    def _path(self, module: str) -> Path | None:
        if module not in self._paths:
            path = self.root.joinpath(*module.split("."))
            files = (path.with_suffix(".py"), path / "__init__.py")
            self._paths[module] = next((file for file in files if file.is_file()), None)
        return self._paths[module]

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            path = self._path(name)
            package = name.split(".") if path and path.name == "__init__.py" else name.split(".")[:-1]
            self._modules[name] = _parsed(path.read_bytes() if path else b"", self.root.name, tuple(package))
        return self._modules[name]


@cache
def _parsed(source: bytes, package: str, parents: tuple[str, ...]) -> _Module:
    tree = ast.parse(source)
    made = _Module(imports=_imports(tree.body, package, parents))
    for node in _without_docstring(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        else:
            names = []
            if not isinstance(node, ast.Import | ast.ImportFrom | ast.If):
                made.effects.append(node)
        for name in names:
            made.definitions.setdefault(name, []).append(node)
    return made


def _imports(body: list[ast.stmt], package: str, parents: Sequence[str] | None = None) -> dict[str, Definition]:
    """Return (module below the package, name in it) by local name; the name is empty for an imported module."""
    found: dict[str, Definition] = {}
    for node in (part for statement in body for part in ast.walk(statement)):
        if isinstance(node, ast.ImportFrom):
            if node.level and parents is not None:
                base = parents[: len(parents) - node.level + 1]
                module = ".".join([*base, *([node.module] if node.module else [])])
            elif (node.module or "").split(".")[0] == package:
                module = (node.module or "").partition(".")[2]
            else:
                continue
            for alias in node.names:
                found[alias.asname or alias.name] = (module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(f"{package}.") and alias.asname:
                    found[alias.asname] = (alias.name.partition(".")[2], "")
    return found


class _Normalised(ast.NodeTransformer):
    """Remove what cannot change a result."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self.generic_visit(node)
        node.body = _without_docstring(node.body)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.body, node.returns, node.type_comment = _without_docstring(node.body) or [ast.Pass()], None, None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.body = _without_docstring(node.body) or [ast.Pass()]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return ast.Assign([node.target], node.value) if node.value else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name.endswith(("Error", "Exception")) or name in SILENT:
            node.args, node.keywords = [], []
        return node.args[1] if name == "cast" and len(node.args) == 2 else node

    def visit_Assert(self, node: ast.Assert) -> None:
        return None


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if is_docstring else body


@cache
def fingerprint(node: ast.AST) -> str:
    """Return a hash of what a piece of code does, the same on every version of Python."""
    return _hash(ast.parse(ast.unparse(node)))


def _hash(tree: ast.AST) -> str:
    """Return the hash of a tree, which is changed on the way."""
    return digest(_dump(_Normalised().visit(tree)))


def _dump(value: Any) -> str:
    """Return what :func:`ast.dump` of Python 3.11 does; later ones have type parameters, and leave out empty lists."""
    if isinstance(value, list):
        return f"[{', '.join(map(_dump, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = {name: getattr(value, name, None) for name in value._fields}
    shown = {
        name: field
        for name, field in fields.items()
        if not (field is None and getattr(type(value), name, ...) is None) and (field or name != "type_params")
    }
    return f"{type(value).__name__}({', '.join(f'{name}={_dump(field)}' for name, field in shown.items())})"


@cache
def code_key(start: str, task: str = "", backend: str = "") -> dict[str, str]:
    """Return :meth:`Library.code_key` of this package."""
    return _library().code_key(start, task, backend)


@cache
def _library() -> Library:
    return Library(PACKAGE)


def code_of(start: str, task: str = "", backend: str = "") -> dict[str, Any]:
    """Return what an artifact's key says of the code: where it starts, the choices that it depends on, and the modules.

    :func:`code_key` gives the same modules for the same start and choices as long as the code does not change.
    """
    modules = code_key(start, task, backend)
    used = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in modules}
    return {
        "start": start,
        "task": task if task.partition(":")[0] in used else "",
        "backend": backend if backend in used else "",
        "modules": modules,
    }


def start_of(make: Any) -> str:
    """Return where the code of a function begins: "module:definition", with the member of a facade."""
    top, *rest = make.__qualname__.split(".")
    return f"{below_package(make.__module__)}:{f'{top}.{rest[0]}' if top in FACADES else top}"


def below_package(module: str) -> str:
    """Return a module's dotted name below the package."""
    return module.partition(".")[2]


def code_hash(params: Params | None = None) -> str:
    """Return a hash of all that can change what the notebooks of a run show: the code that they reach, and the assets.

    Samplers and tasks that the run does not use are left out. Without parameters, the hash is that of a comparison.
    """
    unused: tuple[str, ...] = ()
    if not params or params.task.name == "arithmetic":
        unused += BENCHMARKS
    if not params or params.sampling.backend != "vllm":
        unused += ("sampling.vllm",)
    folder = notebooks_of(PACKAGE.parent)
    notebooks = (
        [*folder.glob("0[1-5]_*.ipynb"), *folder.glob("appendix/*.ipynb")] if params else folder.glob("06_*.ipynb")
    )
    read = tuple((path, path.read_bytes()) for path in [*sorted(notebooks), *sorted(PACKAGE.rglob("*.py"))])
    files = {path.relative_to(PACKAGE).as_posix(): path for path in (PACKAGE / "assets").rglob("*") if path.is_file()}
    assets = {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in files.keys() - {*ASSETS_NOT_SHOWN}}
    return digest([_shown_by(read, unused), assets])


def notebooks_of(clone: Path) -> Path:
    """Return the folder of the notebooks: a clone's, or that of an installed package."""
    return (SHIPPED if SHIPPED.is_dir() else clone) / "notebooks"


@cache
def _shown_by(read: tuple[tuple[Path, bytes], ...], unused: tuple[str, ...]) -> dict[str, str]:
    """Return the hash of what notebooks reach of each module, by the module's path.

    ``read`` are the notebooks and all modules with their contents, so that an edit of either is noticed.
    """
    library = Library(PACKAGE, outside=(*NOT_SHOWN, *unused), alternatives=(), facades={})
    return library.script_key("\n".join(code_cells(content) for path, content in read if path.suffix == ".ipynb"))


def code_cells(notebook: bytes) -> str:
    """Return the code of a notebook's file as one script."""
    cells = [cell["source"] for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(source) for source in cells)
