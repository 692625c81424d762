//! The ids that DAGs of a Deployment's other bundles have, asked for while files
//! are read.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use updraft_api::Client;
use updraft_api::client::Connect;
use updraft_model::{BundleName, DeploymentName};

use crate::config::Settings;
use crate::context::{Context, signed_in};
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Each id with its bundle.
pub(crate) type Ids = BTreeMap<String, String>;

/// How long a check that needs no network waits for one.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whom to ask, and as whom.
#[derive(Clone)]
pub(crate) struct Asker {
    connect: Connect,
    settings: Settings,
    deployment: DeploymentName,
    /// Whether somebody named it, and wants to know when it cannot be asked.
    is_named: bool,
}

/// What was asked.
pub(crate) struct Asked {
    answer: Mutex<Receiver<Result<Ids>>>,
    since: Instant,
    is_named: bool,
}

impl Asker {
    /// Finds the Deployment that is meant; none: nobody is asked.
    pub(crate) fn new(cx: &Context, argument: Option<&DeploymentName>) -> Result<Option<Self>> {
        let is_named = argument.is_some();
        let found = cx.deployment(argument).and_then(|deployment| {
            Ok(Self {
                connect: cx.connect(None)?,
                settings: cx.settings()?.clone(),
                deployment,
                is_named,
            })
        });
        match found {
            Ok(found) => Ok(Some(found)),
            Err(failure) if is_named => Err(failure),
            Err(_) => Ok(None),
        }
    }

    /// Asks in a thread of its own, which nobody has to wait for.
    pub(crate) fn ask(&self) -> Asked {
        let (tell, answer) = channel();
        let asker = self.clone();
        std::thread::spawn(move || {
            let answer = asker.ids(&tell);
            let _ = tell.send(answer);
        });
        Asked {
            answer: Mutex::new(answer),
            since: Instant::now(),
            is_named: self.is_named,
        }
    }

    fn ids(&self, tell: &Sender<Result<Ids>>) -> Result<Ids> {
        let mut client = signed_in(&Client::new(&self.connect, None)?, &self.settings)?;
        if !self.is_named {
            // What has to be tried again takes longer than the check.
            let tell = tell.clone();
            client = client.telling(Arc::new(move |_| drop(tell.send(Ok(Ids::new())))));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| {
                Failure::new(Exit::Internal, "could not ask the control plane").cause(&error)
            })?;
        runtime.block_on(of_deployment(&client, &self.deployment))
    }
}

impl Asked {
    /// For who asks beside the check, which does not go without the answer.
    pub(crate) fn by_caller() -> (Sender<Result<Ids>>, Self) {
        let (tell, answer) = channel();
        let asked = Self {
            answer: Mutex::new(answer),
            since: Instant::now(),
            is_named: true,
        };
        (tell, asked)
    }

    /// Waits for the answer. Where nobody named the Deployment, one that cannot
    /// be asked has none: of ids that are not known nothing is said.
    pub(crate) fn wait(&self) -> Result<Ids> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_named {
            let gone = |_| {
                Err(Failure::new(
                    Exit::Internal,
                    "nobody asked the control plane",
                ))
            };
            return answer.recv().unwrap_or_else(gone);
        }
        let left = PATIENCE.saturating_sub(self.since.elapsed());
        let answer = answer.recv_timeout(left);
        Ok(answer.ok().and_then(Result::ok).unwrap_or_default())
    }
}

/// The ids of all bundles but the one that a project's DAGs become.
pub(crate) async fn of_deployment(client: &Client, deployment: &DeploymentName) -> Result<Ids> {
    let own = BundleName::dags();
    let known = client.dag_ids_besides(deployment, &own).await?;
    let bundles = known.bundles.into_iter();
    let ids = bundles.flat_map(|(bundle, ids)| {
        let ids = ids.into_iter();
        ids.map(move |id| (id.to_string(), bundle.to_string()))
    });
    Ok(ids.collect())
}
