//! Code quality of a merge request, as
//! <https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format> describes it.

use serde_json::{Value, json};
use updraft_model::Digest;
use updraft_project::CheckLevel as Level;

use crate::finding::Finding;

pub fn code_quality(findings: &[Finding], before: &str) -> Value {
    findings
        .iter()
        .map(|finding| {
            let severity = match finding.level {
                Level::Error => "critical",
                Level::Warning | Level::Off => "minor",
            };
            json!({
                "description": format!("{}: {}", finding.message, finding.help),
                "check_name": finding.rule,
                "fingerprint": fingerprint(finding),
                "severity": severity,
                "location": {
                    "path": format!("{before}{}", finding.file),
                    "lines": { "begin": finding.place.line },
                },
            })
        })
        .collect()
}

/// The same wherever the line has moved to, so that it is not told as new.
fn fingerprint(finding: &Finding) -> String {
    let Finding {
        rule, file, text, ..
    } = finding;
    let told = format!("{rule}\n{file}\n{}\n{}", text.trim(), finding.message);
    Digest::of(told.as_bytes()).hex()
}
