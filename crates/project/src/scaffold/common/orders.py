"""Helpers that the example DAGs import: plain Python, tested without Airflow."""

ORDERS = [
    {"region": "north", "amount": 120},
    {"region": "south", "amount": 80},
    {"region": "north", "amount": 40},
    {"region": "west", "amount": 200},
]


def sample_orders() -> list[dict]:
    """Returns the orders; in a real project this would read a source."""
    return [dict(order) for order in ORDERS]


def total_per_region(orders: list[dict]) -> dict[str, int]:
    """Adds up the amounts of each region."""
    totals: dict[str, int] = {}
    for order in orders:
        totals[order["region"]] = totals.get(order["region"], 0) + order["amount"]
    return totals


def describe(region: str, total: int, currency: str) -> str:
    """Writes one line of the report."""
    return f"{region}: {total} {currency}"
