"""Variables, connections and environment variables while DAG files are checked: their names, and never a value.

A made-up value would send a file down a path that it does not take in the Deployment. So code that cannot go on
without a value is stopped there, and what it needed is told.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.secrets.environment_variables import EnvironmentVariablesBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_updraft._project import Project

_ABSENT: Any = object()

# Code that stands between the environment and who asks for it.
_BETWEEN = (os.getenv.__code__.co_filename, __file__)


class NeedsValueError(BaseException):
    """Stops a file at a value that is not here. No `Exception`, so that the file's own handlers let it through."""


@dataclass(frozen=True)
class Names:
    """What the Deployment is known to have; `None` where nobody knows."""

    variables: frozenset[str] | None
    connections: frozenset[str] | None
    environment: frozenset[str]
    secrets_backend: bool

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Names:
        def names(key: str) -> frozenset[str] | None:
            return None if data.get(key) is None else frozenset(data[key])

        return cls(
            names("variables"),
            names("connections"),
            names("environment") or frozenset(),
            bool(data["secrets_backend"]),
        )


class Values:
    """Answers what a file asks for, and remembers what it could not go on without."""

    def __init__(self, names: Names, project: Project) -> None:
        self._names = names
        self._project = project
        self._backend = EnvironmentVariablesBackend()
        self.needs: list[dict[str, Any]] = []

    def install(self, touches_database: Callable[[], Exception]) -> None:
        """Takes the place of Airflow's own ways to a value; what would write one is the database's business."""

        def write(*args: Any, **kwargs: Any) -> Any:
            raise touches_database()

        _replace(self.variable, self.connection, write)
        if self._names.environment:
            self._watch_environment()

    def variable(self, key: str, default: Any = _ABSENT, deserialize_json: bool = False) -> Any:
        value = self._backend.get_variable(key=key)
        if value is not None:
            return json.loads(value) if deserialize_json else value
        if default is not _ABSENT:
            return default
        known = self._known(self._names.variables, f"AIRFLOW_VAR_{key.upper()}", key)
        return self._stop("variable", key, known, _no_variable)

    def connection(self, conn_id: str) -> Any:
        found = self._backend.get_connection(conn_id=conn_id)
        if found is not None:
            return found
        known = self._known(self._names.connections, f"AIRFLOW_CONN_{conn_id.upper()}", conn_id)
        return self._stop("connection", conn_id, known, _no_connection)

    def _known(self, names: Iterable[str] | None, environment: str, name: str) -> bool:
        return names is None or name in names or environment in self._names.environment

    def _stop(self, kind: str, name: str, known: bool, missing: Callable[[str], Exception]) -> Any:
        if known:
            self._note(kind, name, "undetermined")
        elif self._names.secrets_backend:
            self._note(kind, name, "maybe_missing")
        else:
            self._note(kind, name, "missing")
            raise missing(name)
        raise NeedsValueError(f"the value of {kind} `{name}` is not known while DAG files are checked")

    def _note(self, kind: str, name: str, outcome: str) -> None:
        here = self._project.here()
        need = {
            "kind": kind,
            "name": name,
            "file": here and here[0],
            "line": here and here[1],
            "outcome": outcome,
        }
        if need not in self.needs:
            self.needs.append(need)

    def _watch_environment(self) -> None:
        names = self._names.environment
        stop = self._stop

        def is_ours(key: Any) -> bool:
            """Says whether the Deployment sets it, nothing here does, and it is not Airflow that asks."""
            if key not in names or os.environ.encodekey(key) in os.environ._data:  # type: ignore[attr-defined]
                return False
            asks = sys._getframe(2)
            while asks.f_code.co_filename in _BETWEEN and asks.f_back is not None:
                asks = asks.f_back
            return not asks.f_globals.get("__name__", "").startswith(("airflow.", "airflow_updraft."))

        class Environment(type(os.environ)):  # type: ignore[misc]
            def __getitem__(self, key: Any) -> Any:
                if is_ours(key):
                    return stop("environment", key, True, KeyError)
                return super().__getitem__(key)

            def __contains__(self, key: Any) -> bool:
                return bool(is_ours(key) or super().__contains__(key))

            def get(self, key: Any, default: Any = _ABSENT) -> Any:
                if is_ours(key):
                    return stop("environment", key, True, KeyError) if default is _ABSENT else default
                try:
                    return super().__getitem__(key)
                except KeyError:
                    return None if default is _ABSENT else default

            def setdefault(self, key: Any, value: Any) -> Any:
                if is_ours(key):
                    self[key] = value
                return super().setdefault(key, value)

        def getenv(key: Any, default: Any = _ABSENT) -> Any:
            return os.environ.get(key, default)

        os.environ.__class__ = Environment
        os.getenv = getenv


def _replace(variable: Callable[..., Any], connection: Callable[..., Any], write: Callable[..., Any]) -> None:
    from airflow.models import Connection, Variable

    def get(
        key: str, default_var: Any = _ABSENT, deserialize_json: bool = False, team_name: str | None = None
    ) -> Any:
        return variable(key, default_var, deserialize_json)

    def from_secrets(key: str, **_: Any) -> Any:
        return variable(key, None)

    model: Any = Variable
    model.get = staticmethod(get)
    model.get_variable_from_secrets = staticmethod(from_secrets)
    for name in ("set", "update", "delete", "setdefault"):
        setattr(model, name, staticmethod(write))
    model = Connection
    model.get_connection_from_secrets = staticmethod(lambda conn_id, **_: connection(conn_id))
    try:
        from airflow.sdk import Variable as TaskVariable
        from airflow.sdk.definitions._internal.types import NOTSET
        from airflow.sdk.execution_time import context
    except ImportError:  # before 3.0
        return

    def get_in_task(key: str, default: Any = NOTSET, deserialize_json: bool = False) -> Any:
        return variable(key, _ABSENT if default is NOTSET else default, deserialize_json)

    async def connection_later(conn_id: str) -> Any:
        return connection(conn_id)

    model = TaskVariable
    model.get = staticmethod(get_in_task)
    for name in ("set", "delete", "keys"):
        setattr(model, name, staticmethod(write))
    # What is behind those and behind `Connection.get` and hooks, and has other ways to it.
    insides: Any = context
    insides._get_variable = lambda key, deserialize_json=False: variable(key, _ABSENT, deserialize_json)
    insides._get_connection = connection
    insides._async_get_connection = connection_later
    for name in ("_set_variable", "_delete_variable", "_get_variable_keys"):
        setattr(insides, name, write)


def _no_variable(key: str) -> Exception:
    try:
        from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
        from airflow.sdk.execution_time.comms import ErrorResponse
    except ImportError:  # before 3.0
        return KeyError(f"Variable {key} does not exist")
    # In the DAG processor of 3.x also for `airflow.models.Variable`.
    return AirflowRuntimeError(
        ErrorResponse(error=ErrorType.VARIABLE_NOT_FOUND, detail={"message": f"Variable {key} not found"})
    )


def _no_connection(conn_id: str) -> Exception:
    from airflow.exceptions import AirflowNotFoundException  # type: ignore[attr-defined, unused-ignore]

    return AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")
