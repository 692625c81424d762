"""The parse worker for checks: a real Airflow without a database, spoken to over its own protocol."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.serialization.json_schema import load_dag_schema
from conftest import AIRFLOW, wait_until

from airflow_updraft import _constant, _modules, _notes, _schema
from airflow_updraft._dag_bag import _serialise
from airflow_updraft._project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = str(Path(_constant.__file__).parents[1])
BASH = "airflow.providers.standard.operators.bash" if AIRFLOW >= (3, 0) else "airflow.operators.bash"
SDK = "airflow.sdk" if AIRFLOW >= (3, 0) else "airflow.models"
HEAD = f"""\
import datetime
from {SDK} import DAG, Variable
from {BASH} import BashOperator
"""
UNKNOWN: dict[str, Any] = {"variables": None, "connections": None, "environment": [], "secrets_backend": False}


def dag(dag_id: str, top: str = "", *, command: str = "'echo'", start: str = "datetime.datetime(2024, 1, 1)") -> str:
    """The source of a DAG of one task, `only`; it begins with six lines of its own before `top`."""
    return (
        HEAD
        + textwrap.dedent(top)
        + f"\nwith DAG({dag_id!r}, schedule='@daily', start_date={start}):\n"
        + f"    BashOperator(task_id='only', bash_command={command})\n"
    )


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


class Client:
    """One conversation with a worker."""

    def __init__(self, reads: Any, writes: Any) -> None:
        self._reads = reads
        self._writes = writes
        self.hello = self.hear()

    def hear(self) -> dict[str, Any]:
        line = self._reads.readline()
        assert line, "the worker has ended"
        message: dict[str, Any] = json.loads(line)
        return message

    def say(self, root: Path, files: list[str], **fields: Any) -> None:
        request = {
            "op": "parse",
            "root": str(root),
            "dags": str(root / "dags"),
            "files": files,
            "processes": 2,
            "timeout_s": 30,
            "memory_mb": None,
            "names": UNKNOWN,
        }
        self._writes.write(json.dumps({**request, **fields}) + "\n")
        self._writes.flush()

    def parse(self, root: Path, files: dict[str, str], **fields: Any) -> dict[str, dict[str, Any]]:
        """Writes the files and has those below `dags` parsed, in this order; gives the answers by file."""
        write(root, files)
        self.say(root, [name for name in files if name.startswith("dags/")], **fields)
        return self.answers()

    def answers(self) -> dict[str, dict[str, Any]]:
        answers: dict[str, dict[str, Any]] = {}
        while (message := self.hear())["event"] != "done":
            assert message["event"] == "file", message
            assert message["file"] not in answers, "one answer for each file"
            answers[message["file"]] = message
        return answers


class Workers:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        self.environment = {
            **inherited,
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW_VAR_HERE": "from the environment",
            "AIRFLOW_CONN_HERE": "postgres://example.com",
            "PYTHONPATH": SOURCE,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "airflow_updraft.check", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("ab"),
            env={**self.environment, **environment},
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(tmp_path_factory.mktemp("check"))
    yield workers
    workers.stop()


@pytest.fixture(scope="module")
def client(workers: Workers) -> Client:
    """A worker on its standard streams, for all tests: it is made to live through anything."""
    process = workers.start()
    return Client(process.stdout, process.stdin)


def errors(answer: dict[str, Any]) -> list[tuple[str, str, int | None, str]]:
    return [(error["kind"], error["file"], error["line"], error["message"]) for error in answer["errors"]]


def needs(answer: dict[str, Any]) -> list[tuple[str, str, int, str]]:
    return [(need["kind"], need["name"], need["line"], need["outcome"]) for need in answer["needs"]]


def is_clean(answer: dict[str, Any]) -> bool:
    told = ("errors", "ended", "needs", "database", "loose_tasks", "differs")
    return bool(answer["dags"]) and not any(answer[key] for key in told)


# --- what a file has


@pytest.mark.smoke
def test_tells_what_a_file_has_and_leaves_the_project_as_it_is(client: Client, tmp_path: Path) -> None:
    assert client.hello["event"] == "ready"
    assert tuple(int(part) for part in client.hello["airflow"].split(".")[:2]) == AIRFLOW
    assert client.hello["python"] == sys.version.split()[0]

    files = {
        "lib/helper.py": "COMMAND = 'echo'\n",
        "dags/lib2.py": "COMMAND = 'echo'\n",
        "dags/a.py": dag("a", "from lib.helper import COMMAND\nimport lib2", command="COMMAND"),
        "dags/never.py": dag("never").replace("'@daily'", "None"),
        "dags/nothing.py": "x = 1\n",
    }
    answers = client.parse(tmp_path, files)

    assert answers["dags/a.py"]["dags"] == [{"dag_id": "a", "tasks": ["only"], "schedule": "@daily"}]
    assert is_clean(answers["dags/a.py"])
    assert {"dags/a.py", "lib/helper.py", "dags/lib2.py"} <= set(answers["dags/a.py"]["seen"]["files"])
    assert "lib/helper" in answers["dags/a.py"]["seen"]["names"]
    assert answers["dags/a.py"]["seen"]["everything"] is False
    assert answers["dags/never.py"]["dags"] == [{"dag_id": "never", "tasks": ["only"], "schedule": None}]
    assert (answers["dags/nothing.py"]["dags"], answers["dags/nothing.py"]["errors"]) == ([], [])
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(files)


@pytest.mark.smoke
def test_errors_have_a_kind_and_the_users_own_line(client: Client, tmp_path: Path) -> None:
    cycle = dag("cycle") + "    a = BashOperator(task_id='a', bash_command='x')\n    a >> BashOperator(task_id='b'"
    cycle += ", bash_command='x') >> a\n"
    files = {
        "lib/broken.py": "import json\n\njson.loads('{')\n",
        "lib/wrong.py": "def f(:\n",
        "dags/absent.py": dag("absent", "import absent_module"),
        "dags/deep.py": dag("deep", "import lib.broken"),
        "dags/syntax.py": dag("syntax", "def f(:"),
        "dags/far_syntax.py": dag("far_syntax", "import lib.wrong"),
        "dags/cycle.py": cycle,
        "dags/cron.py": dag("cron").replace("@daily", "61 * * * *"),
        "dags/own.py": dag(
            "own", "from airflow.timetables.base import Timetable\nclass Own(Timetable): pass"
        ).replace("'@daily'", "Own()"),
        "dags/no_cron.py": dag("no_cron", "import croniter_of_mine"),
        "dags/good.py": dag("good"),
    }
    answers = client.parse(tmp_path, files)

    assert errors(answers["dags/absent.py"]) == [
        ("import", "dags/absent.py", 4, "ModuleNotFoundError: No module named 'absent_module'")
    ]
    (kind, file, line, message), *rest = errors(answers["dags/deep.py"])
    assert (kind, file, line, message.partition(":")[0]) == (
        "import",
        "lib/broken.py",
        3,
        "json.decoder.JSONDecodeError",
    )
    assert not rest
    text = answers["dags/deep.py"]["errors"][0]["traceback"]
    assert 'File "dags/deep.py", line 4' in text
    assert 'File "lib/broken.py", line 3' in text
    assert "site-packages" not in text
    assert str(tmp_path) not in text
    assert errors(answers["dags/syntax.py"])[0][:3] == ("syntax", "dags/syntax.py", 4)
    assert errors(answers["dags/far_syntax.py"])[0][:3] == ("syntax", "lib/wrong.py", 1)
    assert errors(answers["dags/cycle.py"])[0][0] == "cycle"
    assert errors(answers["dags/cron.py"])[0][0] == "schedule"
    # What `DagBag` takes and the processor cannot store.
    assert errors(answers["dags/own.py"])[0][:3] == ("schedule", "dags/own.py", None)
    assert errors(answers["dags/no_cron.py"])[0][0] == "import"
    assert [name for name, answer in answers.items() if answer["dags"]] == ["dags/good.py"]


@pytest.mark.smoke
def test_tasks_of_no_dag_are_told_with_their_line(client: Client, tmp_path: Path) -> None:
    decorators = "airflow.sdk" if AIRFLOW >= (3, 0) else "airflow.decorators"
    top = f"""\
        from {decorators} import task
        BashOperator(task_id="loose", bash_command="x")
        BashOperator.partial(task_id="mapped").expand(bash_command=["x", "y"])
        later = BashOperator(task_id="later", bash_command="x")
        @task
        def never_called(): pass
        @task
        def called(): pass
        called()
        def not_run():
            BashOperator(task_id="not_made", bash_command="x")
    """
    source = dag("loose", top) + "later.dag = DAG('other', schedule=None, start_date=datetime.datetime(2024, 1, 1))\n"
    answer = client.parse(tmp_path, {"dags/loose.py": source})["dags/loose.py"]

    loose = [(task["task_id"], task["file"], task["line"]) for task in answer["loose_tasks"]]
    assert loose == [("loose", "dags/loose.py", 5), ("mapped", "dags/loose.py", 6), ("called", "dags/loose.py", 12)]


Said = dict[str, tuple[set[str], set[str]]]
"""By file: the ids of its DAGs, and the last lines of its errors; nothing of a file that has neither."""


def worker_says(client: Client, root: Path) -> tuple[Said, dict[str, dict[str, Any]]]:
    """What the worker says of all files in the folder `dags`, in short and in full."""
    files = sorted(str(path.relative_to(root)) for path in (root / "dags").rglob("*.py"))
    client.say(root, files)
    answers = client.answers()
    assert files != []
    assert sorted(answers) == files
    told = {
        str(root / file): (
            {found["dag_id"] for found in answer["dags"]},
            {error["message"].strip().splitlines()[-1] for error in answer["errors"]},
        )
        for file, answer in answers.items()
    }
    assert not [file for file, answer in answers.items() if answer["ended"] or answer["needs"] or answer["database"]]
    return {file: said for file, said in told.items() if any(said)}, answers


def dag_bag_says(folder: Path, workers: Workers) -> Said:
    """What one `DagBag` in one process says of a folder; a DAG that cannot be stored is an error of its file."""
    script = """
        import json, os, sys, traceback
        # What takes long here takes no longer because of something else that the machine does.
        os.environ["AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT"] = "600"
        answer = os.dup(1)
        os.dup2(2, 1)
        try:
            from airflow.dag_processing.dagbag import DagBag
        except ImportError:
            from airflow.models.dagbag import DagBag
        try:
            from airflow.serialization.serialized_objects import DagSerialization as Form
        except ImportError:
            from airflow.serialization.serialized_objects import SerializedDAG as Form
        try:
            import airflow.sdk
        except ImportError:
            # Airflow 2 looks into its database for what an alias of datasets stands for.
            from airflow import settings
            from airflow.models.dataset import DatasetAliasModel
            DatasetAliasModel.__table__.create(settings.engine, checkfirst=True)
        bag = DagBag(sys.argv[1])
        failed, told = dict(bag.import_errors), []
        for dag in bag.dags.values():
            try:
                Form.to_dict(dag)
                told.append([dag.fileloc, dag.dag_id])
            except Exception:
                failed[dag.fileloc] = traceback.format_exc()
        os.write(answer, json.dumps([told, failed]).encode())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)],
        env={
            **workers.environment,
            "PYTHONPATH": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        },
        stdout=subprocess.PIPE,
        stderr=workers.log.open("ab"),
        check=True,
    )
    dags, failed = json.loads(ran.stdout)
    found: Said = {}
    for file, dag_id in dags:
        found.setdefault(file, (set(), set()))[0].add(dag_id)
    for file, text in failed.items():
        found.setdefault(str(folder / file), (set(), set()))[1].add(text.strip().splitlines()[-1])
    return found


