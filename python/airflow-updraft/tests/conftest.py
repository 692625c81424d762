"""A real Airflow, a bundle on disk as the agent keeps it, and the proof worker; all of them the real thing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_updraft import _notes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AIRFLOW = tuple(int(part) for part in version("apache-airflow").split(".")[:2])
BUNDLE = "dags"


needs_versions = pytest.mark.versions


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Airflow 2 has no bundle versions: what tests them is no test there, rather than a skipped one."""
    if AIRFLOW >= (3, 0):
        return
    out = [item for item in items if item.get_closest_marker("versions")]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


def wait_until(what: str, check: Callable[[], Any], seconds: float = 180.0) -> Any:
    """Waits for a condition; its failure says which."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain until {what}"
        # Each look may be a request that Airflow works on, beside others that wait for the same machine.
        time.sleep(0.2)


def dag(dag_id: str, *tasks: str, top: str = "", body: str = "") -> str:
    """The source of a DAG whose tasks run one after the other, each printing `body`."""
    source = textwrap.dedent(
        f"""\
        import datetime
        from {"airflow.sdk" if AIRFLOW >= (3, 0) else "airflow.decorators"} import dag, task
        """
    )
    source += textwrap.dedent(top) + "\n"
    source += f"@dag(dag_id={dag_id!r}, schedule=None, start_date=datetime.datetime(2024, 1, 1), catchup=False)\n"
    source += "def build():\n"
    for name in tasks:
        source += f"    @task(task_id={name!r})\n    def {name}():\n        {body or 'print(1)'}\n"
    source += "    " + " >> ".join(f"{name}()" for name in tasks) + "\nbuild()\n"
    return source


class Disk:
    """A bundle below `root`, as the agent keeps it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[str, Any] = {}
        (root / "versions").mkdir(parents=True)

    @property
    def current(self) -> Path:
        return self.root / "current"

    def write(self, files: dict[str, Any]) -> str:
        """Puts a version beside the others; what did not change is linked, so it keeps its time. A path is a link."""
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        folder = self.folder(f"sha256:{digest}")
        if not folder.exists():
            temporary = folder.with_name("." + folder.name)
            for path, text in files.items():
                target = temporary / path
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(text, Path):
                    target.symlink_to(text)
                elif self.files.get(path) == text:
                    os.link(self.current / path, target)
                else:
                    target.write_bytes(text if isinstance(text, bytes) else text.encode())
            temporary.mkdir(exist_ok=True)
            temporary.rename(folder)
        return f"sha256:{digest}"

    def switch(self, version: str, files: dict[str, Any]) -> None:
        link = self.root / ".current"
        link.symlink_to(f"versions/{version.replace(':', '-')}")
        link.rename(self.current)
        self.files = dict(files)

    def folder(self, version: str) -> Path:
        return self.root / "versions" / version.replace(":", "-")


