//! Whether what a deployer says was checked is enough, and is about this deploy.
//!
//! Nobody but the deployer saw the checks run: they are kept as what they are,
//! a claim of whoever holds that token.

use updraft_model::{CheckStage, Checks, Release, StageResult};
use updraft_store::DeployParts;

use super::DeployError;

/// Longest text of a finding; tracebacks stay where they came up.
const MOST_TEXT: usize = 2000;

/// Looks at the form alone, and bounds what is kept.
pub(super) fn tidy(mut checks: Checks) -> Result<Checks, DeployError> {
    let version = checks.tool.strip_prefix("updraft ");
    if !version.is_some_and(|version| semver_like(version)) {
        return Err(DeployError::Invalid(format!(
            "`tool` of the checks is `{}`; it has to be `updraft` and a version",
            checks.tool.escape_debug()
        )));
    }
    for (stage, result) in &mut checks.stages {
        if !(result.seconds.is_finite() && result.seconds >= 0.0) {
            return Err(DeployError::Invalid(format!(
                "`seconds` of the check `{stage}` is no time"
            )));
        }
        result.findings.truncate(StageResult::MOST_FINDINGS);
        for finding in &mut result.findings {
            for text in [&mut finding.code, &mut finding.file, &mut finding.message] {
                if let Some((end, _)) = text.char_indices().nth(MOST_TEXT) {
                    text.truncate(end);
                }
            }
        }
    }
    Ok(checks)
}

fn semver_like(version: &str) -> bool {
    let mut numbers = version.split('.');
    version.len() < 100
        && (0..2).all(|_| {
            numbers
                .next()
                .is_some_and(|number| number.parse::<u32>().is_ok())
        })
}

/// What is claimed has to be of this deploy, and good; what the Deployment
/// requires has to be claimed.
pub(super) fn judge(
    checks: Option<&Checks>,
    parts: &DeployParts,
    release: &Release,
    require: &[CheckStage],
) -> Result<(), DeployError> {
    let refuse = |why: String| Err(DeployError::ChecksRefused(why));
    if let Some(checks) = checks {
        if checks.bundles != parts.bundles {
            return refuse("they are of other bundles than the deploy brings".into());
        }
        for (stage, result) in &checks.stages {
            if !result.passed() {
                return refuse(format!(
                    "the check `{stage}` found {} errors",
                    result.errors
                ));
            }
            if stage.needs_environment() && checks.environment != Some(release.image.digest()) {
                return refuse(match checks.environment {
                    None => format!("the check `{stage}` does not name its Environment"),
                    Some(other) => format!(
                        "the check `{stage}` ran in the Environment {}, and the deploy runs in {}",
                        other.short(),
                        release.image.digest().short()
                    ),
                });
            }
        }
    }
    let has = |stage: &CheckStage| checks.is_some_and(|checks| checks.stages.contains_key(stage));
    let missing: Vec<CheckStage> = require
        .iter()
        .copied()
        .filter(|stage| !has(stage))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DeployError::ChecksMissing(missing))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use updraft_model::{BundleName, BundleRef, Digest, ImageRef, ReleaseId};

    use super::*;

    fn parts(content: &[u8]) -> DeployParts {
        DeployParts {
            bundles: [(BundleName::dags(), Digest::of(content))].into(),
            environment: None,
        }
    }

    fn release() -> Release {
        Release {
            id: ReleaseId::new(),
            image: ImageRef::Environment {
                digest: Digest::of(b"environment"),
            },
            bundles: BTreeMap::from([(
                BundleName::dags(),
                BundleRef {
                    digest: Digest::of(b"new"),
                },
            )]),
        }
    }

    fn checks(stages: &[CheckStage], environment: Option<&[u8]>) -> Checks {
        Checks {
            tool: "updraft 0.1.0".into(),
            bundles: parts(b"new").bundles,
            environment: environment.map(Digest::of),
            stages: stages
                .iter()
                .map(|stage| (*stage, StageResult::default()))
                .collect(),
        }
    }

    #[test]
    fn a_claim_has_to_be_of_this_deploy_and_good() {
        use CheckStage::{Parse, Static};
        let judged = |checks: &Checks| judge(Some(checks), &parts(b"new"), &release(), &[Static]);
        assert!(judged(&checks(&[Static], None)).is_ok());
        assert!(judged(&checks(&[Static, Parse], Some(b"environment"))).is_ok());
        for (wrong, why) in [
            (
                checks(&[Static, Parse], Some(b"another")),
                "ran in the Environment",
            ),
            (checks(&[Static, Parse], None), "does not name"),
            (checks(&[Parse], Some(b"environment")), "static"),
        ] {
            let refused = judged(&wrong).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
        let mut failed = checks(&[Static], None);
        failed.stages.insert(
            Static,
            StageResult {
                errors: 1,
                ..StageResult::default()
            },
        );
        assert!(judged(&failed).is_err());
        let other = judge(
            Some(&checks(&[Static], None)),
            &parts(b"old"),
            &release(),
            &[],
        );
        assert!(other.is_err());
        assert!(judge(None, &parts(b"new"), &release(), &[]).is_ok());
        assert!(judge(None, &parts(b"new"), &release(), &[Static]).is_err());
    }

    #[test]
    fn what_is_kept_of_a_claim_has_bounds() {
        let mut claimed = checks(&[CheckStage::Static], None);
        let finding = updraft_model::CheckFinding {
            code: "UPD001".into(),
            is_error: false,
            file: "dags/a.py".into(),
            line: 1,
            column: 1,
            message: "ä".repeat(5000),
        };
        let result = StageResult {
            findings: vec![finding; 500],
            ..StageResult::default()
        };
        claimed.stages.insert(CheckStage::Static, result);
        let kept = &tidy(claimed.clone()).unwrap().stages[&CheckStage::Static];
        assert_eq!(kept.findings.len(), StageResult::MOST_FINDINGS);
        assert_eq!(kept.findings[0].message.chars().count(), MOST_TEXT);
        claimed.tool = "rm -rf".into();
        assert!(tidy(claimed).is_err());
    }
}
