"""The child side of a check: parses DAG files one after the other and tells of each what came of it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow.configuration import conf

from airflow_updraft import _constant, _dag_bag, _differences, _tracebacks
from airflow_updraft._children import end_with, limit_memory
from airflow_updraft._dependencies import Recorder, Seen
from airflow_updraft._leftovers import Leftovers
from airflow_updraft._loose_tasks import LooseTasks
from airflow_updraft._metadata import Metadata
from airflow_updraft._originals import Originals, may_replace
from airflow_updraft._project import Project
from airflow_updraft._values import Names, NeedsValueError, Values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType

    from airflow_updraft._dag_bag import Bagged

_FRAME = re.compile(r'^  File "(?P<path>[^"]*)", line (?P<line>\d+)', re.MULTILINE)
_CLASS = re.compile(r"[\w.]+(?=:|$)")
_KINDS = {
    "AirflowDagCycleException": "cycle",
    "AirflowDagDuplicatedIdException": "duplicate",
    "AirflowTimetableInvalid": "schedule",
    "CroniterError": "schedule",
    "CroniterBadCronError": "schedule",
    "CroniterBadDateError": "schedule",
    "CroniterNotAlphaError": "schedule",
    "CroniterUnsupportedSyntaxError": "schedule",
    "SyntaxError": "syntax",
    "IndentationError": "syntax",
    "TabError": "syntax",
}


# What the DAGs came to in the second parse, and how that ended its process or reached a limit.
_Again: TypeAlias = "tuple[dict[str, str], dict[str, Any] | None]"


@dataclass(frozen=True)
class Request:
    """What is to be parsed, and within which bounds."""

    project: Project
    files: list[str]
    processes: int
    timeout_s: float
    memory_bytes: int | None
    names: Names

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        memory = data["memory_mb"]
        return cls(
            Project(data["root"], data["dags"]),
            list(dict.fromkeys(data["files"])),
            max(1, int(data["processes"])),
            float(data["timeout_s"]),
            None if memory is None else int(memory) * 1024 * 1024,
            Names.from_json(data["names"]),
        )


class Report:
    """The child's end of the pipe to its parent. DAG code can write to it too, but not in this form."""

    def __init__(self, descriptor: int, token: bytes) -> None:
        self._descriptor = descriptor
        self._token = token
        self._identity = os.fstat(descriptor).st_ino
        self._process = os.getpid()

    def send(self, **message: Any) -> None:
        if os.getpid() != self._process:
            os._exit(0)  # a DAG file has forked, and only one of the two goes on
        if os.fstat(self._descriptor).st_ino != self._identity:
            raise OSError("the pipe to the parent was closed")
        # Begins with a line end, for what DAG code may have left unfinished.
        line = memoryview(b"\n" + self._token + json.dumps(message, default=str).encode() + b"\n")
        while line:
            line = line[os.write(self._descriptor, line) :]


class Numbers:
    """The child's end of the pipe from its parent: which of the files are its own, until there are no more."""

    def __init__(self, first: list[int], descriptor: int) -> None:
        self._waiting = deque(first)
        self._descriptor = descriptor
        self._identity = os.fstat(descriptor).st_ino
        self._partial = b""

    def __iter__(self) -> Iterator[int]:
        while True:
            while self._waiting:
                yield self._waiting.popleft()
            # DAG code may have closed it, and something else may have its number.
            if os.fstat(self._descriptor).st_ino != self._identity:
                raise OSError("the pipe from the parent was closed")
            received = os.read(self._descriptor, 1 << 16)
            if not received:
                return
            *lines, self._partial = (self._partial + received).split(b"\n")
            self._waiting.extend(map(int, lines))


def run(request: Request, numbers: Numbers, *, alone: bool, parent: int, report: Report) -> None:
    """Is the whole life of a child, from the fork on."""
    end_with(parent)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    child = _Child(request, report)
    files = (request.files[number] for number in numbers)
    if alone:
        child.check_alone(next(files))
    else:
        child.check_batch(files)


