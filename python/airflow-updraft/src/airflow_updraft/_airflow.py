"""Picks the module for the Airflow that is installed."""

from __future__ import annotations

from importlib.metadata import version

if int(version("apache-airflow").split(".", 1)[0]) >= 3:
    from airflow_updraft._airflow3 import VERSION, Bundle
else:
    from airflow_updraft._airflow2 import VERSION, Bundle  # type: ignore[assignment]

__all__ = ["VERSION", "Bundle"]
