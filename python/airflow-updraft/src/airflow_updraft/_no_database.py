"""What stands where Airflow's configuration wants a database: a file that cannot be opened."""

from __future__ import annotations

FILE = "/nonexistent/airflow-updraft/metadata.db"
URL = f"sqlite:///{FILE}"