class _Child:
    def __init__(self, request: Request, report: Report) -> None:
        self._request = request
        self._report = report
        self._project = request.project
        self._codes: dict[str, CodeType | None] = {}
        self._imported: list[str] = []
        self._carried = Seen()
        self._prepare()

    def _prepare(self) -> None:
        request, project = self._request, self._project
        os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT"] = str(request.timeout_s)
        os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = project.dags
        _move_dags_folder(project.dags)
        for folder in (project.root, project.dags):
            if folder not in sys.path:
                sys.path.append(folder)
        _leave_segmentation_faults_alone()
        self._metadata = Metadata(project)
        self._metadata.install()
        self._values = Values(request.names, project)
        self._values.install(self._metadata.refusal)
        self._tasks = LooseTasks(project)
        self._tasks.install()
        if request.memory_bytes is not None:
            limit_memory(request.memory_bytes)
        importlib.invalidate_caches()
        self._recorder = Recorder(*project.roots, outside=project.outside)
        self._recorder.start()
        self._leftovers = Leftovers(project)
        self._plugins = project.relative(os.path.join(conf.get_mandatory_value("core", "plugins_folder"), ""))

    def check_batch(self, files: Iterable[str]) -> None:
        originals = Originals(besides=self._leftovers.contexts())
        for file in files:
            answer, forms = self._first(file)
            could = self._may_replace(file)
            if forms and not self._is_constant(file, forms):
                self._report.send(answer=answer)
                self._leftovers.clean()
                self._compare(answer, forms, self.parse_again(file))
            spoilt = could and not originals.are_there()
            usable = self._leftovers.clean() and not (spoilt or answer["ended"] or answer["seen"]["everything"])
            self._finish(answer, stops=not usable)
            if not usable:
                return

    def check_alone(self, file: str) -> None:
        # The second parse begins where the first did, as in Airflow, where each is in a process of its own.
        second = None if self._is_plain(file) else _SecondParse(self, file)
        answer, forms = self._first(file)
        if not forms or self._is_constant(file, forms):
            self._finish(answer)
            return
        self._report.send(answer=answer)
        if second is not None:
            again = second.result()
        else:
            self._leftovers.clean()
            again = self.parse_again(file)
        self._compare(answer, forms, again)
        self._finish(answer)

    @staticmethod
    def _compare(answer: dict[str, Any], forms: dict[str, str], again: _Again) -> None:
        second, answer["again_ended"] = again
        if not answer["again_ended"]:
            answer["differs"] = _differences.between(forms, second)

    def _finish(self, answer: dict[str, Any], *, stops: bool = False) -> None:
        imported = [name for name in self._imported if name.startswith("airflow.")]
        self._report.send(answer=answer, imported=imported, done=True, stops=stops)

    def _first(self, file: str) -> tuple[dict[str, Any], dict[str, str]]:
        self._recorder.again()
        self._tasks.again()
        self._values.needs.clear()
        self._metadata.asked.clear()
        started = time.perf_counter()
        forms, bagged = self._parse(file)
        seconds = time.perf_counter() - started
        answer = self._answer(file, bagged, forms)
        answer["seconds"] = round(seconds, 4)
        return answer, forms

    def _parse(self, file: str) -> tuple[dict[str, str], Bagged]:
        bagged = _dag_bag.bag(os.path.join(self._project.root, file), self._project.dags)
        self._loose = self._tasks.found()
        return _dag_bag.serialise(bagged), bagged

    def parse_again(self, file: str) -> _Again:
        forms, bagged = self._parse(file)
        return forms, self._errors(file, bagged)[0]

    def _answer(self, file: str, bagged: Bagged, forms: dict[str, str]) -> dict[str, Any]:
        ended, errors = self._errors(file, bagged)
        seen = self._seen(file)
        return {
            "event": "file",
            "file": file,
            "seconds": 0.0,
            "dags": [
                {
                    "dag_id": dag_id,
                    "tasks": list(bagged.dags[dag_id].task_ids),
                    "schedule": _schedule(bagged.dags[dag_id]),
                }
                for dag_id in sorted(forms)
            ],
            "errors": errors,
            "ended": ended,
            "needs": [{**need, "file": need["file"] or file} for need in self._values.needs],
            "database": [{**access, "file": access["file"] or file} for access in self._metadata.asked],
            "loose_tasks": self._loose,
            "differs": [],
            "again_ended": None,
            "seen": seen,
        }

    def _errors(self, file: str, bagged: Bagged) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        texts = sorted(bagged.errors.items())
        raised = bagged.raised
        ended: dict[str, Any] | None = None
        if isinstance(raised, SystemExit):
            # Airflow 2 does not catch it; its process ends there, and so would this one.
            ended = {"why": "exit", "code": _exit_code(raised)}
        elif isinstance(raised, MemoryError):
            ended = {"why": "memory"}
        elif raised is not None and not isinstance(raised, NeedsValueError):
            texts.append((os.path.join(self._project.root, file), "".join(traceback.format_exception(raised))))
        errors = []
        for path, text in texts:
            last = _last_line(text)
            name = _class_name(last)
            if name == NeedsValueError.__name__ and self._values.needs:
                continue
            if name == "MemoryError":
                ended = {"why": "memory"}
                continue
            if name == "AirflowTaskTimeout" and "DagBag import timeout" in last:
                ended = {"why": "time", "seconds": self._request.timeout_s}
            errors.append(self._error(path, text, name, last))
        if ended and ended["why"] == "memory":
            _lift_memory_limit()
        return ended, errors

    def _error(self, path: str, text: str, name: str, last: str) -> dict[str, Any]:
        project = self._project
        file, line = project.relative(path) or path, None
        for found in _FRAME.finditer(text):
            own = project.relative(found["path"])
            if own is not None:
                file, line = own, int(found["line"])
        # A traceback tells of the import; what is found afterwards, when there is a DAG, has its last line only.
        raised_by_import = "\n" in text.strip()
        kind = _KINDS.get(name) or ("schedule" if _tells_of_schedule(name, last) else None)
        return {
            "kind": kind or ("import" if raised_by_import else "other"),
            "file": file,
            "line": line,
            "message": self._shortened(last),
            "traceback": _tracebacks.cut(text, project.roots, project.outside),
        }

    def _shortened(self, text: str) -> str:
        for root in self._project.roots:
            text = text.replace(f"{root}/", "")
        return text

    def _seen(self, file: str) -> dict[str, Any]:
        seen = self._recorder.finish()
        self._imported = self._recorder.imported()
        # A library that an earlier file of the batch has imported is there: this file may have imported it unseen.
        stays = {
            name.rpartition(".")[2]
            for name in self._imported
            if (module := sys.modules.get(name)) is not None and not self._project.has(module)
        }
        looked = {name for name in seen.names if name.rpartition("/")[2] in stays}
        # So are Airflow's plugins, which it loads once, when the first file needs one.
        for what in ("files", "names", "folders"):
            own: set[str] = getattr(seen, what)
            carried: set[str] = getattr(self._carried, what)
            stays_so = {path for path in own if self._plugins and f"{path}/".startswith(self._plugins)}
            own |= carried
            carried |= stays_so
        self._carried.names |= looked
        seen.files.add(file)
        return seen.to_json()

    def _is_constant(self, file: str, forms: dict[str, str]) -> bool:
        # An object's address in memory is another each time, and needs no name in the code.
        if any(" at 0x" in form for form in forms.values()):
            return False
        own = self._own_imports()
        names = _constant.names_of(own)
        return all(code is not None and _constant.is_constant(code, names) for code in self._ran(file, own))

    def _may_replace(self, file: str) -> bool:
        """Also where the code is not known, as that of a library which this file was the first to import."""
        return self._leftovers.has_new_libraries() or any(
            code is None or may_replace(code) for code in self._ran(file, self._own_imports())
        )

    def _own_imports(self) -> dict[str, str | None]:
        """The project's modules that the file at hand has imported, with their files."""
        return {
            name: getattr(module, "__file__", None)
            for name in self._imported
            if (module := sys.modules.get(name)) is not None and self._project.has(module)
        }

    def _ran(self, file: str, own: dict[str, str | None]) -> Iterator[CodeType | None]:
        for path in {os.path.join(self._project.root, file), *own.values()}:
            if path:
                # What was run is there already; it is read again where it was loaded in some other way.
                yield from [*self._recorder.ran.get(path, ())] or [self._code(path)]

    def _is_plain(self, file: str) -> bool:
        """Says before the file is parsed that it is constant, by itself alone."""
        code = self._code(os.path.join(self._project.root, file))
        return code is not None and _constant.is_constant(code, ())

    def _code(self, path: str) -> CodeType | None:
        if path not in self._codes:
            self._codes[path] = None
            with contextlib.suppress(OSError, SyntaxError, ValueError), open(path, "rb") as source:
                self._codes[path] = compile(source.read(), path, "exec", dont_inherit=True)
        return self._codes[path]