def kinds(said: Said) -> Said:
    """The same with the exceptions' names only."""
    return {file: (ids, {text.partition(":")[0] for text in failures}) for file, (ids, failures) in said.items()}


@pytest.mark.smoke
@pytest.mark.parametrize("package", ["airflow.example_dags", "airflow.providers.standard.example_dags"])
def test_airflows_own_examples_are_what_one_dag_bag_says(
    client: Client, workers: Workers, tmp_path: Path, package: str
) -> None:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    if spec is None:
        assert AIRFLOW < (3, 0), "the standard provider has examples"
        return
    assert spec.origin is not None
    copy = tmp_path / "dags"
    for path in Path(spec.origin).parent.rglob("*.py"):
        if path.name == "example_subdag_operator.py":
            continue  # Airflow 2's operator asks the database for its pool when it is made
        write(copy, {str(path.relative_to(Path(spec.origin).parent)): path.read_text()})
    ours, _ = worker_says(client, tmp_path)

    assert kinds(ours) == kinds(dag_bag_says(copy, workers))


# --- batches


@pytest.mark.smoke
def test_what_one_file_leaves_behind_is_not_blamed_on_another(client: Client, tmp_path: Path) -> None:
    spoil = """\
        import builtins, os, sys, textwrap, types
        os.environ["SPOILT"] = "1"
        os.environ.pop("PATH")
        os.chdir("/")
        sys.path.insert(0, "/spoilt")
        sys.modules["made_up"] = types.ModuleType("made_up")
        builtins.spoilt = True
        textwrap.dedent = None
        import helper
        helper.value = "spoilt"
        DAG("left", schedule=None, start_date=datetime.datetime(2024, 1, 1)).__enter__()
    """
    # What of it is still there shows in the DAG's id, and in a task that is of no DAG.
    look = """\
        import builtins, os, sys
        import helper
        left = ["SPOILT" in os.environ, "PATH" not in os.environ, os.getcwd() == "/", "/spoilt" in sys.path]
        left += ["made_up" in sys.modules, hasattr(builtins, "spoilt"), helper.value != "good"]
    """
    files = {
        "helper.py": "value = 'good'\n",
        "dags/a.py": dag("a", spoil),
        "dags/looks.py": dag("looks", look).replace("'looks'", "f'looks{sum(left)}'"),
        "dags/loose.py": dag("loose", "BashOperator(task_id='of_no_dag', bash_command='x')"),
        "dags/uses.py": dag("uses", "import textwrap\ntextwrap.dedent('')"),
        # With these there are too many for each to have a process of its own.
        **{f"dags/z{number}.py": dag(f"z{number}") for number in range(4)},
    }
    answers = client.parse(tmp_path, files, processes=1)

    assert [found["dag_id"] for found in answers["dags/looks.py"]["dags"]] == ["looks0"]
    assert [task["task_id"] for task in answers["dags/loose.py"]["loose_tasks"]] == ["of_no_dag"]
    assert [name for name, answer in answers.items() if not is_clean(answer)] == ["dags/loose.py"]


