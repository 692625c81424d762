"""What one DAG file leaves behind in its process, undone before the next one is parsed there.

Not everything can be: a library whose functions were replaced stays that way. So files that are parsed one after the
other in a process are only believed while nothing is wrong with them; the others are parsed again, alone.
"""

from __future__ import annotations

# Without the wrapper that makes an enumeration of each answer.
import _signal  # type: ignore[import-not-found]
import builtins
import contextlib
import copy
import itertools
import logging
import operator
import os
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_updraft._modules import NewModules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_updraft._project import Project

_CONTEXT_MODULES = (
    "airflow.sdk.definitions._internal.contextmanager",
    "airflow.models.dag",
    "airflow.utils.task_group",
)
_CONTEXT = frozenset(
    [
        "_context",
        "_context_managed_dags",
        "_context_managed_task_group",
        "_previous_context_managed_task_groups",
        "active",
        "autoregistered_dags",
        "current_autoregister_module_name",
    ]
)
_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV})


class Leftovers:
    def __init__(self, project: Project) -> None:
        self._project = project
        self._environment = dict(os.environ._data)  # type: ignore[attr-defined]
        patched = [vars(module) for module in (builtins, os, socket, time)]
        self._patched = [(names, dict(names)) for names in patched]
        self._cwd = Path.cwd()
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        self._lists: list[tuple[list[Any], list[Any]]] = [
            (kept, list(kept)) for kept in (sys.path, sys.argv, sys.path_hooks, sys.meta_path)
        ]
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._hooks = sys.excepthook, sys.unraisablehook, sys.getrecursionlimit()
        self._filters = list(warnings.filters)
        root = logging.getLogger()
        self._logging = root.level, list(root.handlers), root.disabled, logging.root.manager.disable
        self._signals = {number: _signal.getsignal(number) for number in _SIGNALS}
        self._threads = threading.active_count()
        self._modules = set(sys.modules)
        self._new_modules = NewModules("leftovers")
        self._contexts = list(_contexts())

    def contexts(self) -> set[type]:
        """The classes whose attributes are other objects after each cleaning."""
        return {context for context, _, _ in self._contexts}

    def has_new_libraries(self) -> bool:
        """Says whether there are modules that are neither the project's nor Airflow's and were not there before."""
        return any(
            name not in self._modules
            and name.partition(".")[0] != "airflow"
            and not self._project.has(sys.modules.get(name))
            for name in self._new_modules.names()
        )

    def _purge_modules(self) -> None:
        """Has the next import run the project's own code again."""
        for name in self._new_modules.names():
            if name in self._modules:
                continue
            if self._project.has(sys.modules.get(name)):
                sys.modules.pop(name, None)
            else:
                self._modules.add(name)
        self._new_modules.begin()

    def clean(self) -> bool:
        """Says whether the process may be used for another file."""
        self._purge_modules()
        signal.setitimer(signal.ITIMER_REAL, 0)
        if os.environ._data != self._environment:  # type: ignore[attr-defined]
            for name in list(os.environ._data):  # type: ignore[attr-defined]
                if name not in self._environment:
                    del os.environ[os.fsdecode(name)]
            for name, value in self._environment.items():
                os.environ[os.fsdecode(name)] = os.fsdecode(value)
        for names, before in self._patched:
            if not _is_same(names, before):
                for name in names.keys() - before.keys():
                    del names[name]
                names.update(before)
        with contextlib.suppress(OSError):
            os.chdir(self._cwd)
        os.umask(self._umask)
        for kept, entries in self._lists:
            kept[:] = entries
        sys.stdin, sys.stdout, sys.stderr = self._streams
        sys.excepthook, sys.unraisablehook = self._hooks[:2]
        sys.setrecursionlimit(self._hooks[2])
        if warnings.filters != self._filters:
            warnings.resetwarnings()
            warnings.filters[:] = self._filters  # type: ignore[index]
        root = logging.getLogger()
        level, root.handlers[:], root.disabled, disabled = self._logging
        # Setting a level empties the caches of all loggers.
        if root.level != level:
            root.setLevel(level)
        if logging.root.manager.disable != disabled:
            logging.root.manager.disable = disabled
        for number, handler in self._signals.items():
            if _signal.getsignal(number) is not handler and handler is not None:
                _signal.signal(number, handler)
        for context, attribute, empty in self._contexts:
            setattr(context, attribute, copy.copy(empty))
        return threading.active_count() == self._threads


def _is_same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    # In C, and without asking any value whether it is equal to another.
    return now.keys() == before.keys() and all(map(operator.is_, now.values(), before.values()))


def _contexts() -> Iterator[tuple[Any, str, Any]]:
    """Yields what holds the DAGs and task groups whose `with` was entered and not left, and the DAGs found so far."""
    for module, name in itertools.product(_CONTEXT_MODULES, ("DagContext", "TaskGroupContext")):
        context = getattr(sys.modules.get(module), name, None)
        for attribute, empty in vars(context or object).items():
            if attribute in _CONTEXT:
                yield context, attribute, copy.copy(empty)