class _SecondParse:
    """A child of the child, forked before anything was parsed, which parses when it is told."""

    def __init__(self, child: _Child, file: str) -> None:
        go, self._go = os.pipe()
        self._told, told = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(self._go)
                os.close(self._told)
                end_with(parent)
                if os.read(go, 1):
                    # Objects come to lie elsewhere, as in a process that has lived another life.
                    keep = [bytearray(size) for size in range(16, 4096)]
                    with open(told, "w") as out:
                        json.dump(child.parse_again(file), out)
                    del keep
                code = 0
            finally:
                os._exit(code)
        os.close(go)
        os.close(told)

    def result(self) -> _Again:
        with contextlib.suppress(OSError, ValueError):
            os.write(self._go, b"\n")
            with open(self._told) as told:
                forms, ended = json.load(told)
            return dict(forms), ended
        _, status = os.waitpid(self._pid, 0)
        return {}, how_it_ended(os.waitstatus_to_exitcode(status))


def _move_dags_folder(folder: str) -> None:
    """Tells Airflow 2 where the DAGs are, which it took from its configuration when it was imported."""
    from airflow import settings

    settings.DAGS_FOLDER = folder


def _leave_segmentation_faults_alone() -> None:
    """Keeps `DagBag` from handling them: a real one happens again and again after the handler, until time is up."""
    set_handler = signal.signal

    def set_other(number: int, handler: Any) -> Any:
        if number == signal.SIGSEGV and sys._getframe(1).f_globals.get("__name__", "").startswith("airflow."):
            return signal.getsignal(number)
        return set_handler(number, handler)

    signal.signal = set_other  # type: ignore[assignment]