@pytest.mark.smoke
@pytest.mark.parametrize(
    "spoil",
    [
        "import helper",
        "DAG.add_task = lambda self, task: None",
        "setattr(DAG, 'add_task', lambda self, task: None)",
    ],
)
def test_what_a_file_replaces_in_airflow_is_not_there_for_the_next(
    client: Client, tmp_path: Path, spoil: str
) -> None:
    files = {
        "helper.py": f"{HEAD}DAG.add_task = lambda self, task: None\n",
        "dags/a.py": dag("a", spoil),
        **{f"dags/{name}.py": dag(name) for name in ("b", "c", "d")},
    }
    answers = client.parse(tmp_path, files, processes=1)

    tasks = {file: [len(found["tasks"]) for found in answer["dags"]] for file, answer in answers.items()}
    assert tasks == {"dags/a.py": [0], "dags/b.py": [1], "dags/c.py": [1], "dags/d.py": [1]}


@pytest.mark.smoke
def test_files_that_import_libraries_first_still_share_a_process(client: Client, tmp_path: Path) -> None:
    libraries = {"a": "wsgiref.simple_server", "b": "xmlrpc.server", "c": "sched"}
    files = {
        f"dags/{name}.py": dag(name, f"import os, {library}").replace(repr(name), "f'{os.getpid()}'")
        for name, library in libraries.items()
    }
    answers = client.parse(tmp_path, files, processes=1)

    processes = [found["dag_id"] for answer in answers.values() for found in answer["dags"]]
    assert len(processes) == 3
    assert len(set(processes)) < 3


