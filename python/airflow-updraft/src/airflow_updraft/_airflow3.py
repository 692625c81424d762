"""Airflow 3.0 to 3.3: everything that touches Airflow's insides, and where its releases differ.

A file is parsed in the very process class that Airflow's DAG processor uses, so that variables, connections,
blocked database access and time limits are those of the real thing; results are written with the function with
which the processor writes its own.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import selectors
import signal
import sys
import tempfile
import time
import zipfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from airflow.configuration import conf
from airflow.dag_processing import collection, processor
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.errors import ParseImportError
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils import file as discovery
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import delete, func, select, update
from uuid6 import uuid7

from airflow_updraft._children import GRACE_S, end_with, import_early, in_transaction, limit_memory
from airflow_updraft._dependencies import Recorder, Seen
from airflow_updraft._model import DagState, Parsed, Parsing
from airflow_updraft._processor import Processor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_updraft._processor import ProcessorId

try:
    from airflow._shared.module_loading.file_discovery import find_path_from_directory
except ImportError:  # before 3.2
    from airflow.utils.file import find_path_from_directory  # type: ignore[no-redef, unused-ignore]


# For what a child said last to arrive, once it has ended.
_LINGER_S = 2.0


def _accepted(function: Callable[..., Any], **wanted: Any) -> dict[str, Any]:
    """Keeps the arguments that this release of Airflow knows."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in wanted.items() if name in known}


def ignore_syntax() -> str:
    return str(conf.get("core", "dag_ignore_file_syntax", fallback="glob"))


def safe_mode() -> bool:
    return bool(conf.getboolean("core", "dag_discovery_safe_mode"))