def _lift_memory_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _schedule(dag: Any) -> str | None:
    # What it is called is no reason to fail, and a timetable is the user's code.
    try:
        return _dag_bag.schedule(dag)
    except Exception:
        return None


def how_it_ended(status: int) -> dict[str, Any]:
    """Tells of an exit code; below zero: a signal."""
    if status >= 0:
        return {"why": "exit", "code": status}
    try:
        return {"why": "signal", "signal": signal.Signals(-status).name}
    except ValueError:
        return {"why": "signal", "signal": f"SIG{-status}"}


def _exit_code(raised: SystemExit) -> int:
    if raised.code is None:
        return 0
    return raised.code & 0xFF if isinstance(raised.code, int) else 1


def _last_line(text: str) -> str:
    """Gives the line after the frames, where the exception's message begins."""
    lines = text.strip().splitlines() or [""]
    frames = [index for index, line in enumerate(lines) if _FRAME.match(line)]
    after = lines[frames[-1] + 1 :] if frames else lines
    return next((line for line in after if line and not line.startswith(" ")), lines[-1])


def _class_name(line: str) -> str:
    found = _CLASS.match(line)
    return found[0].rpartition(".")[2] if found else ""


def _tells_of_schedule(name: str, line: str) -> bool:
    if name in ("ModuleNotFoundError", "ImportError"):
        return False
    return bool(re.search(r"\bcron\b|croniter|invalid schedule|timetable", line, re.IGNORECASE))
