use updraft_api::ErrorCode;
use updraft_api::deploy::{PromoteRequest, PromotedHalves, PromotionSource};
use updraft_api::preview::{OpenPreview, OpenedPreview, PreviewOf};
use updraft_model::{DeploymentId, DeploymentName, Digest, Runtime, Timestamp};
use updraft_store::{Agent, Deployment, Preview, PreviewFacts, Settings, Write};

use super::{PreviewError, environment, show};
use crate::app::App;
use crate::auth::{AccessError, Caller};
use crate::deploy;
use crate::deployment;
use crate::error::{Problem as _, chain};

const LONGEST_TEXT: usize = 300;
const LEAST_S: u64 = 60;
const MOST_S: u64 = 90 * 24 * 3600;

/// The key of the deploy that a Preview begins with.
const BEGINNING: &str = "preview";

/// Makes the Preview of a pull request, from what the Deployment runs; one that is there
/// lives on. Two that open the same one at once get the same.
pub(crate) async fn open(
    app: &App,
    caller: &Caller,
    from: &DeploymentName,
    ask: OpenPreview,
) -> Result<OpenedPreview, PreviewError> {
    check(&ask)?;
    let now = app.now();
    let expires_at = now + chrono::Duration::seconds(i64::try_from(ask.expire_s).unwrap_or(0));
    let mut tx = app.store.begin().await?;
    let found = caller.deployment(&mut tx, from).await?;
    let mut origin = lock(&mut tx, found.id, from).await?;
    if origin.preview.is_some() {
        return Err(PreviewError::Invalid(format!(
            "`{from}` is a Preview itself; `from` of `[preview]` names a Deployment that stays"
        )));
    }
    let others = tx.previews_of(origin.id).await?;
    let known = others.iter().find(|other| is_of(other, &ask.of)).cloned();
    let is_new = known.is_none();
    if is_new {
        let agents = tx.agents(origin.id).await?;
        check_places(app, &origin, &agents, &others)?;
    }
    let facts = PreviewFacts {
        repository: ask.of.repository.clone(),
        project: ask.of.project.clone(),
        pull_request: ask.of.pull_request,
        branch: ask.branch.clone(),
        agent: known
            .as_ref()
            .and_then(|it| it.preview.as_ref()?.facts.agent),
    };
    let preview = Preview {
        of: origin.id,
        facts,
        expires_at,
    };
    let made = match known {
        Some(known) => renew(app, &mut tx, &origin, known.id, preview, now).await?,
        None => make(app, &mut tx, &origin, preview, &ask.of, now).await?,
    };
    origin.generation += 1;
    tx.update_deployment(&origin, now).await?;
    tx.commit().await?;
    app.announce(origin.id);
    app.announce(made.id);
    if is_new {
        tracing::info!(preview = %made.name, %from, by = caller.name(), "Preview opened");
    }
    if made.target.is_none() {
        begin(app, caller, &origin, &made).await?;
    }
    Ok(OpenedPreview {
        preview: show(app, caller, &made.name).await?,
        is_new,
    })
}

fn check(ask: &OpenPreview) -> Result<(), PreviewError> {
    let text = |what: &str, text: &str, least: usize| {
        let length = text.chars().count();
        if (least..=LONGEST_TEXT).contains(&length) && !text.contains(char::is_control) {
            return Ok(());
        }
        Err(PreviewError::Invalid(format!(
            "`{what}` has {least} to {LONGEST_TEXT} characters, none of them a control character"
        )))
    };
    text("repository", &ask.of.repository, 1)?;
    text("project", &ask.of.project, 0)?;
    text("branch", ask.branch.as_deref().unwrap_or_default(), 0)?;
    if ask.of.pull_request == 0 {
        return Err(PreviewError::Invalid(
            "`pull_request` is the number of a pull request, from 1".into(),
        ));
    }
    if !(LEAST_S..=MOST_S).contains(&ask.expire_s) {
        return Err(PreviewError::Invalid(format!(
            "`expire_s` is {}; it has to be {LEAST_S} to {MOST_S}, which is 90 days",
            ask.expire_s
        )));
    }
    Ok(())
}

async fn lock(
    tx: &mut Write,
    id: DeploymentId,
    name: &DeploymentName,
) -> Result<Deployment, PreviewError> {
    let gone = || AccessError::DeploymentNotFound {
        name: name.to_string(),
        nearest: None,
    };
    Ok(tx.lock_deployment(id).await?.ok_or_else(gone)?)
}

fn is_of(deployment: &Deployment, of: &PreviewOf) -> bool {
    deployment.preview.as_ref().is_some_and(|it| {
        let facts = &it.facts;
        let is_project = facts.repository == of.repository && facts.project == of.project;
        is_project && facts.pull_request == of.pull_request
    })
}

/// Refuses a Preview that nobody would run.
fn check_places(
    app: &App,
    origin: &Deployment,
    agents: &[Agent],
    others: &[Deployment],
) -> Result<(), PreviewError> {
    let from = || origin.name.clone();
    if origin.settings.runtime == Runtime::External {
        return Err(PreviewError::Invalid(format!(
            "somebody else runs the Airflow of `{}`, so no Preview can be made from it; \
             name a Deployment with the runtime process or container in `[preview]`",
            origin.name
        )));
    }
    let connected = deploy::reports(app, agents);
    let places: Vec<u32> = connected.map(|report| report.preview_places).collect();
    if places.is_empty() {
        return Err(PreviewError::NoAgent(from()));
    }
    let places: u32 = places.into_iter().sum();
    if places == 0 {
        return Err(PreviewError::NoPlaces(from()));
    }
    let now = app.now();
    let alive = others
        .iter()
        .filter(|other| other.preview.as_ref().is_some_and(|it| it.expires_at > now));
    let names: Vec<&str> = alive.map(|other| other.name.as_str()).collect();
    if names.len() >= places as usize {
        return Err(PreviewError::Full {
            from: from(),
            places,
            names: names.join(", "),
        });
    }
    Ok(())
}

