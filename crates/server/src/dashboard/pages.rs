//! What each page shows, made from the same views that the API gives.

use askama::Template;
use chrono::{DateTime, Utc};
use updraft_api::agent::ComponentState;
use updraft_api::deploy::{DeployView, FileChanges};
use updraft_api::deployment::{AgentView, DeploymentView, StatusView};
use updraft_model::{
    AfterFailure, CiRun, DeployId, DeployKind, DeployState, Failure, Hold, ImageRef, ImportError,
    Proof, Release,
};

#[derive(Template)]
#[template(path = "sign_in.html")]
pub(super) struct SignInPage {
    pub(super) next: String,
    pub(super) problem: Option<String>,
}

#[derive(Template)]
#[template(path = "error.html")]
pub(super) struct ErrorPage {
    pub(super) title: String,
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) request_id: String,
}

#[derive(Template)]
#[template(path = "deployments.html")]
pub(super) struct DeploymentsPage {
    pub(super) who: String,
    pub(super) rows: Vec<DeploymentRow>,
}

pub(super) struct DeploymentRow {
    name: String,
    description: String,
    state: StateLabel,
    dags: String,
    agents: String,
    deploy: Option<DeployLink>,
}

struct DeployLink {
    id: DeployId,
    at: String,
    at_rfc: String,
}

/// A state in words, with a class that only colours what the words say.
struct StateLabel {
    label: &'static str,
    class: &'static str,
}

impl StateLabel {
    /// Whether there will soon be something else to see.
    fn is_busy(&self) -> bool {
        self.class == "busy"
    }

    /// One that worked is worth going back to.
    const fn of_deploy(deploy: &DeployView) -> Self {
        match deploy.state {
            DeployState::Superseded { .. } if deploy.proven_at.is_some() => Self {
                label: "was live",
                class: "past",
            },
            _ => Self::of(&deploy.state),
        }
    }

    const fn of(state: &DeployState) -> Self {
        let (label, class) = match state {
            DeployState::Created => ("created", "busy"),
            DeployState::Uploading => ("uploading", "busy"),
            DeployState::Accepted => ("accepted", "busy"),
            DeployState::RollingOut { .. } => ("rolling out", "busy"),
            DeployState::Live { .. } => ("live", "good"),
            DeployState::Failed { .. } => ("failed", "bad"),
            DeployState::TimedOut { .. } => ("timed out", "bad"),
            DeployState::Superseded { .. } => ("superseded", "past"),
            DeployState::Expired { .. } => ("expired", "past"),
            DeployState::RolledBack { .. } => ("rolled back", "past"),
        };
        Self { label, class }
    }

    fn of_wanted(deploy: Option<&DeployView>) -> Self {
        deploy.map_or(
            Self {
                label: "nothing deployed",
                class: "past",
            },
            |deploy| Self::of(&deploy.state),
        )
    }
}

impl DeploymentRow {
    pub(super) fn new(status: StatusView) -> Self {
        let connected = status.agents.iter().filter(|agent| agent.connected).count();
        Self {
            name: status.deployment.name.to_string(),
            description: status.deployment.description,
            state: StateLabel::of_wanted(status.wanted_deploy.as_ref()),
            dags: status
                .dags
                .map_or_else(|| "unknown".into(), |dags| dags.to_string()),
            agents: match (connected, status.agents.len()) {
                (_, 0) => "none".into(),
                (connected, all) if connected == all => connected.to_string(),
                (connected, all) => format!("{connected} of {all}"),
            },
            deploy: status.wanted_deploy.map(|deploy| DeployLink {
                id: deploy.id,
                at: when(deploy.created_at),
                at_rfc: deploy.created_at.to_rfc3339(),
            }),
        }
    }
}

#[derive(Template)]
#[template(path = "deployment.html")]
pub(super) struct DeploymentPage {
    who: String,
    name: String,
    description: String,
    state: StateLabel,
    dags: String,
    import_errors: Vec<ImportError>,
    wanted: String,
    proven: String,
    after_failure: &'static str,
    hold: Option<HoldCard>,
    agents: Vec<AgentCard>,
    deploys: Vec<DeployRow>,
    older: Option<DeployId>,
}

/// What a rollback keeps from coming back.
struct HoldCard {
    by: String,
    since: String,
    reason: String,
    held: Vec<DeployId>,
    rollback: DeployId,
}

