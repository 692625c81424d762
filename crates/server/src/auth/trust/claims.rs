//! Whether an identity is what a trust asks for.

use std::collections::BTreeMap;

use globset::GlobBuilder;
use serde_json::{Map, Value};
use updraft_model::{EVENTS_OF_OTHERS, Expected, Identity, Role};
use updraft_store::Trust;

/// What an issuer says of a pipeline, with a signature that was checked.
#[derive(Debug, Clone)]
pub(super) struct Claims(pub(super) Map<String, Value>);

/// Characters of a claim that are shown or kept.
const MOST_SHOWN: usize = 300;

/// The first of these that is there, in the words of each provider.
const REPOSITORIES: &[&str] = &[
    "repository",
    "project_path",
    "oidc.circleci.com/vcs-origin",
    "pipeline_slug",
    "repositoryUuid",
];
const REFERENCES: &[&str] = &[
    "ref_path",
    "ref",
    "oidc.circleci.com/vcs-ref",
    "build_tag",
    "build_branch",
    "branchName",
];
const RUNS: &[&str] = &[
    "run_id",
    "build_number",
    "pipeline_id",
    "oidc.circleci.com/job-id",
    "pipelineUuid",
];
const ACTORS: &[&str] = &["actor", "user_login"];
/// What says that a run is of a pull request of the repository itself, or may be.
const PULL_REQUESTS: [(&str, &str); 2] = [
    ("event_name", "pull_request"),
    ("pipeline_source", "merge_request_event"),
];
/// Claims that say whose an identity is.
const OWNERS: &[&str] = &[
    "sub",
    "repository_id",
    "repository_owner_id",
    "project_id",
    "repositoryUuid",
    "oidc.circleci.com/project-id",
];

