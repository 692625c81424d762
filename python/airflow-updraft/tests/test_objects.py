"""Connections, variables and pools, in a database and without a running Airflow."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.airflow

SECRET = "s3cret-value"
OBJECTS = {
    "connections": [
        {
            "conn_id": "warehouse",
            "conn_type": "postgres",
            "conn_host": "db",
            "conn_login": "me",
            "conn_password": SECRET,
            "conn_port": 5432,
            "conn_extra": {"sslmode": "require"},
        },
        {"conn_id": "by_uri", "conn_uri": f"http://me:{SECRET}@host:80/path?key=word"},
    ],
    "variables": [
        {"variable_name": "region", "variable_value": SECRET, "variable_description": "where"},
        {"variable_name": "limits", "variable_value": {"a": [1, 2]}},
        {"variable_name": "empty", "variable_value": None},
    ],
    "pools": [{"pool_name": "small", "pool_slot": 3}],
}


def _asked(site: Site, **request: Any) -> tuple[dict[str, Any], str]:
    ended = subprocess.run(
        [sys.executable, "-m", "airflow_updraft.objects"],
        env=site.environment,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ended.stdout), ended.stderr


@pytest.mark.smoke
def test_what_is_imported_is_exported(quiet_site: Site) -> None:
    site = quiet_site
    counts = {"connections": 2, "variables": 3, "pools": 1}
    imported, log = _asked(site, op="import", objects=OBJECTS)
    assert imported == {**counts, "changed": 6}
    assert SECRET not in log

    exported, log = _asked(site, op="export", kinds=["connections", "variables", "pools"])
    assert SECRET not in log
    by_uri, warehouse = exported["connections"]
    assert {**OBJECTS["connections"][0], "conn_description": None, "conn_schema": None} == warehouse
    assert (by_uri["conn_type"], by_uri["conn_password"], by_uri["conn_extra"]) == ("http", SECRET, {"key": "word"})
    values = {variable["variable_name"]: variable["variable_value"] for variable in exported["variables"]}
    assert values == {"region": SECRET, "limits": '{"a": [1, 2]}', "empty": ""}
    assert [pool["pool_slot"] for pool in exported["pools"] if pool["pool_name"] == "small"] == [3]

    # Both again, and what was exported, change nothing.
    for same in (OBJECTS, exported):
        again, _ = _asked(site, op="import", objects=same)
        assert again["changed"] == 0
    changed = {"variables": [{"variable_name": "region", "variable_value": "other"}], "connections": []}
    again, _ = _asked(site, op="import", objects=changed)
    assert again == {"connections": 0, "variables": 1, "pools": 0, "changed": 1}


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ({"connections": [{"conn_id": "a b!", "conn_type": "http"}]}, "`a b!` cannot be the name of a connection"),
        ({"connections": [{"conn_id": "a", "conn_host": SECRET}]}, "neither a `conn_type` nor a `conn_uri`"),
        (
            {"connections": [{"conn_id": "a", "conn_type": "http", "conn_extra": SECRET}]},
            "the `conn_extra` of the connection `a` is no mapping",
        ),
        ({"pools": [{"pool_name": "small"}]}, "the pool `small` has no `pool_slot`"),
    ],
)
def test_what_is_wrong_is_named_without_its_value(quiet_site: Site, objects: dict[str, Any], said: str) -> None:
    kept = {"variables": [{"variable_name": "before", "variable_value": "1"}]}
    answer, log = _asked(quiet_site, op="import", objects={**kept, **objects})
    assert said in answer["error"]
    assert SECRET not in answer["error"] + log
    # All of it or nothing.
    exported, _ = _asked(quiet_site, op="export", kinds=["variables"])
    assert exported == {"variables": []}


@pytest.mark.smoke
def test_what_is_masked_has_its_name_and_nothing_secret(quiet_site: Site) -> None:
    address = {"conn_id": "whole_address", "conn_type": "http", "conn_host": f"https://me:{SECRET}@example.com/a@b"}
    connections = [*OBJECTS["connections"], address]
    _asked(quiet_site, op="import", objects={**OBJECTS, "connections": connections})
    exported, log = _asked(quiet_site, op="export", kinds=["connections", "variables", "pools"], values="mask")
    assert SECRET not in json.dumps(exported) + log
    by_uri, warehouse, whole = exported["connections"]
    nothing = {"conn_description": None, "conn_schema": None}
    assert warehouse == {
        "conn_id": "warehouse",
        "conn_type": "postgres",
        "conn_host": "db",
        "conn_port": 5432,
        **nothing,
    }
    assert (by_uri["conn_host"], by_uri["conn_port"], by_uri["conn_schema"]) == ("host", 80, "path")
    assert whole["conn_host"] == "https://example.com/a@b"
    variables = {variable["variable_name"]: variable["variable_value"] for variable in exported["variables"]}
    assert variables == {"region": "***", "limits": "***", "empty": "***"}
    assert [pool["pool_slot"] for pool in exported["pools"] if pool["pool_name"] == "small"] == [3]

    # What has no values can be imported, and leaves alone what somebody has made of it.
    counts = {"connections": 3, "variables": 3, "pools": 2}
    again, _ = _asked(quiet_site, op="import", objects=exported, only_new=True)
    assert again == {**counts, "changed": 0}
    again, _ = _asked(quiet_site, op="import", objects=exported)
    assert again["changed"] == 6