@pytest.mark.smoke
def test_a_library_that_an_earlier_file_has_imported_is_seen_by_the_next(client: Client, tmp_path: Path) -> None:
    # A module of the project under that name would take its place.
    files = {f"dags/f{number}.py": dag(f"f{number}", "import wave") for number in range(4)}
    answers = client.parse(tmp_path, files, processes=1)

    assert all({"wave", "dags/wave"} <= set(answer["seen"]["names"]) for answer in answers.values())


@pytest.mark.smoke
def test_a_file_that_forks_goes_on_once(client: Client, tmp_path: Path) -> None:
    files = {f"dags/f{number}.py": dag(f"f{number}") for number in range(4)}
    files["dags/f0.py"] = dag("f0", "import os; os.fork()")
    answers = client.parse(tmp_path, files, processes=1)

    assert sorted(answers) == sorted(files)
    assert all(map(is_clean, answers.values()))


@pytest.mark.smoke
def test_a_file_that_closes_what_it_did_not_open_costs_only_itself(client: Client, tmp_path: Path) -> None:
    files = {f"dags/f{number:02}.py": dag(f"f{number:02}") for number in range(12)}
    files["dags/f03.py"] = dag("f03", "import os; os.closerange(3, 1000)")
    # What it opens then has the numbers of the pipes to the parent.
    files["dags/f06.py"] = dag("f06", "import os; os.closerange(3, 1000); [open(os.devnull) for _ in range(100)]")
    answers = client.parse(tmp_path, files, processes=1)

    assert sorted(answers) == sorted(files)
    assert {file for file, answer in answers.items() if not is_clean(answer)} <= {"dags/f03.py", "dags/f06.py"}
    assert all(answer["dags"] for file, answer in answers.items() if file not in ("dags/f03.py", "dags/f06.py"))


@pytest.mark.smoke
def test_a_file_that_ends_its_process_costs_only_itself(client: Client, tmp_path: Path) -> None:
    files = {f"dags/f{number:02}.py": dag(f"f{number:02}") for number in range(12)}
    files["dags/f02.py"] = dag("f02", "import os; os._exit(3)")
    files["dags/f04.py"] = dag("f04", "import os; os.kill(os.getpid(), 11)")
    files["dags/f05.py"] = dag("f05", "import os; os._exit(0)")
    files["dags/f09.py"] = dag("f09", "import sys; sys.exit(4)")
    answers = client.parse(tmp_path, files)

    assert answers["dags/f02.py"]["ended"] == {"why": "exit", "code": 3}
    assert answers["dags/f02.py"]["seen"] == {
        "files": ["dags/f02.py"],
        "names": [],
        "folders": [],
        "everything": True,
    }
    assert answers["dags/f04.py"]["ended"] == {"why": "signal", "signal": "SIGSEGV"}
    assert answers["dags/f05.py"]["ended"] == {"why": "exit", "code": 0}
    left = answers["dags/f09.py"]
    assert left["ended"] == {"why": "exit", "code": 4} or errors(left)[0][3].startswith("SystemExit: 4")
    others = [answer for name, answer in answers.items() if name[-5:-3] not in ("02", "04", "05", "09")]
    assert len(others) == 8
    assert all(map(is_clean, others))


@pytest.mark.smoke
def test_time_and_memory_are_limited_for_each_file(client: Client, tmp_path: Path) -> None:
    files = {
        "dags/slow.py": dag("slow", "import time; time.sleep(60)"),
        "dags/stuck.py": dag("stuck", "import signal, time; signal.alarm(0); signal.setitimer(0, 0); time.sleep(60)"),
        "dags/big.py": dag("big", "x = bytearray(1 << 30)"),
        "dags/good.py": dag("good", "x = bytearray(1 << 20)"),
    }
    answers = client.parse(tmp_path, files, timeout_s=1, memory_mb=300)

    assert answers["dags/slow.py"]["ended"] == {"why": "time", "seconds": 1.0}
    # Airflow's own limit says where it was.
    assert "AirflowTaskTimeout" in errors(answers["dags/slow.py"])[0][3]
    assert errors(answers["dags/slow.py"])[0][1:3] == ("dags/slow.py", 4)
    assert answers["dags/stuck.py"]["ended"] == {"why": "time", "seconds": 1.0}
    assert answers["dags/stuck.py"]["errors"] == []
    assert (answers["dags/big.py"]["ended"], answers["dags/big.py"]["errors"]) == ({"why": "memory"}, [])
    assert is_clean(answers["dags/good.py"])


