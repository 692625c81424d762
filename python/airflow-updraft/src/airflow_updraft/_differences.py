"""Where the serialised forms of one DAG from two parses differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.models.serialized_dag import SerializedDagModel

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMIT = 5
_ABSENT = "(not there)"
_LONGEST = 80


def between(first: dict[str, str], second: dict[str, str]) -> list[dict[str, str]]:
    """Compares DAGs by id, each as JSON text."""
    found = []
    for dag_id in first.keys() & second.keys():
        if first[dag_id] != second[dag_id]:
            places = list(_compare(_hashed(first[dag_id]), _hashed(second[dag_id]), ()))
            found += [{"dag_id": dag_id, "at": at, "first": a, "second": b} for at, a, b in places[:_LIMIT]]
    # A DAG whose id is another each time is a new DAG each time.
    others = sorted(second.keys() - first.keys())
    for dag_id in sorted(first.keys() - second.keys()):
        other = others.pop(0) if others else _ABSENT
        found.append({"dag_id": dag_id, "at": "dag.dag_id", "first": dag_id, "second": other})
    return sorted(found, key=lambda place: (place["dag_id"], place["at"]))


def _hashed(text: str) -> Any:
    """Gives what Airflow makes a DAG's hash of."""
    data = json.loads(text)
    arrange = getattr(SerializedDagModel, "_sort_serialized_dag_dict", None)
    if arrange is None:  # before 3.0
        return data
    data["dag"].pop("fileloc", None)
    return arrange(data)


def _compare(first: Any, second: Any, at: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    if first == second:
        return
    first, second = _unwrapped(first), _unwrapped(second)
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            yield from _compare(first.get(key, _ABSENT), second.get(key, _ABSENT), (*at, str(key)))
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            yield from _compare(one, other, (*at, _name(one) or str(index)))
    else:
        yield ".".join(at), _short(first), _short(second)


def _unwrapped(value: Any) -> Any:
    while isinstance(value, dict) and "__var" in value:
        value = value["__var"]
    return value


def _name(value: Any) -> str | None:
    value = _unwrapped(value)
    return str(value["task_id"]) if isinstance(value, dict) and "task_id" in value else None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
