"""What Airflow's modules and classes had before a DAG file ran, to find out whether the file has replaced any of it.

Airflow parses each file in a process of its own; where several share one, what the first has replaced would be there
for the next. Comparing costs more than parsing a small file, so it is only done after code that could have done it.
"""

from __future__ import annotations

import dis
import operator
import sys
from typing import TYPE_CHECKING, Any

from airflow_updraft._constant import parts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from types import CodeType

_STORES = {dis.opmap["STORE_ATTR"], dis.opmap["DELETE_ATTR"]}
_STORERS = frozenset(["__dict__", "delattr", "eval", "exec", "monkeypatch", "patch", "setattr", "vars"])


class Originals:
    def __init__(self, besides: Collection[type]) -> None:
        self._before = [(names, dict(names)) for names in _names_of_airflow(besides)]

    def are_there(self) -> bool:
        """What was added since is nobody's before, and does not count."""
        return all(
            # In C, and without asking any value whether it is equal to another.
            all(map(operator.is_, map(names.get, before), before.values()))
            or all(names.get(name) is was or _is_late(was, names.get(name)) for name, was in before.items())
            for names, before in self._before
        )


def _is_late(before: Any, now: Any) -> bool:
    """Whether this is an object that Airflow makes when it first needs it, as its first `DagBag` does."""
    return before is None and type(now).__module__.startswith("airflow.")


def may_replace(code: CodeType) -> bool:
    """Whether a module's code sets an attribute of anything, its own `self` too."""
    return any(
        not _STORERS.isdisjoint(part.co_names) or not _STORES.isdisjoint(part.co_code[::2]) for part in parts(code)
    )


def _names_of_airflow(besides: Collection[type]) -> Iterator[Mapping[str, Any]]:
    seen = set(map(id, besides))
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "airflow" or module is None:
            continue
        yield vars(module)
        for value in list(vars(module).values()):
            if isinstance(value, type) and id(value) not in seen and value.__module__.startswith("airflow."):
                seen.add(id(value))
                yield vars(value)
