"""Tries an environment before Airflow is switched to it: `python -m airflow_updraft.trial REQUEST`.

It imports Airflow and every DAG file, where there is no database. `REQUEST` names a file with what is tried:

    {"bundles": {"dags": "/folder"}, "known": ["a.py"]}

`known` are files that Airflow cannot import as it is; with several bundles their names begin with the bundle's. It
ends with 0 when every other file can be imported, otherwise with 1, and says what is wrong with each.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_updraft import check

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMORY_MB = 4096
_MOST_TOLD = 5


def _answers(folder: Path, files: list[str], timeout_s: float) -> Iterator[dict[str, Any]]:
    from airflow_updraft._check import Check
    from airflow_updraft._check_child import Request

    request = {
        "root": str(folder),
        "dags": str(folder),
        "files": files,
        "processes": os.cpu_count() or 1,
        "timeout_s": timeout_s,
        "memory_mb": _MEMORY_MB,
        # Which names there are is not known here: a file that needs one is no failure.
        "names": {"variables": None, "connections": None, "environment": [], "secrets_backend": True},
    }
    # Nobody asks for more.
    silent, _ = os.pipe()
    with contextlib.closing(Check(Request.from_json(request), silent, lambda: True).run()) as answers:
        yield from answers


def _wrong(answer: dict[str, Any]) -> str | None:
    """Says why a file cannot be imported."""
    if answer["errors"]:
        texts = (error["traceback"] or error["message"] for error in answer["errors"])
        return "\n".join(text.strip() for text in texts)
    ended = answer["ended"]
    return f"it ended its process: {json.dumps(ended)}" if ended else None


def main() -> int:
    asked = json.loads(Path(sys.argv[1]).read_text())
    check._prepare_environment()
    greeting = check._greet()
    if greeting["event"] != "ready":
        print(f"Airflow cannot be imported: {greeting['reason']}", file=sys.stderr)
        return 1
    from airflow.configuration import conf
    from airflow.utils.file import list_py_file_paths

    timeout_s = conf.getfloat("core", "dagbag_import_timeout", fallback=30.0) or 30.0
    known, wrong = set(asked["known"]), []
    for bundle, folder in asked["bundles"].items():
        # `version` links and the like are not followed twice.
        root = Path(folder).resolve()
        files = sorted(str(Path(path).relative_to(root)) for path in list_py_file_paths(str(root)))
        for answer in _answers(root, files, timeout_s):
            name = answer["file"] if len(asked["bundles"]) == 1 else f"{bundle}/{answer['file']}"
            why = _wrong(answer)
            if why and name not in known:
                wrong.append((name, why))
    for name, why in sorted(wrong)[:_MOST_TOLD]:
        print(f"{name}\n{why}", file=sys.stderr)
    if len(wrong) > _MOST_TOLD:
        print(f"… and {len(wrong) - _MOST_TOLD} more files", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)