@pytest.mark.smoke
def test_dag_code_can_neither_answer_nor_leave_processes_behind(client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    shout = """\
        import os, sys
        print("{}")
        for number in range(64):
            try:
                os.write(number, b'{"event": "done"}\\n{"event"')
            except OSError:
                pass
    """
    start = f"""\
        import pathlib, subprocess
        pathlib.Path({str(mark)!r}).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    """
    answers = client.parse(
        tmp_path, {"dags/shout.py": dag("shout", shout), "dags/start.py": dag("start", start), "dags/z.py": dag("z")}
    )

    assert is_clean(answers["dags/shout.py"])
    assert is_clean(answers["dags/z.py"])
    assert answers["dags/start.py"]["seen"]["everything"] is True
    left = int(mark.read_text())
    wait_until("what it has started has ended", lambda: (found := _notes.process(left)) is None or found.ended)


# --- the second parse


@pytest.mark.smoke
def test_a_dag_that_is_another_each_time_is_told_with_the_place(client: Client, tmp_path: Path) -> None:
    files = {
        "tools.py": "import uuid\n\ndef tag():\n    return str(uuid.uuid4())\n",
        "dags/now.py": dag("now", start="datetime.datetime.now()"),
        "dags/tag.py": dag("tag", "import random", command="'x', doc_md=str(random.random())"),
        "dags/helped.py": dag("helped", "from tools import tag", command="f'echo {tag()}'"),
        "dags/address.py": dag("address", command="f'echo {object()}'"),
        "dags/named.py": dag("named", "import uuid").replace("'named'", "uuid.uuid4().hex"),
        "dags/reads.py": dag("reads", "import os\nx = os.environ.get('HOME')", command="f'echo {x}'"),
        # Another only in the same process, where Airflow never parses twice.
        "dags/counts.py": dag(
            "counts", "import wave\nwave.n = getattr(wave, 'n', 0) + 1", command="f'echo {wave.n}'"
        ),
    }
    answers = client.parse(tmp_path, files)
    places = {
        name: [(place["dag_id"], place["at"]) for place in answer["differs"]] for name, answer in answers.items()
    }

    assert places["dags/now.py"] == [("now", "dag.start_date")]
    assert places["dags/tag.py"] == [("tag", "dag.tasks.only.doc_md")]
    assert places["dags/helped.py"] == [("helped", "dag.tasks.only.bash_command")]
    (place,) = answers["dags/helped.py"]["differs"]
    assert place["first"] != place["second"]
    assert place["first"].startswith("echo ")
    assert places["dags/address.py"] == [("address", "dag.tasks.only.bash_command")]
    assert [at for _, at in places["dags/named.py"]] == ["dag.dag_id"]
    assert is_clean(answers["dags/reads.py"])
    assert is_clean(answers["dags/counts.py"])


@pytest.mark.smoke
@pytest.mark.parametrize("together", [False, True])
def test_a_second_parse_that_ends_its_process_leaves_the_first_as_it_was(
    client: Client, tmp_path: Path, together: bool
) -> None:
    # Each other parse goes well, also when the file is parsed once more alone.
    every_other = """\
        import os, pathlib, signal, time
        count = pathlib.Path({mark!r})
        count.write_text(f"{{count.read_text() if count.exists() else ''}}x")
        if len(count.read_text()) % 2 == 0:
            {end}
    """
    ends = {
        "exit": "os._exit(3)",
        "crash": "os.kill(os.getpid(), signal.SIGSEGV)",
        "slow": "time.sleep(60)",
        "stuck": "signal.setitimer(signal.ITIMER_REAL, 0); time.sleep(60)",
        "big": "x = bytearray(1 << 30)",
        "steady": "pass",
    }
    tops = {name: every_other.format(mark=str(tmp_path / name), end=end) for name, end in ends.items()}
    files = {f"dags/{name}.py": dag(name, top) for name, top in tops.items()}
    limits = {"timeout_s": 1, "memory_mb": 300}
    if together:
        answers = client.parse(tmp_path, files, processes=1, **limits)
    else:
        answers = {}
        for name, text in files.items():
            answers |= client.parse(tmp_path, {name: text}, **limits)

    assert {name: answer["again_ended"] for name, answer in answers.items()} == {
        "dags/exit.py": {"why": "exit", "code": 3},
        "dags/crash.py": {"why": "signal", "signal": "SIGSEGV"},
        "dags/slow.py": {"why": "time", "seconds": 1.0},
        "dags/stuck.py": {"why": "time", "seconds": 1.0},
        "dags/big.py": {"why": "memory"},
        "dags/steady.py": None,
    }
    assert all(map(is_clean, answers.values()))


def test_what_cannot_differ_is_parsed_once(client: Client, tmp_path: Path) -> None:
    # It hides the clock, so that a second parse would show.
    hides = "from operator import methodcaller\nstart = methodcaller('n' + 'ow')(datetime.datetime)"
    files = {
        "dags/once.py": dag("once", hides, start="start"),
        "dags/twice.py": dag("twice", hides + "\nnow = datetime.datetime.now", start="start"),
        "dags/other.py": dag("other"),
    }
    answers = client.parse(tmp_path, files, processes=1)

    assert answers["dags/once.py"]["differs"] == []
    assert [place["at"] for place in answers["dags/twice.py"]["differs"]] == ["dag.start_date"]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("source", "constant"),
    [
        ("from airflow.sdk import DAG\nimport datetime, json\nx = datetime.datetime(2024, 1, 1)", True),
        ("import helper", True),
        ("from . import sibling", True),
        ("import requests", False),
        ("import json, os", False),
        ("x = 1; from other.helper import y", False),
        ("import datetime\ndef f():\n    class A:\n        x = [datetime.date.today() for _ in '']", False),
        ("from airflow.utils.dates import days_ago", False),
        ("x = lambda: open('f')", False),
        ("import pendulum as p\nx = p.now('UTC')", False),
        ("\n".join(f"n{number} = a{number}" for number in range(300)) + "\nimport requests", False),
    ],
)
def test_the_rule_for_what_cannot_differ(source: str, constant: bool) -> None:
    own = _constant.names_of(["lib.helper", "lib"])

    assert _constant.is_constant(compile(source, "x", "exec"), own) is constant


# --- what makes it fast


