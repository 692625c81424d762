"""The proof of one bundle version: parse what the change can affect, write it, and see that it stays.

affected files ──▶ parse (children) ──▶ write (Airflow's API) ──▶ processor is past ──▶ read back
                     ▲                  while the processor                                │
                     │                  stands still                                       │
                     └───────────────────── what is not there yet ◀────────────────────────┘
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_updraft import _notes, _tracebacks, _versions
from airflow_updraft._dependencies import Change, folders_above, is_ignore_file
from airflow_updraft._processor import ProcessorId
from airflow_updraft._records import FileRecord, Record, Records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_updraft._model import Bundle, Parsed, Parsing, Watch

# One transaction holds the write lock of a SQLite database for as long as it takes.
_BATCH = 50
# How long the processor stands for files that are still being parsed.
_LAST_FILES_S = 3.0
# For the processor to let what was parsed be written, once the time of a proof is over.
_LAST_WRITE_S = 5.0
_MIB = 1024 * 1024


class SupersededError(Exception):
    """Raised where a proof notices that it is no longer wanted; the text says why."""


class TimedOutError(Exception):
    """Raised when the time of a proof is over."""


@dataclass(frozen=True)
class Blame:
    """What import errors are laid at this deploy's door, when there was a deploy before it that has a verdict."""

    switch: str
    """Names the switch to this version: the same whenever it is proven again, another one when it comes back."""

    change: Change
    """What differs from the last version with a verdict, whichever it was; the base is the last one proven."""


@dataclass(frozen=True)
class Request:
    bundle: str
    version: str
    path: Path
    current: Path
    state: Path
    notes: Path
    processor: ProcessorId | None
    base: str | None
    change: Change
    blame: Blame | None
    timeout_s: float
    processes: int
    memory_mb: int

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        base = data.get("base") or {}
        blame = data.get("blame")
        processor = data.get("processor")
        return cls(
            bundle=data["bundle"],
            version=_versions.check(data["version"]),
            path=Path(data["path"]),
            current=Path(data["current"]),
            state=Path(data["state"]),
            notes=Path(data["notes"]),
            processor=ProcessorId(processor["pid"], processor["start_time"]) if processor else None,
            base=base.get("version"),
            change=_change(base),
            blame=Blame(blame["switch"], _change(blame)) if blame else None,
            timeout_s=float(data.get("timeout_s", 120)),
            processes=int(data.get("processes") or os.cpu_count() or 1),
            memory_mb=int(data.get("memory_mb", 4096)),
        )


def _change(data: dict[str, Any]) -> Change:
    return Change(data.get("changed", ()), data.get("added", ()), data.get("removed", ()))


@dataclass
class Timings:
    parse: float = 0.0
    write: float = 0.0
    processor: float = 0.0
    verify: float = 0.0

    def to_json(self) -> dict[str, int]:
        return {name: round(seconds * 1000) for name, seconds in vars(self).items()}