class Bundle:
    """One bundle at the version that its `current` link names."""

    versioned = True

    def __init__(self, name: str, current: Path, memory_bytes: int | None = None) -> None:
        self.name = name
        self.root = current
        self._memory = memory_bytes

    # --- which files are DAG files

    def dag_files(self) -> set[str]:
        return {self._relative(path) for path in discovery.list_py_file_paths(str(self.root), safe_mode())}

    def dag_files_among(self, candidates: Iterable[str]) -> set[str]:
        """Decides for a few files; others are listed, for `.airflowignore`, and not read."""
        wanted = {path for path in candidates if (self.root / path).is_file()}
        if wanted:
            reachable = find_path_from_directory(str(self.root), ".airflowignore", ignore_syntax())
            wanted &= {self._relative(path) for path in reachable}
        return {path for path in wanted if self._looks_like_a_dag(path)}

    def is_folder(self, path: str) -> bool:
        return (self.root / path).is_dir()

    def _looks_like_a_dag(self, path: str) -> bool:
        full = self.root / path
        if full.suffix != ".py" and not zipfile.is_zipfile(full):
            return False
        return bool(discovery.might_contain_dag(str(full), safe_mode()))

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.root) if os.path.isabs(path) else path

    # --- parsing

    def watch(self, processor: ProcessorId | None, notes: Path) -> Processor:
        logs = conf.get_mandatory_value("logging", "dag_processor_child_process_log_directory")
        return Processor(processor, self.name, notes, Path(logs))

    def parse(self, files: Iterable[str], *, processes: int, pause: Callable[[Parsing], None]) -> Iterator[Parsed]:
        """Parses each file in a child of its own and yields the results as they come."""
        waiting = list(reversed(list(files)))
        running: list[_Child] = []
        selector = selectors.DefaultSelector()
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    running.append(self._start(waiting.pop(), selector))
                # Short, because nothing wakes us between a child's last word and its exit.
                _serve(selector, timeout=0.005)
                for child in [child for child in running if child.is_finished()]:
                    running.remove(child)
                    yield child.result()
                pause(Parsing([child.file for child in running], waiting))
        finally:
            for child in running:
                child.kill()
            selector.close()

    def _start(self, file: str, selector: selectors.BaseSelector) -> _Child:
        roots = (str(self.root), os.path.realpath(self.root))
        report = tempfile.TemporaryFile()  # noqa: SIM115  # the child inherits it, the result closes it
        memory = self._memory
        parent = os.getpid()

        def main() -> None:
            end_with(parent)
            recorder = Recorder(*roots)
            if memory is not None:
                limit_memory(memory)
            sys.dont_write_bytecode = True
            # 3.0 has no dag bag that does this itself.
            if roots[0] not in sys.path:
                sys.path.append(roots[0])
            recorder.start()
            try:
                processor._parse_file_entrypoint()  # type: ignore[no-untyped-call]
            finally:
                seen = recorder.finish().to_json()
                report.write(json.dumps({"seen": seen, "imported": recorder.imported()}).encode())
                report.flush()

        start = processor.DagFileProcessorProcess.start
        nowhere = open(os.devnull, "ab")  # noqa: SIM115  # closed with the child
        process = start(
            id=uuid7(),
            path=self.root / file,
            bundle_path=self.root,
            callbacks=[],
            target=main,
            client=_client,  # type: ignore[arg-type]
            selector=selector,
            logger=structlog.wrap_logger(structlog.BytesLogger(nowhere), processors=[_drop], logger_name="proof"),
            logger_filehandle=nowhere,
            **_accepted(start, bundle_name=self.name, dag_file_rel_path=file),
        )
        return _Child(file, process, report, self)

    # --- Airflow's database

    def ensure_known(self) -> None:
        """Makes the row that DAGs refer to, as `airflow dags reserialize` does; the processor may not be up yet."""
        with create_session() as session:
            known = session.get(DagBundleModel, self.name) is not None
        if not known:
            DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]

    def label(self) -> str | None:
        """Reads the version under which the DAG processor files what it collects."""
        with create_session() as session:
            return session.scalar(select(DagBundleModel.version).where(DagBundleModel.name == self.name))

    def write(self, version: str, results: list[Parsed]) -> dict[str, str]:
        """Writes parse results; gives the hashes of the DAGs as they are now stored."""

        def write(session: Any) -> dict[str, str]:
            self._write(version, results, session)
            session.flush()
            return self._hashes(session, [dag.dag_id for result in results for dag in result.dags])

        return in_transaction(write)

    def _write(self, version: str, results: list[Parsed], session: Any) -> None:
        by_file: Callable[[str], Any] = (lambda path: (self.name, path)) if _errors_are_keyed_by_bundle() else str
        errors = {by_file(self._error_key(path)): text for result in results for path, text in result.errors.items()}
        clean = {result.file for result in results} - {path for result in results for path in result.errors}
        collection.update_dag_parsing_results_in_db(
            bundle_name=self.name,
            bundle_version=version,
            dags=[dag for result in results for dag in result.dags],
            import_errors=errors,
            warnings={warning for result in results for warning in result.warnings},
            session=session,
            **_accepted(
                collection.update_dag_parsing_results_in_db,
                version_data=None,
                parse_duration=None,
                files_parsed={(self.name, result.file) for result in results},
            ),
        )
        # Airflow adds DAGs that could not be written.
        for key, text in errors.items():
            path = self._relative(key[1] if isinstance(key, tuple) else key)
            for result in results:
                if path == result.file or path.startswith(result.file + "/"):
                    result.errors.setdefault(path, text)
                    clean.discard(result.file)
        # Not every release clears the error of a file that now parses and has no DAG.
        self._clear_errors(clean, session)

    def retire(self, gone: Iterable[str], vanished: Iterable[str]) -> None:
        """Does for removed files and for DAGs that left their file what the processor would do in time."""
        gone, vanished = set(gone), set(vanished)
        if not gone and not vanished:
            return

        def retire(session: Any) -> None:
            if gone:
                self._clear_errors(gone, session)
            if vanished:
                session.execute(
                    update(DagModel)
                    .where(DagModel.bundle_name == self.name, DagModel.dag_id.in_(vanished))
                    .values(is_stale=True)
                    .execution_options(synchronize_session=False)
                )

        in_transaction(retire)

    def _clear_errors(self, files: set[str], session: Any) -> None:
        names = [name for path in files for name in (path, str(self.root / path))]
        for start in range(0, len(names), 500):
            session.execute(
                delete(ParseImportError)
                .where(
                    ParseImportError.bundle_name == self.name,
                    ParseImportError.filename.in_(names[start : start + 500]),
                )
                .execution_options(synchronize_session=False)
            )

    def _error_key(self, path: str) -> str:
        return path if _errors_are_keyed_by_bundle() else str(self.root / path)

    def dags(self, *, hashes: bool = False) -> dict[str, DagState]:
        """Reads every DAG of the bundle."""
        with create_session() as session:
            rows = session.execute(
                select(DagModel.dag_id, DagModel.relative_fileloc, DagModel.bundle_version, DagModel.is_stale).where(
                    DagModel.bundle_name == self.name
                )
            ).all()
            stored = self._hashes(session) if hashes else {}
        return {
            dag: DagState(file or "", version, bool(stale), stored.get(dag)) for dag, file, version, stale in rows
        }

    def _hashes(self, session: Any, only: list[str] | None = None) -> dict[str, str]:
        newest = select(SerializedDagModel.dag_id, func.max(SerializedDagModel.created_at).label("at")).group_by(
            SerializedDagModel.dag_id
        )
        if only is not None:
            newest = newest.where(SerializedDagModel.dag_id.in_(only))
        else:
            newest = newest.where(
                SerializedDagModel.dag_id.in_(select(DagModel.dag_id).where(DagModel.bundle_name == self.name))
            )
        latest = newest.subquery()
        rows = session.execute(
            select(SerializedDagModel.dag_id, SerializedDagModel.dag_hash).join(
                latest,
                (SerializedDagModel.dag_id == latest.c.dag_id) & (SerializedDagModel.created_at == latest.c.at),
            )
        )
        return {row[0]: row[1] for row in rows}

    def import_errors(self) -> dict[str, str]:
        with create_session() as session:
            rows = session.execute(
                select(ParseImportError.filename, ParseImportError.stacktrace).where(
                    ParseImportError.bundle_name == self.name
                )
            ).all()
        return {self._relative(file): text or "" for file, text in rows if file}

    def unfinished_runs(self) -> dict[str, int]:
        """Counts the runs that have not ended, by DAG."""
        with create_session() as session:
            runs = session.execute(
                select(DagRun.dag_id, func.count())
                .join(DagModel, DagModel.dag_id == DagRun.dag_id)
                .where(
                    DagModel.bundle_name == self.name,
                    DagRun.state.not_in([DagRunState.SUCCESS, DagRunState.FAILED]),
                )
                .group_by(DagRun.dag_id)
            ).all()
        return {row[0]: row[1] for row in runs}

    def holds(self) -> dict[str, Any]:
        """Finds what still needs a version on disk: unfinished runs, and where each DAG was last parsed."""
        with create_session() as session:
            runs = session.execute(
                select(DagRun.bundle_version, func.count())
                .join(DagModel, DagModel.dag_id == DagRun.dag_id)
                .where(
                    DagModel.bundle_name == self.name,
                    DagRun.bundle_version.is_not(None),
                    DagRun.state.not_in([DagRunState.SUCCESS, DagRunState.FAILED]),
                )
                .group_by(DagRun.bundle_version)
            ).all()
            dags = session.execute(
                select(DagModel.bundle_version, func.count())
                .where(
                    DagModel.bundle_name == self.name,
                    DagModel.bundle_version.is_not(None),
                    DagModel.is_stale.is_(False),
                )
                .group_by(DagModel.bundle_version)
            ).all()
        return {
            "runs": {row[0]: row[1] for row in runs},
            "dags": {row[0]: row[1] for row in dags},
        }

    def describe(self) -> list[dict[str, Any]]:
        """Lists the DAGs that are not stale, with their tasks and schedule."""
        with create_session() as session:
            rows = session.execute(
                select(DagModel)
                .where(DagModel.bundle_name == self.name, DagModel.is_stale.is_(False))
                .order_by(DagModel.dag_id)
            ).scalars()
            listing = []
            for dag in rows:
                stored = SerializedDagModel.get(dag.dag_id, session=session)
                tasks = stored.data["dag"].get("tasks", []) if stored is not None and stored.data else []
                listing.append(
                    {
                        "dag_id": dag.dag_id,
                        "file": dag.relative_fileloc,
                        "version": dag.bundle_version,
                        "paused": bool(dag.is_paused),
                        "schedule": dag.timetable_summary,
                        "tasks": [_task_id(task) for task in tasks],
                    }
                )
        return listing


