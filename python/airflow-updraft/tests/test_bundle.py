"""The bundle class on its own: versions, folders, links, notes, and the question to the agent."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from conftest import AIRFLOW, Disk, needs_versions, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [needs_versions, pytest.mark.smoke]

if AIRFLOW >= (3, 0):
    from airflow_updraft import bundle as bundle_module
    from airflow_updraft.bundle import UpdraftDagBundle, VersionMissingError

MISSING = "sha256:" + "0" * 64


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "dags")


def bundle(disk: Disk, **kwargs: Any) -> UpdraftDagBundle:
    return UpdraftDagBundle(name="dags", root=str(disk.root), **kwargs)


def deploy(disk: Disk, text: str) -> str:
    files = {"a.py": text}
    version = disk.write(files)
    disk.switch(version, files)
    return version


def test_a_task_gets_exactly_its_version(disk: Disk) -> None:
    first = deploy(disk, "1")
    deploy(disk, "2")

    asked = bundle(disk, version=first)
    asked.initialize()

    assert asked.path == disk.folder(first)
    assert (asked.path / "a.py").read_text() == "1"
    assert _text(asked.get_current_version()) == first


def test_the_processor_sees_a_new_version_at_its_refresh(disk: Disk) -> None:
    first = deploy(disk, "1")
    live = bundle(disk)
    live.initialize()
    live.refresh()
    second = deploy(disk, "2")

    assert _text(live.get_current_version()) == first
    live.refresh()
    assert _text(live.get_current_version()) == second
    assert (live.path / "a.py").read_text() == "2"


def test_before_the_first_deploy_it_is_empty(disk: Disk) -> None:
    live = bundle(disk)
    live.initialize()
    live.refresh()

    assert live.get_current_version() is None


def test_each_refresh_leaves_a_note(disk: Disk, tmp_path: Path) -> None:
    version = deploy(disk, "1")
    live = bundle(disk, notes=str(tmp_path))

    live.refresh()
    live.refresh()

    note = json.loads((tmp_path / "dags.refresh.json").read_text())
    assert (note["pid"], note["version"], note["seq"]) == (os.getpid(), version, 2)


def test_a_proof_that_writes_holds_the_new_version_back(disk: Disk, tmp_path: Path) -> None:
    from airflow_updraft import _notes

    first = deploy(disk, "1")
    live = bundle(disk, notes=str(tmp_path))
    live.refresh()
    second = deploy(disk, "2")

    with _notes.hold(tmp_path, "dags", seconds=60):
        live.refresh()
        assert _text(live.get_current_version()) == first
        # A processor that has just started has nothing else to go by.
        fresh = bundle(disk, notes=str(tmp_path))
        fresh.refresh()
        assert _text(fresh.get_current_version()) == second
    live.refresh()
    assert _text(live.get_current_version()) == second


def test_a_hold_ends_with_its_time_or_with_the_worker(tmp_path: Path) -> None:
    from airflow_updraft import _notes

    with _notes.hold(tmp_path, "dags", seconds=-1):
        assert not _notes.is_held(tmp_path, "dags")
    (tmp_path / "dags.hold.json").write_text(json.dumps({"pid": os.getpid(), "start_time": 1, "until": 1e12}))
    assert not _notes.is_held(tmp_path, "dags")


def test_a_refresh_stands_still_while_a_proof_writes(disk: Disk, tmp_path: Path) -> None:
    from airflow_updraft import _notes

    first = deploy(disk, "1")
    live = bundle(disk, notes=str(tmp_path))
    live.refresh()
    second = deploy(disk, "2")
    _notes.ask_to_stand(tmp_path, "dags", "a request", seconds=60)

    refresh = threading.Thread(target=live.refresh)
    refresh.start()
    note = wait_until("it stands", lambda: (note := _notes.read(tmp_path, "dags")) and note.stands_for and note)
    standing = refresh.is_alive()
    _notes.let_go(tmp_path, "dags")
    refresh.join(10)

    assert (standing, note.stands_for, note.version, note.seq) == (True, "a request", first, 2)
    after = _notes.read(tmp_path, "dags")
    assert after is not None
    assert (after.stands_for, after.version, after.seq) == (None, second, 2)


def test_no_refresh_stands_for_a_request_that_is_over(tmp_path: Path) -> None:
    from airflow_updraft import _notes

    _notes.ask_to_stand(tmp_path, "dags", "late", seconds=-1)
    assert _notes.asked_to_stand(tmp_path, "dags") is None
    gone = {"pid": os.getpid(), "start_time": 1, "until": 1e12, "request": "of a worker that ended"}
    (tmp_path / "dags.stand.json").write_text(json.dumps(gone))
    assert _notes.asked_to_stand(tmp_path, "dags") is None


def test_notes_that_cannot_be_written_stop_nothing(disk: Disk, tmp_path: Path) -> None:
    version = deploy(disk, "1")
    live = bundle(disk, notes=str(tmp_path / "nowhere"))

    live.refresh()

    assert _text(live.get_current_version()) == version


@pytest.mark.parametrize(
    "version", ["main", "sha256:", "sha256:" + "G" * 64, "sha256:../../etc", MISSING + "/..", ""]
)
def test_anything_but_a_digest_is_refused(disk: Disk, version: str) -> None:
    with pytest.raises(ValueError, match="is not a bundle version"):
        bundle(disk, version=version)


def test_the_link_of_a_run_opens_its_version(disk: Disk) -> None:
    linked = bundle(disk, view_url="http://host/bundles/dags/{version}")

    assert linked.view_url(MISSING) == f"http://host/bundles/dags/{MISSING}"
    assert linked.view_url_template() == "http://host/bundles/dags/{version}"


def test_a_missing_version_is_asked_of_the_agent(disk: Disk, tmp_path: Path) -> None:
    def bring(question: dict[str, str]) -> dict[str, str]:
        disk.folder(question["version"]).mkdir()
        return {"path": str(disk.folder(question["version"]))}

    with _Agent(tmp_path / "agent", bring) as agent:
        asked = bundle(disk, version=MISSING, socket=str(tmp_path / "agent"))
        asked.initialize()

    assert asked.path.is_dir()
    assert agent.questions == [{"bundle": "dags", "version": MISSING}]


def test_an_agent_that_cannot_help_is_quoted(disk: Disk, tmp_path: Path) -> None:
    with _Agent(tmp_path / "agent", lambda _: {"error": "it was deleted on Monday"}):
        asked = bundle(disk, version=MISSING, socket=str(tmp_path / "agent"))
        with pytest.raises(VersionMissingError, match=f"{MISSING}.*it was deleted on Monday; deploy"):
            asked.initialize()


def test_no_agent_and_a_silent_one_are_told_apart(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "ASK_TIMEOUT_S", 0.2)
    with pytest.raises(VersionMissingError, match="no Updraft agent is configured"):
        bundle(disk, version=MISSING).initialize()
    with pytest.raises(VersionMissingError, match="No such file"):
        bundle(disk, version=MISSING, socket=str(tmp_path / "agent")).initialize()
    with (
        _Agent(tmp_path / "agent", lambda _: None),
        pytest.raises(VersionMissingError, match="timed out"),
    ):
        bundle(disk, version=MISSING, socket=str(tmp_path / "agent")).initialize()


class _Agent:
    """Answers on a socket as the agent does."""

    def __init__(self, path: Path, answer: Callable[[dict[str, str]], dict[str, str] | None]) -> None:
        self.questions: list[dict[str, str]] = []
        self._answer = answer
        self._done = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            question = json.loads(connection.makefile().readline())
            self.questions.append(question)
            answer = self._answer(question)
            if answer is None:
                self._done.wait(10)
            else:
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def __enter__(self) -> _Agent:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()


def _text(version: Any) -> str:
    return str(getattr(version, "version", version))
