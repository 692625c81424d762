"""Schedules of a Preview: paused whatever a DAG says, until somebody unpauses them there."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import AIRFLOW

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.airflow

ENTRY_POINTS = "[airflow.policy]\nairflow-updraft = airflow_updraft.policy\n"


def _install(site: Site) -> None:
    """Puts beside the sources what the wheel has, so that Airflow finds the policy."""
    info = site.folder / "installed" / "airflow_updraft-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: airflow-updraft\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    site.environment["PYTHONPATH"] += f":{info.parent}"


def _dag(dag_id: str) -> str:
    module = "airflow.sdk" if AIRFLOW >= (3, 0) else "airflow"
    start = "start_date=datetime.datetime(2024, 1, 1), catchup=False"
    return (
        f"import datetime\nfrom {module} import DAG\n"
        f"{dag_id} = DAG({dag_id!r}, schedule='@daily', {start}, is_paused_upon_creation=False)\n"
    )


def _database(site: Site) -> sqlite3.Connection:
    return sqlite3.connect(Path(site.environment["AIRFLOW_HOME"]) / "airflow.db")


def _paused(site: Site) -> dict[str, bool]:
    with _database(site) as database:
        return {dag_id: bool(paused) for dag_id, paused in database.execute("select dag_id, is_paused from dag")}


@pytest.mark.smoke
@pytest.mark.parametrize("preview", [True, False])
def test_dags_of_a_preview_begin_paused_and_stay_as_somebody_left_them(quiet_site: Site, preview: bool) -> None:
    site = quiet_site
    _install(site)
    if preview:
        site.environment |= {"UPDRAFT_PREVIEW": "1", "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True"}
    assert site.deploy({"a.py": _dag("a")})["outcome"] == "proven"
    assert _paused(site) == {"a": preview}
    with _database(site) as database:
        database.execute("update dag set is_paused = ?", (not preview,))
    # What comes later begins as the first did, also beside another change.
    changed = _dag("a") + "# changed\n" + _dag("c")
    assert site.deploy({"a.py": changed, "b.py": _dag("b")})["outcome"] == "proven"
    assert _paused(site) == {"a": not preview, "b": preview, "c": preview}
