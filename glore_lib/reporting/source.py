"""Show a function's source in a notebook: the code that the pipeline runs and the tests cover, not a copy of it."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glore_lib.params import PACKAGE


@dataclass(frozen=True)
class Source:
    """The source of some functions as (path and name, code), displayed by notebooks as highlighted Python."""

    listings: tuple[tuple[str, str], ...]

    def _repr_markdown_(self) -> str:
        return "\n\n".join(f"{heading}\n\n```python\n{code}\n```" for heading, code in self.listings)

    def __repr__(self) -> str:
        return "\n\n".join(f"{heading}\n\n{code}" for heading, code in self.listings)


def show(*functions: Callable) -> Source:
    """Return the source of ``functions`` to display, with decorators and docstrings, each under its path and name."""
    return Source(tuple((_heading(f), textwrap.dedent(inspect.getsource(f)).rstrip()) for f in functions))


def _heading(function: Callable) -> str:
    path = Path(inspect.getfile(inspect.unwrap(function))).resolve().relative_to(PACKAGE.parent)
    return f"`{path.as_posix()}` · `{function.__qualname__}`"
