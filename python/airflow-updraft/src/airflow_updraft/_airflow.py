"""Picks the module for the Airflow that is installed."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_updraft._model import Bundle

VERSION = version("apache-airflow")


def open_bundle(name: str, current: Path, memory_bytes: int | None = None) -> Bundle:
    if int(VERSION.split(".", 1)[0]) >= 3:
        from airflow_updraft import _airflow3

        return _airflow3.Bundle(name, current, memory_bytes)
    from airflow_updraft import _airflow2

    return _airflow2.Bundle(name, current, memory_bytes)


def load() -> None:
    """Imports Airflow, which takes seconds, before the first request does."""
    if int(VERSION.split(".", 1)[0]) >= 3:
        from airflow_updraft import _airflow3  # noqa: F401
    else:
        from airflow_updraft import _airflow2  # noqa: F401
