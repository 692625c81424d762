"""Airflow's Celery worker, which says whether it works: `python -m airflow_updraft.celery_worker FOLDER [ARGUMENTS]`.

Airflow's health knows no workers, and asking one through Celery takes seconds of imports and a broker that answers.
This one keeps a file in FOLDER that is named after its process: its time is when the worker was last at work,
connected to the broker. Told to end, Celery's worker takes nothing new and waits for the tasks that it has; now and
then it goes on waiting when they have ended, and this one does not.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

from airflow_updraft._ending import LOOKS, end_without_tasks

# What is still counted as running may have its log sent away: five minutes.
_LOOKS_WHILE_COUNTED = 60


def _says_so(file: Path) -> None:
    signals = importlib.import_module("celery.signals")
    state = importlib.import_module("celery.worker.state")

    def is_ready(**_: Any) -> None:
        # A full disk says so itself.
        with contextlib.suppress(OSError):
            file.touch()

    def works(**_: Any) -> None:
        with contextlib.suppress(OSError):
            os.utime(file)

    def takes_nothing_new(**_: Any) -> None:
        signals.worker_ready.disconnect(is_ready)
        with contextlib.suppress(OSError):
            file.unlink()
        threading.Thread(target=end_without_tasks, args=(threading.Event(), looks_enough), daemon=True).start()

    def looks_enough() -> int:
        return _LOOKS_WHILE_COUNTED if state.active_requests else LOOKS

    signals.worker_ready.connect(is_ready, weak=False)
    signals.heartbeat_sent.connect(works, weak=False)
    signals.worker_shutting_down.connect(takes_nothing_new, weak=False)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("celery-worker.*"):
        pid = left.suffix[1:]
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            left.unlink(missing_ok=True)
    _says_so(folder / f"celery-worker.{os.getpid()}")
    # Beside the one that it replaces, it needs a name of its own.
    name = f"updraft-{os.getpid()}@%h"
    sys.argv[:] = ["airflow", "celery", "worker", "--celery-hostname", name, *sys.argv[2:]]
    importlib.import_module("airflow.__main__").main()


if __name__ == "__main__":
    main()
