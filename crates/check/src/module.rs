//! What one file says, wherever it lies.

use std::collections::{HashMap, HashSet};

use ruff_python_ast::helpers::any_over_expr;
use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{self as ast, Expr, Stmt};
use ruff_python_parser::{Mode, ParseOptions, parse_unchecked};
use ruff_source_file::LineIndex;
use ruff_text_size::{Ranged, TextSize};
use serde::{Deserialize, Serialize};
use updraft_project::PythonVersion;

use crate::depth::too_deep;
use crate::finding::{Found, Place};
use crate::imports;
use crate::names::Names;
use crate::noqa;
use crate::rule::Rule;
use crate::source;

/// Shown of a line.
pub(crate) const MOST_SHOWN: usize = 200;
/// Told of one file: what comes after the first is mostly its echo.
const MOST_SYNTAX_ERRORS: usize = 5;

/// All that is known of a file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) found: Vec<Found>,
    pub(crate) dags: Vec<DagId>,
    pub(crate) imports: Vec<Import>,
    /// What Airflow 3 removed; none: not looked for yet.
    pub(crate) airflow3: Option<Vec<Found>>,
}

/// Something that has to be there when the file is imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Import {
    /// As far as it decides who provides it.
    pub(crate) module: String,
    pub(crate) place: Place,
    pub(crate) text: String,
}

/// A `dag_id` that is written out, and made whenever the file is imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DagId {
    pub(crate) id: String,
    pub(crate) place: Place,
    pub(crate) text: String,
}

pub(crate) fn read(bytes: &[u8], python: PythonVersion) -> Facts {
    let text = match source::decode(bytes) {
        Ok(text) => text,
        Err(error) => return unreadable(error.line, error.why),
    };
    let lines = Lines::new(&text);
    if let Some(at) = too_deep(&text) {
        let at = TextSize::try_from(at).unwrap_or_default();
        let message = "this nests too deeply, or its bracket is not closed".to_owned();
        return Facts {
            found: vec![lines.found(Rule::Unreadable, at, message)],
            ..Facts::default()
        };
    }
    let target = ast::PythonVersion {
        major: python.major(),
        minor: python.minor(),
    };
    let options = ParseOptions::from(Mode::Module).with_target_version(target);
    let parsed = parse_unchecked(&text, options);
    let errors = parsed.errors().iter();
    let errors = errors.map(|error| (error.location.start(), error.error.to_string()));
    let unsupported = parsed.unsupported_syntax_errors().iter();
    let unsupported = unsupported.map(|error| (error.range.start(), error.to_string()));
    let mut errors: Vec<_> = errors.chain(unsupported).collect();
    errors.sort();
    errors.dedup_by_key(|(at, _)| lines.place(*at).line);
    if !errors.is_empty() {
        let errors = errors.into_iter().take(MOST_SYNTAX_ERRORS);
        let found = errors.map(|(at, message)| lines.found(Rule::Syntax, at, message));
        return Facts {
            found: found.collect(),
            ..Facts::default()
        };
    }
    let mut reader = Reader::new(&lines, python);
    if let ast::Mod::Module(module) = parsed.syntax() {
        reader.visit_body(&module.body);
    }
    reader.facts()
}

/// The facts of a file of which there is no text.
pub(crate) fn unreadable(line: u32, why: String) -> Facts {
    let found = Found {
        rule: Rule::Unreadable,
        place: Place { line, column: 1 },
        text: String::new(),
        message: why,
    };
    Facts {
        found: vec![found],
        ..Facts::default()
    }
}

pub(crate) struct Lines<'a> {
    text: &'a str,
    index: LineIndex,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            text,
            index: LineIndex::from_source_text(text),
        }
    }

    pub(crate) fn place(&self, at: TextSize) -> Place {
        let found = self.index.line_column(at, self.text);
        let number = |from: ruff_source_file::OneIndexed| u32::try_from(from.get());
        Place {
            line: number(found.line).unwrap_or(u32::MAX),
            column: number(found.column).unwrap_or(u32::MAX),
        }
    }

    fn line(&self, at: TextSize) -> &'a str {
        let line = self.index.line_column(at, self.text).line;
        self.text[self.index.line_range(line, self.text)].trim_end()
    }

    fn shown(&self, at: TextSize) -> String {
        self.line(at).chars().take(MOST_SHOWN).collect()
    }

    fn found(&self, rule: Rule, at: TextSize, message: String) -> Found {
        Found {
            rule,
            place: self.place(at),
            text: self.shown(at),
            message,
        }
    }
}

