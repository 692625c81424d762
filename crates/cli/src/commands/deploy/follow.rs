//! Waiting until a deploy has ended, and saying meanwhile what is going on.

use std::io::Write as _;
use std::time::{Duration, Instant};

use updraft_api::deploy::DeployView;
use updraft_api::{Client, ClientError};
use updraft_model::DeployState;

use crate::console::{Console, Step};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::output::deploy_ref;
use crate::output::size::things;

/// How long one request waits for news. What agents are busy with, and whether
/// there are any, is no news.
const POLL: Duration = Duration::from_secs(1);
/// How long a control plane may be away while something is followed.
const AWAY: Duration = Duration::from_secs(120);

/// How patient the waiting is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the whole; none: as long as the control plane itself waits.
    pub(crate) timeout: Option<Duration>,
    /// For an agent to connect, when none is.
    pub(crate) wait_for_agent: Duration,
}

/// How the waiting ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Live,
    Failed,
    TimedOut,
    /// Our own patience ended, not the control plane's.
    OutOfPatience,
    Superseded,
    RolledBack,
    Expired,
    NoAgent,
    Interrupted,
    /// The control plane cannot be asked any more.
    Lost(Failure),
}

impl Ending {
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Live => Exit::Success,
            Self::Failed => Exit::DeployFailed,
            Self::TimedOut | Self::OutOfPatience => Exit::TimedOut,
            Self::Superseded => Exit::Superseded,
            Self::RolledBack => Exit::RolledBack,
            Self::Expired => Exit::Conflict,
            Self::NoAgent => Exit::NoAgent,
            Self::Interrupted => Exit::Interrupted,
            Self::Lost(failure) => failure.exit,
        }
    }

    /// The word in JSON output.
    pub(crate) const fn outcome(&self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Failed => "failed",
            Self::TimedOut | Self::OutOfPatience => "timed_out",
            Self::Superseded => "superseded",
            Self::RolledBack => "rolled_back",
            Self::Expired => "expired",
            Self::NoAgent => "no_agent",
            Self::Interrupted => "interrupted",
            Self::Lost(_) => "lost",
        }
    }
}

/// Follows an accepted deploy to its end, or that of the one that took its place
/// with the same content: two that deploy the same at once both learn how it went.
///
/// A control plane that restarts meanwhile is waited for.
pub(crate) async fn follow(
    client: &Client,
    mut deploy: DeployView,
    patience: Patience,
    interrupt: &Interrupt,
    out: &mut Console,
) -> Result<(DeployView, Ending)> {
    let started = Instant::now();
    let mut alone = Alone::default();
    let mut step = out.step("waiting for an agent");
    let mut said_on_disk = deploy.on_disk_at.is_some();
    let ending = loop {
        // One that failed and is taken back for it moves to its end at once.
        if let Some(ending) = ending_of(&deploy.state) {
            match heir(client, &deploy).await {
                Ok(Some(heir)) => {
                    let (old, new) = (deploy_ref::short(deploy.id), deploy_ref::short(heir.id));
                    writeln!(
                        out.status(),
                        "{new} took the place of {old}, with the same content"
                    )?;
                    deploy = heir;
                    continue;
                }
                Ok(None) => break ending,
                Err(error) => break Ending::Lost(error.into()),
            }
        }
        if !said_on_disk && let Some(took) = on_disk_after(&deploy) {
            said_on_disk = true;
            out.mark(&on_disk_text(&deploy), took);
        }
        out.update(&mut step, &doing(&deploy));

        let waited = started.elapsed();
        let alone = alone.look(deploy.agents_connected, Instant::now());
        if alone.is_some_and(|alone| alone >= patience.wait_for_agent) {
            break Ending::NoAgent;
        }
        let left = patience.timeout.unwrap_or(Duration::MAX);
        let left = left.saturating_sub(waited);
        if left.is_zero() {
            break Ending::OutOfPatience;
        }
        tokio::select! {
            news = news(client, &deploy, POLL, &mut step, out) => match news {
                Ok(news) => deploy = news,
                Err(error) => break Ending::Lost(error.into()),
            },
            () = tokio::time::sleep(left) => break Ending::OutOfPatience,
            () = interrupt.came() => break Ending::Interrupted,
        }
    };
    if !said_on_disk && let Some(took) = on_disk_after(&deploy) {
        out.mark(&on_disk_text(&deploy), took);
    }
    out.abandon(step);
    Ok((deploy, ending))
}

