"""The parse worker for checks: `python -m airflow_updraft.check`, on a laptop or a CI runner.

It imports DAG files as Airflow would, where there is no database, no running Airflow and no value of any variable or
connection. JSON lines, on the standard streams or on a socket; the README has the protocol. Airflow is imported once,
and every DAG file in a child.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import platform
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from airflow_updraft._channel import Channel, EndOfInputError
from airflow_updraft._listener import Listener

_GONE = (EndOfInputError, BrokenPipeError, ConnectionResetError)


class Conversation:
    """One client, from its first word to its last."""

    def __init__(self, channel: Channel, *, answers_after_end: bool) -> None:
        """On the standard streams the end of input is an end of requests; on a socket the client has gone."""
        self._channel = channel
        self._answers_after_end = answers_after_end

    def hold(self, greeting: dict[str, Any]) -> None:
        try:
            self._channel.send(greeting)
            while greeting["event"] == "ready":
                self._handle(self._channel.next())
        except _GONE:
            return

    def _handle(self, message: dict[str, Any]) -> None:
        try:
            if message.get("op") != "parse":
                raise ValueError(f"there is no operation {message.get('op')!r}")
            self._parse(message)
        except _GONE:
            raise
        except KeyError as error:
            self._channel.send({"event": "error", "reason": f"the request has no field {error}"})
        except Exception as error:
            traceback.print_exc()
            self._channel.send({"event": "error", "reason": f"{type(error).__name__}: {error}"})

    def _parse(self, message: dict[str, Any]) -> None:
        from airflow_updraft._check import Check
        from airflow_updraft._check_child import Request

        check = Check(Request.from_json(message), self._channel.fileno(), self._hears_more)
        # Closed at once when nobody listens any more, which ends the children.
        with contextlib.closing(check.run()) as answers:
            for answer in answers:
                self._channel.send(answer)
        self._channel.send({"event": "done"})

    def _hears_more(self) -> bool:
        try:
            self._channel.listen(0)
        except EndOfInputError:
            if not self._answers_after_end:
                raise
            return False
        return True


def _greet() -> dict[str, Any]:
    """Imports Airflow, which takes seconds and may not work at all."""
    # Of what is imported nothing is garbage, and to look for it takes a fifth of the time.
    gc.disable()
    try:
        from importlib.metadata import version

        from airflow_updraft import _check, _dag_bag  # noqa: F401

        _dag_bag.load()
        _dag_bag.warm_up()
        return {"event": "ready", "airflow": version("apache-airflow"), "python": platform.python_version()}
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        traceback.print_exc()
        return {"event": "broken", "reason": f"{type(error).__name__}: {error}"}
    finally:
        # A child copies every page on which its garbage collector marks what it inherited.
        gc.freeze()
        gc.enable()


def _prepare_environment() -> None:
    from airflow_updraft._no_database import URL

    for name in ("_CMD", "_SECRET", "_ASYNC"):
        os.environ.pop(f"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN{name}", None)
    os.environ.update(
        {
            "_AIRFLOW_PROCESS_CONTEXT": "client",
            # Airflow 2 refuses some executors on SQLite.
            "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": URL,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "True",
            # The default of 2 cuts a user's frames out of an error that a library raises.
            "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH": "30",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
    )
    os.environ.setdefault("AIRFLOW__CORE__LAZY_LOAD_PLUGINS", "True")
    # What Airflow logs of a file is in the answer, and costs more than the file where it is made readable.
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "CRITICAL")
    sys.dont_write_bytecode = True


def _serve_standard_streams(*, attended: bool) -> int:
    channel = Channel.of_standard_streams()
    Conversation(channel, answers_after_end=not attended).hold(_greet())
    return 0


def _serve_socket(path: Path, idle: float) -> int:
    try:
        listener = Listener.open(path)
    except PermissionError as error:
        print(error, file=sys.stderr)
        return 2
    if listener is None:
        return 0
    greeting = _greet()
    while (client := listener.accept(idle) or listener.withdraw()) is not None:
        with client:
            channel = Channel(client.fileno(), client.fileno())
            Conversation(channel, answers_after_end=False).hold(greeting)
            channel.release()
        if greeting["event"] == "broken":
            break
    return 0


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m airflow_updraft.check", description=__doc__)
    arguments.add_argument("--socket", type=Path, help="serve this Unix socket instead of the standard streams")
    arguments.add_argument("--idle", type=float, default=600.0, help="end after so many seconds without a client")
    arguments.add_argument("--attended", action="store_true", help="end at once when the standard input does")
    given = arguments.parse_args()
    _prepare_environment()
    # So that children and what they have started are ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if given.socket is None:
            return _serve_standard_streams(attended=given.attended)
        return _serve_socket(given.socket, given.idle)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    # What Airflow has started in the background is no reason to stay.
    code = main()
    sys.stderr.flush()
    os._exit(code)
