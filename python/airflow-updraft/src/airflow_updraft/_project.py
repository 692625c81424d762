"""Which code is the user's own, and where in it we are."""

from __future__ import annotations

import os
import sys
import sysconfig


class Project:
    """A folder of DAG files and what they import. Libraries are none of it, wherever they lie."""

    def __init__(self, root: str, dags: str) -> None:
        self.root = os.path.abspath(root)
        self.dags = os.path.abspath(dags)
        self.roots = tuple(dict.fromkeys((self.root, os.path.realpath(self.root))))
        self._prefixes = tuple(root.rstrip("/") + "/" for root in self.roots)
        # A virtual environment often lies in the project.
        libraries = {sys.prefix, sys.exec_prefix, *sysconfig.get_paths().values(), os.path.dirname(__file__)}
        libraries |= {os.path.realpath(folder) for folder in libraries}
        self.outside = tuple(sorted(folder for folder in libraries if folder.startswith(self._prefixes)))
        self._outside = tuple(folder.rstrip("/") + "/" for folder in self.outside)
        self._known: dict[str, str | None] = {}

    def relative(self, path: str) -> str | None:
        """Gives the path within the project; `None` for what is not the user's own."""
        try:
            return self._known[path]
        except KeyError:
            found = self._known[path] = self._relative(path)
            return found

    def _relative(self, path: str) -> str | None:
        if not path.startswith(self._prefixes) or path.startswith(self._outside):
            return None
        return next(path[len(prefix) :] for prefix in self._prefixes if path.startswith(prefix))

    def here(self) -> tuple[str, int] | None:
        """Finds the user's own line that is being run."""
        frame = sys._getframe(1)
        while frame is not None:
            path = self.relative(frame.f_code.co_filename)
            if path is not None:
                return path, frame.f_lineno
            frame = frame.f_back  # type: ignore[assignment]
        return None

    def has(self, module: object) -> bool:
        """Says whether a module is the user's own; also one that somebody made up, which no import could find."""
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            return self.relative(file) is not None
        spec = getattr(module, "__spec__", None)
        if spec is None:
            return True
        if spec.origin in ("built-in", "frozen"):
            return False
        return any(self.relative(f"{folder}/") is not None for folder in spec.submodule_search_locations or ())
