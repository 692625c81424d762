"""The end of a process whose workers run tasks, whatever it waits for."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

SECONDS_BETWEEN_LOOKS = 5.0
# Looks in a row that find no task, until none comes any more: a worker begins the next at once.
LOOKS = 4


def _children_by_parent() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat") as stat:
                # The name before it may hold anything.
                state, parent = stat.read().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    found.setdefault(int(parent), []).append(int(entry))
    return found


def end_without_tasks(ended: threading.Event, looks_enough: Callable[[], int] = lambda: LOOKS) -> None:
    """Ends this process where its workers have had no task for some looks.

    A task is a child of a worker, and a worker is a child of this process.
    """
    looks = 0
    while not ended.wait(SECONDS_BETWEEN_LOOKS):
        children = _children_by_parent()
        workers = children.get(os.getpid(), [])
        looks = 0 if any(worker in children for worker in workers) else looks + 1
        if looks >= looks_enough():
            # Where it waits is in its log.
            faulthandler.dump_traceback()
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            os._exit(0)
