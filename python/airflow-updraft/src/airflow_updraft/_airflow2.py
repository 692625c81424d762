"""Airflow 2.11, the plain mode: the DAGs folder is the `current` link, and there are no versions.

There each parse writes what it found from the child process itself, so the worker's children do just that, through
the same class.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow import settings
from airflow.configuration import conf
from airflow.dag_processing.processor import DagFileProcessor
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.errors import ParseImportError
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils import file as discovery
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import delete, func, select, update

from airflow_updraft import _notes
from airflow_updraft._children import GRACE_S, end_with, import_early, in_transaction, limit_memory
from airflow_updraft._dependencies import Recorder, Seen
from airflow_updraft._model import DagState, Parsed, Parsing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from airflow_updraft._processor import ProcessorId


@dataclass(frozen=True)
class _Dag:
    dag_id: str
    hash: str
    """Of what our own child wrote. What is stored by now may be somebody else's."""


class Bundle:
    """The DAGs folder."""

    versioned = False

    def __init__(self, name: str, current: Path, memory_bytes: int | None = None) -> None:
        self.name = name
        self.root = current
        self._memory = memory_bytes

    # --- which files are DAG files

    def dag_files(self) -> set[str]:
        paths = discovery.list_py_file_paths(str(self.root), safe_mode=_safe_mode(), include_examples=False)
        return {self._relative(path) for path in paths}

    def dag_files_among(self, candidates: Iterable[str]) -> set[str]:
        wanted = {path for path in candidates if (self.root / path).is_file()}
        if wanted:
            syntax = conf.get_mandatory_value("core", "dag_ignore_file_syntax", fallback="regexp")
            reachable = discovery.find_path_from_directory(str(self.root), ".airflowignore", syntax)
            wanted &= {self._relative(path) for path in reachable}
        return {path for path in wanted if self._looks_like_a_dag(path)}

    def is_folder(self, path: str) -> bool:
        return (self.root / path).is_dir()

    def _looks_like_a_dag(self, path: str) -> bool:
        full = self.root / path
        if full.suffix != ".py" and not zipfile.is_zipfile(full):
            return False
        return bool(discovery.might_contain_dag(str(full), _safe_mode()))

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.root) if os.path.isabs(path) else path

    # --- parsing

    def watch(self, processor: ProcessorId | None, notes: Path) -> ParseProcesses | None:
        return None if processor is None else ParseProcesses(processor.pid)

    def parse(self, files: Iterable[str], *, processes: int, pause: Callable[[Parsing], None]) -> Iterator[Parsed]:
        waiting = list(reversed(list(files)))
        running: list[_Child] = []
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    running.append(_Child(self, waiting.pop(), self._memory))
                finished = [child for child in running if child.is_finished()]
                for child in finished:
                    running.remove(child)
                    yield child.result()
                if not finished:
                    time.sleep(0.005)
                pause(Parsing([child.file for child in running], waiting))
        finally:
            for child in running:
                child.kill()

    # --- Airflow's database

    def ensure_known(self) -> None:
        """Nothing: there is no row for a bundle."""

    def label(self) -> str | None:
        return None

    def write(self, version: str, results: list[Parsed]) -> dict[str, str]:
        """Adds the errors of files that ended their process; the rest was written by the children."""
        crashed = {str(self.root / r.file): r.errors[r.file] for r in results if r.crashed}
        if crashed:
            DagFileProcessor.update_import_errors(
                file_last_changed={}, import_errors=crashed, processor_subdir=str(settings.DAGS_FOLDER)
            )
        return {dag.dag_id: dag.hash for result in results for dag in result.dags}

    def retire(self, gone: Iterable[str], vanished: Iterable[str]) -> None:
        gone, vanished = set(gone), set(vanished)
        if not gone and not vanished:
            return

        def retire(session: Any) -> None:
            for path in gone:
                session.execute(
                    delete(ParseImportError)
                    .where(ParseImportError.filename == str(self.root / path))
                    .execution_options(synchronize_session=False)
                )
            session.execute(
                update(DagModel)
                .where(DagModel.dag_id.in_(vanished))
                .values(is_active=False)
                .execution_options(synchronize_session=False)
            )
            session.execute(
                delete(SerializedDagModel)
                .where(SerializedDagModel.dag_id.in_(vanished))
                .execution_options(synchronize_session=False)
            )

        in_transaction(retire)

    def dags(self, *, hashes: bool = False) -> dict[str, DagState]:
        with create_session() as session:
            rows = session.execute(
                select(DagModel.dag_id, DagModel.fileloc, DagModel.is_active, SerializedDagModel.dag_hash).join(
                    SerializedDagModel, SerializedDagModel.dag_id == DagModel.dag_id, isouter=True
                )
            ).all()
        return {
            dag: DagState(self._relative(file), None, not active, digest)
            for dag, file, active, digest in rows
            if file and file.startswith(f"{self.root}/")
        }

    def import_errors(self) -> dict[str, str]:
        with create_session() as session:
            rows = session.execute(select(ParseImportError.filename, ParseImportError.stacktrace)).all()
        return {self._relative(file): text or "" for file, text in rows if file.startswith(f"{self.root}/")}

    def unfinished_runs(self) -> dict[str, int]:
        """Counts the runs that have not ended, by DAG."""
        with create_session() as session:
            runs = session.execute(
                select(DagRun.dag_id, func.count())
                .where(DagRun.state.not_in([DagRunState.SUCCESS, DagRunState.FAILED]))
                .group_by(DagRun.dag_id)
            ).all()
        return {row[0]: row[1] for row in runs}

    def holds(self) -> dict[str, Any]:
        return {"runs": {}, "dags": {}}

    def describe(self) -> list[dict[str, Any]]:
        with create_session() as session:
            rows = session.execute(
                select(DagModel).where(DagModel.is_active.is_(True)).order_by(DagModel.dag_id)
            ).scalars()
            listing = []
            for dag in rows:
                stored = SerializedDagModel.get(dag.dag_id, session=session)
                tasks = stored.data["dag"].get("tasks", []) if stored is not None else []
                listing.append(
                    {
                        "dag_id": dag.dag_id,
                        "file": self._relative(dag.fileloc),
                        "version": None,
                        "paused": bool(dag.is_paused),
                        "schedule": dag.timetable_description,
                        "tasks": [str(task.get("__var", task)["task_id"]) for task in tasks],
                    }
                )
        return listing


