"""A mypy plugin: the fields of DataFrame.itertuples' rows have any type, because columns are not known statically."""

from collections.abc import Callable

from mypy.plugin import AttributeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny


class RowPlugin(Plugin):
    """Without it every field of a row is a union of all scalar types of pandas."""

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type] | None:
        """Return the hook for attributes of rows."""
        if ".PandasNamedTuple." in fullname:
            return lambda context: AnyType(TypeOfAny.special_form)
        return None


def plugin(version: str) -> type[Plugin]:
    """Return the plugin, as mypy expects."""
    return RowPlugin
