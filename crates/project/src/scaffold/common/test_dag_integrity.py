"""Checks every DAG of the project: it imports, and keeps to a few rules."""

from pathlib import Path

import pytest

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models import DagBag

DAGS = Path(__file__).parent.parent / "dags"


@pytest.fixture(scope="module")
def dag_bag():
    return DagBag(dag_folder=str(DAGS))


def test_every_file_imports(dag_bag):
    errors = "\n\n".join(f"{file}:\n{error}" for file, error in dag_bag.import_errors.items())
    assert not errors, errors


def test_there_are_dags(dag_bag):
    assert dag_bag.dags, f"no DAG in {DAGS}"


def test_every_dag_has_tags(dag_bag):
    untagged = [dag_id for dag_id, dag in dag_bag.dags.items() if not dag.tags]
    assert not untagged
