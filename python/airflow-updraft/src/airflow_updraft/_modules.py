"""Which modules were imported since a moment, found without looking at the thousands from before."""

from __future__ import annotations

import itertools
import sys
from types import ModuleType

_MARKS = f"{__name__}."


class NewModules:
    """Keeps a mark in `sys.modules`, which is in the order in which modules came."""

    def __init__(self, name: str) -> None:
        self._mark = _MARKS + name
        self._module = ModuleType(self._mark)
        self._module.__file__ = __file__
        self.begin()

    def begin(self) -> None:
        """Has those that come from here on be the new ones."""
        sys.modules.pop(self._mark, None)
        sys.modules[self._mark] = self._module

    def names(self) -> list[str]:
        """Names them, and any that was there, went, and came again; all, where somebody took the mark away."""
        try:
            after = list(itertools.takewhile(self._mark.__ne__, reversed(sys.modules)))
        except RuntimeError:  # a thread imports
            after = list(itertools.takewhile(self._mark.__ne__, reversed(list(sys.modules))))
        return [name for name in after if not name.startswith(_MARKS)][::-1]
