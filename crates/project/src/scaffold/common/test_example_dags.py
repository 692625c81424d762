"""Tests of the example DAGs: what they compute, and how their tasks hang together."""

import example_advanced
import example_basic

from include.orders import describe, sample_orders, total_per_region


def test_totals_per_region():
    assert total_per_region(sample_orders()) == {"north": 160, "south": 80, "west": 200}
    assert total_per_region([]) == {}


def test_a_line_of_the_report():
    assert describe("north", 160, "EUR") == "north: 160 EUR"


def test_basic_runs_its_tasks_in_order():
    assert example_basic.extract.downstream_task_ids == {"transform"}
    assert example_basic.transform.downstream_task_ids == {"load"}


def test_advanced_maps_one_task_per_region():
    dag = example_advanced.example_advanced()
    # Airflow 2 and 3 agree on little more than the name.
    assert "Mapped" in type(dag.get_task("line")).__name__
    assert dag.get_task("report").upstream_task_ids == {"line"}