/// Reads what runs when the file is imported: all but the bodies of functions,
/// and those too where `@dag` makes a DAG of one.
struct Reader<'a> {
    lines: &'a Lines<'a>,
    python: PythonVersion,
    names: Names,
    /// Names of values that differ at each parse, and what makes them.
    changing: HashMap<String, String>,
    /// Statements around this one that may not run, or run often.
    conditions: usize,
    /// Those of them where an import that fails is a failure all the same.
    attempts: usize,
    /// Functions around this statement.
    functions: usize,
    /// Whether the file decides itself where modules are looked for.
    changes_path: bool,
    called: HashSet<String>,
    /// DAGs of functions, which there are once the function is called.
    decorated: Vec<(String, DagId)>,
    facts: Facts,
}

impl<'a> Reader<'a> {
    fn new(lines: &'a Lines<'a>, python: PythonVersion) -> Self {
        Self {
            lines,
            python,
            names: Names::default(),
            changing: HashMap::new(),
            conditions: 0,
            attempts: 0,
            functions: 0,
            changes_path: false,
            called: HashSet::new(),
            decorated: Vec::new(),
            facts: Facts::default(),
        }
    }

    fn facts(mut self) -> Facts {
        let called = self.called;
        let decorated = self.decorated.into_iter();
        let decorated = decorated.filter(|(function, _)| called.contains(function));
        self.facts.dags.extend(decorated.map(|(_, dag)| dag));
        self.facts.dags.sort_by_key(|dag| dag.place);
        if self.changes_path {
            self.facts.imports.clear();
        }
        self.facts
    }

    fn find(&mut self, rule: Rule, at: TextSize, message: String) {
        if !noqa::excuses(self.lines.line(at), rule) {
            self.facts.found.push(self.lines.found(rule, at, message));
        }
    }

