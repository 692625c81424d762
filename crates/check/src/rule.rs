//! What is looked for. A code never changes its meaning.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use updraft_model::nearest;
use updraft_project::CheckLevel as Level;

macro_rules! rules {
    ($($name:ident = $code:literal, $level:ident, $title:literal, $why:literal, $help:literal, $bad:literal, $good:literal;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $(#[doc = $title] $name,)*
        }

        impl Rule {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The level that it has unless a project says otherwise.
            pub const fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What goes wrong with it.
            pub const fn why(self) -> &'static str {
                match self { $(Self::$name => $why,)* }
            }

            /// What to do about it, in one sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => $help,)* }
            }

            /// Python that has it, and Python that has not.
    pub const fn examples(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($bad, $good),)* }
            }
        }
    };
}

rules! {
    Unreadable = "UPD001", Error,
        "A file that cannot be read as Python",
        "It is no text in the encoding that it declares, is larger than 4 MB, or nests so deeply that parsers give up on it.",
        "save it as UTF-8, and keep generated data in files of its own",
        "# coding: utf-8\nNAME = \"<bytes that are no UTF-8>\"",
        "NAME = \"café\"";
    Syntax = "UPD002", Error,
        "A syntax error in the Python that the Deployment runs",
        "Airflow cannot import the file, and its DAGs are gone until it can.",
        "mend it, or have the Dockerfile name a Python that knows this syntax",
        "def f(:\n    pass",
        "def f():\n    pass";
    DuplicateDag = "UPD101", Error,
        "A `dag_id` that is there twice",
        "Airflow keeps one of the two, and not always the same.",
        "give one of them another id",
        "DAG(\"sales\")\n# and in another file\nDAG(\"sales\")",
        "DAG(\"sales\")\n# and in another file\nDAG(\"sales_monthly\")";
    ElsewhereDag = "UPD102", Error,
        "A `dag_id` that another bundle of the Deployment has",
        "Airflow knows one DAG by each id: the two bundles take it from each other. The Deployment is asked which ids its Airflow has; \
         where it cannot be, and while a new version of the other bundle is being taken in, nothing is said.",
        "give one of them another id, such as with the team's name before it",
        "DAG(\"sales\")\n# while the bundle `finance` has this id too",
        "DAG(\"shop_sales\")";
    Import = "UPD201", Error,
        "An import that nobody provides",
        "Airflow cannot import the file. Looked for are the project's own modules, Python's, and the packages that are installed, \
         where those are known. Imports within functions and conditions are left alone, and those after a change of `sys.path`.",
        "add the package that has it to requirements.txt",
        "import pandas\n# without pandas in requirements.txt",
        "try:\n    import pandas\nexcept ImportError:\n    pandas = None";
    Session = "UPD301", Warning,
        "A session with the metadata database while the file is imported",
        "The file is parsed again and again: each time it asks the database that the scheduler needs. Airflow 3 lets no task do it.",
        "ask within a task, through the REST API or a hook",
        "with create_session() as session:\n    NAMES = session.query(DagModel.dag_id).all()",
        "@task\ndef names():\n    return client.dags.list()";
    Variable = "UPD302", Warning,
        "`Variable.get` while the file is imported",
        "It asks the metadata database, or a secrets backend that is paid by the question, at each parse.",
        "read it within a task, or as `{{ var.value.name }}` in a templated field",
        "PATH = Variable.get(\"path\")",
        "BashOperator(task_id=\"list\", bash_command=\"ls {{ var.value.path }}\")";
    Connection = "UPD303", Warning,
        "A connection or a hook while the file is imported",
        "It asks the metadata database or a secrets backend at each parse, and many hooks connect to what is behind it.",
        "make the hook within the task that needs it",
        "HOOK = PostgresHook(\"sales\")",
        "@task\ndef load():\n    hook = PostgresHook(\"sales\")";
    Network = "UPD304", Warning,
        "A request over the network while the file is imported",
        "A service that is slow or away takes all DAGs of the file with it.",
        "ask within a task",
        "REGIONS = requests.get(\"https://example.org/regions\").json()",
        "@task\ndef regions():\n    return requests.get(\"https://example.org/regions\").json()";
    FileRead = "UPD305", Warning,
        "A file that is read while the DAG file is imported",
        "It is read again at each parse, on whichever machine parses.",
        "read it within a task; where it decides which tasks there are, keep it small and beside the DAG file, and say `# noqa: UPD305`",
        "ROWS = pandas.read_csv(\"/data/rows.csv\")",
        "@task\ndef rows():\n    return pandas.read_csv(\"/data/rows.csv\")";
    ChangingStart = "UPD401", Warning,
        "A start or end date that changes with each parse",
        "Airflow stores a new version of the DAG each time, and a schedule that moves along may never come due.",
        "name a date: `datetime(2026, 1, 1)`",
        "DAG(\"sales\", start_date=datetime.now() - timedelta(days=1))",
        "DAG(\"sales\", start_date=datetime(2026, 1, 1))";
    ChangingId = "UPD402", Warning,
        "An id, a name or a tag that changes with each parse",
        "Each parse makes another DAG or task, and what ran before belongs to none of them.",
        "name it after what it does",
        "DAG(f\"sales_{uuid4()}\")",
        "DAG(\"sales\")";
    Changing = "UPD403", Warning,
        "A DAG that comes out differently with each parse",
        "Airflow stores a new version of it each time, and its page fills with versions that nobody made.",
        "take out what depends on the time, on chance or on the order of a set",
        "DAG(\"sales\", description=f\"as of {datetime.now()}\")",
        "DAG(\"sales\", description=\"sales by region\")";
    Removed = "UPD501", Error,
        "A name that Airflow 3 removed",
        "The file fails where it uses the name. Only looked for where the Deployment's Airflow is 3, by ruff, which is fetched for it \
         once unless `UPDRAFT_RUFF` names one; its rules AIR301 and AIR302 tell more, and `# noqa: AIR301` excuses a line too.",
        "use what took its place",
        "DAG(\"sales\", schedule_interval=\"@daily\")",
        "DAG(\"sales\", schedule=\"@daily\")";
    Moved = "UPD502", Warning,
        "A name that Airflow 3 has moved",
        "It still works, and a later Airflow will have it at its new place only. Found like UPD501, as ruff's AIR311, AIR312 and AIR321.",
        "import it from its new place",
        "from airflow import DAG",
        "from airflow.sdk import DAG";
    Unimportable = "UPD601", Error,
        "A DAG file that Airflow cannot import",
        "Its DAGs are gone from Airflow until it can.",
        "mend what the traceback names",
        "from shop.orders import tabel",
        "from shop.orders import table";
    EndsProcess = "UPD602", Error,
        "A DAG file that ends the process that imports it, or takes too much of it",
        "Airflow's DAG processor gives up on the file, and its DAGs are gone.",
        "move the work into a task; a DAG file only describes",
        "sys.exit(main())",
        "if __name__ == \"__main__\":\n    sys.exit(main())";
    Cycle = "UPD603", Error,
        "Tasks that wait for each other in a circle",
        "Airflow refuses the DAG.",
        "take one of the arrows away",
        "extract >> load >> extract",
        "extract >> load";
    Schedule = "UPD604", Error,
        "A schedule that Airflow cannot read",
        "Airflow refuses the DAG.",
        "write a cron expression with five fields, or a preset such as `@daily`",
        "DAG(\"sales\", schedule=\"every day\")",
        "DAG(\"sales\", schedule=\"0 6 * * *\")";
    LooseTask = "UPD605", Warning,
        "A task that belongs to no DAG",
        "It never runs, and nothing in Airflow shows it.",
        "make it within `with DAG(…)`, or give it `dag=`",
        "BashOperator(task_id=\"load\", bash_command=\"load\")",
        "with DAG(\"sales\"):\n    BashOperator(task_id=\"load\", bash_command=\"load\")";
    Slow = "UPD606", Warning,
        "A DAG file that takes long to import",
        "Airflow imports it again and again, and everything else waits meanwhile.",
        "import heavy packages within tasks, and compute there",
        "import pandas\n\nROWS = pandas.read_parquet(\"rows.parquet\")",
        "@task\ndef rows():\n    import pandas\n\n    return pandas.read_parquet(\"rows.parquet\")";
    StaysBehind = "UPD607", Warning,
        "A module that no deploy carries",
        "It is there on this machine, and Airflow does not have it: `tests/`, or what `.dockerignore` or `.updraftignore` leave out.",
        "move it to `include/` or `dags/`, or stop leaving it out",
        "from tests.helpers import REGIONS",
        "from include.regions import REGIONS";
    EndsLater = "UPD608", Warning,
        "A DAG file that imports once, and ends its process the next time",
        "Airflow imports it again and again: its DAGs come, and are gone when an import ends like that.",
        "take out what depends on the time, on chance or on what an import before it left behind",
        "if os.path.exists(\"/tmp/lock\"):\n    os._exit(1)\nopen(\"/tmp/lock\", \"x\").close()",
        "@task\ndef locked():\n    with open(\"/tmp/lock\", \"x\"):\n        work()";
    MissingName = "UPD701", Error,
        "A variable or connection that the Deployment does not have",
        "The import fails there.",
        "create it in Airflow, correct the name, or give a default",
        "Variable.get(\"regoin\")",
        "Variable.get(\"region\", default=\"eu\")";
    PerhapsMissing = "UPD702", Warning,
        "A variable or connection that may be missing",
        "Airflow's database does not have it. A secrets backend may, which nobody here can ask, or the code goes on without it.",
        "see that it is there, or give a default",
        "Variable.get(\"region\")",
        "Variable.get(\"region\", default=\"eu\")";
    Undetermined = "UPD703", Warning,
        "A DAG file whose import needs a value that is not here",
        "Values stay where they are, and the check makes none up: what comes after that line is not known.",
        "read it within a task, or give a default",
        "REGION = Variable.get(\"region\")",
        "REGION = Variable.get(\"region\", default=\"eu\")";
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule `{name}`{}", .nearest.map(|rule| format!("; is it `{rule}`?")).unwrap_or_default())]
pub struct UnknownRule {
    name: String,
    nearest: Option<Rule>,
}

impl FromStr for Rule {
    type Err = UnknownRule;

    fn from_str(text: &str) -> Result<Self, UnknownRule> {
        let of = |code: &str| Self::ALL.iter().copied().find(|rule| rule.code() == code);
        of(text).ok_or_else(|| UnknownRule {
            name: text.to_owned(),
            nearest: nearest(text, Self::ALL.iter().map(|rule| rule.code())).and_then(of),
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        code.parse().map_err(serde::de::Error::custom)
    }
}

/// What a project says about levels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Levels(BTreeMap<Rule, Level>);

impl Levels {
    /// Takes codes with their levels, as `updraft.toml` has them.
    pub fn new<'a>(named: impl IntoIterator<Item = (&'a str, Level)>) -> Result<Self, UnknownRule> {
        let named = named.into_iter();
        let named = named.map(|(code, level)| Ok((code.parse()?, level)));
        named.collect::<Result<_, _>>().map(Self)
    }

    pub fn of(&self, rule: Rule) -> Level {
        self.0.get(&rule).copied().unwrap_or(rule.level())
    }

    /// Rules that weigh less here than by default, with their level.
    pub fn lowered(&self) -> impl Iterator<Item = (Rule, Level)> {
        let named = self.0.iter().map(|(rule, level)| (*rule, *level));
        named.filter(|(rule, level)| *level < rule.level())
    }
}

/// The page `docs/reference/checks.md`.
pub fn reference() -> String {
    use fmt::Write;

    let mut page = String::from(
        "# Checks\n\n\
         Made from `crates/check/src/rule.rs` by `make docs`. `updraft dev check` looks for these in the DAG files of a project, \
         without starting Python.\n\n\
         A rule's level can be changed in `updraft.toml`, to `\"error\"`, `\"warning\"` or `\"off\"`:\n\n\
         ```toml\n[check.levels]\nUPD302 = \"error\"\n```\n\n\
         and a line can be excused, with the reason beside it: `# noqa: UPD302`.\n",
    );
    for rule in Rule::ALL {
        let (bad, good) = rule.examples();
        let _ = write!(
            page,
            "\n## {rule}: {}\n\n{} Level: {}.\n\nWhat to do: {}.\n\n```python\n# Not so\n{bad}\n```\n\n```python\n# But so\n{good}\n```\n",
            rule.title(),
            rule.why(),
            rule.level(),
            rule.help(),
        );
    }
    page
}
