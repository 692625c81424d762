//! Runtime `external`: somebody else runs Airflow. The agent delivers files to a
//! folder and, where it may, asks Airflow by its REST API.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use updraft_api::agent::{AirflowView, Target, Wanted};
use updraft_model::{BundleName, Proof, ProofOutcome, ReleaseId};

use crate::airflow::rest::AirflowRest;
use crate::config::{AgentConfig, ExternalConfig};
use crate::deliver::{Deliver, PassError, Passes};
use crate::disk::{Disk, Live};
use crate::prove;
use crate::rest_proof::RestProof;
use crate::runtime::user::Isolation;
use crate::socket::Asked;

pub(crate) struct External {
    config: Arc<AgentConfig>,
    deliver: Deliver,
    collected_at: Option<Instant>,
    collected_for: Option<ReleaseId>,
}

/// How often what nothing holds is looked for without a reason.
const COLLECT: Duration = Duration::from_secs(30);

impl Passes for External {
    fn deliver(&mut self) -> &mut Deliver {
        &mut self.deliver
    }

    async fn pass(&mut self, wanted: &Arc<Wanted>) -> Result<(), PassError> {
        self.converge(wanted).await
    }

    /// Keeps the versions that the control plane names. Runs of an Airflow that
    /// reads through a link hold none.
    async fn clean_up(&mut self, live: &Live, wanted: &Arc<Wanted>) {
        self.collected_at = Some(Instant::now());
        self.collected_for = Some(live.release.id);
        self.deliver
            .collect(None, wanted, live, &Asked::default(), Vec::new())
            .await;
    }
}

impl External {
    pub(crate) fn new(config: Arc<AgentConfig>, deliver: Deliver) -> Self {
        Self {
            config,
            deliver,
            collected_at: None,
            collected_for: None,
        }
    }

    /// Runs one pass.
    async fn converge(&mut self, wanted: &Arc<Wanted>) -> Result<(), PassError> {
        let Some(external) = self.config.external.clone() else {
            return Err(PassError::Stalled(
                "this Deployment's Airflow is run by somebody else; start the agent with the folder to deliver to".into(),
            ));
        };
        self.deliver.board.change(|observed| {
            observed.isolation = Isolation::external().text;
            observed.airflow = Some(AirflowView {
                url: external.airflow.as_ref().map(|airflow| airflow.url.clone()),
                ..AirflowView::default()
            });
        });
        // What is live may not be mended; what is wanted instead is the cure.
        let (mut live, whole) = match self.deliver.live().await {
            Ok(live) => (live, Ok(())),
            Err(error) => (self.deliver.disk.live()?, Err(error)),
        };
        let Some(target) = &wanted.target else {
            return whole;
        };
        if live
            .as_ref()
            .is_some_and(|live| live.release.id == target.release.id)
        {
            whole?;
        } else if let Err(error) = whole {
            tracing::warn!(?error, "what is live is not as it should be");
        }
        self.deliver.stage(live.as_ref(), target).await?;
        self.deliver.is_staged(target);
        if live
            .as_ref()
            .is_none_or(|live| live.release.id != target.release.id)
        {
            if !target.may_switch {
                return Ok(());
            }
            let next = Live {
                is_first: live.is_none() && !offers_anything(&external, target),
                ..self.deliver.next(live.as_ref(), target)
            };
            self.deliver.switch(&next).await?;
            live = Some(next);
        }
        let Some(live) = live else { return Ok(()) };
        offer(&self.deliver.disk, &external, &live)?;
        let done = if external.airflow.is_some() {
            self.deliver.is_settled(&live, target)
        } else {
            // Nobody can be asked again.
            self.deliver.is_answered(&live, target)
        };
        if !done {
            let proof = self.prove(&external, &live, wanted, target);
            let settled = self.deliver.settle(&live, target, proof).await;
            if let Err(PassError::Retry(_)) = settled {
                self.tidy_up(&live, wanted).await;
            }
            settled?;
        }
        self.tidy_up(&live, wanted).await;
        Ok(())
    }