@pytest.mark.smoke
def test_what_surely_satisfies_the_schema_does() -> None:
    dag_class = importlib.import_module(SDK).DAG
    task_class = importlib.import_module(BASH).BashOperator
    label = importlib.import_module("airflow.sdk" if AIRFLOW >= (3, 0) else "airflow.utils.edgemodifier").Label
    with dag_class("a", schedule="@daily", start_date=datetime(2024, 1, 1), catchup=False) as made:
        first = task_class(task_id="first", bash_command="echo", retries=1)
        first >> label("then") >> task_class(task_id="second", bash_command="echo")
    form = json.loads(json.dumps(_serialise.to_dict(made)))
    schema = load_dag_schema()
    accepts = _schema.acceptor(schema.schema)  # type: ignore[attr-defined]
    assert accepts(form)
    assert schema.is_valid(form)

    def places(value: Any) -> Iterator[tuple[Any, Any]]:
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            if isinstance(value[key], (dict, list)):
                yield from places(value[key])

    others = [None, True, 0, -1, 1.5, "", "x", [], {}, [1], ["x"], {"x": 1}]
    said_yes = 0
    for container, key in list(places(form)):
        before = container[key]
        for other in others:
            container[key] = other
            said_yes += accepts(form)
            assert schema.is_valid(form) or not accepts(form), (key, other)
        container[key] = before
        if isinstance(container, dict):
            del container[key]
            assert schema.is_valid(form) or not accepts(form), key
            container[key] = before
    assert said_yes > 50
    assert not _schema.acceptor({"type": "object", "unheard": 1})({})
    assert not _schema.acceptor({"$ref": "elsewhere.json"})({})


@pytest.mark.smoke
def test_new_modules_are_found_also_where_somebody_empties_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = dict.fromkeys(["old", "other"], sys)
    monkeypatch.setattr(sys, "modules", table)
    new = _modules.NewModules("test")
    assert new.names() == []
    table["new"] = table["new.sub"] = sys
    table["old"] = table.pop("old")
    assert new.names() == ["new", "new.sub", "old"]
    new.begin()
    assert new.names() == []
    table.clear()
    table["late"] = sys
    assert new.names() == ["late"]


# --- values that are not here


@pytest.mark.smoke
def test_variables_are_asked_for_by_name_only(client: Client, tmp_path: Path) -> None:
    default = "default" if AIRFLOW >= (3, 0) else "default_var"
    files = {
        "dags/known.py": dag("known", "x = Variable.get('known')"),
        "dags/absent.py": dag("absent", "x = Variable.get('absent')"),
        "dags/default.py": dag("default", f"x = Variable.get('absent', {default}=None)\nassert x is None"),
        "dags/here.py": dag("here", "assert Variable.get('here') == 'from the environment'"),
        "dags/model.py": dag("model", "from airflow.models import Variable as V\nx = V.get('known')"),
        "dags/old.py": dag(
            "old", "from airflow.models import Variable as V\nassert V.get('known', default_var='x') == 'x'"
        ),
        "dags/caught.py": dag("caught", "try:\n    Variable.get('absent')\nexcept Exception:\n    x = 1"),
        "dags/swallowed.py": dag("swallowed", "try:\n    Variable.get('known')\nexcept Exception:\n    x = 1"),
        "dags/sets.py": dag("sets", "try:\n    Variable.set('known', 'x')\nexcept Exception:\n    x = 1"),
    }
    names = {**UNKNOWN, "variables": ["known"]}
    answers = client.parse(tmp_path, files, names=names)

    undetermined = [("variable", "known", 4, "undetermined")]
    assert needs(answers["dags/known.py"]) == undetermined
    assert (answers["dags/known.py"]["errors"], answers["dags/known.py"]["dags"]) == ([], [])
    assert needs(answers["dags/absent.py"]) == [("variable", "absent", 4, "missing")]
    (error,) = errors(answers["dags/absent.py"])
    assert error[:3] == ("import", "dags/absent.py", 4)
    assert "absent" in error[3]
    assert is_clean(answers["dags/default.py"])
    assert is_clean(answers["dags/here.py"])
    assert needs(answers["dags/model.py"]) == [("variable", "known", 5, "undetermined")]
    assert is_clean(answers["dags/old.py"])
    assert needs(answers["dags/caught.py"]) == [("variable", "absent", 5, "missing")]
    assert [found["dag_id"] for found in answers["dags/caught.py"]["dags"]] == ["caught"]
    assert needs(answers["dags/swallowed.py"]) == [("variable", "known", 5, "undetermined")]
    assert answers["dags/swallowed.py"]["dags"] == []
    assert answers["dags/sets.py"]["database"] == [{"file": "dags/sets.py", "line": 5}]

    nobody_knows = client.parse(tmp_path, {"dags/absent.py": files["dags/absent.py"]})["dags/absent.py"]
    assert needs(nobody_knows) == [("variable", "absent", 4, "undetermined")]
    names["secrets_backend"] = True
    maybe = client.parse(tmp_path, {"dags/absent.py": files["dags/absent.py"]}, names=names)["dags/absent.py"]
    assert needs(maybe) == [("variable", "absent", 4, "maybe_missing")]
    assert maybe["errors"] == []