@dataclass
class Proof:
    """One run of a proof. `pause` is called wherever it waits, and raises to end it."""

    request: Request
    airflow: Bundle
    records: Records
    pause: Callable[[float], None]
    progress: Callable[..., None]
    timings: Timings = field(default_factory=Timings)
    # One that is parsed again, because Airflow wrote something else meanwhile, is one file.
    parsed: set[str] = field(default_factory=set)
    affected: set[str] = field(default_factory=set)

    def run(self) -> dict[str, Any]:
        try:
            return self._run()
        except SupersededError as reason:
            return self._answer("superseded", str(reason))

    def _run(self) -> dict[str, Any]:
        request = self.request
        self._deadline = time.monotonic() + request.timeout_s
        self._written: dict[str, FileRecord] = {}
        self._old_errors: frozenset[str] = frozenset()
        self._check_switched()
        # Before anything else: what the processor works on now may come from an older version.
        self._processor = self._look_at_processor()
        self._parsed: list[Parsed] = []
        try:
            with _notes.hold(request.notes, request.bundle, request.timeout_s):
                self._look_at_change()
                self._parse_and_write(self.affected - self._written.keys())
            self._wait_for_processor()
            self._verify()
        except TimedOutError as missing:
            self.records.unfinished = Record(request.version, self._written)
            return self._answer("timed_out", "the time for the proof is over", not_seen=str(missing))
        self._check_switched()
        self.records.save(self._record)
        return self._conclude()

    # --- what to parse

    def _check_switched(self) -> None:
        if os.path.realpath(self.request.current) != os.path.realpath(self.request.path):
            raise SupersededError(f"`current` no longer leads to {self.request.version}")

    def _look_at_processor(self) -> Watch | None:
        return self.airflow.watch(self.request.processor, self.request.notes)

    def _look_at_change(self) -> None:
        request = self.request
        self._base = self.records.load(request.base) if request.base else None
        self.airflow.ensure_known()
        self._before = self.airflow.dags()
        if request.blame is not None:
            self._old_errors = self.records.errors_before(request.blame.switch, self.airflow.import_errors)
        files = self._dag_files()
        unfinished, self.records.unfinished = self.records.unfinished, None
        self._record = Record(request.version)
        if self._base is not None:
            self._record.files = {path: file for path, file in self._base.files.items() if path in files}
        self.affected = self._affected_among(files)
        self._gone = self._known_files() - files
        if unfinished is not None and unfinished.version == request.version:
            self._written = {path: file for path, file in unfinished.files.items() if path in self.affected}
            self._record.files.update(self._written)

    def _dag_files(self) -> set[str]:
        """Finds the DAG files of this version, from those of the base version when it is known."""
        change = self.request.change
        if self._base is None or any(is_ignore_file(path) for path in change.files):
            return self.airflow.dag_files()
        # A link to a folder brings or takes away files that the change does not name.
        if any(self.airflow.is_folder(path) for path in change.files) or not change.files.isdisjoint(
            folder for path in self._base.files for folder in folders_above(path)
        ):
            return self.airflow.dag_files()
        fresh = self.airflow.dag_files_among(change.changed | change.added)
        return (set(self._base.files) - change.files) | fresh

    def _affected_among(self, files: set[str]) -> set[str]:
        if self._base is None:
            return files
        change = self.request.change
        known = {path: file for path, file in self._base.files.items() if path in files}
        if change.unexplained(file.seen for file in self._base.files.values()):
            return files
        return {
            path
            for path in files
            if path not in known
            or path in change.files
            or known[path].seen.everything
            or change.touches(known[path].seen)
        }

    def _known_files(self) -> set[str]:
        known = {state.file for state in self._before.values() if not state.stale}
        if self._base is not None:
            known |= set(self._base.files)
        return known

    # --- parse and write

    def _parse_and_write(self, files: Iterable[str]) -> None:
        """Brings these files, and what is gone, into Airflow's database."""
        try:
            self._parse(sorted(files))
            if self._parsed or self._gone or self._vanished():
                self._write()
                self._wait_until_processor_stands()
                self.airflow.retire(self._gone, self._vanished())
        except TimedOutError:
            self._write_at_last()
            raise
        finally:
            self._let_processor_go()

    def _parse(self, files: list[str]) -> None:
        started = time.monotonic()
        written = self.timings.write
        self._asked_at: float | None = None
        parsing = self.airflow.parse(files, processes=self.request.processes, pause=self._pause_parsing)
        for done, parsed in enumerate(parsing, start=1):
            self.parsed.add(parsed.file)
            self._parsed.append(parsed)
            if len(self._parsed) >= _BATCH and self._processor_stands():
                self._write_batch()
                self._let_processor_go()
            if done % _BATCH == 0:
                self.progress(step="parse", done=done, of=len(files))
        self.timings.parse += time.monotonic() - started - (self.timings.write - written)

    def _pause_parsing(self, parsing: Parsing) -> None:
        self._pause(lambda: str(parsing), seconds=0)
        if self._processor is None or parsing.waiting:
            return
        now = time.monotonic()
        if self._asked_at is None:
            # It comes while the last files are parsed.
            self._asked_at = now
            self._processor.ask_to_stand()
        elif now > self._asked_at + _LAST_FILES_S:
            # They take long, and it has other files to parse.
            self._asked_at = math.inf
            self._processor.let_go()

    def _write(self) -> None:
        """Writes what was parsed, each batch while the DAG processor stands still."""
        while self._parsed:
            self._wait_until_processor_stands()
            self._write_batch()

    def _write_batch(self) -> None:
        started = time.monotonic()
        # A parse that saw a switch in its middle belongs to neither version.
        self._check_switched()
        batch = self._parsed[:_BATCH]
        hashes = self.airflow.write(self.request.version, batch)
        for parsed in batch:
            dags = {dag.dag_id: hashes.get(dag.dag_id, "") for dag in parsed.dags}
            self._written[parsed.file] = FileRecord(parsed.seen, dags, parsed.errors)
        del self._parsed[:_BATCH]
        self._record.files.update(self._written)
        self.timings.write += time.monotonic() - started

    def _write_at_last(self) -> None:
        """Writes what was parsed when the time was over: the next proof goes on from there."""
        deadline = time.monotonic() + _LAST_WRITE_S
        while self._parsed and time.monotonic() < deadline:
            if self._processor_stands():
                self._write_batch()
            else:
                self.pause(0.02)

    def _vanished(self) -> set[str]:
        """Names the DAGs of removed files, and those that their file no longer makes."""
        defined = self._record.dags
        return {
            dag
            for dag, state in self.airflow.dags().items()
            if not state.stale and dag not in defined and self._is_known_to_be_without(state.file)
        }

    # --- the DAG processor, meanwhile

    def _processor_stands(self) -> bool:
        return self._processor is None or self._processor.stands_still()

    def _let_processor_go(self) -> None:
        if self._processor is not None:
            self._processor.let_go()

    def _wait_until_processor_stands(self) -> None:
        processor = self._processor
        if processor is None:
            return
        started = time.monotonic()
        while not processor.stands_still():
            self._pause(lambda: processor.missing(self.request.version), seconds=0.01)
        self.timings.processor += time.monotonic() - started

    # --- see that it stays

    def _wait_for_processor(self) -> None:
        processor = self._processor
        if processor is None or self.request.processor is None:
            return
        started = time.monotonic()
        version = self.request.version
        while not processor.is_past(version):
            self._pause(lambda: processor.missing(version))
        # The note is written just before the version becomes the one that results are filed under.
        while self.airflow.versioned and self.airflow.label() != version:
            self._pause(lambda: "the DAG processor has not stored the new version yet")
        self.timings.processor += time.monotonic() - started

    def _verify(self) -> None:
        started = time.monotonic()
        attempts = 0
        while wrong := self._differences():
            attempts += 1
            self._pause(lambda: f"Airflow's database differs in {len(wrong)} file(s), such as `{min(wrong)}`")
            if attempts > 1:
                self._pause(lambda: f"`{min(wrong)}` comes out differently each time", seconds=0.5)
            self._parse_and_write(wrong)
        self.timings.verify += time.monotonic() - started

    def _differences(self) -> set[str]:
        """Compares Airflow's database with what was parsed, by content; names files that have to be done again.

        All files of the bundle, not only the affected ones: between the base and this version Airflow may have
        read a version that was never proven.
        """
        version = self.request.version
        labelled = self.affected if self.airflow.versioned else set()
        stored = self.airflow.dags(hashes=True)
        errors = self.airflow.import_errors()
        expected: dict[str, set[str]] = {}
        for file in self._record.files.values():
            for dag, digest in file.dags.items():
                expected.setdefault(dag, set()).add(digest)
        wrong = set()
        for path, file in self._record.files.items():
            if any(error not in errors for error in file.errors):
                wrong.add(path)
            for dag in file.dags:
                state = stored.get(dag)
                is_current = state is not None and not state.stale and (state.hash or "") in expected[dag]
                is_labelled = path not in labelled or (state is not None and state.version == version)
                if not (is_current and is_labelled):
                    wrong.add(path)
        for path in errors:
            owner = _owner(path, self._record, self._gone)
            if owner in self._record.files and path not in self._record.files[owner].errors:
                wrong.add(owner)
        for dag, state in stored.items():
            if not state.stale and dag not in expected and self._is_known_to_be_without(state.file):
                owner = _owner(state.file, self._record, self._gone)
                if owner in self._record.files:
                    wrong.add(owner)
        return wrong

    def _is_known_to_be_without(self, path: str) -> bool:
        """Says whether a DAG of this path is gone; a file that cannot be imported keeps its DAGs."""
        owner = _owner(path, self._record, self._gone)
        file = self._record.files.get(owner or "")
        return owner is not None and (file is None or not file.errors)

    def _pause(self, missing: Callable[[], str], seconds: float = 0.02) -> None:
        if time.monotonic() > self._deadline:
            raise TimedOutError(missing())
        self.pause(seconds)

    # --- the answer

    def _conclude(self) -> dict[str, Any]:
        errors = self._import_errors()
        new = [error["file"] for error in errors if error["new"]]
        if new:
            return self._answer("import_errors", f"{len(new)} file(s) cannot be imported: {', '.join(new[:5])}")
        return self._answer("proven", f"Airflow has the content of {self.request.version}")

    def _answer(self, outcome: str, reason: str, *, not_seen: str = "") -> dict[str, Any]:
        files = getattr(self, "_record", Record(self.request.version)).files
        finished = outcome in ("proven", "import_errors")
        return {
            "outcome": outcome,
            "reason": reason,
            "parsed": len(self.parsed),
            "affected": len(self.affected),
            "files": len(files),
            "dags": self._dags() if finished else None,
            "import_errors": self._import_errors() if finished or outcome == "timed_out" else [],
            "silent": self._silent() if finished else [],
            "seen": f"{len(self.parsed)} of {len(self.affected)} affected file(s) parsed",
            "not_seen": not_seen,
            "timings_ms": self.timings.to_json(),
        }

    def _dags(self) -> dict[str, Any]:
        now = {dag: path for path, file in self._record.files.items() for dag in file.dags}
        broken = {path for path, file in self._record.files.items() if file.errors}
        if self._base is not None:
            before = {dag: path for path, file in self._base.files.items() for dag in file.dags}
        else:
            before = {dag: state.file for dag, state in self._before.items() if not state.stale}
        return {
            "added": sorted(now.keys() - before.keys()),
            "changed": sorted(dag for dag in now.keys() & before.keys() if self._is_touched(now[dag])),
            # A file that cannot be imported still means its DAGs.
            "removed": sorted(dag for dag in before.keys() - now.keys() if before[dag] not in broken),
            "total": len(now),
        }

    def _is_touched(self, path: str) -> bool:
        """Says whether the change is known to reach this file, by itself or through what it reads."""
        change = self.request.change
        if self.request.base is None or path in change.files:
            return True
        return self._reaches(change, path)

    def _reaches(self, change: Change, path: str) -> bool:
        before = self._base.files.get(path) if self._base is not None else None
        return change.touches(self._record.files[path].seen) or (before is not None and change.touches(before.seen))

    def _import_errors(self) -> list[dict[str, Any]]:
        roots = (str(self.request.current), str(self.request.path), os.path.realpath(self.request.path))
        return [
            {"file": name, "traceback": _tracebacks.cut(text, roots), "new": self._is_blamed(name, path)}
            for path, file in sorted(self._record.files.items())
            for name, text in sorted(file.errors.items())
        ]

    def _is_blamed(self, name: str, path: str) -> bool:
        """Says whether this deploy is answerable for an import error: it touched the file, or the error is new."""
        blame = self.request.blame
        if blame is None or name not in self._old_errors:
            return True
        return path in blame.change.files or self._reaches(blame.change, path)

    def _silent(self) -> list[str]:
        """Names changed files that Airflow takes for DAG files, and that nothing came of."""
        touched = self.request.change.changed | self.request.change.added
        if self.request.base is None:
            touched = frozenset(self._record.files)
        used = {path for own, file in self._record.files.items() for path in file.seen.files - {own}}
        return sorted(
            path
            for path, file in self._record.files.items()
            if path in touched and not file.dags and not file.errors and path not in used
        )


def _owner(path: str, record: Record, gone: set[str]) -> str | None:
    """Finds the DAG file that a path in Airflow's database belongs to; inside a packaged DAG file it is longer."""
    while path:
        if path in record.files or path in gone:
            return path
        path = path.rpartition("/")[0]
    return None
