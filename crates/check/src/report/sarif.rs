//! For code scanning: SARIF 2.1.0,
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>.

use std::fmt::Write as _;

use serde_json::{Value, json};
use updraft_project::CheckLevel as Level;

use crate::finding::Finding;
use crate::rule::Rule;

pub fn sarif(findings: &[Finding], before: &str) -> Value {
    let rules = Rule::ALL.iter().map(|rule| {
        json!({
            "id": rule,
            "shortDescription": { "text": rule.title() },
            "fullDescription": { "text": rule.why() },
            "help": { "text": rule.help() },
            "defaultConfiguration": { "level": level(rule.level()) },
        })
    });
    let results = findings.iter().map(|finding| {
        json!({
            "ruleId": finding.rule,
            "ruleIndex": Rule::ALL.iter().position(|rule| *rule == finding.rule),
            "level": level(finding.level),
            "message": { "text": finding.message },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": {
                        "uri": uri(&format!("{before}{}", finding.file)),
                        "uriBaseId": "%SRCROOT%",
                    },
                    "region": {
                        "startLine": finding.place.line,
                        "startColumn": finding.place.column,
                    },
                },
            }],
        })
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "Updraft",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules.collect::<Value>(),
            } },
            "columnKind": "unicodeCodePoints",
            "results": results.collect::<Value>(),
        }],
    })
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Off => "none",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

/// A path as a relative reference of a URI.
fn uri(path: &str) -> String {
    path.bytes().fold(String::new(), |mut uri, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
        uri
    })
}
