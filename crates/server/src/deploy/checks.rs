//! Whether what a deployer says was checked is enough, and is about this deploy.
//!
//! Nobody but the deployer saw the checks run: they are kept as what they are,
//! a claim of whoever holds that token.

use updraft_model::{CheckStage, Checks, Digest, Release, StageResult};
use updraft_store::DeployParts;

use super::DeployError;
use crate::auth::Caller;

/// Bytes of a text that are kept; tracebacks stay where they came up.
const MOST_TEXT: usize = 400;
const MOST_NOTES: usize = 10;
const MOST_BUNDLES: usize = 100;
/// Larger counts are nobody's.
const MOST_COUNTED: u64 = 10_000_000;

/// Looks at the form alone, bounds what is kept, and notes whose word it is.
pub(super) fn tidy(mut checks: Checks, caller: &Caller) -> Result<Checks, DeployError> {
    caller.name().clone_into(&mut checks.claimed_by);
    let version = checks.tool.strip_prefix("updraft ");
    if !version.is_some_and(semver_like) {
        return Err(DeployError::Invalid(format!(
            "`tool` of the checks is `{}`; it has to be `updraft` and a version",
            checks.tool.escape_debug()
        )));
    }
    if checks.bundles.len() > MOST_BUNDLES {
        return Err(DeployError::Invalid(
            "the checks name too many bundles".into(),
        ));
    }
    for (stage, result) in &mut checks.stages {
        tidy_result(result).map_err(|what| {
            DeployError::Invalid(format!("`{what}` of the check `{stage}` cannot be"))
        })?;
    }
    Ok(checks)
}

fn tidy_result(result: &mut StageResult) -> Result<(), &'static str> {
    if !(result.seconds.is_finite() && result.seconds >= 0.0) {
        return Err("seconds");
    }
    let counts = [result.checked, result.errors, result.warnings];
    if counts.iter().any(|count| *count > MOST_COUNTED) {
        return Err("checked, errors or warnings");
    }
    // Whoever found something has counted it.
    if result.errors == 0 && result.findings.iter().any(|finding| finding.is_error) {
        return Err("errors");
    }
    result.findings.truncate(StageResult::MOST_FINDINGS);
    result.notes.truncate(MOST_NOTES);
    let texts = result
        .findings
        .iter_mut()
        .flat_map(|finding| [&mut finding.code, &mut finding.file, &mut finding.message]);
    for text in texts.chain(&mut result.notes) {
        let end = text.floor_char_boundary(MOST_TEXT);
        text.truncate(end);
    }
    Ok(())
}

fn semver_like(version: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    let mut numbers = version.split('.');
    let mut number = || numbers.next().is_some_and(|it| it.parse::<u32>().is_ok());
    version.len() < 100 && version.chars().all(is_plain) && number() && number()
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
        let unchecked = |(name, digest): (_, &Digest)| checks.bundles.get(name) != Some(digest);
        if parts.bundles.iter().any(unchecked) {
            return refuse("they are of other bundles than the deploy brings".into());
        }
        let runs = |name| release.bundles.get(name).map(|bundle| bundle.digest);
        let mut bundles = checks.bundles.iter();
        if let Some((name, _)) = bundles.find(|(name, digest)| runs(name) != Some(**digest)) {
            return refuse(format!(
                "they are of another version of the bundle `{name}` than the deploy keeps"
            ));
        }
        for (stage, result) in &checks.stages {
            if !result.passed() {
                return refuse(format!(
                    "the check `{stage}` found {} errors",
                    result.errors
                ));
            }
            let other = checks
                .environment
                .filter(|it| *it != release.image.digest());
            if let Some(other) = other.filter(|_| stage.needs_environment()) {
                return refuse(format!(
                    "the check `{stage}` ran in the Environment {}, and the deploy runs in {}",
                    other.short(),
                    release.image.digest().short()
                ));
            }
        }
    }
    // Files that stay are imported in a new Environment too.
    let covers_all = |checks: &Checks| {
        let mut names = release.bundles.keys();
        parts.image.is_none() || names.all(|name| checks.bundles.contains_key(name))
    };
    let has = |stage: &CheckStage| {
        let claimed = checks.filter(|checks| checks.stages.contains_key(stage));
        claimed.is_some_and(|checks| {
            !stage.needs_environment() || (checks.environment.is_some() && covers_all(checks))
        })
    };
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

    use updraft_model::{BundleName, BundleRef, ImageRef, ReleaseId};

    use super::*;

    fn parts(content: &[u8]) -> DeployParts {
        DeployParts {
            bundles: [(BundleName::dags(), Digest::of(content))].into(),
            image: None,
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
            claimed_by: String::new(),
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
            (checks(&[Parse], None), "static"),
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
        // An image alone: what stays is what has to have been imported in it.
        let image = DeployParts {
            bundles: BTreeMap::new(),
            image: Some(ImageRef::Environment {
                digest: Digest::of(b"environment"),
            }),
        };
        let beside = |bundles: BTreeMap<BundleName, Digest>, require: &[CheckStage]| {
            let checks = Checks {
                bundles,
                ..checks(&[Static, Parse], Some(b"environment"))
            };
            judge(Some(&checks), &image, &release(), require)
        };
        assert!(beside(parts(b"new").bundles, &[Parse]).is_ok());
        assert!(beside(parts(b"old").bundles, &[]).is_err());
        assert!(beside(BTreeMap::new(), &[]).is_ok());
        assert!(beside(BTreeMap::new(), &[Parse]).is_err());
        assert!(judge(None, &parts(b"new"), &release(), &[]).is_ok());
        assert!(judge(None, &parts(b"new"), &release(), &[Static]).is_err());
    }

    #[test]
    fn what_is_kept_of_a_claim_has_bounds() {
        let finding = updraft_model::CheckFinding {
            code: "UPD001".into(),
            is_error: false,
            file: "dags/a.py".into(),
            line: 1,
            column: 1,
            message: "ä".repeat(5000),
        };
        let mut result = StageResult {
            findings: vec![finding; 500],
            ..StageResult::default()
        };
        tidy_result(&mut result).unwrap();
        assert_eq!(result.findings.len(), StageResult::MOST_FINDINGS);
        assert_eq!(result.findings[0].message.len(), MOST_TEXT);
        result.findings[0].is_error = true;
        assert!(tidy_result(&mut result.clone()).is_err());
        result.errors = u64::MAX;
        assert!(tidy_result(&mut result).is_err());
        for wrong in ["", "1", "1.x", "1.2\nerror", "1.2.3 and more"] {
            assert!(!semver_like(wrong), "{wrong}");
        }
        assert!(semver_like("0.1.0-rc.1+build"));
    }
}
