"""The running DAG processor, beside which a proof writes, and which may still bring back what an older version held.

After the switch three things of the old version may still be on their way into Airflow's database: a file that
waits in the processor's queue, a parse that runs, and a finished parse whose result was not collected yet.

- The queue is harmless: it holds paths below `current` (see `bundle.py`), which now leads to the new version.
- A parse holds its log file open in the *processor*: opened before the child is forked, closed after its result
  was handed to the database. So the parses that can hold anything old are those whose log is open when the proof
  starts, which is after the switch; the proof waits until each was closed.
- In 3.0 to 3.2 the database transaction ends just after the log was closed, at the end of the same pass of the
  processor's loop. And the version that the processor files results under changes only at a refresh. A refresh
  note that was written *after* the logs were closed, by this processor, for the new version, settles both: it is
  left at the start of a later pass.

Nothing later can bring old content back: every parse from here on starts after the switch, below `current`, and
is filed under the version of the last refresh.

While the proof writes, the processor stands still at the start of a pass (`bundle.py`), where nothing that it has
parsed is half written. When the logs are closed by then, the pass that it stands at is itself the later one.

Read in the managers of 3.0.6, 3.1.8, 3.2.2 and 3.3.2: `_create_process`, `_collect_results`,
`_refresh_dag_bundles`. Where the open files of the processor cannot be read (hardened kernels), its children stand
in for the logs. A child disappears when its exit is noticed, which can be one pass before its result is
collected, so one more note is waited for.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from airflow_updraft import _notes

if TYPE_CHECKING:
    from pathlib import Path

# A request ends with the worker; this is for one that hangs. Airflow takes its DAG processor for dead after 30 s.
_STAND_S = 20.0
# A write that begins has the rest for itself.
_BEGIN_WITHIN_S = 8.0


@dataclass(frozen=True)
class ProcessorId:
    pid: int
    start_time: int


class Processor:
    """The DAG processor of one bundle, as it was when the proof began.

    One that starts later, or none that is known, has nothing to do with older versions; it is only kept from writing
    at the same time.
    """

    def __init__(self, identity: ProcessorId | None, bundle: str, notes: Path, logs: Path) -> None:
        self._identity = identity
        self._bundle = bundle
        self._notes = notes
        self._logs = os.path.realpath(logs) + "/"
        self.manager = self._find_manager()
        before = self._parse_logs(self.manager)
        self._by_logs = before is not None
        self._before: set[object] = set(before if before is not None else self._children(self.manager))
        self._past_from: int | None = None
        self._request: str | None = None
        self._asked_at = 0.0
        self._standing_since: float | None = None
        self._observe()

    def is_alive(self) -> bool:
        return self._identity is not None and _notes.runs(self._identity.pid, self._identity.start_time)

    def ask_to_stand(self) -> None:
        """Asks it to stand still at the start of its next pass, which it reaches within a second or so."""
        now = time.monotonic()
        if self._request is None or now > self._asked_at + _STAND_S:
            self._request = uuid4().hex
            self._standing_since = None
        elif now < self._asked_at + _STAND_S / 2:
            return
        _notes.ask_to_stand(self._notes, self._bundle, self._request, _STAND_S)
        self._asked_at = now

    def stands_still(self) -> bool:
        """Asks for it, and says whether it does, and will for some seconds.

        One that has not begun to read counts: it will stand at its first refresh, for as long as it is asked to.
        """
        self.ask_to_stand()
        note = self._note()
        if note is None:
            return not self.is_alive()
        if note.stands_for != self._request:
            self._standing_since = None
            return False
        self._observe()
        now = time.monotonic()
        if self._standing_since is None:
            self._standing_since = now
        if now < self._standing_since + _BEGIN_WITHIN_S:
            return True
        self.let_go()
        return False

    def let_go(self) -> None:
        self._request = None
        _notes.let_go(self._notes, self._bundle)

    def is_past(self, version: str) -> bool:
        """Says whether nothing of an older version can reach the database any more."""
        if not self.is_alive():
            # What it had not collected ended with it; another processor starts from the new version.
            return True
        self._observe()
        note = self._note()
        return (
            self._past_from is not None
            and note is not None
            and note.version == version
            and note.stands_for is None
            and note.seq >= self._past_from
        )

    def missing(self, version: str) -> str:
        """Says what is still waited for."""
        if self._before:
            what = sorted(str(item) for item in self._before)
            return f"the DAG processor still works on {len(what)} parse(s) that began before the switch: {what[0]}"
        note = self._note()
        if note is None:
            return f"the DAG processor (pid {self.manager}) has not refreshed bundle `{self._bundle}` yet"
        if note.version != version:
            return f"the DAG processor still reads {note.version}"
        return "the DAG processor has not begun its next pass"

    def _observe(self) -> None:
        """Finds the pass with which the processor is past what it worked on when the proof began."""
        if self._past_from is not None:
            return
        now: set[object] = set()
        if self._before:
            now = set(self._parse_logs(self.manager) or ()) if self._by_logs else set(self._children(self.manager))
        self._before &= now
        if not self._before:
            note = self._note()
            if note is None:
                self._past_from = 1
            elif not self._by_logs:
                self._past_from = note.seq + 2
            else:
                self._past_from = note.seq + (0 if note.stands_for else 1)

    def _note(self) -> _notes.Note | None:
        note = _notes.read(self._notes, self._bundle)
        if note is None or not _notes.runs(note.pid, note.start_time):
            return None
        return note if not self.is_alive() or self._is_ours(note.pid) else None

    def _find_manager(self) -> int:
        note = self._note()
        if note is not None:
            return note.pid
        return 0 if self._identity is None else self._identity.pid

    def _is_ours(self, pid: int) -> bool:
        """Says whether this is the processor, or runs below it when that is a wrapper."""
        ours = None if self._identity is None else self._identity.pid
        above = _notes.process(pid)
        while above is not None and above.pid != ours:
            above = _notes.process(above.parent)
        return above is not None

    def _parse_logs(self, pid: int) -> set[tuple[str, str]] | None:
        folder = f"/proc/{pid}/fd"
        try:
            numbers = os.listdir(folder)
        except FileNotFoundError:
            return set()
        except PermissionError:
            return None
        found = set()
        for number in numbers:
            try:
                target = os.readlink(f"{folder}/{number}")
            except OSError:
                continue
            # <logs>/<date>/<bundle>/<path>.log
            if target.startswith(self._logs) and target[len(self._logs) :].split("/")[1:2] == [self._bundle]:
                found.add((target, number))
        return found

    @staticmethod
    def _children(pid: int) -> set[tuple[int, int]]:
        # A zombie counts: the processor has not noticed its exit yet.
        return {(one.pid, one.start_time) for one in _notes.processes() if one.parent == pid}