impl HoldCard {
    fn new(hold: Hold) -> Self {
        Self {
            by: hold.by,
            since: when(hold.since),
            reason: hold.reason,
            held: hold.held.into_iter().map(|held| held.deploy).collect(),
            rollback: hold.rollback,
        }
    }
}

struct AgentCard {
    host: String,
    version: String,
    connected: bool,
    last_seen: String,
    isolation: String,
    problem: Option<String>,
    airflow: Option<AirflowCard>,
}

struct AirflowCard {
    version: String,
    python: String,
    note: Option<String>,
    url: Option<String>,
    components: Vec<ComponentItem>,
}

struct ComponentItem {
    name: String,
    state: &'static str,
    class: &'static str,
    restarts: u32,
}

struct DeployRow {
    id: DeployId,
    at: String,
    at_rfc: String,
    state: StateLabel,
    what: String,
    by: String,
    commit: String,
}

/// Deploys on one page of a history.
pub(super) const PAGE: u32 = 50;

impl DeploymentPage {
    pub(super) fn new(who: String, status: StatusView, deploys: Vec<DeployView>) -> Self {
        let DeploymentView {
            name,
            description,
            wanted,
            proven,
            after_failure,
            hold,
            ..
        } = status.deployment;
        let older = deploys
            .last()
            .filter(|_| deploys.len() == PAGE as usize)
            .map(|deploy| deploy.id);
        Self {
            who,
            name: name.to_string(),
            description,
            state: StateLabel::of_wanted(status.wanted_deploy.as_ref()),
            dags: status
                .dags
                .map_or_else(|| "unknown".into(), |dags| dags.to_string()),
            import_errors: status.import_errors,
            wanted: short_release(wanted.as_ref()),
            proven: short_release(proven.as_ref()),
            after_failure: match after_failure {
                AfterFailure::Keep => "keep what is there",
                AfterFailure::Rollback => "go back",
            },
            hold: hold.map(|hold| HoldCard::new(*hold)),
            agents: status.agents.into_iter().map(AgentCard::new).collect(),
            deploys: deploys.into_iter().map(DeployRow::new).collect(),
            older,
        }
    }
}

impl AgentCard {
    fn new(agent: AgentView) -> Self {
        Self {
            host: agent.host,
            version: agent.version,
            connected: agent.connected,
            last_seen: when(agent.last_seen),
            isolation: agent.isolation,
            problem: agent.problem.map(|problem| problem.message),
            airflow: agent.airflow.map(|airflow| AirflowCard {
                version: airflow.version,
                python: airflow.python,
                note: airflow.note,
                // Only what a browser opens as a page may become a link.
                url: airflow
                    .url
                    .filter(|url| url.starts_with("http://") || url.starts_with("https://")),
                components: airflow
                    .components
                    .into_iter()
                    .map(|component| {
                        let (state, class) = match component.state {
                            ComponentState::Starting => ("starting", "busy"),
                            ComponentState::Running => ("running", "good"),
                            ComponentState::Waiting => ("crashed, starting again", "bad"),
                            ComponentState::Stopped => ("stopped", "past"),
                            ComponentState::Draining => ("replaced, ends with its tasks", "past"),
                            ComponentState::Unknown => ("unknown", "past"),
                        };
                        ComponentItem {
                            name: component.name,
                            state,
                            class,
                            restarts: component.restarts,
                        }
                    })
                    .collect(),
            }),
        }
    }
}

impl DeployRow {
    fn new(deploy: DeployView) -> Self {
        Self {
            id: deploy.id,
            at: when(deploy.created_at),
            at_rfc: deploy.created_at.to_rfc3339(),
            state: StateLabel::of_deploy(&deploy),
            what: what(&deploy),
            commit: deploy
                .git
                .and_then(|git| git.commit)
                .map(|commit| short(&commit))
                .unwrap_or_default(),
            by: deploy.created_by,
        }
    }
}

