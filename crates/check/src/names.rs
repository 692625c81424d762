//! What a name in a module stands for.

use std::collections::HashMap;

use ruff_python_ast::{Expr, StmtImport, StmtImportFrom};

/// Names that imports have bound, each with what it stands for: `datetime` with
/// `datetime.datetime` after `from datetime import datetime`.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<String, Option<String>>);

impl Names {
    pub(crate) fn import(&mut self, import: &StmtImport) {
        for alias in &import.names {
            let module = alias.name.as_str();
            if let Some(name) = &alias.asname {
                self.bind(name.as_str(), Some(module.to_owned()));
            } else {
                let first = module.split('.').next().unwrap_or(module);
                self.bind(first, Some(first.to_owned()));
            }
        }
    }

    pub(crate) fn import_from(&mut self, import: &StmtImportFrom) {
        for alias in &import.names {
            let name = alias.asname.as_ref().unwrap_or(&alias.name);
            let stands_for = match (&import.module, import.level) {
                (Some(module), 0) => Some(format!("{module}.{}", alias.name)),
                // Something of the project's own.
                _ => None,
            };
            self.bind(name.as_str(), stands_for);
        }
    }

    /// The module has something of its own by this name.
    pub(crate) fn hide(&mut self, name: &str) {
        self.bind(name, None);
    }

    fn bind(&mut self, name: &str, stands_for: Option<String>) {
        self.0.insert(name.to_owned(), stands_for);
    }

    /// The full name of what an expression names. A name that nothing has bound
    /// is its own: a built-in one.
    pub(crate) fn of(&self, expression: &Expr) -> Option<String> {
        match expression {
            Expr::Name(name) => match self.0.get(name.id.as_str()) {
                Some(stands_for) => stands_for.clone(),
                None => Some(name.id.to_string()),
            },
            Expr::Attribute(attribute) => {
                Some(format!("{}.{}", self.of(&attribute.value)?, attribute.attr))
            }
            _ => None,
        }
    }
}
