//! A deploy that brings nothing of its own, a rollback or a promotion: accepted with one
//! request, and followed from there.

use std::time::{Duration, Instant};

use updraft_api::Client;
use updraft_api::deploy::DeployView;

use super::create::PatienceArgs;
use super::follow::{Ending, follow};
use super::report::{Outcome, milliseconds};
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Result;
use crate::interrupt::Interrupt;

pub(super) struct Accepted<'a> {
    pub(super) client: &'a Client,
    pub(super) deploy: DeployView,
    /// When the command began, and how long after that it was accepted.
    pub(super) started: Instant,
    pub(super) after: Duration,
}

impl Accepted<'_> {
    /// Follows it to its end, unless nobody wants to wait.
    pub(super) async fn see_through(
        self,
        patience: &PatienceArgs,
        interrupt: &Interrupt,
        out: &mut Console,
    ) -> Result<(Outcome, Option<Ending>)> {
        let (mut outcome, ending) = if patience.no_wait {
            let name = self.deploy.deployment_name.clone();
            let mut outcome = Outcome::new("accepted", Exit::Success, name);
            outcome.deploy = Some(self.deploy);
            (outcome, None)
        } else {
            let followed = follow(self.client, self.deploy, patience.read(), interrupt, out);
            let (deploy, ending) = followed.await?;
            (Outcome::of(deploy, &ending), Some(ending))
        };
        outcome.timings_ms.accepted = Some(milliseconds(self.after));
        if let Some(deploy) = outcome.deploy.as_ref().filter(|_| ending.is_some()) {
            outcome.timings_ms.add_deploy(deploy);
        }
        outcome.timings_ms.total = milliseconds(self.started.elapsed());
        Ok((outcome, ending))
    }
}