    fn written(&self, expression: &Expr) -> &'a str {
        &self.lines.text[expression.range()]
    }

    // What is imported

    /// Notes a module, once, if it has to be there whatever happens.
    fn note_import(&mut self, module: &str, at: TextSize) {
        if self.conditions > self.attempts || self.functions > 0 {
            return;
        }
        let Some(module) = imports::deciding(module, self.python.minor()) else {
            return;
        };
        let noted = &mut self.facts.imports;
        if noted.iter().any(|import| import.module == module)
            || noqa::excuses(self.lines.line(at), Rule::Import)
        {
            return;
        }
        noted.push(Import {
            module: module.to_owned(),
            place: self.lines.place(at),
            text: self.lines.shown(at),
        });
    }

    fn look_at_import_from(&mut self, import: &ast::StmtImportFrom) {
        let (Some(module), 0) = (&import.module, import.level) else {
            return;
        };
        if module == "airflow.providers" {
            for alias in &import.names {
                self.note_import(&format!("{module}.{}", alias.name), alias.start());
            }
        } else {
            self.note_import(module, import.start());
        }
    }

    // What is called

    fn look_at_call(&mut self, call: &ast::ExprCall) {
        if let Expr::Name(name) = &*call.func {
            self.called.insert(name.id.to_string());
        }
        let name = self.names.of(&call.func);
        let rule = name.as_deref().and_then(not_while_imported);
        // Of whatever object: only paths have these.
        let reads = matches!(&*call.func, Expr::Attribute(attribute)
            if ["read_text", "read_bytes"].contains(&attribute.attr.as_str()));
        if let Some(rule) = rule.or_else(|| reads.then_some(Rule::FileRead)) {
            let text = shortened(self.written(&call.func));
            let message = format!("`{text}` is called while the file is imported");
            self.find(rule, call.start(), message);
        }
        let callee = name.as_deref().unwrap_or_else(|| self.written(&call.func));
        let last = callee.rsplit('.').next().unwrap_or(callee).to_owned();
        if is_airflows(name.as_deref(), "DAG") {
            self.note_dag(&call.arguments, None);
        }
        if makes_a_part(&last) {
            self.look_at_arguments(&last, &call.arguments);
        }
    }

    /// Notes the id that a call of `DAG` or `@dag` gives.
    fn note_dag(&mut self, arguments: &ast::Arguments, function: Option<&ast::Identifier>) {
        let id = arguments.find_argument_value("dag_id", 0);
        match (id, function) {
            (Some(Expr::StringLiteral(id)), function) => {
                let at = id.start();
                self.note_id(id.value.to_str().to_owned(), at, function);
            }
            (None, Some(function)) => {
                self.note_id(function.to_string(), function.start(), Some(function));
            }
            _ => {}
        }
    }

    fn note_id(&mut self, id: String, at: TextSize, function: Option<&ast::Identifier>) {
        if self.conditions > 0 || noqa::excuses(self.lines.line(at), Rule::DuplicateDag) {
            return;
        }
        let dag = DagId {
            id,
            place: self.lines.place(at),
            text: self.lines.shown(at),
        };
        match function {
            Some(function) => self.decorated.push((function.to_string(), dag)),
            None => self.facts.dags.push(dag),
        }
    }

    /// Looks for values that differ at each parse.
    fn look_at_arguments(&mut self, callee: &str, arguments: &ast::Arguments) {
        let first = (callee == "DAG" || callee == "dag")
            .then(|| arguments.args.first())
            .flatten();
        if let Some(by) = first.and_then(|first| self.changes(first)) {
            let at = first.map_or(arguments.start(), Ranged::start);
            self.find(Rule::ChangingId, at, changes_with("the id", &by));
        }
        for keyword in &arguments.keywords {
            let Some(name) = keyword.arg.as_ref().map(ast::Identifier::as_str) else {
                continue;
            };
            if name == "default_args"
                && let Expr::Dict(dict) = &keyword.value
            {
                self.look_at_default_args(dict);
            }
            let rule = match name {
                "start_date" | "end_date" => Rule::ChangingStart,
                "dag_id" | "task_id" | "group_id" | "tags" | "dag_display_name" => Rule::ChangingId,
                _ => continue,
            };
            if let Some(by) = self.changes(&keyword.value) {
                self.find(
                    rule,
                    keyword.start(),
                    changes_with(&format!("`{name}`"), &by),
                );
            }
        }
    }

    fn look_at_default_args(&mut self, dict: &ast::ExprDict) {
        for item in &dict.items {
            let Some(Expr::StringLiteral(key)) = &item.key else {
                continue;
            };
            let key = key.value.to_str();
            if ["start_date", "end_date"].contains(&key)
                && let Some(by) = self.changes(&item.value)
            {
                let message = changes_with(&format!("`{key}`"), &by);
                self.find(Rule::ChangingStart, item.value.start(), message);
            }
        }
    }

    /// What makes an expression's value another one at each parse.
    fn changes(&self, expression: &Expr) -> Option<String> {
        let by = std::cell::RefCell::new(None);
        any_over_expr(expression, |part| {
            let found = match part {
                Expr::Call(call) => self
                    .names
                    .of(&call.func)
                    .filter(|name| is_changing(name))
                    .map(|_| shortened(self.written(&call.func))),
                Expr::Name(name) => self.changing.get(name.id.as_str()).cloned(),
                _ => None,
            };
            let is_found = found.is_some();
            if is_found {
                *by.borrow_mut() = found;
            }
            is_found
        });
        by.into_inner()
    }

    // What is defined

    fn define_function(&mut self, function: &'a ast::StmtFunctionDef) {
        for decorator in &function.decorator_list {
            self.visit_decorator(decorator);
        }
        self.visit_parameters(&function.parameters);
        self.names.hide(function.name.as_str());
        let dag = function.decorator_list.iter().find(|decorator| {
            let called = match &decorator.expression {
                Expr::Call(call) => &call.func,
                other => other,
            };
            let name = self.names.of(called);
            is_airflows(name.as_deref(), "dag")
        });
        let Some(dag) = dag else { return };
        match &dag.expression {
            Expr::Call(call) => self.note_dag(&call.arguments, Some(&function.name)),
            _ => self.note_id(
                function.name.to_string(),
                function.name.start(),
                Some(&function.name),
            ),
        }
        self.functions += 1;
        self.visit_body(&function.body);
        self.functions -= 1;
    }

    fn assign(&mut self, target: &Expr, value: &'a Expr) {
        let Expr::Name(target) = target else { return };
        let target = target.id.as_str();
        if target.ends_with("args")
            && let Expr::Dict(dict) = value
        {
            self.look_at_default_args(dict);
        }
        match self.changes(value) {
            Some(by) => drop(self.changing.insert(target.to_owned(), by)),
            None => drop(self.changing.remove(target)),
        }
        self.names.hide(target);
    }

    fn attempt(&mut self, attempt: &'a ast::StmtTry) {
        let catches = attempt.handlers.iter().any(catches_imports);
        self.conditions += 1;
        self.attempts += usize::from(!catches);
        self.visit_body(&attempt.body);
        self.attempts -= usize::from(!catches);
        for handler in &attempt.handlers {
            self.visit_except_handler(handler);
        }
        self.visit_body(&attempt.orelse);
        self.visit_body(&attempt.finalbody);
        self.conditions -= 1;
    }

    fn suppresses(&self, item: &ast::WithItem) -> bool {
        let Expr::Call(call) = &item.context_expr else {
            return false;
        };
        self.names.of(&call.func).as_deref() == Some("contextlib.suppress")
    }

    fn under_a_condition(&mut self, statement: &'a Stmt) {
        self.conditions += 1;
        visitor::walk_stmt(self, statement);
        self.conditions -= 1;
    }
}

