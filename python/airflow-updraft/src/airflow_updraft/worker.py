"""The proof worker: `python -m airflow_updraft.worker`, run in Airflow's environment as Airflow's user.

JSON lines, requests on standard input, answers on standard output; the README has the protocol. The worker imports
Airflow once and never runs a DAG file itself: every import happens in a child that it forks.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from airflow_updraft._channel import Channel, EndOfInputError

# More are not sent around.
MOST_DAG_IDS = 20_000


class Worker:
    def __init__(self, channel: Channel, airflow: Any) -> None:
        self._channel = channel
        self._airflow = airflow
        self._records: dict[tuple[str, str], Any] = {}

    def serve(self) -> None:
        while True:
            self._handle(self._channel.next())

    def _handle(self, message: dict[str, Any]) -> None:
        operation = message.get("op")
        identity = {"id": message.get("id"), "op": operation}
        try:
            if operation == "prove":
                answer = self._prove(message)
            elif operation == "status":
                answer = self._status(message)
            elif operation == "dags":
                answer = {"dags": self._bundle(message).describe()}
            elif operation == "cancel":
                answer = {"cancelled": False}
            else:
                answer = {"error": f"there is no operation {operation!r}"}
        except EndOfInputError:
            raise
        except KeyError as error:
            answer = {"error": f"the request has no field {error}"}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        self._channel.send({**identity, **answer})

    def _bundle(self, message: dict[str, Any], memory_mb: int | None = None) -> Any:
        current = Path(message.get("current") or "/nonexistent")
        return self._airflow.open_bundle(message["bundle"], current, memory_mb and memory_mb * 1024 * 1024)

    def _status(self, message: dict[str, Any]) -> dict[str, Any]:
        bundle = self._bundle(message)
        try:
            live = sorted(dag for dag, state in bundle.dags().items() if not state.stale)
            return {
                "ok": True,
                "dags": len(live),
                "dag_ids": live if len(live) <= MOST_DAG_IDS else None,
                "import_errors": [
                    {"file": file, "traceback": text} for file, text in sorted(bundle.import_errors().items())
                ],
                "runs": bundle.unfinished_runs(),
                "holds": bundle.holds(),
                "names": _names_of_airflow(),
            }
        except Exception as error:
            return {"ok": False, "reason": f"Airflow's database cannot be asked: {error}"}

    def _prove(self, message: dict[str, Any]) -> dict[str, Any]:
        from airflow_updraft._prove import Proof, Request, SupersededError
        from airflow_updraft._records import Records

        request = Request.from_json(message)
        records = self._records.setdefault(
            (str(request.state), request.bundle), Records(request.state, request.bundle)
        )

        def progress(**step: Any) -> None:
            self._channel.send({"id": message.get("id"), "op": "prove", "event": "progress", **step})

        def pause(seconds: float) -> None:
            self._channel.listen(seconds)
            for other in self._channel.take(lambda other: other.get("op") in ("status", "dags")):
                self._handle(other)
            if self._channel.peek(lambda other: other.get("op") == "prove" and other.get("bundle") == request.bundle):
                raise SupersededError("a newer version is to be proven")
            for other in self._channel.take(
                lambda other: (
                    other.get("op") == "cancel" and other.get("target", message.get("id")) == message.get("id")
                )
            ):
                self._channel.send({"id": other.get("id"), "op": "cancel", "cancelled": True})
                raise SupersededError("the proof was cancelled")

        airflow = self._bundle(message, request.memory_mb)
        return Proof(request, airflow, records, pause, progress).run()


def _names_of_airflow() -> dict[str, Any] | None:
    from airflow_updraft import _names

    try:
        return _names.of_airflow()
    except Exception:
        # The rest of the status does not depend on it.
        traceback.print_exc()
        return None


def _prepare_environment() -> None:
    os.environ.update(
        {
            # The DAG processor's own context: variables and connections come from the metadata database.
            "_AIRFLOW_PROCESS_CONTEXT": "server",
            # The second deploy within the default 30 s would move a DAG's label and not its content.
            "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
            # The default of 2 cuts a user's frames out of an error that a library raises.
            "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH": "30",
            # Ours is better (`import_early`), and Airflow's reads each file once more, here.
            "AIRFLOW__DAG_PROCESSOR__PARSING_PRE_IMPORT_MODULES": "False",
            # A forked child that drops an inherited connection would end it for the parent too.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_ENABLED": "False",
        }
    )
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
    sys.dont_write_bytecode = True


def main() -> None:
    channel = Channel.of_standard_streams()
    _prepare_environment()
    started = time.monotonic()
    from airflow_updraft import _airflow as airflow

    airflow.load()
    channel.send(
        {
            "event": "ready",
            "airflow": airflow.VERSION,
            "python": platform.python_version(),
            "ms": round((time.monotonic() - started) * 1000),
        }
    )
    try:
        Worker(channel, airflow).serve()
    except EndOfInputError:
        return


if __name__ == "__main__":
    main()
