"""A Unix socket that one process of this user serves, for as long as somebody has use for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from airflow_updraft import _channel

if TYPE_CHECKING:
    from pathlib import Path

# How long another may take from having the lock to having the socket.
_PATIENCE_S = 10.0


class Listener:
    """Made before Airflow is imported, so that clients can connect and wait."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock
        self._bind()

    @classmethod
    def open(cls, path: Path) -> Listener | None:
        """Gives none when another process serves this path already."""
        folder = path.parent.stat()
        if folder.st_uid != os.getuid() or folder.st_mode & 0o077:
            raise PermissionError(f"`{path.parent}` must be a folder that only this user can enter")
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Who has it may be about to end, and would take a client of ours with it.
                if _answers(path) or time.monotonic() > deadline:
                    os.close(lock)
                    return None
                time.sleep(0.05)
            else:
                # A child that lives on would otherwise keep the lock.
                _channel.keep_from_children(lock)
                return cls(path, lock)

    def accept(self, seconds: float) -> socket.socket | None:
        """Waits for a client of this user."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 or not seconds:
            self._socket.settimeout(max(left, 0.0))
            try:
                client, _ = self._socket.accept()
            except (TimeoutError, BlockingIOError):
                return None
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[1] == os.getuid():
                client.setblocking(True)
                return client
            client.close()
        return None

    def withdraw(self) -> socket.socket | None:
        """Takes the socket away; a client that has connected in the meantime is not left alone."""
        self._path.unlink(missing_ok=True)
        late = self.accept(0.0)
        _channel.forget(self._socket.fileno())
        self._socket.close()
        if late is not None:
            self._bind()
        return late

    def _bind(self) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _channel.keep_from_children(self._socket.fileno())
        self._socket.bind(str(temporary))
        self._socket.listen(16)
        temporary.rename(self._path)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(1.0)
        probe.connect(str(path))
        return True
    return False