@pytest.mark.smoke
def test_connections_are_asked_for_by_name_only(client: Client, tmp_path: Path) -> None:
    hook = "airflow.sdk" if AIRFLOW >= (3, 1) else "airflow.hooks.base"
    top = f"from {hook} import BaseHook\nfrom airflow.exceptions import AirflowNotFoundException\n"
    model = "from airflow.models import Connection as C\n"
    get = "from airflow.sdk import Connection\n" if AIRFLOW >= (3, 0) else "from airflow.hooks.base import BaseHook\n"
    get += "Connection.get" if AIRFLOW >= (3, 0) else "BaseHook.get_connection"
    files = {
        "dags/known.py": dag("known", top + "x = BaseHook.get_connection('known')"),
        "dags/absent.py": dag("absent", top + "x = BaseHook.get_connection('absent')"),
        "dags/here.py": dag("here", top + "assert BaseHook.get_connection('here').host == 'example.com'"),
        "dags/model.py": dag("model", model + "x = C.get_connection_from_secrets('known')"),
        "dags/get.py": dag("get", get + "('known')"),
        "dags/caught.py": dag(
            "caught",
            top + "try:\n    BaseHook.get_connection('absent')\nexcept AirflowNotFoundException:\n    x = 1",
        ),
    }
    answers = client.parse(tmp_path, files, names={**UNKNOWN, "connections": ["known"]})

    assert needs(answers["dags/known.py"]) == [("connection", "known", 6, "undetermined")]
    assert needs(answers["dags/absent.py"]) == [("connection", "absent", 6, "missing")]
    assert errors(answers["dags/absent.py"])[0][3].endswith(
        "AirflowNotFoundException: The conn_id `absent` isn't defined"
    )
    assert is_clean(answers["dags/here.py"])
    assert needs(answers["dags/model.py"]) == [("connection", "known", 5, "undetermined")]
    assert needs(answers["dags/get.py"]) == [("connection", "known", 5, "undetermined")]
    assert needs(answers["dags/caught.py"]) == [("connection", "absent", 7, "missing")]
    assert len(answers["dags/caught.py"]["dags"]) == 1


@pytest.mark.smoke
def test_environment_variables_of_the_deployment_have_no_value_here(client: Client, tmp_path: Path) -> None:
    files = {
        "dags/item.py": dag("item", "import os\nx = os.environ['REGION']"),
        "dags/get.py": dag("get", "import os\nx = os.environ.get('REGION')"),
        "dags/getenv.py": dag("getenv", "from os import getenv\nx = getenv('REGION')"),
        "dags/default.py": dag(
            "default", "import os\nassert os.environ.get('REGION', 'eu') == os.getenv('REGION', 'eu')"
        ),
        "dags/there.py": dag("there", "import os\nassert 'REGION' in os.environ"),
        "dags/sets.py": dag("sets", "import os\nos.environ['REGION'] = 'x'\nassert os.getenv('REGION') == 'x'"),
        "dags/real.py": dag("real", "import os\nassert os.environ['PATH']"),
        "dags/absent.py": dag("absent", "import os\nassert os.environ.get('OTHER') is None\nos.environ['OTHER']"),
    }
    # What Airflow reads of it is its own business: it would not get far here.
    names = {**UNKNOWN, "environment": ["REGION", "PATH", "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH"]}
    answers = client.parse(tmp_path, files, names=names)

    for name in ("item", "get", "getenv"):
        assert needs(answers[f"dags/{name}.py"]) == [("environment", "REGION", 5, "undetermined")]
        assert answers[f"dags/{name}.py"]["errors"] == []
    for name in ("default", "there", "sets", "real"):
        assert is_clean(answers[f"dags/{name}.py"]), answers[f"dags/{name}.py"]
    assert needs(answers["dags/absent.py"]) == []
    assert errors(answers["dags/absent.py"]) == [("import", "dags/absent.py", 6, "KeyError: 'OTHER'")]


@pytest.mark.smoke
def test_the_metadata_database_is_not_there_and_asking_is_told(client: Client, tmp_path: Path) -> None:
    ways = {
        "session": "from airflow.utils.session import create_session\nwith create_session() as s: pass",
        "settings": "from airflow import settings\nsettings.Session()",
        "provided": """\
            from airflow.utils.session import provide_session
            @provide_session
            def ask(session=None): session.execute("select 1")
            ask()""",
        "engine": """\
            from airflow.configuration import conf
            from sqlalchemy import create_engine
            create_engine(conf.get("database", "sql_alchemy_conn")).connect()""",
    }
    files = {f"dags/{name}.py": dag(name, top) for name, top in ways.items()}
    swallowed = "try:\n" + textwrap.indent(ways["session"], "    ") + "\nexcept Exception:\n    x = 1"
    files["dags/swallowed.py"] = dag("swallowed", swallowed)
    own = "import sqlalchemy\nsqlalchemy.create_engine('sqlite://').connect().close()"
    files["dags/own.py"] = dag("own", own)
    answers = client.parse(tmp_path, files)

    lines = {"session": 5, "settings": 5, "provided": 7, "engine": 6}
    for name, line in lines.items():
        answer = answers[f"dags/{name}.py"]
        assert answer["database"] == [{"file": f"dags/{name}.py", "line": line}]
        assert "the metadata database is not there" in errors(answer)[0][3]
    assert answers["dags/swallowed.py"]["database"] == [{"file": "dags/swallowed.py", "line": 6}]
    assert (answers["dags/swallowed.py"]["errors"], len(answers["dags/swallowed.py"]["dags"])) == ([], 1)
    assert is_clean(answers["dags/own.py"])


# --- the worker as a process


def test_a_library_within_the_project_is_none_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    project = Project(str(tmp_path), str(tmp_path / "dags"))

    assert project.relative(str(tmp_path / "dags/a.py")) == "dags/a.py"
    assert project.relative(str(tmp_path / ".venv/lib/x.py")) is None
    assert project.outside == (str(tmp_path / ".venv"),)


