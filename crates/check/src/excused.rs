//! What ruff takes for removed and the file is right to have.

use std::collections::{BTreeSet, HashMap, HashSet};

use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{self as ast, Expr, Stmt};
use ruff_python_parser::{Mode, ParseOptions, parse_unchecked};
use ruff_text_size::{Ranged, TextSize};

use crate::depth::too_deep;
use crate::finding::Place;
use crate::module::Lines;

#[derive(Debug, Default)]
pub(crate) struct Excused {
    /// Full names that a file imports from one place or another, as which
    /// Airflow there is decides.
    names: HashSet<String>,
    /// Parameters that are named like something of Airflow 2's context, and
    /// that their callers give.
    parameters: BTreeSet<Place>,
}

impl Excused {
    pub(crate) fn of(text: &str) -> Self {
        if too_deep(text).is_some() {
            return Self::default();
        }
        let parsed = parse_unchecked(text, ParseOptions::from(Mode::Module));
        let mut reader = Reader::default();
        if let ast::Mod::Module(module) = parsed.syntax() {
            reader.visit_body(&module.body);
        }
        let lines = Lines::new(text);
        let given = reader.parameters.iter().filter(|parameter| {
            let calls = reader.calls.get(parameter.function);
            calls.is_some_and(|calls| calls.give(parameter))
        });
        Self {
            parameters: given.map(|parameter| lines.place(parameter.at)).collect(),
            names: reader.names,
        }
    }

    /// Whether a finding at this place, whose message begins with what it is
    /// about, is none.
    pub(crate) fn covers(&self, place: Place, message: &str) -> bool {
        let about = message.split('`').nth(1).unwrap_or_default();
        self.names.contains(about) || self.parameters.contains(&place)
    }
}

struct Parameter<'a> {
    function: &'a str,
    name: &'a str,
    /// None: only by its name.
    position: Option<usize>,
    at: TextSize,
}

/// What all calls of a function give it, those as `function.override(…)(…)` too.
#[derive(Default)]
struct Calls<'a> {
    positions: usize,
    keywords: HashSet<&'a str>,
    /// Whether one has `*` or `**`: there may be anything in it.
    unpack: bool,
}

impl Calls<'_> {
    fn give(&self, parameter: &Parameter<'_>) -> bool {
        let by_position = parameter.position.is_some_and(|at| at < self.positions);
        self.unpack || by_position || self.keywords.contains(parameter.name)
    }
}

#[derive(Default)]
struct Reader<'a> {
    names: HashSet<String>,
    parameters: Vec<Parameter<'a>>,
    calls: HashMap<&'a str, Calls<'a>>,
}

impl<'a> Reader<'a> {
    /// Notes what several of these branches import under the same name, each
    /// from elsewhere.
    fn note_alternatives(&mut self, branches: &[&'a [Stmt]]) {
        let mut sources: HashMap<&str, HashSet<String>> = HashMap::new();
        for branch in branches {
            for import in branch.iter().filter_map(Stmt::as_import_from_stmt) {
                let (Some(module), 0) = (&import.module, import.level) else {
                    continue;
                };
                for alias in &import.names {
                    let name = alias.asname.as_ref().unwrap_or(&alias.name);
                    let source = format!("{module}.{}", alias.name);
                    sources.entry(name.as_str()).or_default().insert(source);
                }
            }
        }
        let several = sources.into_values().filter(|sources| sources.len() > 1);
        self.names.extend(several.flatten());
    }

    fn note_parameters(&mut self, function: &'a ast::StmtFunctionDef) {
        let all = &function.parameters;
        let by_position = all.posonlyargs.iter().chain(&all.args).enumerate();
        let by_position = by_position.map(|(at, parameter)| (Some(at), parameter));
        let by_name = all.kwonlyargs.iter().map(|parameter| (None, parameter));
        let noted = by_position.chain(by_name);
        self.parameters
            .extend(noted.map(|(position, parameter)| Parameter {
                function: function.name.as_str(),
                name: parameter.name().as_str(),
                position,
                at: parameter.start(),
            }));
    }

    fn note_call(&mut self, call: &'a ast::ExprCall) {
        let Some(function) = root(&call.func) else {
            return;
        };
        let (args, keywords) = (&call.arguments.args, &call.arguments.keywords);
        let named = keywords.iter().filter_map(|keyword| keyword.arg.as_ref());
        let calls = self.calls.entry(function).or_default();
        calls.positions = calls.positions.max(args.len());
        calls.keywords.extend(named.map(ast::Identifier::as_str));
        calls.unpack |= args.iter().any(Expr::is_starred_expr)
            || keywords.iter().any(|keyword| keyword.arg.is_none());
    }
}

impl<'a> Visitor<'a> for Reader<'a> {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::If(condition) => {
                let others = condition.elif_else_clauses.iter();
                let mut branches: Vec<&[Stmt]> = vec![&condition.body];
                branches.extend(others.map(|clause| clause.body.as_slice()));
                self.note_alternatives(&branches);
            }
            Stmt::Try(attempt) => {
                let mut branches: Vec<&[Stmt]> = vec![&attempt.body];
                branches.extend(attempt.handlers.iter().map(|handler| {
                    let ast::ExceptHandler::ExceptHandler(handler) = handler;
                    handler.body.as_slice()
                }));
                self.note_alternatives(&branches);
            }
            Stmt::FunctionDef(function) => self.note_parameters(function),
            _ => {}
        }
        visitor::walk_stmt(self, statement);
    }

    fn visit_expr(&mut self, expression: &'a Expr) {
        if let Expr::Call(call) = expression {
            self.note_call(call);
        }
        visitor::walk_expr(self, expression);
    }
}

/// The name that an expression begins with.
fn root(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Name(name) => Some(name.id.as_str()),
        Expr::Attribute(attribute) => root(&attribute.value),
        Expr::Call(call) => root(&call.func),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_one_place_or_another_is_fine() {
        let text = "\
def f():
    if AIRFLOW_V_3_0_PLUS:
        from airflow.sdk import get_current_context
    else:
        from airflow.operators.python import get_current_context
try:
    from airflow.sdk import task
except ImportError:
    from airflow.decorators import task
if DEBUG:
    from airflow.utils.dates import days_ago
else:
    from airflow.utils.log import logger
";
        let excused = Excused::of(text);
        let about = |name: &str| {
            let place = Place { line: 1, column: 1 };
            excused.covers(place, &format!("`{name}` is removed in Airflow 3.0"))
        };
        assert!(about("airflow.operators.python.get_current_context"));
        assert!(about("airflow.decorators.task"));
        // Whatever the condition says, it is only there.
        assert!(!about("airflow.utils.dates.days_ago"));
    }

    #[test]
    fn a_parameter_that_callers_give_is_theirs() {
        let text = "\
def by_name(a, execution_date): ...
def by_position(execution_date): ...
def by_chain(*, execution_date=None): ...
def by_dict(execution_date): ...
def by_airflow(a, execution_date=None): ...
by_name('a', execution_date='{{ ds }}')
by_position(1)
by_chain.override(task_id='x').partial(a=1).expand(execution_date=[1])
by_dict(**given)
by_airflow(1)
";
        let excused = Excused::of(text);
        let at =
            |line: u32, column: u32| excused.covers(Place { line, column }, "`execution_date`");
        assert!(at(1, 16));
        assert!(at(2, 17));
        assert!(at(3, 17));
        assert!(at(4, 13));
        assert!(!at(5, 19));
    }
}
