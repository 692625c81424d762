"""Updraft's side of Airflow: a versioned DAG bundle, and the worker that proves a deploy."""

__version__ = "0.1.0"