class _Child:
    def __init__(self, file: str, process: Any, report: Any, bundle: Bundle) -> None:
        self.file = file
        self._process = process
        self._report = report
        self._bundle = bundle
        self._limit = float(conf.getint("dag_processor", "dag_file_processor_timeout")) + GRACE_S
        self._started = time.monotonic()
        self._killed = False
        self._exited: float | None = None

    def is_finished(self) -> bool:
        now = time.monotonic()
        if not self._killed and now - self._started > self._limit:
            self._killed = True
            self._process.kill(signal.SIGKILL)
        if self._process.is_ready:
            return True
        if self._process._exit_code is None:
            return False
        if self._exited is None:
            self._exited = now
        # What the file has started in the background holds the sockets open, for as long as it likes.
        return now - self._exited > _LINGER_S

    def kill(self) -> None:
        self._process.kill(signal.SIGKILL)
        self._close()

    def result(self) -> Parsed:
        self._report.seek(0)
        report = self._report.read()
        self._close()
        try:
            told = json.loads(report)
            seen = Seen.from_json(told["seen"])
            import_early(told["imported"])
        except (ValueError, KeyError, TypeError):
            # It ended early, or DAG code wrote to a descriptor which is not its own.
            seen = Seen(everything=True)
        seen.files.add(self.file)
        parsed = Parsed(self.file, seen=seen)
        found = self._process.parsing_result
        if found is None:
            parsed.errors[self.file] = f"{self._ending()} while Airflow imported it, so no DAG of it is known.\n"
            return parsed
        parsed.dags = list(found.serialized_dags)
        parsed.errors = {self._bundle._relative(path): text for path, text in (found.import_errors or {}).items()}
        parsed.warnings = [_warning(warning) for warning in found.warnings or []]
        return parsed

    def _ending(self) -> str:
        if self._killed:
            return f"`{self.file}` took longer than {self._limit:.0f} s and was ended"
        code = self._process._exit_code
        if code is not None and code < 0:
            return f"`{self.file}` ended its process by signal {signal.Signals(-code).name}"
        return f"`{self.file}` ended its process with exit code {code} (`os._exit` or `sys.exit`?)"

    def _close(self) -> None:
        for ours in list(self._process._open_sockets):
            with contextlib.suppress(KeyError, ValueError):
                self._process.selector.unregister(ours)
            ours.close()
        self._process._open_sockets.clear()
        self._report.close()
        self._process.logger_filehandle.close()


