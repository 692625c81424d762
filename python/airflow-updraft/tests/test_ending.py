"""The end of a process that waits for nothing any more, in processes of its own."""

from __future__ import annotations

import subprocess
import sys

# Forks a worker, which forks a task that ends with this process's standard input; then waits for ever.
_WAITS = """
import os, signal, sys, threading
from airflow_updraft import _ending
_ending.SECONDS_BETWEEN_LOOKS = 0.01
ready, begun = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    os.write(begun, b"!")
    # Nobody waits for the task, which stays as a zombie.
    signal.pause()
os.read(ready, 1)
def looks_enough():
    print("looked", flush=True)
    return 3
threading.Thread(target=_ending.end_without_tasks, args=(threading.Event(), looks_enough), daemon=True).start()
signal.pause()
"""


def test_it_ends_with_its_last_task_whatever_it_waits_for() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline() == b"looked\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert b"Current thread" in process.stderr.read()
