//! Test results as `JUnit` writes them: a case for each DAG file.

use std::collections::BTreeMap;

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};
use updraft_project::CheckLevel as Level;

use crate::finding::Finding;

/// A file with an error has failed; warnings are its output.
pub fn junit(
    files: &[String],
    findings: &[Finding],
    before: &str,
) -> Result<String, SerializeError> {
    let mut by_file: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        by_file.entry(&finding.file).or_default().push(finding);
    }
    let cases = files.iter().map(|file| {
        let found = by_file.remove(file.as_str()).unwrap_or_default();
        let (errors, warnings): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|finding| finding.level == Level::Error);
        let status = match errors.first() {
            None => TestCaseStatus::success(),
            Some(first) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status
                    .set_type(first.rule.code())
                    .set_message(first.message.as_str())
                    .set_description(lines(&errors, before));
                status
            }
        };
        let mut case = TestCase::new(format!("{before}{file}"), status);
        case.set_classname("updraft.check");
        if !warnings.is_empty() {
            case.set_system_out(lines(&warnings, before));
        }
        case
    });
    let mut suite = TestSuite::new("DAG files");
    suite.add_test_cases(cases);
    let mut report = Report::new("updraft dev check");
    report.add_test_suite(suite);
    report.to_string()
}

fn lines(findings: &[&Finding], before: &str) -> String {
    let lines = findings.iter().map(|finding| {
        let Finding {
            rule,
            level,
            file,
            place,
            message,
            help,
            ..
        } = finding;
        let (line, column) = (place.line, place.column);
        format!("{before}{file}:{line}:{column}: {level} {rule}: {message}\n  = {help}\n")
    });
    lines.collect()
}
