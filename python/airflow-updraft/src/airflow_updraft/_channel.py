"""JSON lines between a worker and whoever asks it."""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections import deque
from typing import Any

# A child runs DAG code, which could otherwise answer in our name or keep what is ours open.
_not_for_children: set[int] = set()


def keep_from_children(descriptor: int) -> None:
    _not_for_children.add(descriptor)


def forget(descriptor: int) -> None:
    """Must come before the descriptor is closed: its number is soon another's."""
    _not_for_children.discard(descriptor)


def close(descriptor: int) -> None:
    forget(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    # Emptied, because a child of the child may have something else under the same numbers.
    while _not_for_children:
        with contextlib.suppress(OSError):
            os.close(_not_for_children.pop())


os.register_at_fork(after_in_child=_close_in_child)


class EndOfInputError(Exception):
    """Raised when whoever asks has gone."""


class Channel:
    """The protocol's two ends."""

    def __init__(self, reads: int, writes: int) -> None:
        self._input = reads
        self._output = writes
        for descriptor in {reads, writes}:
            keep_from_children(descriptor)
        self._partial = b""
        self._waiting: deque[dict[str, Any]] = deque()

    @classmethod
    def of_standard_streams(cls) -> Channel:
        """Takes over standard input and output. Nothing else writes answers: descriptor 1 leads to standard error."""
        channel = cls(os.dup(0), os.dup(1))
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        return channel

    def fileno(self) -> int:
        return self._input

    def release(self) -> None:
        """Leaves the descriptors to be closed by whoever made them."""
        for descriptor in (self._input, self._output):
            forget(descriptor)

    def send(self, message: dict[str, Any]) -> None:
        line = memoryview(json.dumps(message, default=str).encode() + b"\n")
        while line:
            line = line[os.write(self._output, line) :]

    def listen(self, seconds: float | None) -> None:
        """Takes in what has arrived, after waiting up to `seconds` for something to arrive."""
        ready, _, _ = select.select([self._input], [], [], seconds)
        if not ready:
            return
        received = os.read(self._input, 1 << 20)
        if not received:
            raise EndOfInputError
        *lines, self._partial = (self._partial + received).split(b"\n")
        for line in filter(None, lines):
            try:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError("a request is an object")
            except ValueError as error:
                self.send({"id": None, "error": f"not a request: {error}"})
            else:
                self._waiting.append(message)

    def next(self) -> dict[str, Any]:
        while not self._waiting:
            self.listen(None)
        return self._waiting.popleft()

    def take(self, wanted: Any) -> list[dict[str, Any]]:
        """Takes out the waiting requests that `wanted` says yes to."""
        taken = [message for message in self._waiting if wanted(message)]
        self._waiting = deque(message for message in self._waiting if not wanted(message))
        return taken

    def peek(self, wanted: Any) -> bool:
        return any(wanted(message) for message in self._waiting)
