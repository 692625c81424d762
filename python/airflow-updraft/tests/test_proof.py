"""The proof against a running Airflow: when it says `proven`, Airflow has the content."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import AIRFLOW, BUNDLE, dag, needs_versions, wait_until

from airflow_updraft._processor import Processor, ProcessorId

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.airflow


def slow(mark: Path, seconds: int) -> str:
    """The top of a DAG file that takes so long to parse, and leaves a mark when it has begun."""
    return f"import time\nopen({str(mark)!r}, 'w').close()\ntime.sleep({seconds})"


class BlindToLogs(Processor):
    """As on a machine that does not show the open files of a process."""

    def _parse_logs(self, pid: int) -> None:
        return None


def test_an_added_task_is_in_the_api_when_proven_is_answered(site: Site) -> None:
    site.deploy({"a.py": dag("a", "one")})
    assert site.tasks("a") == {"one"}

    proof = site.deploy({"a.py": dag("a", "one", "two")})

    assert site.tasks("a") == {"one", "two"}
    assert proof["outcome"] == "proven"
    assert proof["dags"] == {"added": [], "changed": ["a"], "removed": [], "total": 1}


@pytest.mark.smoke
def test_a_slow_parse_of_the_old_version_does_not_bring_it_back(site: Site) -> None:
    mark = site.folder / "slow"
    site.switch({"slow.py": dag("slow", "one", top=slow(mark, 15)), "other.py": dag("other", "one")})
    wait_until("the processor parses the slow file", mark.exists)
    began = time.monotonic()

    version = site.switch({"slow.py": dag("slow", "one", "two"), "other.py": dag("other", "one")}, hold=True)
    number = site.send_proof(version)
    if AIRFLOW >= (3, 0):
        assert site.processor is not None
        blind = BlindToLogs(ProcessorId(**site.processor), BUNDLE, site.notes, Path("/"))
        wait_until("the processor is past the old version", lambda: blind.is_past(version))
        assert not _being_parsed(site, "slow.py")
    proof = site.proof(number)
    site.remember(version)

    assert proof["outcome"] == "proven"
    assert site.tasks("slow") == {"one", "two"}
    assert time.monotonic() - began > 10, "the old parse was not running during the switch"


@pytest.mark.smoke
def test_an_old_parse_that_writes_in_the_middle_of_the_proof_is_no_evidence(site: Site) -> None:
    site.deploy({"a.py": dag("a", "zero"), "b.py": dag("b", "zero")})
    old, go = site.folder / "old", site.folder / "go-on"
    waits = f"""
        import os, time
        open({str(old)!r}, "w").write(str(os.getpid()))
        while not os.path.exists({str(go)!r}): time.sleep(0.05)
        """
    site.switch({"a.py": dag("a", "one", top=waits), "b.py": dag("b", "zero")})
    wait_until("the processor parses the old version", lambda: old.exists() and old.read_text())
    # The second file ends once the old parse of the first has, which was let go after the new one was written.
    lets_go = f"""
        import os, time
        open({str(go)!r}, "w").close()
        for _ in range(400):
            if os.path.exists("/proc/" + open({str(old)!r}).read()): time.sleep(0.05)
        """
    proof = site.deploy({"a.py": dag("a", "two"), "b.py": dag("b", "zero", top=lets_go)}, processes=1)

    assert proof["outcome"] == "proven"
    assert site.tasks("a") == {"two"}


@needs_versions
def test_what_the_processor_parses_at_the_same_time_ends_neither(site: Site) -> None:
    # Each round the processor finds new files by itself, and the next deploy changes what it is about to write.
    for turn in range(4):
        names = [f"race_{turn}_{n}" for n in range(6)]
        site.switch({f"{name}.py": dag(name, "one") for name in names})
        wait_until("it begins to parse them", lambda names=names: any(_being_parsed(site, f"{n}.py") for n in names))

        tagged = dag("name", "one", "two").replace("(dag_id='name'", "(tags=['a', 'b'], dag_id='name'")
        proof = site.deploy({f"{name}.py": tagged.replace("'name'", repr(name)) for name in names})

        assert proof["outcome"] == "proven"
        assert all(site.tasks(name) == {"one", "two"} for name in names)


@needs_versions
@pytest.mark.smoke
def test_a_file_that_waited_in_the_processors_queue_is_not_parsed_from_the_old_version(site: Site) -> None:
    # Two parses at a time: while these two sleep, everything else waits in the queue.
    marks = [site.folder / f"z{n}" for n in range(2)]
    old = {f"q{n}.py": dag(f"q{n}", "old") for n in range(4)}
    site.switch({**old, **{f"{mark.name}.py": dag(mark.name, "one", top=slow(mark, 6)) for mark in marks}})
    wait_until("the processor is busy", lambda: all(mark.exists() for mark in marks))
    new = {f"q{n}.py": dag(f"q{n}", "new") for n in range(4)}

    proof = site.send_proof(
        site.switch({**new, **{f"{mark.name}.py": dag(mark.name, "one") for mark in marks}}, hold=True)
    )
    wait_until("the worker has written", lambda: all(site.tasks(f"q{n}") == {"new"} for n in range(4)))
    written = {f"q{n}": site.api("GET", f"/dags/q{n}")["last_parsed_time"] for n in range(4)}

    assert site.proof(proof)["outcome"] == "proven"
    wait_until(
        "Airflow has parsed the waiting files by itself",
        lambda: all(site.api("GET", f"/dags/{name}")["last_parsed_time"] > at for name, at in written.items()),
    )
    for n in range(4):
        assert site.tasks(f"q{n}") == {"new"}


def test_only_a_helper_changes(site: Site) -> None:
    uses = dag("uses", "one", "two", top="import shared.names").replace("task_id='two'", "task_id=shared.names.LAST")
    files = {
        "uses.py": uses,
        "alone.py": dag("alone", "one"),
        "shared/__init__.py": "",
        "shared/names.py": "from shared import more\nLAST = more.LAST\n",
        "shared/more.py": "LAST = 'before'\n",
    }
    site.deploy(files)

    proof = site.deploy({**files, "shared/more.py": "LAST = 'after'\n"})

    assert site.tasks("uses") == {"one", "after"}
    assert proof["affected"] == 1
    assert proof["dags"]["changed"] == ["uses"]
    assert proof["silent"] == []


def test_only_the_body_of_a_function_changes(site: Site) -> None:
    old, new = site.folder / "old", site.folder / "new"
    site.deploy({"body.py": dag("body", "one", body=f"open({str(old)!r}, 'w')")})
    site.finished_run("body", site.run("body"))
    assert old.exists()

    proof = site.deploy({"body.py": dag("body", "one", body=f"open({str(new)!r}, 'w')")})
    run = site.finished_run("body", site.run("body"))

    assert proof["outcome"] == "proven"
    assert run["state"] == "success"
    assert new.exists()
    if AIRFLOW >= (3, 0):
        assert _versions_of(run)[-1] == proof["version"]
        assert str(new) in site.api("GET", "/dagSources/body")["content"]


@needs_versions
def test_a_run_finishes_on_the_version_it_began_with(site: Site) -> None:
    began, go, marks = site.folder / "began", site.folder / "go", site.folder / "marks"

    def version(word: str) -> str:
        body = f"open({str(began)!r}, 'w'); import time, os"
        body += f"\n        while not os.path.exists({str(go)!r}): time.sleep(0.1)"
        second = f"open({str(marks)!r}, 'a').write('{word} ')"
        return dag("long", "first", "second", body=body).replace(
            f"def second():\n        {body}", f"def second():\n        {second}"
        )

    first = site.deploy({"long.py": version("old")})
    run = site.run("long")
    wait_until("the first task runs", began.exists)

    second = site.deploy({"long.py": version("new")})
    status = site.worker.ask("status", bundle=BUNDLE)
    holds = status["holds"]
    go.touch()
    ended = site.finished_run("long", run)

    assert status["runs"] == {"long": 1}
    assert holds["runs"] == {first["version"]: 1}
    assert second["version"] in holds["dags"]
    assert ended["state"] == "success"
    assert marks.read_text() == "old "
    site.finished_run("long", site.run("long"))
    assert marks.read_text() == "old new "


@pytest.mark.smoke
def test_two_deploys_within_five_seconds(site: Site) -> None:
    files = {"twice.py": dag("twice", "zero"), "flip.py": dag("flip", "zero")}
    site.deploy(files)
    began = time.monotonic()
    mark = site.folder / "twice"
    # The one in between changes a file that the last one changes back.
    first = site.switch({"twice.py": dag("twice", "one", top=slow(mark, 1)), "flip.py": dag("flip", "one")})
    first_proof = site.send_proof(first)
    wait_until("the first proof has begun", mark.exists)
    last = site.switch({**files, "twice.py": dag("twice", "two")}, hold=True)
    last_proof = site.send_proof(last)
    assert time.monotonic() - began < 5

    assert site.proof(first_proof)["outcome"] in ("superseded", "proven")
    assert site.proof(last_proof)["outcome"] == "proven"
    assert site.tasks("twice") == {"two"}
    assert site.tasks("flip") == {"zero"}
    site.remember(last)


def test_a_new_import_error_fails_the_proof_and_an_old_one_does_not(site: Site) -> None:
    files = {"good.py": dag("good", "one"), "bad.py": dag("bad", "one"), "helper.py": "VALUE = 1\n"}
    site.deploy(files)
    files["bad.py"] = dag("bad", "one", top="import helper\ndef explode():\n    return helper.GONE\nexplode()")

    broken = site.deploy(files)
    again = site.deploy({**files, "good.py": dag("good", "one", "two")})
    files["helper.py"] = "VALUE = 2\n"
    touched = site.deploy(files)
    files["helper.py"] = "GONE = 2\n"
    mended = site.deploy(files)

    assert broken["outcome"] == "import_errors"
    (error,) = broken["import_errors"]
    assert (error["file"], error["new"]) == ("bad.py", True)
    assert 'File "bad.py", line' in error["traceback"]
    assert "AttributeError: module 'helper' has no attribute 'GONE'" in error["traceback"]
    assert "site-packages" not in error["traceback"]
    assert str(site.folder) not in error["traceback"]
    assert broken["dags"]["removed"] == []
    assert again["outcome"] == "proven"
    assert [error["new"] for error in again["import_errors"]] == [False]
    assert touched["outcome"] == "import_errors"
    assert mended["outcome"] == "proven"
    assert mended["import_errors"] == []
    assert site.api("GET", "/importErrors")["total_entries"] == 0
    assert site.tasks("bad") == {"one"}


def test_what_a_failed_deploy_broke_does_not_fail_one_that_leaves_it_alone(site: Site) -> None:
    files = {"good.py": dag("good", "one")}
    site.deploy(files)
    files["broken.py"] = dag("broken", "one", top="import no_such_module")

    version = site.switch(files, hold=True)
    failed = [site.proof(site.send_proof(version)) for _ in range(2)]
    site.judge(version)
    other = site.deploy({**files, "good.py": dag("good", "one", "two")})
    touched = site.deploy({**files, "broken.py": files["broken.py"] + "# touched\n"})

    assert [proof["outcome"] for proof in failed] == ["import_errors"] * 2
    assert other["outcome"] == "proven"
    assert [(error["file"], error["new"]) for error in other["import_errors"]] == [("broken.py", False)]
    assert touched["outcome"] == "import_errors"


@pytest.mark.smoke
def test_a_file_that_breaks_by_itself_does_not_fail_another_change(site: Site) -> None:
    flag = site.folder / "weather"
    flag.touch()
    files = {"fair.py": dag("fair", "one", top=f"open({str(flag)!r}).close()"), "good.py": dag("good", "one")}
    site.deploy(files)
    flag.unlink()
    # Airflow's own pace is 30 s; a new time of the file has it look at once.
    os.utime(site.disk.current / "fair.py")
    wait_until("Airflow has noticed", lambda: site.api("GET", "/importErrors")["total_entries"] == 1)

    proofs = [site.deploy({**files, "good.py": dag("good", "one", "two")})]
    proofs.append(site.proof(site.send_proof(proofs[0]["version"])))

    for proof in proofs:
        assert proof["outcome"] == "proven"
        assert [(error["file"], error["new"]) for error in proof["import_errors"]] == [("fair.py", False)]
    assert site.tasks("good") == {"one", "two"}


@pytest.mark.smoke
def test_a_removed_file_takes_its_dag_along(site: Site) -> None:
    files = {"stays.py": dag("stays", "one"), "goes.py": dag("goes", "one"), "part.py": dag("part_a", "one")}
    site.deploy({**files, "part.py": dag("part_a", "one") + dag("part_b", "one")})

    del files["goes.py"]
    proof = site.deploy(files)

    assert proof["dags"]["removed"] == ["goes", "part_b"]
    assert _live_dags(site) == {"stays", "part_a"}


@needs_versions
def test_a_dag_that_is_gone_holds_no_version(site: Site) -> None:
    site.deploy({"goes.py": dag("goes", "one")})
    proof = site.deploy({"comes.py": dag("comes", "one")})
    assert proof["dags"]["removed"] == ["goes"]
    holds = site.worker.ask("status", bundle=BUNDLE)["holds"]
    assert set(holds["dags"]) == {proof["version"]}


def test_data_files_and_listed_folders_are_dependencies(site: Site) -> None:
    reads = dag(
        "reads",
        "one",
        top="import json, pathlib\nNAME = json.loads((pathlib.Path(__file__).parent / 'c.json').read_text())",
    )
    lists = dag(
        "lists",
        "one",
        top="import glob, os\nN = len(glob.glob(os.path.join(os.path.dirname(__file__), 'parts', '*.txt')))",
    )
    files = {
        "reads.py": reads.replace("task_id='one'", "task_id=NAME"),
        "lists.py": lists.replace("task_id='one'", "task_id=f'n{N}'"),
        "alone.py": dag("alone", "one"),
        "c.json": '"before"',
        "parts/1.txt": "",
    }
    site.deploy(files)
    assert site.tasks("reads") == {"before"}

    data = site.deploy({**files, "c.json": '"after"'})
    assert site.tasks("reads") == {"after"}
    assert data["affected"] == 1

    listed = site.deploy({**site.disk.files, "parts/2.txt": ""})
    assert site.tasks("lists") == {"n2"}
    assert listed["affected"] == 1

    # Who reads this is not known, so everything is parsed.
    unknown = site.deploy({**site.disk.files, "model.bin": "x"})
    assert unknown["affected"] == unknown["files"] == 3


def test_an_added_module_changes_what_an_import_finds(site: Site) -> None:
    top = "try:\n    import extra\n    NAME = extra.NAME\nexcept ImportError:\n    NAME = 'none'"
    files = {"tries.py": dag("tries", "one", top=top).replace("task_id='one'", "task_id=NAME")}
    files["alone.py"] = dag("alone", "one")
    site.deploy(files)
    assert site.tasks("tries") == {"none"}

    proof = site.deploy({**files, "extra/__init__.py": "NAME = 'some'\n"})

    assert site.tasks("tries") == {"some"}
    assert proof["affected"] == 1


def test_an_added_file_changes_what_asking_for_it_gives(site: Site) -> None:
    top = "import pathlib\nNAME = 'some' if (pathlib.Path(__file__).parent / 'extra.py').exists() else 'none'"
    files = {"asks.py": dag("asks", "one", top=top).replace("task_id='one'", "task_id=NAME")}
    files["alone.py"] = dag("alone", "one")
    site.deploy(files)
    assert site.tasks("asks") == {"none"}

    proof = site.deploy({**files, "extra.py": ""})

    assert site.tasks("asks") == {"some"}
    assert proof["affected"] == 1


def test_dags_behind_a_link_to_a_folder_come_and_go_with_it(site: Site) -> None:
    files = {"teams/a/one.py": dag("linked", "one"), ".airflowignore": "teams\n", "plain.py": dag("plain", "one")}
    site.deploy(files)
    assert _live_dags(site) == {"plain"}

    linked = site.deploy({**files, "active": Path("teams/a")})
    assert (linked["outcome"], linked["dags"]["added"]) == ("proven", ["linked"])
    assert _live_dags(site) == {"plain", "linked"}

    unlinked = site.deploy(files)
    assert (unlinked["outcome"], unlinked["dags"]["removed"]) == ("proven", ["linked"])
    assert _live_dags(site) == {"plain"}


@pytest.mark.smoke
def test_a_dag_that_cannot_be_stored_is_an_import_error(site: Site) -> None:
    # Nobody has registered it, so it cannot be found again.
    top = "from airflow.timetables.simple import NullTimetable\nclass Odd(NullTimetable):\n    pass"
    odd = dag("odd", "one", top=top).replace("schedule=None", "schedule=Odd()")

    proof = site.deploy({"odd.py": odd, "fine.py": dag("fine", "one")})

    assert proof["outcome"] == "import_errors"
    (error,) = proof["import_errors"]
    assert error["file"] == "odd.py"
    assert "TimetableNotRegistered" in error["traceback"]
    assert site.tasks("fine") == {"one"}


def test_what_a_file_leaves_running_does_not_hold_up_the_proof(site: Site) -> None:
    top = "import subprocess\nsubprocess.Popen(['sleep', '100'])"

    proof = site.deploy({"leaves.py": dag("leaves", "one", top=top), "fine.py": dag("fine", "one")}, timeout_s=60)

    assert proof["outcome"] == "proven"
    assert site.tasks("leaves") == {"one"}


def test_a_crash_costs_only_its_own_file(site: Site) -> None:
    files = {
        "exits.py": dag("exits", "one", top="import os; os._exit(3)"),
        "kills.py": dag("kills", "one", top="import os; os.kill(os.getpid(), 9)"),
        "eats.py": dag("eats", "one", top="x = bytearray(64 << 30)"),
        "prints.py": dag("prints", "one", top='print("{\\"id\\": 1}")\nimport os; os.write(1, b"noise\\n")'),
        "fine.py": dag("fine", "one"),
    }

    proof = site.deploy(files)

    errors = {error["file"]: error["traceback"] for error in proof["import_errors"]}
    assert errors.keys() == {"exits.py", "kills.py", "eats.py"}
    assert "exit code 3" in errors["exits.py"]
    assert "SIGKILL" in errors["kills.py"]
    assert "MemoryError" in errors["eats.py"]
    assert site.tasks("fine") == site.tasks("prints") == {"one"}


def test_variables_and_connections_are_read_as_in_airflow(site: Site) -> None:
    site.api("POST", "/variables", {"key": "name", "value": "from_a_variable"})
    place = "airflow.sdk" if AIRFLOW >= (3, 0) else "airflow.models"
    top = f"from {place} import Variable\nNAME = Variable.get('name')"

    site.deploy({"asks.py": dag("asks", "one", top=top).replace("task_id='one'", "task_id=NAME")})

    assert site.tasks("asks") == {"from_a_variable"}


def test_a_changed_file_without_a_dag_is_named(site: Site) -> None:
    files = {"fine.py": dag("fine", "one", top="import used")}
    files["used.py"] = "# airflow dag helper\n"
    site.deploy(files)

    proof = site.deploy({**files, "used.py": "# airflow dag helper!\n", "quiet.py": "# nothing of an airflow dag\n"})

    assert proof["outcome"] == "proven"
    assert proof["silent"] == ["quiet.py"]


def test_ignored_files_are_no_dag_files(site: Site) -> None:
    files = {"seen.py": dag("seen", "one"), "drafts/draft.py": dag("draft", "one"), ".airflowignore": "drafts\n"}
    ignored = site.deploy(files)
    still = site.deploy({**files, "drafts/more.py": dag("more", "one")})
    found = site.deploy({**site.disk.files, ".airflowignore": ""})

    assert (ignored["files"], still["files"], found["files"]) == (1, 1, 3)
    assert found["dags"]["added"] == ["draft", "more"]


def test_files_that_are_not_parsed_in_time_are_named_and_those_that_were_are_kept(site: Site) -> None:
    files = {f"s{n}.py": dag(f"s{n}", "one", top="import time; time.sleep(4)") for n in range(4)}

    proof = site.deploy(files, timeout_s=6, processes=1)
    again = site.proof(site.send_proof(proof["version"], processes=1))

    assert proof["outcome"] == "timed_out"
    assert proof["not_seen"] == "still being parsed: `s1.py`; not begun: 2 file(s)"
    assert proof["parsed"] == 1
    assert again["outcome"] == "proven"
    assert again["parsed"] == 3
    site.remember(proof["version"])


@needs_versions
def test_without_the_processor_time_runs_out_and_says_on_what(site: Site) -> None:
    nobody = {"pid": site.worker._process.pid, "start_time": _start_time(site.worker._process.pid)}

    proof = site.deploy({"late.py": dag("late", "one")}, processor=nobody, timeout_s=1)

    assert proof["outcome"] == "timed_out"
    assert "has not refreshed bundle" in proof["not_seen"]
    assert site.deploy({"late.py": dag("late", "one")})["outcome"] == "proven"


def test_one_of_many_files_changes(site: Site) -> None:
    files = {f"many/f{n:03}.py": dag(f"many_{n:03}", "one", "two") for n in range(60)}
    first = site.deploy(files)
    one = site.deploy({**files, "many/f007.py": dag("many_007", "one", "two", "three")})

    assert first["dags"]["total"] == 60
    assert one["affected"] == 1
    assert site.tasks("many_007") == {"one", "two", "three"}


def _being_parsed(site: Site, file: str) -> bool:
    processor = site.processor
    assert processor is not None
    for entry in Path(f"/proc/{processor['pid']}/fd").iterdir():
        try:
            if str(entry.readlink()).endswith(f"/{file}.log"):
                return True
        except OSError:
            continue
    return False


def _versions_of(run: dict[str, object]) -> list[str]:
    if "bundle_version" in run:
        return [str(run["bundle_version"])]
    return [str(version["bundle_version"]) for version in run["dag_versions"]]  # type: ignore[attr-defined]


def _live_dags(site: Site) -> set[str]:
    listing = site.api("GET", "/dags?limit=1000" if AIRFLOW >= (3, 0) else "/dags?limit=1000&only_active=true")
    return {found["dag_id"] for found in listing["dags"] if not found.get("is_stale")}


def _start_time(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[19])
