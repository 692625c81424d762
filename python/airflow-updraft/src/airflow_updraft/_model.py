"""What the proof knows of Airflow, whichever release it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from airflow_updraft._dependencies import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from airflow_updraft._processor import ProcessorId


@dataclass
class Parsed:
    """What came of one DAG file; `dags` are whatever the release writes, each with its `dag_id`."""

    file: str
    dags: list[Any] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    warnings: list[Any] = field(default_factory=list)
    seen: Seen = field(default_factory=Seen)
    crashed: bool = False
    """It ended its process, so that nothing but the error is known of it."""


@dataclass(frozen=True)
class Parsing:
    """How far the parsing has come."""

    running: list[str]
    waiting: list[str]

    def __str__(self) -> str:
        names = ", ".join(f"`{file}`" for file in self.running[:3]) or "none"
        return f"still being parsed: {names}; not begun: {len(self.waiting)} file(s)"


@dataclass(frozen=True)
class DagState:
    """One DAG as Airflow's database has it; the plain mode has no versions."""

    file: str
    version: str | None
    stale: bool
    hash: str | None = None


class Watch(Protocol):
    """Follows the DAG processor: while a proof writes, and until nothing of an older version can come from it."""

    def ask_to_stand(self) -> None: ...

    def stands_still(self) -> bool: ...

    def let_go(self) -> None: ...

    def is_past(self, version: str) -> bool: ...

    def missing(self, version: str) -> str: ...


class Bundle(Protocol):
    """One bundle, at the version that its `current` link names, in one Airflow."""

    versioned: bool

    def dag_files(self) -> set[str]: ...

    def dag_files_among(self, candidates: Iterable[str]) -> set[str]: ...

    def is_folder(self, path: str) -> bool: ...

    def watch(self, processor: ProcessorId | None, notes: Path) -> Watch | None: ...

    def parse(
        self, files: Iterable[str], *, processes: int, pause: Callable[[Parsing], None]
    ) -> Iterator[Parsed]: ...

    def ensure_known(self) -> None: ...

    def label(self) -> str | None: ...

    def write(self, version: str, results: list[Parsed]) -> dict[str, str]: ...

    def retire(self, gone: Iterable[str], vanished: Iterable[str]) -> None: ...

    def dags(self, *, hashes: bool = False) -> dict[str, DagState]: ...

    def import_errors(self) -> dict[str, str]: ...

    def holds(self) -> dict[str, Any]: ...

    def describe(self) -> list[dict[str, Any]]: ...
