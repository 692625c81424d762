"""TaskFlow, dynamic task mapping and a dataset.

Runs when `example_basic` has brought new order totals: one mapped task per
region writes a line of the report, and a last task puts them together.
"""

from datetime import datetime

from airflow.datasets import Dataset
from airflow.decorators import dag, task

from include.orders import describe, sample_orders, total_per_region


@dag(
    schedule=[Dataset("order_totals")],
    start_date=datetime(2025, 1, 1),
    catchup=False,
    doc_md=__doc__,
    tags=["example"],
)
def example_advanced():
    @task
    def regions() -> list[dict]:
        """Returns one item per region; nobody knows how many beforehand."""
        totals = total_per_region(sample_orders())
        return [{"region": region, "total": total} for region, total in totals.items()]

    @task
    def line(item: dict, currency: str) -> str:
        return describe(item["region"], item["total"], currency)

    @task(outlets=[Dataset("order_report")])
    def report(lines: list[str]) -> str:
        text = "\n".join(sorted(lines))
        print(text)
        return text

    report(line.partial(currency="EUR").expand(item=regions()))


example_advanced()
