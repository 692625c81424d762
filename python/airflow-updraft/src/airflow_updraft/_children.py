"""What the proof needs around its children in every release of Airflow."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.utils.session import create_session
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm.exc import StaleDataError

if TYPE_CHECKING:
    from collections.abc import Callable

# Beside the limit that Airflow applies inside the child, for code that no signal interrupts.
GRACE_S = 10.0

_TRIES = 6
_PR_SET_PDEATHSIG = 1
_T = TypeVar("_T")


def in_transaction(work: Callable[[Any], _T]) -> _T:
    """Runs it in a transaction of its own, and again when the processor wrote the same rows or held the lock.

    Airflow's own retries stay within one session, which cannot go on after a row that both have just made.
    """
    for attempt in range(_TRIES):
        try:
            with create_session() as session:
                return work(session)
        except (DBAPIError, StaleDataError, PendingRollbackError):
            if attempt + 1 == _TRIES:
                raise
            time.sleep(random.uniform(0.1, 0.5) * (attempt + 1))
    raise AssertionError("the last try returns or raises")


def import_early(modules: list[str]) -> None:
    """Imports what a DAG file needed of Airflow here too, so that the next children inherit it.

    Airflow's processor does this for the imports at the top of a file, and so misses what `airflow.sdk` loads on
    demand: some 200 ms of each parse.
    """
    # The list comes from a child, in which DAG code may have written it: only Airflow's own is imported here.
    missing = [name for name in modules if name.startswith("airflow.") and name not in sys.modules]
    for name in missing:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    if missing:
        # A child copies every page on which its garbage collector marks what it inherited.
        gc.freeze()


def end_with(parent: int) -> None:
    """Has the kernel end this child with its parent; one that lives on would write what it parsed of old files."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)  # it ended before the kernel was told


def limit_memory(allowance: int) -> None:
    # The child starts with the parent's address space, most of it shared; only what it adds counts.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + allowance
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
