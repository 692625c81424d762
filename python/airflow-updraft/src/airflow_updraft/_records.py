"""What is known of a proven version: for each DAG file its dependencies, its DAGs and its import errors."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_updraft import _versions
from airflow_updraft._dependencies import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

_FORMAT = 1
_KEPT = 20


@dataclass
class FileRecord:
    seen: Seen = field(default_factory=Seen)
    dags: dict[str, str] = field(default_factory=dict)
    """DAG id to the hash of its serialised form in Airflow's database."""
    errors: dict[str, str] = field(default_factory=dict)
    """Import errors by path; a packaged DAG file can have several."""


@dataclass
class Record:
    version: str
    files: dict[str, FileRecord] = field(default_factory=dict)

    @property
    def dags(self) -> set[str]:
        return {dag for file in self.files.values() for dag in file.dags}


class Records:
    """Keeps the records of one bundle in a folder, newest first, and the last one in memory."""

    def __init__(self, state: Path, bundle: str) -> None:
        self._folder = state / "records" / bundle
        self._errors = state / "before" / f"{bundle}.json"
        self._last: Record | None = None
        self.unfinished: Record | None = None
        """What a proof that ran out of time had written, so that asking again goes on from there."""

    def load(self, version: str) -> Record | None:
        if self._last is not None and self._last.version == version:
            return self._last
        try:
            data = json.loads(self._path(version).read_text())
            if data["format"] != _FORMAT or data["version"] != version:
                return None
            return Record(version, {path: _file_from_json(file) for path, file in data["files"].items()})
        except (OSError, ValueError, KeyError, TypeError):
            # A record only saves work; without it everything is parsed.
            return None

    def save(self, record: Record) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._path(record.version)
        temporary = target.with_suffix(f".{os.getpid()}")
        files = {path: _file_to_json(file) for path, file in record.files.items()}
        temporary.write_text(
            json.dumps({"format": _FORMAT, "version": record.version, "files": files}, separators=(",", ":"))
        )
        temporary.replace(target)
        self._last = record
        self._prune()

    def errors_before(self, switch: str, look: Callable[[], Iterable[str]]) -> frozenset[str]:
        """Gives the files that had an import error when this switch was first looked at.

        Kept, because asking again finds what the first proof wrote, and what it failed for is to fail again.
        """
        target = self._errors
        try:
            kept = json.loads(target.read_text())
            if kept["switch"] == switch:
                return frozenset(kept["errors"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        errors = frozenset(look())
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({"switch": switch, "errors": sorted(errors)}))
        temporary.replace(target)
        return errors

    def _prune(self) -> None:
        records = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in records[_KEPT:]:
            old.unlink(missing_ok=True)

    def _path(self, version: str) -> Path:
        return self._folder / f"{_versions.check(version).replace(':', '-')}.json"


def _file_to_json(file: FileRecord) -> dict[str, Any]:
    return {"seen": file.seen.to_json(), "dags": file.dags, "errors": file.errors}


def _file_from_json(data: dict[str, Any]) -> FileRecord:
    return FileRecord(Seen.from_json(data["seen"]), dict(data["dags"]), dict(data["errors"]))