/// Since when no agent is connected.
#[derive(Debug, Default)]
struct Alone(Option<Instant>);

impl Alone {
    /// For how long there was none, when there is none now. An agent that is
    /// restarted late in a deploy has as long as one at its beginning.
    fn look(&mut self, connected: u32, now: Instant) -> Option<Duration> {
        if connected > 0 {
            self.0 = None;
            return None;
        }
        Some(now.saturating_duration_since(*self.0.get_or_insert(now)))
    }
}

/// Asks for news, also over a control plane that is away for a while.
async fn news(
    client: &Client,
    deploy: &DeployView,
    wait: Duration,
    step: &mut Step,
    out: &mut Console,
) -> Result<DeployView, ClientError> {
    let since = Instant::now();
    loop {
        match client.follow_deploy(deploy.id, deploy.revision, wait).await {
            Err(error) if error.is_transient() && since.elapsed() < AWAY => {
                out.update(step, "the control plane does not answer; waiting for it");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            answer => return answer,
        }
    }
}

fn ending_of(state: &DeployState) -> Option<Ending> {
    match state {
        DeployState::Created
        | DeployState::Uploading
        | DeployState::Accepted
        | DeployState::RollingOut { .. } => None,
        DeployState::Live { .. } => Some(Ending::Live),
        DeployState::Failed { .. } => Some(Ending::Failed),
        DeployState::TimedOut { .. } => Some(Ending::TimedOut),
        DeployState::Superseded { .. } => Some(Ending::Superseded),
        DeployState::Expired { .. } => Some(Ending::Expired),
        DeployState::RolledBack { .. } => Some(Ending::RolledBack),
    }
}

/// What took the deploy's place, if that is the same once more.
async fn heir(client: &Client, deploy: &DeployView) -> Result<Option<DeployView>, ClientError> {
    let DeployState::Superseded { by, .. } = &deploy.state else {
        return Ok(None);
    };
    let heir = client.deploy(*by).await?;
    let releases = deploy.release.as_ref().zip(heir.release.as_ref());
    let is_same = releases.is_some_and(|(own, its)| own.same_content(its));
    Ok(is_same.then_some(heir))
}

/// What is going on, in one line.
fn doing(deploy: &DeployView) -> String {
    if deploy.agents_connected == 0 {
        return "waiting for an agent to connect".to_owned();
    }
    if let Some(activity) = deploy
        .activity
        .as_ref()
        .filter(|activity| !activity.is_empty())
    {
        return activity.clone();
    }
    let agents = things(u64::from(deploy.agents_connected), "agent");
    match (&deploy.state, deploy.on_disk_at) {
        (_, Some(_)) => "Airflow parses what the change affects".to_owned(),
        (DeployState::RollingOut { .. }, None) => format!("{agents} fetching and verifying"),
        _ => format!("waiting for {agents} to begin"),
    }
}

fn on_disk_after(deploy: &DeployView) -> Option<Duration> {
    (deploy.on_disk_at? - deploy.accepted_at?).to_std().ok()
}

fn on_disk_text(deploy: &DeployView) -> String {
    match deploy.agents_connected {
        0 | 1 => "on disk, switched".to_owned(),
        many => format!("on disk of {many} agents, switched"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_goes_away_late_is_waited_for_as_long_as_one_that_never_came() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let alone = |seconds| Some(Duration::from_secs(seconds));
        let mut looked = Alone::default();
        assert_eq!(looked.look(0, at(0)), alone(0));
        assert_eq!(looked.look(0, at(3)), alone(3));
        assert_eq!(looked.look(1, at(4)), None);
        assert_eq!(looked.look(0, at(150)), alone(0));
        assert_eq!(looked.look(0, at(155)), alone(5));
    }
}