/// A deploy in a few words: its description, or what it changed.
fn what(deploy: &DeployView) -> String {
    let kind = match deploy.kind {
        DeployKind::Deploy => None,
        DeployKind::Rollback => Some("rollback"),
        DeployKind::AutomaticRollback => Some("automatic rollback"),
        DeployKind::Promotion => Some("promotion"),
    };
    let files: usize = deploy
        .files
        .values()
        .map(|f| f.added.len() + f.changed.len() + f.removed.len())
        .sum();
    let content = match (deploy.description.as_str(), files) {
        ("", 1) => "1 file".to_owned(),
        ("", files) => format!("{files} files"),
        (description, _) => description.to_owned(),
    };
    kind.map_or_else(|| content.clone(), |kind| format!("{kind}: {content}"))
}

#[derive(Template)]
#[template(path = "deploy.html")]
pub(super) struct DeployPage {
    who: String,
    id: DeployId,
    deployment: String,
    kind: &'static str,
    state: StateLabel,
    description: String,
    note: Option<Note>,
    at: String,
    at_rfc: String,
    by: String,
    timings: Vec<Fact>,
    git: Option<GitFact>,
    run: Option<RunFact>,
    proof: Option<ProofPart>,
    files: Vec<FileGroup>,
    has_release: bool,
    release: Option<Vec<Fact>>,
}

/// What else there is to say about a state.
struct Note {
    class: &'static str,
    text: String,
    deploy: Option<DeployId>,
}

struct Fact {
    name: String,
    value: String,
}

struct GitFact {
    commit: String,
    subject: String,
    rest: String,
}

struct RunFact {
    title: &'static str,
    /// What people can open; anything else is no address.
    url: Option<String>,
    by: String,
}

impl RunFact {
    fn new(run: CiRun) -> Self {
        let is_web = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        Self {
            title: run.provider.title(),
            url: run.run_url.filter(is_web),
            by: run
                .actor
                .map(|actor| format!("by {actor}"))
                .unwrap_or_default(),
        }
    }
}

struct ProofPart {
    summary: String,
    dags: Vec<NameGroup>,
    silent: Vec<String>,
    import_errors: Vec<ImportError>,
}

struct NameGroup {
    name: &'static str,
    items: Vec<String>,
}

struct FileGroup {
    name: String,
    items: Vec<FileItem>,
}

struct FileItem {
    class: &'static str,
    mark: &'static str,
    path: String,
}

impl DeployPage {
    pub(super) fn new(who: String, deploy: DeployView) -> Self {
        let note = note(&deploy);
        let timings = timings(&deploy);
        // Also of one whose state went on: that is where version links end.
        let proof = deploy.state.proof().or(deploy.proof.as_ref());
        let proof = proof.map(ProofPart::new);
        Self {
            who,
            id: deploy.id,
            deployment: deploy.deployment_name.to_string(),
            kind: match deploy.kind {
                DeployKind::Deploy => "Deploy",
                DeployKind::Rollback => "Rollback",
                DeployKind::AutomaticRollback => "Automatic rollback",
                DeployKind::Promotion => "Promotion",
            },
            state: StateLabel::of_deploy(&deploy),
            description: deploy.description,
            note,
            at: when(deploy.created_at),
            at_rfc: deploy.created_at.to_rfc3339(),
            by: deploy.created_by,
            timings,
            git: deploy.git.map(|git| GitFact {
                commit: git
                    .commit
                    .as_deref()
                    .map_or_else(|| "no commit yet".into(), short),
                subject: git.subject.unwrap_or_default(),
                rest: [
                    git.branch.map(|branch| format!("branch {branch}")),
                    git.author.map(|author| format!("by {author}")),
                    git.dirty.then(|| "with uncommitted changes".to_owned()),
                ]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(", "),
            }),
            run: deploy.ci.map(|run| RunFact::new(*run)),
            proof,
            files: deploy
                .files
                .into_iter()
                .map(|(bundle, changes)| FileGroup {
                    name: bundle.to_string(),
                    items: file_items(changes),
                })
                .filter(|group| !group.items.is_empty())
                .collect(),
            has_release: deploy.release.is_some(),
            release: deploy.release.map(release_facts),
        }
    }
}

