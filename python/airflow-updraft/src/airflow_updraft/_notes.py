"""Refresh notes: what the DAG processor has seen of a bundle, left on disk for the proof.

The processor calls `refresh()` on its bundle; no other component of Airflow does. A note therefore says: this
process, at this point of its loop, took over this version.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Note:
    pid: int
    start_time: int
    version: str
    seq: int
    at: float


def path(notes: Path, bundle: str) -> Path:
    return notes / f"{bundle}.refresh.json"


def write(notes: Path, bundle: str, note: Note) -> None:
    target = path(notes, bundle)
    _replace(target, asdict(note))


def read(notes: Path, bundle: str) -> Note | None:
    try:
        return Note(**json.loads(path(notes, bundle).read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def hold(notes: Path, bundle: str, seconds: float) -> Iterator[None]:
    """Asks the DAG processor to take over a new version only after this block, or after `seconds`.

    The processor looks for new files when it takes over a version. Would it do so while a proof writes the DAGs of
    the same files, both could make the same row, which ends the processor of Airflow 3.0 to 3.2; and both would
    compete for the processors of the machine.
    """
    target = notes / f"{bundle}.hold.json"
    try:
        _replace(target, {"pid": os.getpid(), "start_time": own_start_time(), "until": time.time() + seconds})
        yield
    finally:
        target.unlink(missing_ok=True)


def is_held(notes: Path, bundle: str) -> bool:
    try:
        held = json.loads((notes / f"{bundle}.hold.json").read_text())
        return time.time() < held["until"] and runs(held["pid"], held["start_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _replace(target: Path, content: dict[str, object]) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content))
    temporary.replace(target)


@dataclass(frozen=True)
class Process:
    """A line of /proc: who started it, and when, in clock ticks since boot. The latter tells reused pids apart."""

    pid: int
    parent: int
    start_time: int
    ended: bool


def process(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(pid, parent=int(fields[1]), start_time=int(fields[19]), ended=fields[0] in "ZX")


def processes() -> Iterator[Process]:
    for name in os.listdir("/proc"):
        found = process(int(name)) if name.isdigit() else None
        if found is not None:
            yield found


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def runs(pid: int, start_time: int) -> bool:
    found = process(pid)
    return found is not None and not found.ended and found.start_time == start_time


def own_start_time() -> int:
    found = process(os.getpid())
    return found.start_time if found is not None else 0