    async fn tidy_up(&mut self, live: &Live, wanted: &Arc<Wanted>) {
        self.deliver.prepare_spares(live).await;
        let is_new = self.collected_for != Some(live.release.id);
        if is_new || self.collected_at.is_none_or(|at| at.elapsed() > COLLECT) {
            self.clean_up(live, wanted).await;
        }
    }

    async fn prove(
        &self,
        external: &ExternalConfig,
        live: &Live,
        wanted: &Wanted,
        target: &Target,
    ) -> Result<Proof, PassError> {
        let Some(airflow) = &external.airflow else {
            return Ok(delivered_only(external));
        };
        let password = std::fs::read_to_string(&airflow.password_file)?;
        let rest = AirflowRest::new(&airflow.url, &airflow.user, password.trim())
            .map_err(PassError::retry)?;
        let rest = rest.of_its_version().await.map_err(PassError::retry)?;
        let mut proofs = Vec::new();
        let timeout = Duration::from_secs(u64::from(target.proof_timeout_s.max(30)));
        let end = Instant::now() + timeout;
        for (name, bundle) in &live.release.bundles {
            let ask = RestProof {
                disk: &self.deliver.disk,
                rest: &rest,
                live,
                proven: wanted.proven.as_ref(),
                bundle: name,
                other_folders: (live.release.bundles.keys())
                    .filter(|other| *other != name)
                    .filter_map(|other| offered(&external.folder, other).file_name().map(lossy))
                    .collect(),
                version: bundle.digest,
                timeout: end.saturating_duration_since(Instant::now()),
            };
            proofs.push((name.clone(), ask.run().await?));
        }
        Ok(prove::merge(proofs))
    }
}

/// What is true when there is no Airflow to ask: the files are there, and no
/// evidence will come. Not `live`, which means proven, and not a failure, which
/// could be taken back.
fn delivered_only(external: &ExternalConfig) -> Proof {
    Proof {
        outcome: ProofOutcome::TimedOut,
        reason: "the files are delivered, and the agent has no Airflow to ask".into(),
        seen: format!("delivered to `{}`", external.folder.display()),
        not_seen: "whether Airflow takes them in: start the agent with `--external-airflow` to have that proven".into(),
        ..prove::merge(Vec::new())
    }
}

/// Makes the folder of each bundle lead to the live version. These links never
/// change: what is behind them does, in one rename for all.
fn offer(disk: &Disk, external: &ExternalConfig, live: &Live) -> Result<(), PassError> {
    for bundle in live.release.bundles.keys() {
        let folder = offered(&external.folder, bundle);
        let target = disk.airflow_link(bundle.as_str());
        match std::fs::read_link(&folder) {
            Ok(there) if there == target => {}
            Ok(_) => replace(&folder, &target)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => replace(&folder, &target)?,
            Err(_) => {
                return Err(PassError::Stalled(format!(
                    "`{}` is there and is not a link; move it away, so that the agent can put a link to the live version in its place",
                    folder.display()
                )));
            }
        }
    }
    Ok(())
}

fn lossy(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}

/// Whether something is where Airflow is to read what is wanted.
fn offers_anything(external: &ExternalConfig, target: &Target) -> bool {
    let mut bundles = target.release.bundles.keys();
    bundles.any(|bundle| offered(&external.folder, bundle).symlink_metadata().is_ok())
}

fn offered(folder: &Path, bundle: &BundleName) -> PathBuf {
    if *bundle == BundleName::dags() {
        folder.to_owned()
    } else {
        folder.with_file_name(bundle.as_str())
    }
}

fn replace(link: &Path, target: &Path) -> io::Result<()> {
    if let Some(parent) = link.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let temporary = link.with_file_name(format!(".updraft-{}", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    symlink(target, &temporary)?;
    std::fs::rename(&temporary, link)
}
