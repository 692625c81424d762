"""The metadata database while DAG files are checked: there is none, and who asks for it is told and remembered."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from airflow import settings
from sqlalchemy import event
from sqlalchemy.engine import Engine

from airflow_updraft._no_database import FILE

if TYPE_CHECKING:
    from airflow_updraft._project import Project


class NoMetadataDatabaseError(RuntimeError):
    """Raised instead of opening it."""


class Metadata:
    def __init__(self, project: Project) -> None:
        self._project = project
        self.asked: list[dict[str, Any]] = []

    def install(self) -> None:
        # A session that is opened counts, also when nothing is asked through it: in 3.x Airflow refuses it as well.
        for name in ("Session", "NonScopedSession", "AsyncSession"):
            if hasattr(settings, name):
                setattr(settings, name, _Refused(self))

        # Airflow 2 asks itself what an alias stands for, when a DAG is scheduled by one; at first that is nothing.
        datasets: Any = sys.modules.get("airflow.datasets")
        if hasattr(datasets, "BaseDataset"):
            datasets.expand_alias_to_datasets = lambda *_, **__: []

        @event.listens_for(Engine, "do_connect")
        def refuse(_dialect: Any, _record: Any, arguments: tuple[Any, ...], _named: dict[str, Any]) -> None:
            if FILE in map(str, arguments):
                raise self.refusal()

    def refusal(self) -> NoMetadataDatabaseError:
        here = self._project.here()
        access = {"file": here and here[0], "line": here and here[1]}
        if access not in self.asked:
            self.asked.append(access)
        return NoMetadataDatabaseError("the metadata database is not there while DAG files are checked")


class _Refused:
    """Takes the place of a session factory."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._metadata.refusal()

    def __getattr__(self, name: str) -> Any:
        # Airflow asks for `remove` when a process ends.
        raise AttributeError(name) if name.startswith("__") or name == "remove" else self._metadata.refusal()
