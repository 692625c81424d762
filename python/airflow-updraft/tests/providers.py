"""Both stages of a check over the system tests that providers carry, and what Airflow says of the same files.

Not among the other tests: `scripts/test job providers` makes the Airflow that they need.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from test_check import Client, Said, Workers, client, dag_bag_says, worker_says, workers

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["client", "workers"]

REFUSED = "AirflowDagDuplicatedIdException: "


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose DAG files are the system tests, found as `system` by each other."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(os.environ["SYSTEM_TESTS"], project / "dags")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    image = f"apache/airflow:{version('apache-airflow')}-python{python}"
    (project / "Dockerfile").write_text(f"FROM {image}\n")
    return project


@pytest.fixture(scope="module")
def said(client: Client, project: Path, workers: Workers) -> tuple[Said, Said]:
    """What the worker says, and what one `DagBag` does, side by side."""
    with ThreadPoolExecutor() as pool:
        reference = pool.submit(dag_bag_says, project / "dags", workers)
        ours, _ = worker_says(client, project)
        return ours, reference.result()


def test_the_worker_says_what_one_dag_bag_says(said: tuple[Said, Said]) -> None:
    ours, reference = said

    assert sum(len(ids) for ids, _ in reference.values()) > 200, "there is something to compare"
    assert ours == with_all_ids(reference, ours)


def with_all_ids(reference: Said, ours: Said) -> Said:
    """`DagBag` refuses an id that a file before had; the worker takes each file by itself, and the check tells of ids
    that are there twice once it has all of them."""
    files = Counter(dag_id for ids, _ in ours.values() for dag_id in ids)
    twice = {dag_id for dag_id, times in files.items() if times > 1}
    taken: Said = {}
    for file, (ids, failures) in reference.items():
        refused = {text for text in failures if text.startswith(REFUSED)}
        again = ours[file][0] & twice if refused else set()
        assert len(again - ids) >= len(refused)
        taken[file] = (ids | again, failures - refused)
    return taken


def test_the_static_check_makes_no_false_error(project: Path, said: tuple[Said, Said], tmp_path: Path) -> None:
    _, reference = said
    errors = [finding for finding in static_check(project, tmp_path) if finding["level"] == "error"]

    assert errors != [], "some need providers that are not there"
    for error in errors:
        # Nothing else is wrong with any of them.
        assert error["rule"] == "UPD201", error
        assert is_absent(error["message"].split("`")[1]), error
        dag_ids, _ = reference.get(str(project / error["file"]), (set(), set()))
        assert not dag_ids, f"Airflow has no trouble with {error}"


def static_check(project: Path, cache: Path) -> list[dict[str, Any]]:
    ran = subprocess.run(
        [os.environ["UPDRAFT"], "dev", "check", "--venv", sys.prefix, "-o", "json"],
        cwd=project,
        env={**os.environ, "UPDRAFT_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
    )
    report = json.loads(ran.stdout)
    assert ran.returncode == 17, report
    assert report["files"] == len(list((project / "dags").rglob("*.py")))
    assert report["notes"] == [], "nothing was left out"
    findings: list[dict[str, Any]] = report["findings"]
    return findings


def is_absent(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:
        return True
