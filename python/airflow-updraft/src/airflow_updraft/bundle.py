"""`UpdraftDagBundle`: the bundle that an Updraft agent keeps on disk, as Airflow 3 reads it.

    <root>/versions/sha256-<hex>/    immutable, one folder for each version
    <root>/current                   a link to the live one, replaced by rename

A task asks for a version and gets exactly that folder. The DAG processor asks for none and gets `current`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.bundles import base
from airflow.dag_processing.bundles.base import BaseDagBundle

from airflow_updraft import _notes, _versions

if TYPE_CHECKING:
    from airflow.dag_processing.bundles.base import BundleVersion

log = logging.getLogger(__name__)

# Airflow 3.3 deprecates the bare string that 3.0 to 3.2 want.
_BundleVersion: Any = getattr(base, "BundleVersion", str)

ASK_TIMEOUT_S = 60.0

# Airflow takes its DAG processor for dead after 30 s without a heartbeat.
_STAND_S = 25.0


class VersionMissingError(FileNotFoundError):
    """Raised when a version is not on disk and the agent cannot bring it back."""


class UpdraftDagBundle(BaseDagBundle):
    """Reads one Updraft bundle; every DAG run records the digest and keeps it to its end."""

    supports_versioning = True

    def __init__(
        self,
        *,
        root: str,
        view_url: str | None = None,
        socket: str | None = None,
        notes: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._root = Path(root)
        self._link_template = view_url
        self._socket = socket
        self._notes = Path(notes) if notes else None
        self._refreshes = 0
        self._seen: str | None = None
        if self.version is not None:
            _versions.check(self.version)

    def initialize(self) -> None:
        if self.version is not None:
            wanted = _versions.folder(self._root, self.version)
            if not wanted.is_dir():
                self._ask_agent_for(self.version)
        super().initialize()

    @property
    def path(self) -> Path:
        # Without a version this is the link, not the folder behind it. Airflow's DAG processor expects a path
        # that stays: its queue keeps the path a file was queued with, however long it waits there. With a path
        # that moves, queued files would be parsed from an old version long after a switch, or not be found once
        # that is collected; and a DAG whose serialised form holds its path (in 3.0 that is every DAG with a
        # Python function) would get another DAG version with each deploy. What is left is a parse that runs
        # *during* a switch and may see both sides; the proof waits for those (`_processor.py`).
        if self.version is not None:
            return _versions.folder(self._root, self.version)
        return self._root / "current"

    def get_current_version(self) -> BundleVersion | str | None:
        version = self.version or self._seen or _versions.live(self._root)
        return None if version is None else _BundleVersion(version)

    def refresh(self) -> None:
        if self.version is not None:
            raise RuntimeError("a bundle that was asked for by version cannot be refreshed")
        self._refreshes += 1
        if self._notes is not None:
            self._stand_still(self._notes)
        is_first = self._seen is None
        if is_first or self._notes is None or not _notes.is_held(self._notes, self.name):
            self._seen = _versions.live(self._root)
        self._leave_note()

    def view_url(self, version: str | None = None) -> str | None:
        version = version or self.version
        if self._link_template is None or version is None:
            return None
        return self._link_template.replace("{version}", version)

    def view_url_template(self) -> str | None:
        return self._link_template

    def _stand_still(self, notes: Path) -> None:
        """Waits while a proof writes.

        Airflow collects and writes what it parsed later in the pass that begins with the refresh. Would it do so
        while a proof writes the same file, both could make the same row (a DAG, a tag), which ends the processor.
        """
        deadline = time.monotonic() + _STAND_S
        told = None
        while (asked := _notes.asked_to_stand(notes, self.name)) is not None and time.monotonic() < deadline:
            if asked != told:
                self._leave_note(stands_for=asked)
                told = asked
            time.sleep(0.005)

    def _leave_note(self, stands_for: str | None = None) -> None:
        version = self._seen or _versions.live(self._root)
        if self._notes is None or version is None:
            return
        note = _notes.Note(
            pid=os.getpid(),
            start_time=_notes.own_start_time(),
            version=version,
            seq=self._refreshes,
            at=time.time(),
            stands_for=stands_for,
        )
        try:
            _notes.write(self._notes, self.name, note)
        except OSError as error:
            # A full disk may delay a proof, but must not stop Airflow from parsing.
            log.warning("could not leave a refresh note in `%s`: %s", self._notes, error)

    def _ask_agent_for(self, version: str) -> None:
        """Has the agent fetch a version that is no longer on disk, as a cleared old run may need."""
        if self._socket is None:
            raise VersionMissingError(
                f"bundle `{self.name}` version {version} is not on this machine, and no Updraft agent is "
                "configured to ask for it; deploy that version again, or clear the run with the latest version"
            )
        question = json.dumps({"bundle": self.name, "version": version}) + "\n"
        try:
            answer = self._exchange(self._socket, question)
        except (OSError, ValueError) as error:
            raise VersionMissingError(
                f"bundle `{self.name}` version {version} is not on this machine, and the Updraft agent did not "
                f"bring it back within {ASK_TIMEOUT_S:.0f} s ({error}); check that the agent runs, then clear "
                "the task again"
            ) from error
        if not _versions.folder(self._root, version).is_dir():
            reason = answer.get("error", "it answered without an error, but the folder is not there")
            raise VersionMissingError(
                f"bundle `{self.name}` version {version} is not on this machine, and the Updraft agent could not "
                f"bring it back: {reason}; deploy that version again, or clear the run with the latest version"
            )

    @staticmethod
    def _exchange(address: str, question: str) -> dict[str, Any]:
        deadline = time.monotonic() + ASK_TIMEOUT_S
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(ASK_TIMEOUT_S)
            agent.connect(address)
            agent.sendall(question.encode())
            received = b""
            while b"\n" not in received:
                # Per read, or an agent that sends a byte now and then could hold a task for ever.
                agent.settimeout(max(deadline - time.monotonic(), 0.001))
                part = agent.recv(65536)
                if not part:
                    raise ConnectionError("it closed the connection without an answer")
                received += part
        answer = json.loads(received)
        if not isinstance(answer, dict):
            raise ValueError("its answer is not an object")
        return answer