def test_plugins_are_seen_by_each_file_of_a_batch(workers: Workers, tmp_path: Path) -> None:
    plugin = """\
        from airflow.plugins_manager import AirflowPlugin
        from airflow.timetables.base import Timetable
        class Own(Timetable): pass
        class Plugin(AirflowPlugin):
            name = "of_mine"
            timetables = [Own]
    """
    source = "import datetime\nfrom airflow import DAG\nfrom of_mine import Own\n"
    source += "with DAG({!r}, schedule=Own(), start_date=datetime.datetime(2024, 1, 1)): pass\n"
    files = {"plugins/of_mine.py": textwrap.dedent(plugin)}
    files |= {f"dags/f{number}.py": source.format(f"f{number}") for number in range(4)}
    process = workers.start(AIRFLOW__CORE__PLUGINS_FOLDER=str(tmp_path / "plugins"))
    answers = Client(process.stdout, process.stdin).parse(tmp_path, files, processes=1)

    assert all(map(is_clean, answers.values()))
    assert all("plugins" in answer["seen"]["folders"] for answer in answers.values())


def test_requests_that_make_no_sense_are_refused(client: Client, tmp_path: Path) -> None:
    client.say(tmp_path, [], op="dance")
    assert "there is no operation" in client.hear()["reason"]
    client.say(tmp_path, ["dags/a.py"], names={})
    assert "no field 'secrets_backend'" in client.hear()["reason"]
    assert client.parse(tmp_path, {}) == {}


@pytest.mark.smoke
def test_the_end_of_input_ends_it_after_what_was_asked(workers: Workers, tmp_path: Path) -> None:
    write(tmp_path, {"dags/a.py": dag("a")})
    process = workers.start()
    client = Client(process.stdout, process.stdin)
    client.say(tmp_path, ["dags/a.py"])
    assert process.stdin is not None
    process.stdin.close()

    assert list(client.answers()) == ["dags/a.py"]
    assert process.wait(10) == 0


def test_an_airflow_that_cannot_be_imported_is_told(workers: Workers, tmp_path: Path) -> None:
    write(tmp_path, {"airflow/__init__.py": "raise RuntimeError('no luck')\n"})
    process = workers.start(PYTHONPATH=f"{tmp_path}:{SOURCE}")

    assert Client(process.stdout, process.stdin).hello == {"event": "broken", "reason": "RuntimeError: no luck"}
    assert process.wait(10) == 0


def connect(path: Path, seconds: float = 60) -> tuple[socket.socket, Client]:
    def attempt() -> Any:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(OSError):
            peer.connect(str(path))
            return peer
        peer.close()
        return None

    peer = wait_until("somebody listens", attempt, seconds)
    return peer, Client(peer.makefile("r"), peer.makefile("w"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder / "check.sock"


@pytest.mark.smoke
def test_one_of_two_starters_serves_and_lives_through_a_client_that_goes(
    workers: Workers, tmp_path: Path, path: Path
) -> None:
    both = [workers.start("--socket", str(path), "--idle", "1") for _ in range(2)]
    peer, client = connect(path)
    assert client.hello["event"] == "ready"
    wait_until("one of them has ended", lambda: any(process.poll() is not None for process in both))
    (loser,) = [process for process in both if process.poll() is not None]
    (winner,) = [process for process in both if process is not loser]
    assert loser.returncode == 0

    mark = tmp_path / "mark"
    slow = f"import os, pathlib, time\npathlib.Path({str(mark)!r}).write_text(f'{{os.getpid()}}.')\ntime.sleep(60)"
    write(tmp_path, {"dags/slow.py": dag("slow", slow)})
    client.say(tmp_path, ["dags/slow.py"])
    wait_until("the slow file is parsed", lambda: mark.exists() and mark.read_text().endswith("."))
    peer.shutdown(socket.SHUT_RDWR)
    child = int(mark.read_text().rstrip("."))
    wait_until("it is parsed no more", lambda: (found := _notes.process(child)) is None or found.ended)

    _, client = connect(path)
    assert client.hello["event"] == "ready"
    assert is_clean(client.parse(tmp_path, {"dags/a.py": dag("a")})["dags/a.py"])
    # The second is not over while a client is there, even a silent one.
    began = time.monotonic()
    wait_until("more than its idle time has passed", lambda: time.monotonic() - began > 1.5)
    assert winner.poll() is None
    _.close()
    client._reads.close()
    client._writes.close()
    assert winner.wait(10) == 0
    assert not path.exists()


def test_a_folder_that_others_can_enter_is_no_place_for_its_socket(workers: Workers, path: Path) -> None:
    path.parent.chmod(0o755)
    process = workers.start("--socket", str(path), "--idle", "1")

    assert process.wait(10) == 2
    assert not path.exists()
    assert "only this user can enter" in workers.log.read_text()


def test_one_that_is_attended_ends_with_its_input_at_once(workers: Workers, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    slow = f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(60)"
    write(tmp_path, {"dags/slow.py": dag("slow", slow)})
    process = workers.start("--attended")
    Client(process.stdout, process.stdin).say(tmp_path, ["dags/slow.py"])
    wait_until("the slow file is parsed", mark.exists)
    assert process.stdin is not None
    process.stdin.close()

    assert process.wait(10) == 0


def test_what_ends_the_worker_ends_its_children(workers: Workers, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    slow = f"import os, pathlib, time\npathlib.Path({str(mark)!r}).write_text(f'{{os.getpid()}}.')\ntime.sleep(60)"
    write(tmp_path, {"dags/slow.py": dag("slow", slow)})
    process = workers.start()
    Client(process.stdout, process.stdin).say(tmp_path, ["dags/slow.py"])
    wait_until("the slow file is parsed", lambda: mark.exists() and mark.read_text().endswith("."))
    process.send_signal(signal.SIGKILL)

    child = int(mark.read_text().rstrip("."))
    wait_until("it is parsed no more", lambda: (found := _notes.process(child)) is None or found.ended)
