//! One thing that was found.

use serde::{Deserialize, Serialize};
use updraft_project::CheckLevel as Level;

use crate::rule::Rule;

/// A place in a file, as people and editors count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub rule: Rule,
    pub level: Level,
    /// Below the project's folder, with `/`.
    pub file: String,
    #[serde(flatten)]
    pub place: Place,
    /// The line as it is there.
    pub text: String,
    pub message: String,
    pub help: String,
    /// More lines on it, such as a traceback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
}

/// What was found in a text, wherever that lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) rule: Rule,
    pub(crate) place: Place,
    pub(crate) text: String,
    pub(crate) message: String,
}

impl Found {
    pub(crate) fn at(self, file: &str, level: Level) -> Finding {
        Finding {
            rule: self.rule,
            level,
            file: file.to_owned(),
            place: self.place,
            text: self.text,
            message: self.message,
            help: self.rule.help().to_owned(),
            details: None,
        }
    }
}
