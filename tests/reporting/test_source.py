"""What notebooks show of a function is its source."""

from functools import lru_cache

from glore_lib.method import step_labels
from glore_lib.method.evaluation import DraftSet, Tables, pick
from glore_lib.reporting import source


@lru_cache
def decorated(x: int) -> int:
    """Double a number."""
    return 2 * x


def test_a_function_is_shown_under_its_path_and_name():
    shown = source.show(step_labels.orm_labels)._repr_markdown_()
    heading, empty, fence, first, *_, last = shown.splitlines()
    assert (heading, empty, fence, last) == ("`glore_lib/method/step_labels.py` · `orm_labels`", "", "```python", "```")
    assert first.startswith("def orm_labels(")
    code = shown.partition("```python\n")[2].removesuffix("\n```")
    assert code in (source.PACKAGE / "method" / "step_labels.py").read_text(encoding="utf-8")


def test_decorators_and_docstrings_are_kept_and_methods_dedented():
    code = repr(source.show(decorated)).partition("\n\n")[2]
    assert code == '@lru_cache\ndef decorated(x: int) -> int:\n    """Double a number."""\n    return 2 * x'
    method = repr(source.show(Tables.right)).splitlines()
    assert method[0] == "`glore_lib/method/evaluation.py` · `Tables.right`"
    assert method[2].startswith("def right(self")
    assert repr(source.show(DraftSet)).splitlines()[2] == "@dataclass(frozen=True)"


def test_several_functions_are_shown_in_their_order():
    shown = repr(source.show(pick, step_labels.first_errors))
    assert shown.index("· `pick`") < shown.index("def pick(") < shown.index("· `first_errors`")