impl<'a> Visitor<'a> for Reader<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::FunctionDef(function) => self.define_function(function),
            Stmt::ClassDef(class) => {
                visitor::walk_stmt(self, statement);
                self.names.hide(class.name.as_str());
            }
            Stmt::Import(import) => {
                for alias in &import.names {
                    self.note_import(&alias.name, alias.start());
                }
                self.names.import(import);
            }
            Stmt::ImportFrom(import) => {
                self.look_at_import_from(import);
                self.names.import_from(import);
            }
            Stmt::Assign(assign) => {
                visitor::walk_stmt(self, statement);
                for target in &assign.targets {
                    self.assign(target, &assign.value);
                }
            }
            Stmt::AnnAssign(assign) => {
                if let Some(value) = &assign.value {
                    self.visit_expr(value);
                    self.assign(&assign.target, value);
                }
            }
            Stmt::If(condition) => {
                self.conditions += 1;
                if !is_elsewhere(&condition.test) {
                    self.visit_expr(&condition.test);
                    self.visit_body(&condition.body);
                }
                for clause in &condition.elif_else_clauses {
                    visitor::walk_elif_else_clause(self, clause);
                }
                self.conditions -= 1;
            }
            Stmt::Try(attempt) => self.attempt(attempt),
            Stmt::With(with) if with.items.iter().any(|item| self.suppresses(item)) => {
                self.under_a_condition(statement);
            }
            Stmt::For(_) | Stmt::While(_) | Stmt::Match(_) => {
                self.under_a_condition(statement);
            }
            _ => visitor::walk_stmt(self, statement),
        }
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        match expression {
            // Its body runs when it is called.
            Expr::Lambda(_) => return,
            Expr::Call(call) => self.look_at_call(call),
            Expr::Attribute(attribute) if attribute.attr.as_str() == "path" => {
                self.changes_path |= self.names.of(expression).as_deref() == Some("sys.path");
            }
            _ => {}
        }
        visitor::walk_expr(self, expression);
    }

    fn visit_annotation(&mut self, _: &'a Expr) {}
}