class Worker:
    """The proof worker, spoken to over its own protocol."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "airflow_updraft.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("ab"),
            env=environment,
            text=True,
            start_new_session=True,
        )
        self.messages: list[dict[str, Any]] = []
        self._arrived = threading.Condition()
        self._ids = iter(range(1, 1_000_000))
        threading.Thread(target=self._read, daemon=True).start()
        self.ready = self.wait_for(lambda message: message.get("event") == "ready")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._arrived:
                self.messages.append(json.loads(line))
                self._arrived.notify_all()

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 600) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            return next((message for message in self.messages if wanted(message)), None)

        with self._arrived:
            assert self._arrived.wait_for(find, seconds), "the worker did not answer"
            found = find()
            assert found is not None
            return found

    def send(self, op: str, **fields: Any) -> int:
        number = next(self._ids)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "op": op, **fields}) + "\n")
        self._process.stdin.flush()
        return number

    def answer(self, number: int) -> dict[str, Any]:
        return self.wait_for(lambda message: message.get("id") == number and "event" not in message)

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        return self.answer(self.send(op, **fields))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(10)


# The first database that was made, before anything was written to it.
_migrated: list[bytes] = []


class Site:
    """One Deployment: Airflow's processes, the bundle they read, and the worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = Disk(folder / "bundles" / BUNDLE)
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.state = folder / "state"
        self._port = _free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._proven: tuple[str, dict[str, Any]] | None = None
        self._judged: tuple[str, dict[str, Any]] | None = None
        self._switches = 0
        self._worker: Worker | None = None
        self.environment = self._environment()

    def _environment(self) -> dict[str, str]:
        kwargs = {
            "root": str(self.disk.root),
            "notes": str(self.notes),
            "socket": str(self.folder / "agent.sock"),
            "view_url": "http://127.0.0.1:1/deployments/test/bundles/dags/{version}",
            "refresh_interval": 1,
        }
        bundles = [
            {"name": BUNDLE, "classpath": "airflow_updraft.bundle.UpdraftDagBundle", "kwargs": kwargs},
        ]
        url = f"http://127.0.0.1:{self._port}"
        settings = {
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self._port),
            "AIRFLOW__API__WORKERS": "1",
            # 3.0 sets none, which newer releases of its JWT library refuse.
            "AIRFLOW__API_AUTH__JWT_ISSUER": "updraft",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests that is long enough for its purpose",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.disk.current),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor" if AIRFLOW >= (3, 0) else "SequentialExecutor",
            "AIRFLOW__CORE__FERNET_KEY": "_OXwLNOfNIvwE8pcsJEVrgBOu2sFIeOBiSXtGRvhCqE=",
            "AIRFLOW__CORE__LAZY_LOAD_PLUGINS": "True",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__MIN_SERIALIZED_DAG_FETCH_INTERVAL": "0",
            "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(self.folder / "airflow" / "dag_bundles"),
            # What a test needs parsed, it says; the rest is parsed when it is new.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.folder / "airflow" / "logs"),
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if AIRFLOW < (3, 0):
            settings |= {
                "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "1",
                "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "30",
                "AIRFLOW__WEBSERVER__SECRET_KEY": "tests",
                "AIRFLOW__API__AUTH_BACKENDS": "airflow.api.auth.backend.default",
            }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"
        return {**inherited, **settings, "PATH": path}

    # --- Airflow's processes

    def migrate(self) -> None:
        """Makes the database: the first by Airflow, which takes it some seconds, the others as copies."""
        home = Path(self.environment["AIRFLOW_HOME"])
        home.mkdir()
        database = home / "airflow.db"
        if AIRFLOW < (3, 0):
            (home / "webserver_config.py").write_text("AUTH_ROLE_PUBLIC = 'Admin'\n")
        if _migrated:
            database.write_bytes(_migrated[0])
            return
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=self.environment,
            check=True,
            stdout=self._log("migrate"),
            stderr=subprocess.STDOUT,
        )
        _migrated.append(database.read_bytes())

    def start(self, component: str, *arguments: str) -> None:
        self._processes[component] = subprocess.Popen(
            [sys.executable, "-m", "airflow", component, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log(component),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def check_processes(self) -> None:
        """Fails when one of them has ended: nothing starts it again, and every later test would wait in vain."""
        for component, process in self._processes.items():
            if process.poll() is not None:
                log = (self.folder / "logs" / f"{component}.log").read_text(errors="replace")
                pytest.exit(f"Airflow's {component} ended with {process.returncode}:\n{log[-6000:]}", returncode=1)

    def stop(self) -> None:
        if self._worker is not None:
            with contextlib.suppress(Exception):
                self._worker.close()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def restart_worker(self) -> None:
        if self._worker is not None:
            assert self._worker.close() == 0
            self._worker = None

    def kill_worker(self) -> None:
        assert self._worker is not None
        self._worker.kill()
        self._worker = None

    def _log(self, name: str) -> Any:
        (self.folder / "logs").mkdir(exist_ok=True)
        return (self.folder / "logs" / f"{name}.log").open("ab")

    @property
    def worker(self) -> Worker:
        if self._worker is None:
            (self.folder / "logs").mkdir(exist_ok=True)
            self._worker = Worker(self.environment, self.folder / "logs" / "worker.log")
        return self._worker

    @property
    def processor(self) -> dict[str, int] | None:
        # On SQLite the processor of Airflow 2 runs below the scheduler.
        process = self._processes.get("dag-processor" if AIRFLOW >= (3, 0) else "scheduler")
        if process is None:
            return None
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        return {"pid": process.pid, "start_time": int(stat[stat.rindex(")") + 2 :].split()[19])}

    # --- deploying

    def switch(self, files: dict[str, Any], *, hold: bool = False) -> str:
        version = self.disk.write(files)
        if hold:
            # As the agent does: the processor keeps off the new version until the proof takes the hold over.
            until = {"pid": os.getpid(), "start_time": _notes.own_start_time(), "until": time.time() + 20}
            (self.notes / f"{BUNDLE}.hold.json").write_text(json.dumps(until))
        self.disk.switch(version, files)
        self._switches += 1
        return version

    def send_proof(self, version: str, **fields: Any) -> int:
        base, blame = self._compare(self._proven), self._compare(self._judged)
        if blame is not None:
            blame["switch"] = str(self._switches)
        request = {
            "bundle": BUNDLE,
            "version": version,
            "path": str(self.disk.folder(version)),
            "current": str(self.disk.current),
            "base": base,
            "blame": blame,
            "state": str(self.state),
            "notes": str(self.notes),
            "processor": self.processor,
            "timeout_s": 120,
            "processes": 2,
        }
        return self.worker.send("prove", **{**request, **fields})

    def _compare(self, before: tuple[str, dict[str, Any]] | None) -> dict[str, Any] | None:
        if before is None:
            return None
        version, old = before
        now = self.disk.files
        return {
            "version": version,
            "changed": sorted(path for path in now.keys() & old.keys() if now[path] != old[path]),
            "added": sorted(now.keys() - old.keys()),
            "removed": sorted(old.keys() - now.keys()),
        }

    def proof(self, number: int) -> dict[str, Any]:
        answer = self.worker.answer(number)
        assert "error" not in answer, answer
        self.check_processes()
        return answer

    def remember(self, version: str) -> None:
        self._proven = self._judged = (version, dict(self.disk.files))

    def judge(self, version: str) -> None:
        """Has the next deploy answer for what differs from this one, which failed."""
        self._judged = (version, dict(self.disk.files))

    def deploy(self, files: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """Switches to these files and has them proven, as the agent does it."""
        version = self.switch(files, hold=True)
        answer = self.proof(self.send_proof(version, **fields))
        if answer["outcome"] == "proven":
            self.remember(version)
        elif answer["outcome"] == "import_errors":
            self.judge(version)
        return {**answer, "version": version}

    # --- Airflow's REST API

    def api(self, method: str, path: str, body: Any = None) -> Any:
        base = f"http://127.0.0.1:{self._port}" + ("/api/v2" if AIRFLOW >= (3, 0) else "/api/v1")
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(base + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def sign_in(self) -> None:
        self._token = ""
        if AIRFLOW >= (3, 0):
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/auth/token", timeout=30) as response:
                self._token = json.loads(response.read())["access_token"]

    def is_up(self) -> bool:
        self._token = ""
        try:
            health = self.api("GET", "/monitor/health" if AIRFLOW >= (3, 0) else "/health")
        except OSError:
            return False
        return bool(health and health["scheduler"]["status"] == "healthy")

    def tasks(self, dag_id: str) -> set[str]:
        found = self.api("GET", f"/dags/{dag_id}/tasks")
        return {task["task_id"] for task in found["tasks"]} if found else set()

    def run(self, dag_id: str) -> str:
        self.api("PATCH", f"/dags/{dag_id}", {"is_paused": False})
        body: dict[str, Any] = {"logical_date": None} if AIRFLOW >= (3, 0) else {}
        return str(self.api("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def finished_run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        def check() -> Any:
            run = self.api("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
            return run if run["state"] in ("success", "failed") else None

        found: dict[str, Any] = wait_until(f"run {run_id} of {dag_id} has ended", check)
        return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An Airflow with scheduler, DAG processor and API server, started once for all tests."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.switch({"first.py": dag("first", "only")})
    try:
        site.migrate()
        if AIRFLOW >= (3, 0):
            site.start("dag-processor")
        site.start("scheduler", "--skip-serve-logs")
        site.start(*(["api-server"] if AIRFLOW >= (3, 0) else ["webserver", "--port", str(site._port)]))
        site.worker.ask("status", bundle=BUNDLE)
        wait_until("Airflow is healthy", site.is_up, 120)
        site.sign_in()
        yield site
    finally:
        site.stop()
        if keep := os.environ.get("UPDRAFT_TEST_KEEP"):
            shutil.copytree(site.folder / "logs", keep, dirs_exist_ok=True)


@pytest.fixture
def quiet_site(tmp_path: Path) -> Iterator[Site]:
    """A database without Airflow's processes, for what the worker alone decides."""
    site = Site(tmp_path)
    try:
        site.migrate()
        yield site
    finally:
        site.stop()
