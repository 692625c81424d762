"""Connections, variables and pools in Airflow's database: `python -m airflow_updraft.objects`.

One request on standard input, one answer on standard output, both JSON:

    {"op": "import", "objects": {"connections": […], "variables": […], "pools": […]}}
        → {"connections": 1, "variables": 2, "pools": 0, "changed": 3}
    {"op": "export", "kinds": ["connections", "variables", "pools"]}
        → {"connections": […], "variables": […], "pools": […]}

Fields are those of `airflow_settings.yaml`. An import is one transaction; with `"only_new": true` it leaves alone
what is there. Answers to an export carry secrets, and nothing else does: `{"error": "…"}` names what is wrong and
quotes no value, and Airflow's own log is silent. With `"values": "mask"` they carry none: nothing secret is read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session


class WrongError(Exception):
    """Says what is wrong, without a value."""


_CONNECTION = ("conn_type", "description", "host", "schema", "login", "password", "port")
_MASKED = ("conn_type", "description", "host", "schema", "port")
# As in `https://me:secret@example.com`: some hooks take a whole address as the host.
_USER_IN_HOST = re.compile(r"^((?:[^/@]*//)?)[^/]*@")


def _extra(name: str, extra: Any) -> str | None:
    if extra is None or extra == "":
        return None
    if isinstance(extra, str):
        try:
            extra = json.loads(extra)
        except ValueError:
            extra = None
    if not isinstance(extra, dict):
        raise WrongError(f"the `conn_extra` of the connection `{name}` is no mapping")
    return json.dumps(extra)


def _connection(item: dict[str, Any]) -> Any:
    from airflow.models.connection import Connection

    name = item["conn_id"]
    if not item.get("conn_uri") and not item.get("conn_type"):
        raise WrongError(f"the connection `{name}` has neither a `conn_type` nor a `conn_uri`")
    try:
        if item.get("conn_uri"):
            connection = Connection(conn_id=name, uri=item["conn_uri"], description=item.get("conn_description"))
        else:
            fields = {field: item.get(f"conn_{field.removeprefix('conn_')}") for field in _CONNECTION}
            connection = Connection(conn_id=name, extra=_extra(name, item.get("conn_extra")), **fields)
    except WrongError:
        raise
    except Exception as error:
        # Its text may quote the address.
        raise WrongError(f"Airflow refuses the connection `{name}` ({type(error).__name__})") from None
    if connection.conn_id != name:
        raise WrongError(f"`{name}` cannot be the name of a connection")
    return connection


def _import_connection(session: Session, item: dict[str, Any], only_new: bool) -> bool:
    from airflow.models.connection import Connection
    from sqlalchemy import select

    new = _connection(item)
    old: Any = session.scalar(select(Connection).where(Connection.conn_id == new.conn_id))
    if old is None:
        session.add(new)
        return True
    if only_new:
        return False
    fields = (*_CONNECTION, "extra")
    changed = [field for field in fields if (getattr(old, field) or None) != (getattr(new, field) or None)]
    for field in changed:
        setattr(old, field, getattr(new, field))
    return bool(changed)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _import_variable(session: Session, item: dict[str, Any], only_new: bool) -> bool:
    from airflow.models.variable import Variable
    from sqlalchemy import select

    value, description = _text(item.get("variable_value")), item.get("variable_description")
    model: Any = Variable
    old: Any = session.scalar(select(Variable).where(Variable.key == item["variable_name"]))
    if old is None:
        session.add(model(key=item["variable_name"], val=value, description=description))
        return True
    if only_new or (old.get_val() == value and (old.description or None) == (description or None)):
        return False
    old.set_val(value)
    old.description = description
    return True


def _import_pool(session: Session, item: dict[str, Any], only_new: bool) -> bool:
    from airflow.models.pool import Pool
    from sqlalchemy import select

    name, slots = item["pool_name"], item.get("pool_slot")
    if slots is None:
        raise WrongError(f"the pool `{name}` has no `pool_slot`")
    # Airflow's column takes no null, and older files do not say.
    wanted = {
        "slots": slots,
        "description": item.get("pool_description") or "",
        "include_deferred": bool(item.get("pool_include_deferred")),
    }
    old: Any = session.scalar(select(Pool).where(Pool.pool == name))
    if old is None:
        session.add(Pool(pool=name, **wanted))
        return True
    if only_new:
        return False
    changed = [field for field, value in wanted.items() if (getattr(old, field) or value) != value]
    for field, value in wanted.items():
        setattr(old, field, value)
    return bool(changed)


_IMPORTS: dict[str, Callable[[Session, dict[str, Any], bool], bool]] = {
    "connections": _import_connection,
    "variables": _import_variable,
    "pools": _import_pool,
}


def _import(session: Session, objects: dict[str, list[dict[str, Any]]], only_new: bool) -> dict[str, int]:
    counts, changed = {}, 0
    for kind, import_one in _IMPORTS.items():
        items = objects.get(kind) or []
        counts[kind] = len(items)
        for item in items:
            changed += import_one(session, item, only_new)
            # So that the same name twice is found.
            session.flush()
    return {**counts, "changed": changed}


def _export_connections(session: Session, masked: bool) -> list[dict[str, Any]]:
    from airflow.models.connection import Connection
    from sqlalchemy import select

    exported = []
    for connection in session.scalars(select(Connection).order_by(Connection.conn_id)):
        known: Any = connection
        item = {"conn_id": known.conn_id}
        for field in _MASKED if masked else _CONNECTION:
            item[f"conn_{field.removeprefix('conn_')}"] = getattr(known, field) or None
        if masked:
            item["conn_host"] = _USER_IN_HOST.sub(r"\1", item["conn_host"] or "") or None
        # Not even read: what a key that is gone has encrypted has a name all the same.
        extra = None if masked else known.get_extra()
        if extra:
            # Older Airflows took any text.
            with contextlib.suppress(ValueError):
                extra = json.loads(extra)
            item["conn_extra"] = extra
        exported.append(item)
    return exported


def _export_variables(session: Session, masked: bool) -> list[dict[str, Any]]:
    from airflow.models.variable import Variable
    from sqlalchemy import select

    exported = []
    for variable in session.scalars(select(Variable).order_by(Variable.key)):
        known: Any = variable
        value = "***" if masked else known.get_val()
        if value is None:
            raise WrongError(f"the variable `{known.key}` cannot be decrypted: its key is another")
        exported.append(
            {
                "variable_name": known.key,
                "variable_value": value,
                "variable_description": known.description or None,
            }
        )
    return exported


def _export_pools(session: Session, _masked: bool) -> list[dict[str, Any]]:
    from airflow.models.pool import Pool
    from sqlalchemy import select

    pools: list[Any] = list(session.scalars(select(Pool).order_by(Pool.pool)))
    return [
        {
            "pool_name": pool.pool,
            "pool_slot": pool.slots,
            "pool_description": pool.description or None,
            "pool_include_deferred": True if getattr(pool, "include_deferred", False) else None,
        }
        for pool in pools
    ]


_EXPORTS: dict[str, Callable[[Session, bool], list[dict[str, Any]]]] = {
    "connections": _export_connections,
    "variables": _export_variables,
    "pools": _export_pools,
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    from airflow.utils.session import create_session

    try:
        with create_session() as session:
            if request["op"] == "import":
                return _import(session, request["objects"], request.get("only_new", False))
            masked = request.get("values", "copy") != "copy"
            return {kind: _EXPORTS[kind](session, masked) for kind in request["kinds"]}
    except WrongError as error:
        return {"error": str(error)}
    except Exception as error:
        # A database names the statement with its values; what it said itself has none.
        said = getattr(error, "orig", None)
        return {"error": f"Airflow's database cannot be used: {said or type(error).__name__}"}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    # Nothing else writes answers, and nobody says what is in them.
    os.dup2(2, 1)
    # A line: through a container engine, an input does not end before the container.
    request = json.loads(sys.stdin.readline())
    # Values come from the database alone, not from a secrets backend.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    import airflow.models  # noqa: F401

    logging.disable(logging.CRITICAL)
    answers.write(json.dumps(answer(request)))
    answers.close()


if __name__ == "__main__":
    main()
