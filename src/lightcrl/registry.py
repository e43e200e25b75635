"""Tables of families: names and the locations of their objects.

Entries are `"module:attribute"` strings, imported on demand, so that reading a table is cheap and an addition is a
single line. The user's own objects are named in the same way, `"package.module:Class"`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from lightcrl.errors import LightCRLError, UnknownNameError

T = TypeVar("T")


def import_object(path: str) -> Any:
    """Return the object that `"package.module:attribute"` names.

    >>> import_object("math:floor")(2.5)
    2

    Raises:
        LightCRLError: the module cannot be imported, or has no such attribute.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = import_module(module_name)
    except (ImportError, TypeError, ValueError) as error:  # TypeError and ValueError: an empty or relative module name
        raise LightCRLError(
            f"cannot import {module_name!r} for {path!r}: {error}. Expected 'package.module:Class' on the Python path "
            "(install the package, or set PYTHONPATH to the folder that holds it)."
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise LightCRLError(f"{module_name!r} has no {attribute!r} (from {path!r}).") from None


class Table(Mapping[str, str], Generic[T]):
    """The members of a family, by name.

    >>> shapes = Table("shape", {"floor": "math:floor"})
    >>> list(shapes), shapes.load("floor")(2.5)
    (['floor'], 2)
    """

    def __init__(self, what: str, entries: Mapping[str, str]) -> None:
        self.what = what
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownNameError(self.what, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> T:
        """Return the member called `name`; a name with a colon is `"package.module:Class"`.

        Raises:
            UnknownNameError: there is no such member; the message has the nearest name.
        """
        member: T = import_object(name if ":" in name else self[name])
        return member
