"""Tasks that a file makes and that belong to no DAG, so that they never run."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

try:
    from airflow.sdk.bases.operator import BaseOperator
    from airflow.sdk.definitions.mappedoperator import MappedOperator
except ImportError:  # before 3.0
    from airflow.models.baseoperator import BaseOperator  # type: ignore[no-redef, import-not-found, unused-ignore]
    from airflow.models.mappedoperator import MappedOperator  # type: ignore[no-redef, import-not-found, unused-ignore]

if TYPE_CHECKING:
    from airflow_updraft._project import Project


class LooseTasks:
    def __init__(self, project: Project) -> None:
        self._project = project
        self._made: list[tuple[Any, tuple[str, int] | None]] = []

    def install(self) -> None:
        self._watch(BaseOperator, "__init__")
        self._watch(MappedOperator, "__attrs_post_init__")

    def _watch(self, kind: Any, name: str) -> None:
        made = getattr(kind, name)

        # Airflow reads what `made` takes from the attributes that are copied here.
        @functools.wraps(made)
        def remembered(task: Any, *args: Any, **kwargs: Any) -> None:
            made(task, *args, **kwargs)
            self._made.append((task, self._project.here()))

        setattr(kind, name, remembered)

    def again(self) -> None:
        self._made.clear()

    def found(self) -> list[dict[str, Any]]:
        loose = [(task, here) for task, here in self._made if here is not None and task.get_dag() is None]
        return [{"task_id": str(task.task_id), "file": here[0], "line": here[1]} for task, here in loose]
