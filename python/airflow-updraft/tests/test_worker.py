"""The worker's protocol, with a database and without a running Airflow."""

from __future__ import annotations

import io
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
from conftest import AIRFLOW, BUNDLE, dag, wait_until

from airflow_updraft import _notes

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.airflow


@pytest.mark.smoke
def test_the_worker_alone(quiet_site: Site) -> None:
    site = quiet_site
    ready = site.worker.ready
    assert ready["python"] == sys.version.split()[0]
    assert tuple(int(part) for part in ready["airflow"].split(".")[:2]) == AIRFLOW

    assert "there is no operation" in site.worker.ask("dance")["error"]
    assert "no field 'version'" in site.worker.ask("prove", bundle=BUNDLE)["error"]
    refused = {"version": "sha256:../x", "path": "/", "current": "/", "state": "/", "notes": "/"}
    assert "is not a bundle version" in site.worker.ask("prove", bundle=BUNDLE, **refused)["error"]

    # Without a processor it only writes and reads back.
    proof = site.deploy({"a.py": dag("a", "one"), "bad.py": "import airflow, dag_that_is_not_there\n"})
    assert proof["outcome"] == "import_errors"
    (error,) = proof["import_errors"]
    assert error["traceback"].endswith("ModuleNotFoundError: No module named 'dag_that_is_not_there'\n")

    status = site.worker.ask("status", bundle=BUNDLE, current=str(site.disk.current))
    assert (status["ok"], status["dags"], status["dag_ids"]) == (True, 1, ["a"])
    assert [error["file"] for error in status["import_errors"]] == ["bad.py"]
    listed = site.worker.ask("dags", bundle=BUNDLE, current=str(site.disk.current))["dags"]
    assert [(found["dag_id"], found["file"], found["tasks"]) for found in listed] == [("a", "a.py", ["one"])]

    # Descriptors of the protocol do not reach DAG code, and a packaged DAG file is one.
    probe = (
        "import os, stat\nfor n in range(3, 64):\n    try:\n        if stat.S_ISFIFO(os.fstat(n).st_mode):\n"
        "            os.write(n, b'{}\\n')\n    except OSError:\n        pass"
    )
    packaged = io.BytesIO()
    with zipfile.ZipFile(packaged, "w") as archive:
        archive.writestr("inside.py", dag("inside", "one"))
    more = {**site.disk.files, "probe.py": dag("probe", "one", top=probe), "pack.zip": packaged.getvalue()}
    proof = site.deploy(more)
    assert proof["dags"]["added"] == ["inside", "probe"]
    assert all("op" in message or message.get("event") == "ready" for message in site.worker.messages)
    assert site.deploy({**site.disk.files, "probe.py": ""})["dags"]["total"] == 2
    # A DAG that went is none, though Airflow remembers it.
    status = site.worker.ask("status", bundle=BUNDLE, current=str(site.disk.current))
    assert status["dag_ids"] == ["a", "inside"]

    # A lost record costs a parse of everything, and blames nothing on files that were not touched.
    for record in (site.state / "records" / BUNDLE).iterdir():
        record.unlink()
    site.restart_worker()
    again = site.deploy({**site.disk.files, "a.py": dag("a", "one", "two")})
    assert (again["outcome"], again["affected"]) == ("proven", 3)

    slow = site.switch({**site.disk.files, "slow.py": dag("slow", "one", top="import time; time.sleep(20)")})
    number = site.send_proof(slow)
    cancelled = site.worker.ask("cancel", target=number)
    assert cancelled["cancelled"] is True
    assert site.proof(number)["outcome"] == "superseded"

    # Whatever ends the worker ends what it was parsing.
    mark = site.folder / "mark"
    top = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(f'{{os.getpid()}}.'); time.sleep(600)"
    site.send_proof(site.switch({**site.disk.files, "slow.py": dag("slow", "one", top=top)}))
    wait_until("the slow file is parsed", lambda: mark.exists() and mark.read_text().endswith("."))
    child = int(mark.read_text().rstrip("."))
    site.kill_worker()
    wait_until("it is parsed no more", lambda: (found := _notes.process(child)) is None or found.ended)

    moved = site.switch({"a.py": dag("a", "three")})
    site.switch({"a.py": dag("a", "four")})
    assert site.proof(site.send_proof(moved))["outcome"] == "superseded"
    assert site.worker.close() == 0


def test_an_error_that_nobody_touched_but_was_not_there_before_fails_each_time(quiet_site: Site) -> None:
    site = quiet_site  # where no processor looks at the file in between
    flag = site.folder / "weather"
    flag.touch()
    fair = dag("fair", "one", top=f"open({str(flag)!r}).close()")
    files = {"fair.py": fair, "good.py": dag("good", "one")}
    site.deploy(files)
    flag.unlink()

    # Who reads this is not known, so everything is parsed.
    version = site.switch({**files, "model.bin": "x"}, hold=True)
    outcomes = [site.proof(site.send_proof(version))["outcome"] for _ in range(2)]

    assert outcomes == ["import_errors"] * 2
