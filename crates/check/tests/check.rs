//! The check of whole folders.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use updraft_check::{
    AirflowIgnore, Checked, DagFile, Elsewhere, IgnoreSyntax, Installed, Level, Levels, Options,
    Ruff, Rule, check, dag_files, own_modules, report,
};
use updraft_model::Digest;
use updraft_project::PythonVersion;

struct Project(tempfile::TempDir);

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        for (path, text) in files {
            project.write(path, text);
        }
        project
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.root().join("dags").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Those that Airflow looks at, of all that is there.
    fn files(&self) -> Vec<DagFile> {
        let dags = self.root().join("dags");
        let mut paths = Vec::new();
        list(&dags, &dags, &mut paths);
        let listed = || paths.iter().map(String::as_str);
        let ignore = AirflowIgnore::read(&dags, listed(), IgnoreSyntax::Glob).unwrap();
        dag_files(listed().map(|path| (path, None)), &ignore)
    }

    fn check_with(&self, levels: &Levels, minor: u8) -> Checked {
        let options = Options {
            cache: Some(self.root().join("cache/check.json")),
            ..Options::new(self.root(), PythonVersion::new(3, minor), levels)
        };
        check(&self.files(), options).unwrap()
    }

    fn check(&self) -> Checked {
        self.check_with(&Levels::default(), 12)
    }
}

/// Names all files below a folder, from another one on.
fn list(folder: &Path, from: &Path, paths: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, from, paths);
        } else {
            let path = path.strip_prefix(from).unwrap();
            paths.push(path.to_str().unwrap().to_owned());
        }
    }
}

fn told(checked: &Checked) -> String {
    checked.findings.iter().fold(String::new(), |mut text, it| {
        let (file, place) = (&it.file, it.place);
        let _ = writeln!(
            text,
            "{file}:{}:{}: {} {}: {}",
            place.line, place.column, it.level, it.rule, it.message
        );
        let line: String = it.text.trim().chars().take(60).collect();
        if !line.is_empty() {
            let _ = writeln!(text, "    {line}");
        }
        text
    })
}

const HEAD: &str = "\
from datetime import datetime, timedelta
from uuid import uuid4

import pandas as pd
import pendulum
import requests
from airflow.models import Variable as V
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import DAG, dag, task
from airflow.hooks.base import BaseHook
from airflow.utils.session import create_session
";

/// What is found has its line at the end of a file that begins like this.
fn after_head(text: &str) -> String {
    format!("{HEAD}{text}")
}

