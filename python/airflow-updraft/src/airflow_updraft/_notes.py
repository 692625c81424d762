"""What the DAG processor and a proof leave on disk for each other.

The processor calls `refresh()` on its bundle at the start of a pass; no other component of Airflow does. A refresh
note therefore says: this process, at this point of its loop, took over this version. In the other direction a proof
holds a new version back from the processor, and asks it to stand still while it writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Note:
    pid: int
    start_time: int
    version: str
    seq: int
    at: float
    stands_for: str | None = None
    """The request for which it stands still now, at the start of this pass."""


def path(notes: Path, bundle: str) -> Path:
    return notes / f"{bundle}.refresh.json"


def write(notes: Path, bundle: str, note: Note) -> None:
    target = path(notes, bundle)
    _replace(target, asdict(note))


def read(notes: Path, bundle: str) -> Note | None:
    try:
        return Note(**json.loads(_read(path(notes, bundle))))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def hold(notes: Path, bundle: str, seconds: float) -> Iterator[None]:
    """Asks the DAG processor to take over a new version only after this block, or after `seconds`.

    The processor looks for new files when it takes over a version, and would parse what the proof parses.
    """
    target = notes / f"{bundle}.hold.json"
    try:
        _replace(target, _mine(seconds))
        yield
    finally:
        # The agent may have put its own there meanwhile, for the next version.
        held = _in_force(target)
        if held is None or held["pid"] == os.getpid():
            target.unlink(missing_ok=True)


def is_held(notes: Path, bundle: str) -> bool:
    return _in_force(notes / f"{bundle}.hold.json") is not None


def ask_to_stand(notes: Path, bundle: str, request: str, seconds: float) -> None:
    """Asks the DAG processor to wait at the start of its next pass, for so long at most."""
    _replace(notes / f"{bundle}.stand.json", {**_mine(seconds), "request": request})


def let_go(notes: Path, bundle: str) -> None:
    (notes / f"{bundle}.stand.json").unlink(missing_ok=True)


def asked_to_stand(notes: Path, bundle: str) -> str | None:
    """Names the request to stand still that is in force."""
    asked = _in_force(notes / f"{bundle}.stand.json")
    return None if asked is None else str(asked.get("request"))


def _mine(seconds: float) -> dict[str, Any]:
    return {"pid": os.getpid(), "start_time": own_start_time(), "until": time.time() + seconds}


def _in_force(source: Path) -> dict[str, Any] | None:
    """Reads a request; one ends with its time, and with the process that made it."""
    try:
        asked: dict[str, Any] = json.loads(_read(source))
        return asked if time.time() < asked["until"] and runs(asked["pid"], asked["start_time"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read(source: Path) -> bytes:
    """Reads a note without waiting: DAG code can put a pipe in its place, which nobody writes to."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return file.read()


def _replace(target: Path, content: dict[str, Any]) -> None:
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