impl Claims {
    /// A claim as text. A list or a structure is none, so that nothing is
    /// found in the middle of one.
    fn text(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(is) => Some(is.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Seconds since 1970.
    pub(super) fn time(&self, name: &str) -> Option<i64> {
        let value = self.0.get(name)?;
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        value
            .as_i64()
            .or_else(|| value.as_f64().map(|it| it as i64))
    }

    fn audiences(&self) -> Vec<&str> {
        match self.0.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn identity(&self, issuer: &str) -> Identity {
        let first = |names: &[&str]| {
            let found = names.iter().find_map(|name| self.text(name));
            found.filter(|it| !it.is_empty()).map(|it| shown(&it))
        };
        Identity {
            issuer: issuer.to_owned(),
            subject: first(&["sub"]).unwrap_or_default(),
            repository: first(REPOSITORIES),
            reference: first(REFERENCES),
            run: first(RUNS),
            actor: first(ACTORS),
        }
    }
}

/// A text of somebody else's as it may stand in a message or a log.
fn shown(text: &str) -> String {
    let tame = text.chars().map(|c| if c.is_control() { '�' } else { c });
    tame.take(MOST_SHOWN).collect()
}

/// A claim that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    claim: String,
    found: Option<String>,
    expected: String,
}

/// Why an identity does not fit a trust.
#[derive(Debug, Clone)]
pub(super) struct Unfit {
    pub(super) mismatches: Vec<Mismatch>,
    /// Whether it is near enough to be told what is expected.
    pub(super) is_near: bool,
}

/// Compares every claim. Returns the pins with what this identity adds to them.
pub(super) fn judge(
    trust: &Trust,
    claims: &Claims,
    own_address: &str,
) -> Result<BTreeMap<String, String>, Unfit> {
    let mut mismatches = Vec::new();
    let audience = trust.content.audience.as_deref().unwrap_or(own_address);
    let same = |it: &&str| it.trim_end_matches('/') == audience.trim_end_matches('/');
    let audiences = claims.audiences();
    if !audiences.iter().any(same) {
        mismatches.push(Mismatch {
            claim: "aud".into(),
            found: (!audiences.is_empty()).then(|| audiences.join(" ")),
            expected: format!("`{audience}`"),
        });
    }
    for (claim, expected) in &trust.content.claims {
        let found = claims.text(claim);
        if !found.as_deref().is_some_and(|it| accepts(expected, it)) {
            mismatches.push(Mismatch {
                claim: claim.clone(),
                found,
                expected: expected.to_string(),
            });
        }
    }
    let content = &trust.content;
    let of_others = if content.role == Role::Previewer && trusts_pull_requests(&content.claims) {
        of_fork(claims)
    } else {
        of_others(claims)
    };
    mismatches.extend(of_others.filter(|of| !mismatches.iter().any(|it| it.claim == of.claim)));
    let mut pinned = trust.pinned.clone();
    for claim in &trust.content.pin {
        let found = claims.text(claim);
        match (pinned.get(claim), found) {
            (Some(pin), found) if found.as_ref() != Some(pin) => mismatches.push(Mismatch {
                claim: claim.clone(),
                found,
                expected: format!("`{pin}`, as at the first exchange"),
            }),
            (None, Some(first)) => {
                pinned.insert(claim.clone(), first);
            }
            (Some(_) | None, _) => {}
        }
    }
    if mismatches.is_empty() {
        return Ok(pinned);
    }
    Err(Unfit {
        mismatches,
        is_near: is_near(trust, claims),
    })
}

pub(super) fn accepts(expected: &Expected, found: &str) -> bool {
    match expected {
        Expected::Is(value) => found == value,
        Expected::OneOf(values) => values.iter().any(|value| value == found),
        Expected::Like(pattern) => {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            glob.is_ok_and(|glob| glob.compile_matcher().is_match(found))
        }
        Expected::File(file) => {
            let rest = found.strip_prefix(file.as_str());
            rest.is_some_and(|rest| rest.starts_with("@refs/"))
        }
    }
}

/// Runs that have the default branch's name, and may have been caused by anybody: whatever
/// a trust says, these are none of the owner's pushes.
fn of_others(claims: &Claims) -> Option<Mismatch> {
    let runs: [(&str, &[&str]); 2] = [
        ("event_name", &EVENTS_OF_OTHERS),
        ("pipeline_source", &["merge_request_event"]),
    ];
    runs.into_iter().find_map(|(claim, others)| {
        let found = claims.text(claim)?;
        let is_one = others.iter().any(|it| found.starts_with(it));
        is_one.then(|| Mismatch {
            claim: claim.to_owned(),
            found: Some(found),
            expected: "what only the repository's own people cause".into(),
        })
    })
}

/// Whether claims are those of pull requests, and nothing else.
pub(super) fn trusts_pull_requests(claims: &BTreeMap<String, Expected>) -> bool {
    PULL_REQUESTS.iter().any(|(claim, event)| {
        matches!(claims.get(*claim), Some(Expected::Is(expected)) if expected == event)
    })
}

/// A merge request that brings another project's branch. GitLab names that project in
/// `project_id` and the one where the job runs in `job_project_id`; one that names no
/// second may have run a fork's code under its own name. On GitHub no claim tells, and
/// jobs of forks get no identity.
fn of_fork(claims: &Claims) -> Option<Mismatch> {
    claims.text("pipeline_source")?;
    let project = claims.text("project_id").unwrap_or_default();
    // Newer ones name the branch's project once more.
    let named = ["job_project_id", "source_project_id"].map(|claim| (claim, claims.text(claim)));
    let other = named.into_iter().find(|(claim, found)| {
        let is_missing = *claim == "source_project_id" && found.is_none();
        !is_missing && (project.is_empty() || found.as_ref() != Some(&project))
    });
    other.map(|(claim, found)| Mismatch {
        claim: claim.to_owned(),
        found,
        expected: format!("`{project}`, as `project_id`: forks are not trusted"),
    })
}

/// Whether an identity is of the same owner as what is trusted. Anybody with an
/// account at a public issuer gets a good signature, and is not to learn from a
/// refusal which repositories there are.
fn is_near(trust: &Trust, claims: &Claims) -> bool {
    let expected = &trust.content.claims;
    for claim in ["repository", "project_path"] {
        if let Some(Expected::Is(repository)) = expected.get(claim) {
            let owner = |path: &str| {
                let owner = path.rsplit_once('/').map(|(owner, _)| owner);
                owner.unwrap_or(path).to_lowercase()
            };
            let found = claims.text(claim);
            return found.is_some_and(|found| owner(&found) == owner(repository));
        }
    }
    if let Some(organization) = expected.get("organization_slug") {
        let found = claims.text("organization_slug");
        return found.is_some_and(|found| accepts(organization, &found));
    }
    // What only the owner has: others' branches and events are called the same.
    OWNERS.iter().any(|claim| match expected.get(*claim) {
        Some(Expected::Is(owner)) => claims.text(claim).as_ref() == Some(owner),
        _ => false,
    })
}

impl Unfit {
    /// Which claim was what, and should have been what.
    pub(super) fn text(&self) -> String {
        self.written(true)
    }

    /// The same as far as whoever asked may know it.
    pub(super) fn text_for_caller(&self) -> String {
        self.written(self.is_near)
    }

    fn written(&self, with_expected: bool) -> String {
        let one = |it: &Mismatch| {
            let found = match &it.found {
                Some(found) => format!("is `{}`", shown(found)),
                None => "is missing".to_owned(),
            };
            // The audience is no secret: it is this control plane's address.
            if with_expected || it.claim == "aud" {
                format!("`{}` {found} and should be {}", it.claim, it.expected)
            } else {
                format!("`{}` {found}, which is not what is trusted", it.claim)
            }
        };
        self.mismatches
            .iter()
            .map(one)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use updraft_model::{Scope, Timestamp, TrustId, TrustProvider};
    use updraft_store::TrustContent;

    use super::*;

    const US: &str = "https://updraft.example";

    fn claims(value: Value) -> Claims {
        let Value::Object(map) = value else {
            panic!("claims are an object")
        };
        Claims(map)
    }

    fn trust() -> Trust {
        let claims = [
            ("repository", Expected::Is("acme/sales".into())),
            ("ref", Expected::Like("refs/heads/release/*".into())),
            (
                "workflow_ref",
                Expected::File("acme/sales/.github/workflows/deploy.yml".into()),
            ),
        ];
        Trust {
            id: TrustId::new(),
            scope: Scope::Organization,
            issuer: "https://issuer.example".into(),
            content: TrustContent {
                provider: TrustProvider::Github,
                role: Role::Deployer,
                audience: None,
                claims: claims.map(|(name, it)| (name.to_owned(), it)).into(),
                pin: vec!["repository_id".into()],
            },
            pinned: BTreeMap::new(),
            created_by: "me".into(),
            created_at: Timestamp::default(),
            last_used_at: None,
        }
    }

    fn good() -> Value {
        json!({
            "aud": US, "repository": "acme/sales", "ref": "refs/heads/release/1", "repository_id": 7,
            "workflow_ref": "acme/sales/.github/workflows/deploy.yml@refs/heads/release/1",
        })
    }

    #[test]
    fn the_first_exchange_pins_and_others_have_to_bring_the_same() {
        let mut trust = trust();
        let pinned = judge(&trust, &claims(good()), US).unwrap();
        assert_eq!(pinned["repository_id"], "7");
        trust.pinned = pinned;
        assert!(judge(&trust, &claims(good()), US).is_ok());
        let mut other = good();
        other["repository_id"] = json!("8");
        let unfit = judge(&trust, &claims(other), US).unwrap_err();
        assert_eq!(
            unfit.text_for_caller(),
            "`repository_id` is `8` and should be `7`, as at the first exchange"
        );
        let mut without = good();
        without.as_object_mut().unwrap().remove("repository_id");
        assert!(judge(&trust, &claims(without), US).is_err());
    }

    #[test]
    fn nothing_but_the_whole_claim_counts() {
        for (claim, wrong) in [
            ("repository", json!("evil/acme/sales")),
            ("repository", json!("acme/sales-2")),
            ("repository", json!("Acme/sales")),
            ("repository", json!(["acme/sales"])),
            ("repository", json!(null)),
            ("ref", json!("refs/heads/release/1/2")),
            ("ref", json!("refs/pull/7/merge")),
            ("aud", json!("https://updraft.example.evil")),
            ("aud", json!(null)),
            (
                "workflow_ref",
                json!("acme/sales/.github/workflows/deploy.yml.evil@refs/heads/main"),
            ),
            (
                "workflow_ref",
                json!("acme/sales/.github/workflows/deploy.yml"),
            ),
        ] {
            let mut given = good();
            given[claim] = wrong.clone();
            let unfit = judge(&trust(), &claims(given), US).unwrap_err();
            assert_eq!(unfit.mismatches.len(), 1, "{claim} {wrong}");
            assert_eq!(unfit.mismatches[0].claim, claim);
        }
        let mut several = good();
        several["aud"] = json!(["other", "https://updraft.example/"]);
        assert!(judge(&trust(), &claims(several), US).is_ok());
    }

    #[test]
    fn a_stranger_does_not_learn_what_is_trusted() {
        let mut given = good();
        given["repository"] = json!("evil/sales");
        let unfit = judge(&trust(), &claims(given.clone()), US).unwrap_err();
        assert_eq!(
            unfit.text_for_caller(),
            "`repository` is `evil/sales`, which is not what is trusted"
        );
        assert!(unfit.text().contains("should be `acme/sales`"));
        given["repository"] = json!("ACME/slaes\n");
        let unfit = judge(&trust(), &claims(given), US).unwrap_err();
        assert_eq!(
            unfit.text_for_caller(),
            "`repository` is `ACME/slaes�` and should be `acme/sales`"
        );
    }
}