class ParseProcesses:
    """The processes that parsed DAG files when the proof began.

    Each parses one file and writes what it found itself, so once they have ended nothing of the time before is
    left; whatever starts later reads the new version. They are children of the standalone DAG processor, or of the
    manager that the scheduler starts; the latter shows in its title.
    """

    def __init__(self, pid: int) -> None:
        parents = {one.pid: one.parent for one in _notes.processes()}
        below = {one for one in parents if _is_below(one, pid, parents)}
        managers = {one for one in below if "DagFileProcessorManager" in _notes.title(one)}
        if "dag-processor" in _notes.title(pid):
            managers.add(pid)
        self._before = {
            (one.pid, one.start_time) for one in _notes.processes() if one.pid in below and one.parent in managers
        }

    def ask_to_stand(self) -> None:
        """Nothing: each parse writes by itself and bears a row that somebody else has made."""

    def stands_still(self) -> bool:
        return True

    def let_go(self) -> None:
        """Nothing."""

    def is_past(self, version: str) -> bool:
        self._before = {one for one in self._before if _notes.runs(*one)}
        return not self._before

    def missing(self, version: str) -> str:
        return f"the DAG processor still works on {len(self._before)} parse(s) that began before the switch"


def _is_below(pid: int, above: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == above:
            return True
    return False


class _Child:
    """A process that parses one file and writes it to the database, as a child of the DAG processor does."""

    def __init__(self, bundle: Bundle, file: str, memory: int | None) -> None:
        self._bundle = bundle
        self.file = file
        self._report = tempfile.TemporaryFile()  # noqa: SIM115  # the child inherits it, the result closes it
        self._limit = float(conf.getint("core", "dag_file_processor_timeout")) + GRACE_S
        self._started = time.monotonic()
        self._killed = False
        self._status: int | None = None
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                end_with(parent)
                self._work(memory)
                code = 0
            except BaseException:
                logging.getLogger(__name__).exception("parsing `%s` failed", file)
            finally:
                os._exit(code)

    def _work(self, memory: int | None) -> None:
        roots = (str(self._bundle.root), os.path.realpath(self._bundle.root))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nowhere, descriptor)
        if memory is not None:
            limit_memory(memory)
        sys.dont_write_bytecode = True
        settings.configure_orm()
        recorder = Recorder(*roots)
        parse = DagFileProcessor._get_dagbag
        serialise = SerializedDagModel.__init__
        bags: list[Any] = []
        hashes: dict[str, str] = {}

        def remember_bag(path: str) -> Any:
            bag = parse(path)
            bags.append(bag)
            seen = recorder.finish().to_json()
            self._say(dags=sorted(bag.dags), errors=bag.import_errors, seen=seen, imported=recorder.imported())
            return bag

        def remember_hash(row: SerializedDagModel, dag: Any, *arguments: Any, **named: Any) -> None:
            serialise(row, dag, *arguments, **named)
            hashes[dag.dag_id] = str(row.dag_hash)

        DagFileProcessor._get_dagbag = remember_bag
        SerializedDagModel.__init__ = remember_hash
        recorder.start()
        processor = DagFileProcessor(
            dag_ids=None, dag_directory=str(settings.DAGS_FOLDER), log=logging.getLogger("airflow.processor")
        )
        processor.process_file(str(self._bundle.root / self.file), callback_requests=[])
        # By now its errors are also those of DAGs that could not be stored.
        for bag in bags:
            self._say(errors=bag.import_errors, hashes=hashes)

    def _say(self, **message: Any) -> None:
        self._report.write(json.dumps(message).encode() + b"\n")
        self._report.flush()

    def is_finished(self) -> bool:
        if not self._killed and time.monotonic() - self._started > self._limit:
            self._killed = True
            os.kill(self._pid, signal.SIGKILL)
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def kill(self) -> None:
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        self._report.close()

    def result(self) -> Parsed:
        self._report.seek(0)
        lines = self._report.read().splitlines()
        self._report.close()
        told: dict[str, Any] = {}
        try:
            for line in lines:
                told |= json.loads(line)
            seen = Seen.from_json(told["seen"])
            import_early(told["imported"])
        except (ValueError, KeyError, TypeError):
            error = f"{self._ending()} while Airflow imported it, so no DAG of it is known.\n"
            return Parsed(self.file, errors={self.file: error}, seen=Seen({self.file}, everything=True), crashed=True)
        seen.files.add(self.file)
        errors = {self._bundle._relative(path): text for path, text in told["errors"].items()}
        # One that was parsed and not written has no hash, and is done again.
        hashes = told.get("hashes", {})
        return Parsed(self.file, [_Dag(dag, hashes.get(dag, "")) for dag in told["dags"]], errors, seen=seen)

    def _ending(self) -> str:
        if self._killed:
            return f"`{self.file}` took longer than {self._limit:.0f} s and was ended"
        if self._status is not None and self._status < 0:
            return f"`{self.file}` ended its process by signal {signal.Signals(-self._status).name}"
        return f"`{self.file}` ended its process with exit code {self._status} (`os._exit` or `sys.exit`?)"


def _safe_mode() -> bool:
    return bool(conf.getboolean("core", "dag_discovery_safe_mode"))