class _Client:
    """Airflow's in-process API as the DAG processor uses it for variables and connections, built at first use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @cached_property
    def _real(self) -> Any:
        from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
        from airflow.sdk.api.client import Client

        client = Client(base_url=None, token="", dry_run=True, transport=InProcessExecutionAPI().transport)
        client.base_url = "http://in-process.invalid./"  # type: ignore[assignment, unused-ignore]
        return client


_client = _Client()


def _serve(selector: selectors.BaseSelector, timeout: float) -> None:
    """Answers what children ask for; the same few lines as in Airflow's own processor."""
    for key, _ in selector.select(timeout):
        handle, on_close = key.data
        try:
            more = handle(key.fileobj)
        except Exception:
            # A connection that ended, or DAG code that wrote to a descriptor which is not its own.
            more = False
        if not more:
            on_close(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


def _errors_are_keyed_by_bundle() -> bool:
    annotation = inspect.signature(collection.update_dag_parsing_results_in_db).parameters["import_errors"].annotation
    return "tuple" in str(annotation)


def _warning(warning: Any) -> Any:
    from airflow.models.dagwarning import DagWarning

    return DagWarning(**warning) if isinstance(warning, dict) else warning


def _task_id(task: dict[str, Any]) -> str:
    inner = task.get("__var", task)
    return str(inner["task_id"])
