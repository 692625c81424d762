//! A pipeline's job signs in with its identity, where it has no token.

use std::sync::Arc;

use tokio::runtime::Handle;
use updraft_api::trust::{ExchangeToken, ExchangedToken, ID_TOKEN, TOKEN_EXCHANGE};
use updraft_api::{Client, ClientError};
use updraft_ci::{IdentityError, IdentityRequest};
use updraft_model::{CiProvider, DeploymentName};

use crate::context::address;
use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Whose identity is exchanged, and for what.
#[derive(Clone)]
pub(crate) struct Keyless {
    pub(crate) client: Client,
    pub(crate) provider: CiProvider,
    pub(crate) deployment: Option<DeploymentName>,
}

/// Why there is no token after all.
enum Lacking {
    Identity(IdentityError),
    Exchange(ClientError),
}

impl Keyless {
    /// A client with a token for the job's identity, which it renews on the way.
    /// None: nothing gives this job an identity, nor is expected to.
    pub(crate) async fn sign_in(self) -> Result<Option<Client>> {
        let exchanged = match self.exchange().await {
            Ok(exchanged) => exchanged,
            Err(Lacking::Identity(IdentityError::NotGiven(provider))) if !gives(provider) => {
                return Ok(None);
            }
            Err(lacking) => return Err(self.failure(lacking)),
        };
        let client = self.client.with_token(exchanged.access_token);
        let again = Arc::new(self);
        Ok(Some(client.renewed_by(Arc::new(move || {
            let again = Arc::clone(&again);
            // On a thread of its own, as requests cannot be sent to another half way.
            let asked = tokio::task::spawn_blocking(move || {
                let exchanged = Handle::current().block_on(again.exchange());
                exchanged.ok().map(|new| new.access_token)
            });
            Box::pin(async move { asked.await.ok()? })
        }))))
    }

    async fn exchange(&self) -> Result<ExchangedToken, Lacking> {
        let request = IdentityRequest::of(self.provider, &self.audience(), &variable);
        let given = request.map_err(Lacking::Identity)?.send().await;
        let ask = ExchangeToken {
            grant_type: TOKEN_EXCHANGE.to_owned(),
            subject_token: given.map_err(Lacking::Identity)?,
            subject_token_type: ID_TOKEN.to_owned(),
            audience: self.deployment.as_ref().map(ToString::to_string),
        };
        self.client.exchange(&ask).await.map_err(Lacking::Exchange)
    }

    /// The address that this goes to, never one that it says of itself: it could
    /// be that of another control plane, and use the identity there.
    fn audience(&self) -> String {
        let given = variable("UPDRAFT_AUDIENCE").filter(|given| !given.is_empty());
        given.unwrap_or_else(|| address(&self.client))
    }

    fn failure(&self, lacking: Lacking) -> Failure {
        match lacking {
            Lacking::Identity(error) => {
                let exit = match &error {
                    IdentityError::Unreachable { .. } => Exit::Unreachable,
                    IdentityError::NotGiven(_)
                    | IdentityError::Address { .. }
                    | IdentityError::Refused { .. }
                    | IdentityError::Program { .. }
                    | IdentityError::Answer(_) => Exit::NotSignedIn,
                };
                let mut failure = Failure::from_error(exit, &error).help(error.help());
                failure.message = format!(
                    "there is no token for {}, and {}",
                    address(&self.client),
                    failure.message
                );
                failure.code("token_missing")
            }
            Lacking::Exchange(error) => error.into(),
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether a job of this tool can have an identity, so that its lack is worth a word.
fn gives(provider: CiProvider) -> bool {
    match provider {
        CiProvider::Github
        | CiProvider::Gitlab
        | CiProvider::Circleci
        | CiProvider::Bitbucket
        | CiProvider::Azure
        | CiProvider::Buildkite => true,
        CiProvider::Jenkins | CiProvider::Codebuild | CiProvider::Drone | CiProvider::Other => {
            false
        }
    }
}