impl ProofPart {
    fn new(proof: &Proof) -> Self {
        let groups = [
            ("added", &proof.dags.added),
            ("changed", &proof.dags.changed),
            ("removed", &proof.dags.removed),
        ];
        Self {
            summary: format!(
                "Airflow parsed {} of {} DAG files for it and has {} {}.",
                proof.parsed,
                proof.files,
                proof.dags.total,
                if proof.dags.total == 1 { "DAG" } else { "DAGs" }
            ),
            dags: groups
                .into_iter()
                .filter(|(_, items)| !items.is_empty())
                .map(|(name, items)| NameGroup {
                    name,
                    items: items.clone(),
                })
                .collect(),
            silent: proof.silent.clone(),
            import_errors: proof.import_errors.clone(),
        }
    }
}

fn note(deploy: &DeployView) -> Option<Note> {
    let note = |class, text: String, deploy| {
        Some(Note {
            class,
            text,
            deploy,
        })
    };
    match &deploy.state {
        DeployState::Failed {
            failure: Failure::Agent { message },
            ..
        } => note("problem", message.clone(), None),
        DeployState::TimedOut { seen, not_seen, .. } => note(
            "problem",
            format!("Seen: {seen} Not seen: {not_seen}"),
            None,
        ),
        DeployState::Superseded { by, .. } => note("hint", "Superseded by".into(), Some(*by)),
        DeployState::RolledBack { by, .. } => match &deploy.failure {
            Some(Failure::Agent { message }) => {
                note("problem", format!("{message} Taken back by"), Some(*by))
            }
            Some(Failure::ImportErrors { .. }) => note(
                "problem",
                "It failed, and was taken back by".into(),
                Some(*by),
            ),
            None => note("hint", "Taken back by".into(), Some(*by)),
        },
        DeployState::Accepted | DeployState::RollingOut { .. } if deploy.agents_connected == 0 => {
            note(
                "problem",
                "No agent is connected; it goes live when one is.".into(),
                None,
            )
        }
        DeployState::Accepted | DeployState::RollingOut { .. } => deploy
            .activity
            .clone()
            .and_then(|activity| note("hint", activity, None)),
        DeployState::Created
        | DeployState::Uploading
        | DeployState::Live { .. }
        | DeployState::Failed {
            failure: Failure::ImportErrors { .. },
            ..
        }
        | DeployState::Expired { .. } => deploy
            .returns_to
            .and_then(|to| note("hint", "Returns to the Release of".into(), Some(to))),
    }
}

fn timings(deploy: &DeployView) -> Vec<Fact> {
    let since = |end: Option<DateTime<Utc>>| {
        end.map(|end| {
            let milliseconds = (end - deploy.created_at).num_milliseconds().max(0);
            match milliseconds {
                0..1000 => format!("after {milliseconds} ms"),
                _ => format!(
                    "after {}.{} s",
                    milliseconds / 1000,
                    milliseconds % 1000 / 100
                ),
            }
        })
    };
    [
        ("Accepted", deploy.accepted_at),
        ("On disk", deploy.on_disk_at),
        ("Ended", deploy.ended_at),
    ]
    .into_iter()
    .filter_map(|(name, at)| {
        since(at).map(|value| Fact {
            name: name.into(),
            value,
        })
    })
    .collect()
}

fn file_items(changes: FileChanges) -> Vec<FileItem> {
    let items = |paths: Vec<String>, class, mark| {
        paths
            .into_iter()
            .map(move |path| FileItem { class, mark, path })
    };
    items(changes.added, "added", "+")
        .chain(items(changes.changed, "changed", "~"))
        .chain(items(changes.removed, "removed", "−"))
        .collect()
}

fn release_facts(release: Release) -> Vec<Fact> {
    let (name, value) = match &release.image {
        ImageRef::Environment { digest } => ("Environment", digest.to_string()),
        ImageRef::Container { image, .. } => ("Image", image.to_string()),
    };
    let image = Fact {
        name: name.into(),
        value,
    };
    let bundles = release.bundles.into_iter().map(|(name, bundle)| Fact {
        name: format!("Bundle {name}"),
        value: bundle.digest.to_string(),
    });
    std::iter::once(image).chain(bundles).collect()
}

fn short_release(release: Option<&Release>) -> String {
    release.map_or_else(
        || "none".into(),
        |release| {
            let bundles = release
                .bundles
                .iter()
                .map(|(name, bundle)| format!("{name} {}", bundle.digest.short()));
            bundles.collect::<Vec<_>>().join(", ")
        },
    )
}

fn short(commit: &str) -> String {
    commit.chars().take(10).collect()
}

fn when(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}
