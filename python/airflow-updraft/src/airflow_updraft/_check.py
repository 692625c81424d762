"""The parent side of a check: spreads files over children, and decides which of their answers count.

A child parses many files one after the other, because a process for each costs ten times what a small file does. What
one file leaves behind could be blamed on the next; so an answer that tells of anything wrong only counts from a child
that parsed nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import selectors
import signal
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any

from airflow_updraft import _channel, _check_child
from airflow_updraft._children import import_early
from airflow_updraft._dependencies import Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from airflow_updraft._check_child import Request

# Airflow's own time limit comes first where it can, which is everywhere but in compiled code.
_GRACE_S = 2.0
# So that what one child gathers stays small.
_MOST_FILES = 250
# Handed out at once: few enough that none waits long behind a slow one.
_MOST_AT_ONCE = 20
_WRONG = ("errors", "ended", "needs", "database", "loose_tasks", "differs", "again_ended")
_AIRFLOW_IMPORT = re.compile(rb"^(?:from|import)[ \t]+(airflow\.[\w.]+)", re.MULTILINE)


class Check:
    def __init__(self, request: Request, asker: int, hears_more: Callable[[], bool]) -> None:
        """`asker` is where the request came from; `hears_more` reads there, and raises when nobody waits any more."""
        self._request = request
        # By number in the request. Where there are only a few, each may have a process from the start.
        numbers = range(len(request.files))
        are_few = len(numbers) <= 2 * request.processes
        self._waiting = deque([] if are_few else numbers)
        self._alone = deque(numbers if are_few else [])
        self._running: list[_Child] = []
        self._selector = selectors.DefaultSelector()
        _channel.keep_from_children(self._selector.fileno())
        self._asker = asker
        self._hears_more = hears_more
        # Requests from a file are all there.
        with contextlib.suppress(PermissionError):
            self._selector.register(asker, selectors.EVENT_READ)
        self._answers: deque[dict[str, Any]] = deque()

    def run(self) -> Generator[dict[str, Any], None, None]:
        """Yields one answer for each file."""
        import_early(self._imports_of_airflow())
        try:
            while self._waiting or self._alone or self._running:
                while (self._waiting or self._alone) and len(self._running) < self._request.processes:
                    self._running.append(self._begin())
                self._wait()
                while self._answers:
                    yield self._answers.popleft()
        finally:
            for child in self._running:
                child.end(self._selector)
            _channel.forget(self._selector.fileno())
            self._selector.close()

    def _begin(self) -> _Child:
        if self._alone:
            return _Child(self._request, [self._alone.popleft()], self._selector, alone=True)
        return _Child(self._request, self._share(), self._selector, alone=False)

    def _share(self) -> list[int]:
        """Takes a few of what waits, and fewer towards the end, so that all children end at about the same time."""
        many = min(_MOST_AT_ONCE, max(1, len(self._waiting) // (4 * self._request.processes)))
        return [self._waiting.popleft() for _ in range(min(many, len(self._waiting)))]

    def _imports_of_airflow(self) -> list[str]:
        """Finds what of Airflow the files import, which is then imported once, here, as Airflow's processor does."""
        found: set[bytes] = set()
        for file in self._request.files:
            with contextlib.suppress(OSError), open(os.path.join(self._request.project.root, file), "rb") as source:
                found.update(_AIRFLOW_IMPORT.findall(source.read()))
        return sorted(name.decode() for name in found)

    def _wait(self) -> None:
        deadline = min(child.deadline for child in self._running)
        for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
            if key.data is None:
                if not self._hears_more():
                    self._selector.unregister(self._asker)
            else:
                key.data.read()
        now = time.monotonic()
        for child in list(self._running):
            for message in child.messages():
                self._take(child, message)
            if child.deadline <= now or child.has_ended():
                self._end(child, out_of_time=child.deadline <= now)

    def _take(self, child: _Child, message: dict[str, Any]) -> None:
        answer = message["answer"]
        if not message.get("done"):
            child.begin_second_parse(answer)
            return
        import_early([name for name in message["imported"] if isinstance(name, str)])
        number = child.begin_next()
        if child.alone or _is_clean(answer) or _took_too_long(answer):
            self._answers.append(answer)
        else:
            self._alone.append(number)
        if message.get("stops"):
            self._waiting.extendleft(reversed(child.stop()))
        elif not child.alone and child.needs_more():
            child.give(self._share() if child.given < _MOST_FILES else [])

    def _end(self, child: _Child, *, out_of_time: bool) -> None:
        self._running.remove(child)
        # What it said before it ended is still on its way.
        child.read()
        for message in child.messages():
            self._take(child, message)
        status = child.end(self._selector)
        if child.file is None:
            return
        number, *rest = child.stop()
        if child.alone and child.first is not None:
            self._answers.append({**child.first, "again_ended": self._why(status, out_of_time)})
        elif child.alone or (out_of_time and child.first is None):
            file = self._request.files[number]
            self._answers.append(_ended(file, self._why(status, out_of_time), child.seconds))
        else:
            self._alone.append(number)
        self._waiting.extendleft(reversed(rest))

    def _why(self, status: int, out_of_time: bool) -> dict[str, Any]:
        if out_of_time:
            return {"why": "time", "seconds": self._request.timeout_s}
        return _check_child.how_it_ended(status)


