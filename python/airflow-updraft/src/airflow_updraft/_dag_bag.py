"""One DAG file through Airflow's own `DagBag`, as each release's DAG processor does it."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import json
import os
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.serialization import serialized_objects

from airflow_updraft._schema import acceptor

try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before 3.2
    from airflow.models.dagbag import DagBag  # type: ignore[no-redef, attr-defined, unused-ignore]

if TYPE_CHECKING:
    from collections.abc import Iterable

_insides: Any = serialized_objects
_serialise = getattr(_insides, "DagSerialization", None) or _insides.SerializedDAG  # before 3.2

# What `airflow.sdk` loads on demand, and nearly every DAG file with it.
_COMMON = (
    "airflow.sdk",
    "airflow.sdk.bases.operator",
    "airflow.sdk.definitions.dag",
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.definitions.mappedoperator",
    "airflow.sdk.definitions.taskgroup",
    "airflow.sdk.definitions.variable",
    "airflow.sdk.execution_time.context",
    "airflow.version",
    "airflow.decorators",
    "airflow.operators.empty",
    "airflow.operators.bash",
    "airflow.operators.python",
    "airflow.providers.standard.operators.bash",
    "airflow.providers.standard.operators.empty",
    "airflow.providers.standard.operators.python",
    "airflow.providers.standard.decorators.python",
)


@dataclass
class Bagged:
    dags: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    """By absolute path; a traceback, or only its last line."""

    raised: BaseException | None = None
    """What Airflow 2 does not catch; there it ends the process that parses."""


def bag(file: str, dags: str) -> Bagged:
    """Imports one file."""
    # Not every release can say where an error is when the file does not lie there.
    bundle = dags if file.startswith(dags.rstrip("/") + "/") else os.path.dirname(file)
    wanted: dict[str, Any] = {
        "dag_folder": file,
        "bundle_path": Path(bundle),
        "bundle_name": "dags",
        "include_examples": False,
        "load_op_links": False,
        "collect_dags": False,
    }
    if _refuses_changing_dags():
        from airflow.utils.dag_version_inflation_checker import check_dag_file_stability

        stability: Any = check_dag_file_stability(file)
        errors = stability.get_error_format_dict(file, Path(bundle))
        if errors:
            return Bagged(errors={os.path.join(bundle, path): text for path, text in errors.items()})
    known = _parameters()
    made = DagBag(**{name: value for name, value in wanted.items() if name in known})
    raised: BaseException | None = None
    try:
        # As the bag does it when it is made; but then an exception would take the bag with it.
        collect = {"include_examples": False} if "include_examples" in known else {}
        made.collect_dags(dag_folder=file, safe_mode=_is_safe_mode(), **collect)
    except BaseException as error:
        raised = error
    errors = {os.path.join(bundle, path): text for path, text in made.import_errors.items()}
    return Bagged(dict(made.dags), errors, raised)


@functools.cache
def _parameters() -> frozenset[str]:
    return frozenset(inspect.signature(DagBag.__init__).parameters)


@functools.cache
def _refuses_changing_dags() -> bool:
    return bool(conf.get("dag_processor", "dag_version_inflation_check_level", fallback="") == "error")


@functools.cache
def _is_safe_mode() -> bool:
    return bool(conf.getboolean("core", "dag_discovery_safe_mode"))


def serialise(bagged: Bagged) -> dict[str, str]:
    """Gives the stored form of each DAG as JSON; one that has none is an error, as in the processor."""
    forms = {}
    for dag_id, dag in bagged.dags.items():
        try:
            forms[dag_id] = json.dumps(_serialise.to_dict(dag), sort_keys=True)
        except Exception:
            depth = conf.getint("core", "dagbag_import_error_traceback_depth")
            bagged.errors[dag.fileloc] = traceback.format_exc(limit=-depth)
    return forms


def schedule(dag: Any) -> str | None:
    """Gives the schedule as the file has it, or what Airflow calls it."""
    given = getattr(dag, "schedule_interval", None) if hasattr(dag, "schedule_interval") else dag.schedule
    if given is None or isinstance(given, str):
        return given
    if hasattr(given, "total_seconds"):
        return str(given)
    timetable = dag.timetable
    summary = getattr(timetable, "summary", None) or getattr(timetable, "expression", None)
    return str(summary or type(timetable).__name__)


def load(modules: Iterable[str] = _COMMON) -> None:
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:
            # Another release, or a provider that is not installed.
            continue


def warm_up() -> None:
    """Serialises a DAG of our own, for what Airflow imports and computes when it is first needed."""
    from datetime import datetime

    try:
        from airflow.providers.standard.operators.python import PythonOperator
        from airflow.sdk import DAG
    except ImportError:  # before 3.0
        from airflow.models.dag import DAG  # type: ignore[assignment, no-redef, import-not-found, unused-ignore]
        from airflow.operators.python import PythonOperator  # type: ignore[assignment, no-redef, import-not-found, unused-ignore]
    with DAG("warm_up", schedule="@daily", start_date=datetime(2024, 1, 1)) as dag:
        PythonOperator(task_id="task", python_callable=warm_up)
    _serialise.to_dict(dag)
    hasten()


def hasten() -> None:
    """Has Airflow find sooner what it would find anyway: for small files it takes most of their time."""
    # Another release may have neither, and takes its time.
    with contextlib.suppress(AttributeError):
        _validate_by_an_acceptor()
    with contextlib.suppress(AttributeError, ImportError):
        _read_translations_once()


def _validate_by_an_acceptor() -> None:
    validate = _serialise.validate_schema
    accepts = acceptor(_serialise._json_schema.schema)

    def validate_schema(_: Any, serialized_obj: Any) -> None:
        if not accepts(serialized_obj):
            validate(serialized_obj)

    _serialise.validate_schema = classmethod(validate_schema)


def _read_translations_once() -> None:
    """Keeps what describes a cron expression from opening its file of phrases each time."""
    model: Any = importlib.import_module("cron_descriptor.GetText").GetText
    load = model.load_locale
    kept: dict[tuple[Any, ...], Any] = {}

    def load_locale(self: Any, *args: Any, **kwargs: Any) -> Any:
        key = (*args, *kwargs.items())
        if key not in kept:
            kept[key] = load(self, *args, **kwargs)
        # Its user adds to it.
        return copy.copy(kept[key])

    model.load_locale = load_locale
