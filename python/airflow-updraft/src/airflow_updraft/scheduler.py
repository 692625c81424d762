"""Airflow's scheduler, replaced without harm to its tasks: `python -m airflow_updraft.scheduler [ARGUMENTS]`.

Told to end, Airflow's own scheduler takes no new work and waits for the tasks that are its children. Meanwhile it
says nothing of itself, so after half a minute another scheduler takes those tasks for lost and starts them a second
time. This one goes on saying that it is alive until they have ended, however often it is told to.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import signal
import sys
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from airflow_updraft._ending import end_without_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A scheduler is taken for lost after 30 s by default (`scheduler_health_check_threshold`).
_SAYS_SO_EACH_S = 5.0


def _say_alive(job_id: int) -> None:
    from airflow.jobs.job import Job
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        now = datetime.now(timezone.utc)
        session.execute(update(Job).where(Job.id == job_id).values(latest_heartbeat=now))


def _stay_alive(ended: threading.Event, job_id: Any) -> None:
    while not ended.wait(_SAYS_SO_EACH_S):
        # A database that is away comes back.
        with contextlib.suppress(Exception):
            _say_alive(int(job_id))


@contextlib.contextmanager
def _beside(*works: Callable[[threading.Event], None]) -> Iterator[None]:
    """Has work done in threads that nobody waits for, until the end."""
    ended = threading.Event()
    for work in works:
        threading.Thread(target=work, args=(ended,), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _wait_for_tasks(executor: type[Any]) -> None:
    """Has an executor whose tasks are its children wait for them undisturbed."""
    end = executor.end

    def end_undisturbed(self: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        with _beside(functools.partial(_stay_alive, job_id=self.job_id), end_without_tasks):
            end(self)

    executor.end = end_undisturbed


def _finish_first(executor: type[Any], runner: type[Any]) -> None:
    """Lets the one task end that this executor runs in the scheduler itself; an exception would end it."""
    sync, exit_gracefully = executor.sync, runner._exit_gracefully
    running: list[Any] = []
    told: list[int] = []

    def sync_undisturbed(self: Any) -> None:
        if not self.commands_to_run:
            return
        running.append(self)
        try:
            with _beside(functools.partial(_stay_alive, job_id=self.job_id)):
                sync(self)
        finally:
            running.pop()
        if told:
            sys.exit(0)

    def exit_after_it(self: Any, signum: int, frame: Any) -> None:
        if running:
            told.append(signum)
        else:
            exit_gracefully(self, signum, frame)

    executor.sync = sync_undisturbed
    runner._exit_gracefully = exit_after_it


def main() -> None:
    from airflow.executors.local_executor import LocalExecutor
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    _wait_for_tasks(LocalExecutor)
    with contextlib.suppress(ImportError):
        # Airflow 2's.
        sequential = importlib.import_module("airflow.executors.sequential_executor")
        _finish_first(sequential.SequentialExecutor, SchedulerJobRunner)
    sys.argv[:] = ["airflow", "scheduler", *sys.argv[1:]]
    importlib.import_module("airflow.__main__").main()


if __name__ == "__main__":
    main()