def _is_clean(answer: dict[str, Any]) -> bool:
    return not any(answer[key] for key in _WRONG)


def _took_too_long(answer: dict[str, Any]) -> bool:
    return bool(answer["ended"]) and answer["ended"]["why"] == "time"


def _ended(file: str, why: dict[str, Any], seconds: float) -> dict[str, Any]:
    nothing: dict[str, Any] = {key: [] for key in ("dags", "errors", "needs", "database", "loose_tasks", "differs")}
    seen = Seen({file}, everything=True).to_json()
    told = {"event": "file", "file": file, "seconds": round(seconds, 4), **nothing, "ended": why}
    return {**told, "again_ended": None, "seen": seen}


class _Child:
    """A process that parses files, the leader of a group in which is also what DAG files start."""

    def __init__(self, request: Request, files: list[int], selector: selectors.BaseSelector, *, alone: bool) -> None:
        """Files are numbers in the request, which the child has too."""
        self.alone = alone
        self.given = len(files)
        self.first: dict[str, Any] | None = None
        self._files = request.files
        self._left = deque(files)
        self._limit = request.timeout_s + _GRACE_S
        self._numbers: int | None
        self._token = secrets.token_hex(8).encode() + b" "
        self._unread = b""
        parent = os.getpid()
        numbers, self._numbers = os.pipe()
        _channel.keep_from_children(self._numbers)
        self._pipe, report = os.pipe()
        _channel.keep_from_children(self._pipe)
        os.set_blocking(self._pipe, False)
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                _check_child.run(
                    request,
                    _check_child.Numbers(files, numbers),
                    alone=alone,
                    parent=parent,
                    report=_check_child.Report(report, self._token),
                )
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(numbers)
        os.close(report)
        self._exit = os.pidfd_open(self._pid)
        _channel.keep_from_children(self._exit)
        selector.register(self._pipe, selectors.EVENT_READ, self)
        selector.register(self._exit, selectors.EVENT_READ, self)
        self._selector = selector
        self._restart_clock()

    @property
    def file(self) -> str | None:
        """The file that it is at."""
        return self._files[self._left[0]] if self._left else None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def _restart_clock(self) -> None:
        self._began = time.monotonic()
        self.deadline = self._began + self._limit

    def begin_second_parse(self, answer: dict[str, Any]) -> None:
        self.first = answer
        self._restart_clock()

    def begin_next(self) -> int:
        number = self._left.popleft()
        self.first = None
        self._restart_clock()
        return number

    def needs_more(self) -> bool:
        """Says so before the last file is done, so that it never waits."""
        return len(self._left) <= 1 and self._numbers is not None

    def give(self, files: list[int]) -> None:
        """Hands it more files; none: it ends after what it has."""
        if self._numbers is None:
            return
        if not files:
            _channel.close(self._numbers)
            self._numbers = None
            return
        # It may have ended, which is found out elsewhere.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._numbers, b"".join(b"%d\n" % number for number in files))
        self._left.extend(files)
        self.given += len(files)

    def stop(self) -> list[int]:
        """Takes note that it ends by itself, and gives the files that it leaves."""
        rest = list(self._left)
        self._left.clear()
        return rest

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while received := os.read(self._pipe, 1 << 20):
                self._unread += received
            # The end. From here on only the process itself tells when it has ended.
            with contextlib.suppress(KeyError):
                self._selector.unregister(self._pipe)

    def messages(self) -> Iterator[dict[str, Any]]:
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            if line.startswith(self._token):
                yield json.loads(line[len(self._token) :])

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self, selector: selectors.BaseSelector) -> int:
        """Ends it and what it has started, and gives its exit code; below zero: the signal."""
        for group in (os.killpg, os.kill):
            # Before it is waited for, while the number is still its own. It may not have made its group yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                group(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        self.give([])
        for descriptor in (self._pipe, self._exit):
            with contextlib.suppress(KeyError):
                selector.unregister(descriptor)
            _channel.close(descriptor)
        return os.waitstatus_to_exitcode(status)