/// Inserts it under the first of its names that is free.
async fn make(
    app: &App,
    tx: &mut Write,
    origin: &Deployment,
    preview: Preview,
    of: &PreviewOf,
    now: Timestamp,
) -> Result<Deployment, PreviewError> {
    let mut made = Deployment {
        id: DeploymentId::new(),
        name: origin.name.clone(),
        workspace: origin.workspace,
        created_at: now,
        settings: settings(origin, of),
        environment: None,
        environment_names: Vec::new(),
        generation: 1,
        target: None,
        proven: None,
        hold: None,
        preview: Some(Box::new(preview)),
    };
    share_environment(app, origin, &mut made)?;
    for name in names(&origin.name, of) {
        made.name = name;
        if tx.insert_deployment(&made).await? {
            return Ok(made);
        }
    }
    Err(PreviewError::NoName(origin.name.clone()))
}

/// Has it live on, with what the Deployment is set to now.
async fn renew(
    app: &App,
    tx: &mut Write,
    origin: &Deployment,
    id: DeploymentId,
    preview: Preview,
    now: Timestamp,
) -> Result<Deployment, PreviewError> {
    let mut known = lock(tx, id, &origin.name).await?;
    let before = (known.settings.clone(), known.environment_names.clone());
    let of = PreviewOf {
        repository: preview.facts.repository.clone(),
        project: preview.facts.project.clone(),
        pull_request: preview.facts.pull_request,
    };
    known.settings = settings(origin, &of);
    let variables = share_environment(app, origin, &mut known)?;
    if variables || before.0 != known.settings {
        known.generation += 1;
        tx.update_deployment(&known, now).await?;
    }
    tx.set_preview(id, &preview).await?;
    known.preview = Some(Box::new(preview));
    Ok(known)
}

fn settings(origin: &Deployment, of: &PreviewOf) -> Settings {
    let project = match of.project.as_str() {
        "" => String::new(),
        project => format!(", `{project}`"),
    };
    Settings {
        description: format!(
            "Preview of {}: pull request {} of {}{project}",
            origin.name, of.pull_request, of.repository
        ),
        keep_releases: 1,
        // Workers that share a queue with the Deployment's own would run its tasks.
        executor: "LocalExecutor".into(),
        ..origin.settings.clone()
    }
}

/// Gives it the variables that it may have. False where it has them already. What somebody
/// set in the Preview alone stays.
fn share_environment(
    app: &App,
    origin: &Deployment,
    preview: &mut Deployment,
) -> Result<bool, PreviewError> {
    let own = deployment::environment::open(&app.keys, origin)?;
    let shared = environment::of_preview(&own, origin.settings.preview_values);
    let changes = shared.into_iter().map(|(name, value)| (name, Some(value)));
    Ok(deployment::environment::change(
        &app.keys,
        preview,
        changes.collect(),
    )?)
}

/// `sales-pr-7`; where that is somebody else's, with what tells the two apart.
fn names(from: &DeploymentName, of: &PreviewOf) -> Vec<DeploymentName> {
    const LONGEST: usize = 63;
    let project = format!("{}\n{}", of.repository, of.project);
    let digest = Digest::of(project.as_bytes()).hex();
    let number = of.pull_request;
    let ends = [
        format!("-pr-{number}"),
        format!("-pr-{number}-{}", &digest[..6]),
        format!("-pr-{number}-{}", &digest[..16]),
    ];
    let named = ends.iter().filter_map(|end| {
        let room = LONGEST.checked_sub(end.len())?;
        let begin = &from.as_str()[..from.as_str().len().min(room)];
        format!("{}{end}", begin.trim_end_matches('-')).parse().ok()
    });
    named.collect()
}

/// Begins with what the Deployment runs, so that a pull request brings only what it
/// changes. Where that never was live, the first deploy brings everything.
async fn begin(
    app: &App,
    caller: &Caller,
    origin: &Deployment,
    made: &Deployment,
) -> Result<(), PreviewError> {
    let ask = PromoteRequest {
        source: PromotionSource {
            from: origin.name.clone(),
            halves: PromotedHalves::Both,
            allow_unproven: false,
        },
        description: format!("what `{}` runs", origin.name),
        allow_downgrade: false,
        force: false,
        key: BEGINNING.into(),
    };
    match Box::pin(deploy::promote(app, caller, &made.name, ask)).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == ErrorCode::Internal => Err(error.into()),
        Err(error) => {
            tracing::info!(preview = %made.name, why = %chain(&error), "it begins with nothing");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_repositories_and_projects_apart() {
        let of = |repository: &str, project: &str| PreviewOf {
            repository: repository.into(),
            project: project.into(),
            pull_request: 7,
        };
        let from: DeploymentName = "sales".parse().unwrap();
        let one = names(&from, &of("acme/sales", ""));
        assert_eq!(one[0].as_str(), "sales-pr-7");
        let other = names(&from, &of("acme/other", ""));
        assert_ne!(one[1], other[1]);
        assert_ne!(one[1], names(&from, &of("acme/sales", "etl"))[1]);
        let long: DeploymentName = "a".repeat(63).parse().unwrap();
        assert_eq!(names(&long, &of("acme/sales", "")).len(), 3);
    }
}