/// Whether an import that fails ends in this handler.
fn catches_imports(handler: &ast::ExceptHandler) -> bool {
    const CATCHING: &[&str] = &[
        "ImportError",
        "ModuleNotFoundError",
        "Exception",
        "BaseException",
    ];
    let ast::ExceptHandler::ExceptHandler(handler) = handler;
    handler.type_.as_deref().is_none_or(|caught| {
        any_over_expr(
            caught,
            |part| matches!(part, Expr::Name(name) if CATCHING.contains(&name.id.as_str())),
        )
    })
}

/// `TYPE_CHECKING` and `__name__ == "__main__"`: not when Airflow imports it.
fn is_elsewhere(test: &Expr) -> bool {
    match test {
        Expr::Name(name) => name.id == "TYPE_CHECKING",
        Expr::Attribute(attribute) => attribute.attr.as_str() == "TYPE_CHECKING",
        Expr::Compare(compare) => {
            matches!(&*compare.left, Expr::Name(name) if name.id == "__name__")
        }
        _ => false,
    }
}

/// Whether a full name is that of something in one of Airflow's modules.
fn is_airflows(name: Option<&str>, last: &str) -> bool {
    let parts = name.and_then(|name| name.rsplit_once('.'));
    parts.is_some_and(|(module, name)| {
        name == last
            && module
                .split('.')
                .next()
                .is_some_and(|first| first == "airflow")
    })
}

/// Whether something of this name takes part in a DAG's serialised form.
fn makes_a_part(name: &str) -> bool {
    ["DAG", "dag", "task", "task_group", "TaskGroup"].contains(&name)
        || name.ends_with("Operator")
        || name.ends_with("Sensor")
}

/// What a function does that has no place at import time.
fn not_while_imported(name: &str) -> Option<Rule> {
    const NETWORK: &[&str] = &[
        "requests.get",
        "requests.post",
        "requests.put",
        "requests.patch",
        "requests.delete",
        "requests.head",
        "requests.request",
        "httpx.get",
        "httpx.post",
        "httpx.put",
        "httpx.request",
        "urllib.request.urlopen",
        "urllib.request.urlretrieve",
        "socket.create_connection",
        "smtplib.SMTP",
        "ftplib.FTP",
        "psycopg2.connect",
        "psycopg.connect",
        "pymysql.connect",
        "snowflake.connector.connect",
    ];
    if let Some(inside) = name.strip_prefix("airflow.") {
        let last = inside.rsplit('.').next().unwrap_or(inside);
        let ends = |with: &str| inside.ends_with(with);
        if ends("Variable.get") {
            return Some(Rule::Variable);
        }
        if ends("BaseHook.get_connection")
            || ends("BaseHook.get_hook")
            || ends("Connection.get")
            || ends("Connection.get_connection_from_secrets")
            || (ends("Hook") && last.starts_with(char::is_uppercase))
        {
            return Some(Rule::Connection);
        }
        let sessions = [
            "utils.session.create_session",
            "utils.db.create_session",
            "settings.Session",
        ];
        return sessions.contains(&inside).then_some(Rule::Session);
    }
    if NETWORK.contains(&name) {
        return Some(Rule::Network);
    }
    let reads =
        ["open", "io.open", "codecs.open"].contains(&name) || name.starts_with("pandas.read_");
    reads.then_some(Rule::FileRead)
}

/// Whether a function's answer is another one at each parse.
fn is_changing(name: &str) -> bool {
    const CHANGING: &[&str] = &[
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.datetime.today",
        "datetime.date.today",
        "pendulum.now",
        "pendulum.today",
        "pendulum.yesterday",
        "pendulum.tomorrow",
        "airflow.utils.dates.days_ago",
        "airflow.utils.timezone.utcnow",
        "airflow.sdk.timezone.utcnow",
        "time.time",
        "time.time_ns",
        "uuid.uuid1",
        "uuid.uuid4",
        "os.getpid",
    ];
    CHANGING.contains(&name) || name.starts_with("random.") || name.starts_with("secrets.")
}

fn changes_with(what: &str, by: &str) -> String {
    format!("{what} is another one at each parse, by `{by}`")
}

fn shortened(text: &str) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(60) {
        words.truncate(end);
        words.push('…');
    }
    words
}