#[test]
fn each_failure_is_told_with_its_line() {
    let project = Project::new(&[
        ("syntax.py", "def f(:\n    pass\n"),
        (
            "newer.py",
            "type A = int\ndef f[T](x: T): ...\nx = f'{'a'}'\n",
        ),
        ("first.py", "from airflow.sdk import DAG\nDAG('sales')\n"),
        (
            "second.py",
            "from airflow import DAG\nwith DAG(dag_id='sales'):\n    pass\n",
        ),
        (
            "third.py",
            "from airflow.decorators import dag\n@dag(schedule=None)\ndef sales():\n    pass\nsales()\n",
        ),
        (
            "session.py",
            &after_head("with create_session() as session:\n    pass\n"),
        ),
        (
            "variable.py",
            &after_head("@dag()\ndef build():\n    path = V.get('path')\nbuild()\n"),
        ),
        (
            "connection.py",
            &after_head("HOST = BaseHook.get_connection('db').host\n"),
        ),
        (
            "hook.py",
            &after_head("class Table:\n    hook = PostgresHook('db')\n"),
        ),
        (
            "network.py",
            &after_head("for page in requests.get('http://x').json():\n    pass\n"),
        ),
        (
            "files.py",
            &after_head("A = open('a')\nB = pd.read_csv('b')\nC = Path('c').read_text()\n"),
        ),
        (
            "start.py",
            &after_head(
                "today = datetime.now() - timedelta(days=1)\nDAG('s', start_date=today)\n\
                 default_args = {'start_date': pendulum.today()}\n",
            ),
        ),
        (
            "id.py",
            &after_head("DAG(f'x_{uuid4()}', tags=[str(datetime.utcnow())])\n"),
        ),
        ("empty.py", ""),
    ]);
    project.write("latin.py", b"# coding: latin-1\nNAME = 'caf\xe9'\n");
    project.write("bytes.py", b"X = 1\nNAME = 'caf\xe9'\n");
    project.write("deep.py", format!("x = {}1\n", "1+".repeat(100_000)));
    let checked = project.check_with(&Levels::default(), 11);
    assert_eq!(checked.files, 17);
    assert_snapshot!(told(&checked), @r#"
    dags/bytes.py:2:1: error UPD001: this is not UTF-8, and the file declares no other encoding
    dags/connection.py:12:8: warning UPD303: `BaseHook.get_connection` is called while the file is imported
        HOST = BaseHook.get_connection('db').host
    dags/deep.py:1:3: error UPD001: this nests too deeply, or its bracket is not closed
        x = 1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+
    dags/files.py:12:5: warning UPD305: `open` is called while the file is imported
        A = open('a')
    dags/files.py:13:5: warning UPD305: `pd.read_csv` is called while the file is imported
        B = pd.read_csv('b')
    dags/files.py:14:5: warning UPD305: `Path('c').read_text` is called while the file is imported
        C = Path('c').read_text()
    dags/hook.py:13:12: warning UPD303: `PostgresHook` is called while the file is imported
        hook = PostgresHook('db')
    dags/id.py:12:5: warning UPD402: the id is another one at each parse, by `uuid4`
        DAG(f'x_{uuid4()}', tags=[str(datetime.utcnow())])
    dags/id.py:12:21: warning UPD402: `tags` is another one at each parse, by `datetime.utcnow`
        DAG(f'x_{uuid4()}', tags=[str(datetime.utcnow())])
    dags/network.py:12:13: warning UPD304: `requests.get` is called while the file is imported
        for page in requests.get('http://x').json():
    dags/newer.py:1:1: error UPD002: Cannot use `type` alias statement on Python 3.11 (syntax was added in Python 3.12)
        type A = int
    dags/newer.py:2:6: error UPD002: Cannot use type parameter lists on Python 3.11 (syntax was added in Python 3.12)
        def f[T](x: T): ...
    dags/newer.py:3:8: error UPD002: Cannot reuse outer quote character in f-strings on Python 3.11 (syntax was added in Python 3.12)
        x = f'{'a'}'
    dags/second.py:2:17: error UPD101: `sales` is also the id of a DAG in dags/first.py:2
        with DAG(dag_id='sales'):
    dags/session.py:12:6: warning UPD301: `create_session` is called while the file is imported
        with create_session() as session:
    dags/start.py:13:10: warning UPD401: `start_date` is another one at each parse, by `datetime.now`
        DAG('s', start_date=today)
    dags/start.py:14:31: warning UPD401: `start_date` is another one at each parse, by `pendulum.today`
        default_args = {'start_date': pendulum.today()}
    dags/syntax.py:1:7: error UPD002: Expected a parameter or the end of the parameter list
        def f(:
    dags/third.py:3:5: error UPD101: `sales` is also the id of a DAG in dags/first.py:2
        def sales():
    dags/variable.py:14:12: warning UPD302: `V.get` is called while the file is imported
        path = V.get('path')
    "#);
}

#[test]
fn what_runs_later_and_what_is_excused_is_not_told() {
    let project = Project::new(&[(
        "good.py",
        &after_head(
            r#"
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    open("never")
X = V.get("x")  # noqa: UPD302 it is cheap here
Y = lambda: V.get("y")

def open_later(path=None):
    return open(path)

@dag(start_date=datetime(2026, 1, 1))
def build():
    @task
    def load():
        hook = PostgresHook("db")
        return requests.get("http://x"), V.get("z"), datetime.now()
    load()

build()

if __name__ == "__main__":
    requests.get("http://x")
"#,
        ),
    )]);
    assert_eq!(told(&project.check()), "");
}

#[test]
fn ids_count_when_they_are_there_whatever_happens() {
    let project = Project::new(&[
        (
            "a.py",
            "from airflow.sdk import DAG, dag\nif x:\n    DAG('one')\nelse:\n    DAG('one')\n",
        ),
        (
            "b.py",
            "from airflow.sdk import DAG\nfor name in names:\n    DAG('one')\n",
        ),
        (
            "c.py",
            "from airflow.sdk import dag\n@dag\ndef two():\n    pass\n",
        ),
        (
            "d.py",
            "from airflow.sdk import dag\n@dag('two')\ndef other():\n    pass\nother()\n",
        ),
        ("e.py", "from elsewhere import DAG\nDAG('two')\n"),
    ]);
    assert_eq!(told(&project.check()), "");
}

#[test]
fn a_project_changes_levels() {
    let project = Project::new(&[(
        "a.py",
        "from airflow.models import Variable\nX = Variable.get('x')\nopen('a')\n",
    )]);
    let levels = Levels::new([("UPD302", Level::Error), ("UPD305", Level::Off)]).unwrap();
    let checked = project.check_with(&levels, 12);
    assert_eq!((checked.findings.len(), checked.errors()), (1, 1));
    let unknown = Levels::new([("UPD303x", Level::Off)]).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "there is no rule `UPD303x`; is it `UPD303`?"
    );
}

#[test]
fn contents_are_read_once() {
    let project = Project::new(&[("a.py", "open('a')\n"), ("b.py", "x = 1\n")]);
    assert_eq!(project.check().known, 0);
    let again = project.check();
    assert_eq!((again.known, again.findings.len()), (2, 1));
    // The same size, and another file's content.
    project.write("b.py", "open('a')\n");
    project.write("c.py", "y = 1\n");
    let again = project.check();
    assert_eq!((again.known, again.findings.len()), (2, 2));
    // Another Python may know another syntax.
    assert_eq!(project.check_with(&Levels::default(), 13).known, 0);
    // A cache that is not whole is none.
    project.write("../cache/check.json", "{\"holds");
    assert_eq!(project.check().known, 0);
    assert_eq!(project.check().known, 3);
}

#[test]
fn airflow_decides_what_is_looked_at() {
    let project = Project::new(&[
        (".airflowignore", "# not these\nlegacy/\n*_draft.py\n"),
        ("sub/.airflowignore", "!kept_draft.py\n"),
        ("legacy/.airflowignore", "!d.py\n"),
        ("a.py", ""),
        ("sub/b.py", ""),
        ("sub/c_draft.py", ""),
        ("sub/kept_draft.py", ""),
        ("legacy/d.py", ""),
        ("notes.txt", ""),
    ]);
    let files = project.files().into_iter().map(|file| file.name);
    assert_eq!(
        files.collect::<Vec<_>>(),
        ["dags/a.py", "dags/sub/b.py", "dags/sub/kept_draft.py"]
    );
}

#[test]
fn content_that_is_known_is_not_read_again() {
    let project = Project::new(&[("a.py", "open('a')\n"), ("b.py", "x = 1\n")]);
    let levels = Levels::default();
    let options = || Options {
        cache: Some(project.root().join("cache.json")),
        ..Options::new(project.root(), PythonVersion::new(3, 12), &levels)
    };
    let mut files = project.files();
    files[0].digest = Some(Digest::of(b"open('a')\n"));
    files[1].digest = Some(Digest::of(b"what it was before\n"));
    assert_eq!(check(&files, options()).unwrap().known, 0);
    fs::remove_file(project.root().join("dags/a.py")).unwrap();
    let again = check(&files, options()).unwrap();
    // The second was kept under what it is, not what it was said to be.
    assert_eq!((again.known, again.findings.len()), (2, 1));
    assert_eq!(again.findings[0].rule.code(), "UPD305");
}

/// An environment with these files in its `site-packages`.
fn installed(files: &[&str]) -> Installed {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let root = folder.path().to_str().unwrap();
    fs::create_dir_all(folder.path().join("src/in_development")).unwrap();
    let paths = format!("import _hook\n# why\n{root}/src\n");
    fs::write(folder.path().join("own.pth"), paths).unwrap();
    Installed::read(folder.path()).unwrap()
}

#[test]
fn an_import_that_nobody_provides_is_told() {
    let installed = installed(&[
        "pandas/__init__.py",
        "six.py",
        "_yaml.cpython-312-x86_64-linux-gnu.so",
        "pandas-3.0.dist-info/METADATA",
        "airflow/__init__.py",
        "airflow/providers/smtp/get_provider_info.py",
        "airflow/providers/apache/hive/get_provider_info.py",
        "airflow/providers/common/sql/get_provider_info.py",
    ]);
    let project = Project::new(&[
        (
            "there.py",
            "from __future__ import annotations\nimport os.path, six, _yaml, in_development, helper, team.names, plugin\n\
             from pandas import DataFrame\n\
             from airflow.sdk import DAG\n\
             from airflow.providers import smtp, common\n\
             from airflow.providers.apache.hive.hooks import hive\n\
             from . import other\nfrom .other import x\n",
        ),
        (
            "not_there.py",
            "import numpy as np, pandas\nfrom numpy import array\nimport pandas_profiling.x\n\
             from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook\n\
             from airflow.providers.apache.spark.hooks import spark\n\
             from airflow.providers import amazon\n\
             class Table:\n    import tables\n\
             try:\n    import tried\nexcept ValueError:\n    import never\n",
        ),
        (
            "later.py",
            "from typing import TYPE_CHECKING\nimport contextlib\nimport excused  # noqa: UPD201\n\
             if TYPE_CHECKING:\n    import a\n\
             if x:\n    import b\n\
             try:\n    import c\nexcept ImportError:\n    import d\n\
             try:\n    import e\nexcept (KeyError, ModuleNotFoundError):\n    pass\n\
             try:\n    import f\nexcept:\n    pass\n\
             with contextlib.suppress(ImportError):\n    import g\n\
             def h():\n    import h\n",
        ),
        (
            "its_own_path.py",
            "import sys\nsys.path.insert(0, '/opt')\nimport whatever\n",
        ),
        ("helper.py", ""),
        ("team/names.py", ""),
        ("../plugins/plugin.py", ""),
    ]);
    let levels = Levels::default();
    let mut own = own_modules(&project.root().join("dags"));
    own.extend(own_modules(&project.root().join("plugins")));
    let check = |installed| {
        let options = Options {
            own: own.clone(),
            installed,
            ..Options::new(project.root(), PythonVersion::new(3, 12), &levels)
        };
        told(&check(&project.files(), options).unwrap())
    };
    assert_snapshot!(check(Some(installed)), @r"
    dags/not_there.py:1:8: error UPD201: `numpy` is neither installed nor part of the project
        import numpy as np, pandas
    dags/not_there.py:3:8: error UPD201: `pandas_profiling` is neither installed nor part of the project
        import pandas_profiling.x
    dags/not_there.py:4:1: error UPD201: `airflow.providers.snowflake` is not there: `apache-airflow-providers-snowflake` is not installed
        from airflow.providers.snowflake.hooks.snowflake import Snow
    dags/not_there.py:5:1: error UPD201: `airflow.providers.apache.spark` is not there: `apache-airflow-providers-apache-spark` is not installed
        from airflow.providers.apache.spark.hooks import spark
    dags/not_there.py:6:31: error UPD201: `airflow.providers.amazon` is not there: `apache-airflow-providers-amazon` is not installed
        from airflow.providers import amazon
    dags/not_there.py:8:12: error UPD201: `tables` is neither installed nor part of the project
        import tables
    dags/not_there.py:10:12: error UPD201: `tried` is neither installed nor part of the project
        import tried
    ");
    assert_eq!(check(None), "");
}

#[test]
fn an_id_of_another_bundle_is_told() {
    let project = Project::new(&[(
        "a.py",
        "from airflow.sdk import DAG\nDAG('sales')\nDAG('stock')\nDAG('bills')  # noqa\n",
    )]);
    let levels = Levels::default();
    let ids = || ["sales", "bills", "other"].map(|id| (id.into(), "finance".into()));
    let options = Options {
        elsewhere: Some(Elsewhere {
            ids: &|| ids().into(),
        }),
        ..Options::new(project.root(), PythonVersion::new(3, 12), &levels)
    };
    let checked = check(&project.files(), options).unwrap();
    assert_snapshot!(told(&checked), @r"
    dags/a.py:2:5: error UPD102: `sales` is also the id of a DAG in the bundle `finance` of this Deployment
        DAG('sales')
    ");
}

/// A ruff that finds one thing in each `old*.py`, gives up where it is given
/// `too_much.py`, and counts how often it starts.
const RUFF: &str = r#"#!/bin/sh
echo start >> ruff_starts
for name; do case "$name" in *too_much.py) kill -ABRT $$;; esac; done
found=
for name; do case "$name" in
dags/old*.py) found="$found${found:+,}
  {\"filename\": \"$(pwd -P)/$name\", \"code\": \"AIR301\", \"message\": \"`x` is removed in Airflow 3.0.\",
   \"fix\": {\"message\": \"Use `y` instead\"}, \"location\": {\"row\": 2, \"column\": 3}, \"noqa_row\": 2},
  {\"filename\": \"$(pwd -P)/$name\", \"code\": \"AIR312\", \"message\": \"moved\",
   \"fix\": null, \"location\": {\"row\": 3, \"column\": 1}, \"noqa_row\": 3},
  {\"filename\": \"$(pwd -P)/$name\", \"code\": null, \"message\": \"broken\",
   \"fix\": null, \"location\": {\"row\": 1, \"column\": 1}, \"noqa_row\": null}";;
esac; done
echo "[$found]"
exit 1
"#;

#[test]
fn what_airflow_3_removed_is_told_and_asked_for_once() {
    let old = "# old\nf(x=1)\ny()\n";
    let project = Project::new(&[
        ("old_one.py", old),
        ("old_same.py", old),
        (
            "old_excused.py",
            "# old\nf(x=1)  # noqa: UPD501\ny() # noqa: UPD502\n",
        ),
        ("new.py", "z = 1\n"),
    ]);
    let ruff = project.root().join("ruff");
    fs::write(&ruff, RUFF.replace('`', "\\`")).unwrap();
    fs::set_permissions(&ruff, fs::Permissions::from_mode(0o755)).unwrap();
    let starts = || {
        let text = fs::read_to_string(project.root().join("ruff_starts"));
        text.unwrap_or_default().lines().count()
    };
    let check = |version: &str, levels: &Levels, program: Result<PathBuf, String>| {
        let program = || program.clone();
        let options = Options {
            cache: Some(project.root().join("cache.json")),
            ruff: Some(Ruff {
                version,
                program: &program,
            }),
            ..Options::new(project.root(), PythonVersion::new(3, 12), levels)
        };
        check(&project.files(), options).unwrap()
    };
    let usual = Levels::default();
    let none = check("1", &usual, Err("no network\nat all".into()));
    assert_eq!(
        none.notes,
        ["names that Airflow 3 removed were not looked for: no network"]
    );
    let found = check("1", &usual, Ok(ruff.clone()));
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    assert_eq!((found.known, starts()), (4, 1));
    assert_snapshot!(told(&found), @r"
    dags/old_one.py:2:3: error UPD501: `x` is removed in Airflow 3.0; use `y` instead (ruff's AIR301)
        f(x=1)
    dags/old_one.py:3:1: warning UPD502: moved (ruff's AIR312)
        y()
    dags/old_same.py:2:3: error UPD501: `x` is removed in Airflow 3.0; use `y` instead (ruff's AIR301)
        f(x=1)
    dags/old_same.py:3:1: warning UPD502: moved (ruff's AIR312)
        y()
    ");
    // Known, so that no program is needed; for another Airflow it says nothing.
    assert_eq!(check("1", &usual, Err("gone".into())), found);
    assert_eq!(told(&project.check()), "");
    let off = Levels::new([("UPD501", Level::Off), ("UPD502", Level::Off)]).unwrap();
    assert_eq!(check("2", &off, Err("gone".into())).notes.len(), 0);
    check("2", &usual, Ok(ruff.clone()));
    assert_eq!(starts(), 2);

    // A file that ruff gives up on does not take the others along.
    project.write("too_much.py", "x = 2\n");
    project.write("old_three.py", "# another\nf(x=1)\n");
    let found = check("2", &usual, Ok(ruff));
    assert_eq!(
        found.notes,
        [
            "names that Airflow 3 removed were not looked for in dags/too_much.py: ruff gave up on it"
        ]
    );
    assert!(told(&found).contains("dags/old_three.py:2:3: error UPD501"));
}

#[test]
fn other_programs_get_what_they_understand() {
    let project = Project::new(&[("odd, name%.py", "open('a')\n"), ("s.py", "def f(:\n")]);
    let findings = project.check().findings;
    assert_snapshot!(report::annotations(&findings, "etl/"), @r#"
    ::warning file=etl/dags/odd%2C name%25.py,line=1,col=1,title=UPD305::`open` is called while the file is imported: read it within a task; where it decides which tasks there are, keep it small and beside the DAG file, and say `# noqa: UPD305`
    ::error file=etl/dags/s.py,line=1,col=7,title=UPD002::Expected a parameter or the end of the parameter list: mend it, or have the Dockerfile name a Python that knows this syntax
    ::error file=etl/dags/s.py,line=2,col=1,title=UPD002::unexpected EOF while parsing: mend it, or have the Dockerfile name a Python that knows this syntax
    "#);
    let sarif = report::sarif(&findings, "etl/");
    let place = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
    let file = &place["artifactLocation"]["uri"];
    assert_eq!(file, "etl/dags/odd%2C%20name%25.py");
    assert_eq!(place["region"]["startLine"], 1);
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"]
        .as_array()
        .unwrap();
    let index = sarif["runs"][0]["results"][0]["ruleIndex"]
        .as_u64()
        .unwrap();
    assert_eq!(rules[usize::try_from(index).unwrap()]["id"], "UPD305");
    let names: Vec<String> = ["odd, name%.py", "ok<&.py", "s.py"]
        .iter()
        .map(|name| format!("dags/{name}"))
        .collect();
    assert_snapshot!(report::junit(&names, &findings, "etl/").unwrap(), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="updraft dev check" tests="3" skipped="0" failures="1" errors="0">
        <testsuite name="DAG files" tests="3" skipped="0" errors="0" failures="1">
            <testcase name="etl/dags/odd, name%.py" classname="updraft.check">
                <system-out>etl/dags/odd, name%.py:1:1: warning UPD305: `open` is called while the file is imported
      = read it within a task; where it decides which tasks there are, keep it small and beside the DAG file, and say `# noqa: UPD305`
    </system-out>
            </testcase>
            <testcase name="etl/dags/ok&lt;&amp;.py" classname="updraft.check"/>
            <testcase name="etl/dags/s.py" classname="updraft.check">
                <failure message="Expected a parameter or the end of the parameter list" type="UPD002">etl/dags/s.py:1:7: error UPD002: Expected a parameter or the end of the parameter list
      = mend it, or have the Dockerfile name a Python that knows this syntax
    etl/dags/s.py:2:1: error UPD002: unexpected EOF while parsing
      = mend it, or have the Dockerfile name a Python that knows this syntax
    </failure>
            </testcase>
        </testsuite>
    </testsuites>
    "#);
    let quality = report::code_quality(&findings, "");
    assert_eq!(quality[1]["location"]["path"], "dags/s.py");
    assert_eq!(quality[1]["severity"], "critical");
    // The same finding some lines further on is no new one.
    project.write("odd, name%.py", "\n\nopen('a')\n");
    let moved = report::code_quality(&project.check().findings, "");
    assert_eq!(moved[0]["fingerprint"], quality[0]["fingerprint"]);
    assert_ne!(moved[0]["location"], quality[0]["location"]);
}

#[test]
fn no_file_takes_the_others_along() {
    let project = Project::new(&[("good.py", "open('a')\n")]);
    for (number, text) in [
        "1+".repeat(300_000) + "1",
        "f".to_owned() + &"()".repeat(300_000),
        "(".repeat(100_000),
        "[".repeat(4_000) + &"]".repeat(4_000),
        "1+".repeat(4_900) + "1",
        "if x:\n".to_owned() + &"  if x:\n".repeat(2_000),
        (0..400).fold(String::new(), |text, depth| {
            text + &" ".repeat(depth) + "if x:\n"
        }) + &" ".repeat(400)
            + "pass\n",
        "x = 1\n".repeat(100_000),
        "\t\x0c\x0bx = \\\n".into(),
        "f'{".repeat(500),
        "'''".into(),
        "\u{2028}\u{0}".into(),
        "é = ñ = 'ü'  # noqa\n".repeat(3),
    ]
    .iter()
    .enumerate()
    {
        project.write(&format!("hostile_{number}.py"), text);
    }
    project.write("large.py", vec![b'#'; 5_000_000]);
    let checked = project.check();
    assert_eq!(checked.files, 15);
    assert!(checked.findings.iter().any(|it| it.file == "dags/good.py"));
    let of = |file: &str| {
        let found = checked.findings.iter().find(|it| it.file == file);
        found.map(|it| it.rule.code())
    };
    for number in 0..3 {
        assert_eq!(of(&format!("dags/hostile_{number}.py")), Some("UPD001"));
    }
    assert_eq!(of("dags/hostile_4.py"), None);
    assert_eq!(of("dags/hostile_7.py"), None);
    assert_eq!(of("dags/large.py"), Some("UPD001"));
}

/// Numbers that look random, and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

/// Changes a text in a few places.
fn tamper(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    const PIECES: [&str; 14] = [
        "(", ")", "'''", "\"", "\\", "\n", "\t", "#", "f'{", "\0", "é", "\r", "lambda ", "import ",
    ];
    for _ in 0..numbers.below(5) {
        let at = numbers.below(bytes.len() + 1);
        let until = (at + numbers.below(20)).min(bytes.len());
        match numbers.below(4) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..until)),
            2 => bytes.insert(at, u8::try_from(numbers.below(256)).unwrap()),
            _ => {
                let piece = PIECES[numbers.below(PIECES.len())];
                let pieces = piece.repeat(1 + numbers.below(40));
                drop(bytes.splice(at..at, pieces.into_bytes()));
            }
        }
    }
}

#[test]
fn texts_that_were_tampered_with_are_answered_for() {
    const FILES: usize = 4_000;
    const DAG: &str = "\
@dag(schedule=None, tags=[f'{uuid4()}'])
def build():
    '''What it is for.'''
    from airflow.sdk import Variable
    rows = [x for x in (1, 2) if x not in {3: \"four\"}]  # noqa: UPD305
    with DAG(dag_id=\"sales\", start_date=datetime.now()) as made:
        try:
            import tables
        except (ImportError, KeyError):
            path = open(f\"{V.get('path')!r:>{10}}\").read()
    lambda *a, **k: (yield)
build()
";
    let examples = Rule::ALL.iter().flat_map(|rule| {
        let (bad, good) = rule.examples();
        [bad.to_owned(), good.to_owned()]
    });
    let mut texts: Vec<String> = examples.collect();
    texts.push(after_head(DAG));
    let mut numbers = Numbers(0x5EED);
    let project = Project::new(&[]);
    for number in 0..FILES {
        let text = &texts[numbers.below(texts.len())];
        let mut bytes = after_head(text).into_bytes();
        tamper(&mut bytes, &mut numbers);
        project.write(&format!("f{number}.py"), bytes);
    }
    let checked = project.check();
    assert_eq!(checked.files, FILES);
    let told: BTreeSet<&str> = checked.findings.iter().map(|it| it.file.as_str()).collect();
    // Some are as they should be, and most are not.
    assert!(told.len() > FILES / 2 && told.len() < FILES);
    // Answers that were kept are the same.
    let again = project.check();
    assert_eq!(again.findings, checked.findings);
    assert_eq!(again.known, FILES);
}
