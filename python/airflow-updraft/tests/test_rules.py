"""The parts that need no Airflow: what depends on what, records, tracebacks."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from airflow_updraft import _tracebacks
from airflow_updraft._dependencies import Change, Seen
from airflow_updraft._records import FileRecord, Record, Records

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.smoke


def test_a_changed_file_reaches_who_opened_it() -> None:
    change = Change(changed=["lib/a.py"], added=[], removed=[])

    assert change.touches(Seen(files={"x.py", "lib/a.py"}))
    assert not change.touches(Seen(files={"x.py"}, names={"lib/a"}, folders={"lib"}))


@pytest.mark.parametrize("path", ["lib/foo.py", "lib/foo/__init__.py", "lib/foo/deep.py", "lib/foo.cpython-312.so"])
def test_an_added_module_reaches_who_looked_for_its_name(path: str) -> None:
    change = Change(changed=[], added=[path], removed=[])

    assert change.touches(Seen(names={"lib/foo"}))
    assert not change.touches(Seen(names={"foo", "lib/food", "other/foo"}))


def test_what_comes_and_goes_reaches_who_listed_the_folder() -> None:
    assert Change([], ["parts/x/1.txt"], []).touches(Seen(folders={"parts"}))
    assert Change([], [], ["1.txt"]).touches(Seen(folders={""}))
    assert not Change(["parts/1.txt"], [], []).touches(Seen(folders={"parts"}))


def test_a_data_file_that_nobody_is_known_to_read_is_unexplained() -> None:
    change = Change(changed=["a.bin", "b.json", "c.py"], added=["d/e.csv"], removed=[])

    assert change.unexplained([]) == {"a.bin", "b.json", "d/e.csv"}
    assert change.unexplained([Seen(files={"b.json"}), Seen(folders={"d"})]) == {"a.bin"}


def test_a_parse_is_seen_through_opens_imports_listings_and_processes(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    files = {
        "main.py": """
            import glob, json, os, sys
            sys.path.append(os.path.dirname(__file__))
            import helper
            try:
                import absent
            except ImportError:
                pass
            json.load(open(os.path.join(os.path.dirname(__file__), "data.json")))
            try:
                open(os.path.join(os.path.dirname(__file__), "maybe.json"))
            except OSError:
                pass
            glob.glob(os.path.join(os.path.dirname(__file__), "parts", "*"))
        """,
        "helper.py": "from pkg import inner\n",
        "pkg/__init__.py": "",
        "pkg/inner.py": "",
        "data.json": "1",
        "parts/1.txt": "",
        "real/linked.txt": "",
    }
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(textwrap.dedent(text))
    (root / "link").symlink_to("real")

    seen = _watch(root, "import runpy; runpy.run_path(root + '/main.py'); open(root + '/link/linked.txt')")

    assert {"main.py", "helper.py", "pkg/__init__.py", "pkg/inner.py", "data.json", "maybe.json"} <= seen.files
    assert {"link/linked.txt", "real/linked.txt", "link"} <= seen.files
    assert {"helper", "absent", "pkg", "pkg/inner"} <= seen.names
    assert seen.folders == {"parts"}
    assert not seen.everything
    assert _watch(root, "import subprocess; subprocess.run(['true'])").everything


ASKS = [
    "os.path.exists(root + '/asked')",
    "os.path.isfile(root + '/asked')",
    "os.path.isdir(root + '/asked')",
    "os.path.lexists(root + '/asked')",
    "os.access(root + '/asked', os.R_OK)",
    "pathlib.Path(root, 'asked').exists()",
    "pathlib.Path(root, 'asked').is_dir()",
]


@pytest.mark.parametrize("code", ASKS)
def test_who_asks_whether_something_exists_depends_on_it(tmp_path: Path, code: str) -> None:
    seen = _watch(tmp_path, f"import os, pathlib; {code}")

    assert Change([], ["asked"], []).touches(seen)
    assert Change([], ["asked/below.py"], []).touches(seen)
    assert not Change([], ["other"], []).touches(seen)


def test_finding_a_real_path_depends_on_no_folder_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "team" / "dag.py").touch()

    seen = _watch(tmp_path, "import os; os.path.realpath(root + '/team/dag.py')")

    assert not Change([], ["team/other.py"], []).touches(seen)


def _watch(root: Path, code: str) -> Seen:
    script = f"""
import json, sys
from airflow_updraft._dependencies import Recorder
root = {str(root)!r}
recorder = Recorder(root)
recorder.start()
{code}
print(json.dumps(recorder.finish().to_json()))
"""
    import json

    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return Seen.from_json(json.loads(output))


def test_records_come_back_and_old_ones_go(tmp_path: Path) -> None:
    records = Records(tmp_path, "dags")
    versions = [f"sha256:{n:064x}" for n in range(25)]
    for version in versions:
        file = FileRecord(Seen({"a.py"}, {"x"}, {""}, True), {"dag": "hash"}, {"a.py": "text"})
        records.save(Record(version, {"a.py": file}))

    again = Records(tmp_path, "dags")

    assert again.load(versions[-1]) == records.load(versions[-1])
    assert again.load(versions[0]) is None
    assert len(list((tmp_path / "records" / "dags").iterdir())) == 20


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    records = Records(tmp_path, "dags")
    version = "sha256:" + "a" * 64
    records.save(Record(version))
    (tmp_path / "records" / "dags" / f"{version.replace(':', '-')}.json").write_text("{")

    assert Records(tmp_path, "dags").load(version) is None


def test_a_traceback_keeps_the_frames_of_the_bundle() -> None:
    text = textwrap.dedent(
        """\
        Traceback (most recent call last):
          File "/venv/lib/airflow/dagbag.py", line 1, in parse
            loader.exec_module(module)
          File "/root/current/team/a.py", line 3, in <module>
            boom()
            ^^^^^^
          File "/venv/lib/other.py", line 9, in boom
            raise ValueError("no")
        ValueError: no: /root/current/team/a.py
        """
    )

    assert _tracebacks.cut(text, ("/root/current",)) == textwrap.dedent(
        """\
        Traceback (most recent call last):
          File "team/a.py", line 3, in <module>
            boom()
            ^^^^^^
        ValueError: no: team/a.py
        """
    )


def test_a_syntax_error_keeps_its_place() -> None:
    text = textwrap.dedent(
        """\
        Traceback (most recent call last):
          File "/venv/lib/airflow/dagbag.py", line 1, in parse
            loader.exec_module(module)
          File "/root/current/a.py", line 2
            def (
                ^
        SyntaxError: invalid syntax
        """
    )

    assert 'File "a.py", line 2\n    def (\n' in _tracebacks.cut(text, ("/root/current",))
