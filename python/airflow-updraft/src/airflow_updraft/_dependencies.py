"""What a DAG file depends on within its bundle, recorded while it is parsed, and matched against a change.

Recording errs on one side: a file that was not really needed costs a parse, a file that was missed would be a
deploy called proven that is not.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_updraft._modules import NewModules

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import CodeType

# After one of these, files may have been read where no hook of ours sees it.
_LEAVES_OUR_SIGHT = frozenset(
    {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn", "subprocess.Popen"}
)


@dataclass
class Seen:
    """What one parse looked at, as paths relative to the bundle."""

    files: set[str] = field(default_factory=set)
    """Opened, imported or asked about (`exists()`), also when that failed."""

    names: set[str] = field(default_factory=set)
    """Where a module or a folder was looked for: `lib/foo` for any of `lib/foo.py`, `lib/foo/`, `lib/foo.so`."""

    folders: set[str] = field(default_factory=set)
    """Listed; the bundle itself is the empty string."""

    everything: bool = False
    """It did something that hides what it read."""

    def to_json(self) -> dict[str, Any]:
        return {
            "files": sorted(self.files),
            "names": sorted(self.names),
            "folders": sorted(self.folders),
            "everything": self.everything,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Seen:
        return cls(set(data["files"]), set(data["names"]), set(data["folders"]), data["everything"])


class Change:
    """The files that differ between two versions of a bundle."""

    def __init__(self, changed: Iterable[str], added: Iterable[str], removed: Iterable[str]) -> None:
        self.changed = frozenset(changed)
        self.added = frozenset(added)
        self.removed = frozenset(removed)
        self.files = self.changed | self.added | self.removed
        came_or_went = self.added | self.removed
        self._names = {name for path in came_or_went for name in _module_names(path)}
        self._folders = {folder for path in came_or_went for folder in folders_above(path)}

    def touches(self, seen: Seen) -> bool:
        return (
            not self.files.isdisjoint(seen.files)
            or not self._names.isdisjoint(seen.names)
            or not self._folders.isdisjoint(seen.folders)
        )

    def unexplained(self, records: Iterable[Seen]) -> set[str]:
        """Finds data files that no parse is known to look at.

        A parse may have read one in compiled code, which leaves no trace.
        """
        rest = {path for path in self.files if not path.endswith(".py") and not is_ignore_file(path)}
        for seen in records:
            if not rest:
                break
            rest -= seen.files
            if seen.folders:
                rest -= {path for path in rest - self.changed if not seen.folders.isdisjoint(folders_above(path))}
        return rest


def is_ignore_file(path: str) -> bool:
    return path.rpartition("/")[2] == ".airflowignore"


def _module_names(path: str) -> Iterable[str]:
    """Yields every name under which an import could be answered by this path or a folder above it."""
    folder, _, name = path.rpartition("/")
    yield from folders_above(path) - {""}
    yield os.path.join(folder, name.split(".", 1)[0])


def folders_above(path: str) -> set[str]:
    parts = path.split("/")[:-1]
    return {"/".join(parts[:depth]) for depth in range(len(parts) + 1)}


class Recorder:
    """Watches this process parse files. There is no way to stop it, so it lives in a child of its own."""

    def __init__(self, *roots: str, outside: tuple[str, ...] = ()) -> None:
        """Folders `outside` lie below a root and do not count, as a virtual environment in a project."""
        self._roots = tuple(dict.fromkeys(root.rstrip("/") for root in roots))
        self._outside = tuple(folder.rstrip("/") + "/" for folder in outside)
        self._known: dict[str, tuple[str, ...]] = {}
        self.seen = Seen()
        self.ran: dict[str, list[CodeType]] = {}
        """The code of modules, by path, as it was run."""

    def start(self) -> None:
        self._modules = NewModules("recorder")
        sys.meta_path.insert(0, self)
        sys.addaudithook(self._on_event)
        for name in ("stat", "lstat", "access"):
            self._watch_questions(name)

    def again(self) -> None:
        """Begins a new record, for the next file."""
        self._modules.begin()
        # The file before may have put a finder of its own first.
        if sys.meta_path[:1] != [self]:
            sys.meta_path[:] = [self, *(finder for finder in sys.meta_path if finder is not self)]
        self.seen = Seen()
        self.ran = {}

    def finish(self) -> Seen:
        for name in self.imported():
            module = sys.modules.get(name)
            # With a bytecode cache the source itself is never opened.
            for path in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
                if isinstance(path, str):
                    self.seen.files.update(self._inside(path))
        return self.seen

    def imported(self) -> list[str]:
        """Names the modules that were imported since the start."""
        return self._modules.names()

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> None:
        """Stands first among the import finders, notes where the import will look, and finds nothing."""
        tail = name.rpartition(".")[2]
        for entry in list(sys.path if path is None else path):
            if isinstance(entry, str):
                self.seen.names.update(os.path.join(folder, tail) for folder in self._inside(entry or "."))

    def _watch_questions(self, name: str) -> None:
        """Notes what is asked about a path, of which Python tells no audit hook: whether it exists, mostly."""
        ask = getattr(os, name)

        @functools.wraps(ask)
        def asked(path: Any, *args: Any, **kwargs: Any) -> Any:
            # Following links to a real path asks about every folder on the way, and its answer is a name only.
            if sys._getframe(1).f_code.co_name not in ("realpath", "_joinrealpath"):
                with contextlib.suppress(Exception):
                    inside = self._inside(path)
                    self.seen.files.update(inside)
                    self.seen.names.update(inside)
            return ask(path, *args, **kwargs)

        setattr(os, name, asked)
        # Python 3.10 keeps them in a class, where a plain function would become a method.
        accessor = getattr(pathlib, "_NormalAccessor", None)
        if name in vars(accessor or object):
            setattr(accessor, name, staticmethod(asked))

    def _on_event(self, event: str, args: tuple[Any, ...]) -> None:
        # An exception here would surface in the DAG's own code.
        with contextlib.suppress(Exception):
            if event == "open":
                self.seen.files.update(self._inside(args[0]))
            elif event == "exec":
                path = args[0].co_filename
                if path.startswith(self._roots):
                    self.ran.setdefault(path, []).append(args[0])
            elif event in ("os.listdir", "os.scandir"):
                # The import system lists the folders it searches; `find_spec` records those more precisely.
                if sys._getframe(1).f_code.co_filename != "<frozen importlib._bootstrap_external>":
                    self.seen.folders.update(self._inside(args[0]))
            elif event in _LEAVES_OUR_SIGHT:
                self.seen.everything = True

    def _inside(self, path: Any) -> tuple[str, ...]:
        """Gives the path relative to the bundle; two of them when a link inside the bundle was followed."""
        if path is None:
            path = "."
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        text = os.path.abspath(os.fsdecode(path))
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._resolve(text)
        return known

    def _resolve(self, path: str) -> tuple[str, ...]:
        named = self._relative(path)
        if named is None:
            return ()
        real = self._relative(os.path.realpath(path))
        if real is None or real == named:
            return (named,)
        return (named, real, *(folder for folder in folders_above(named) if folder))

    def _relative(self, path: str) -> str | None:
        if self._outside and f"{path}/".startswith(self._outside):
            return None
        for root in self._roots:
            if path == root:
                return ""
            if path.startswith(root + "/"):
                return path[len(root) + 1 :]
        return None
