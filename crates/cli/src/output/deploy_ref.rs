//! Deploys as people name them: the id, or enough of its beginning.

use std::str::FromStr;

use updraft_api::Client;
use updraft_model::{DeployId, DeploymentName, InvalidId};

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// The prefix and the time in it: 12 digits are milliseconds, four more make
/// two deploys of one millisecond differ.
const SHORT: usize = DeployId::PREFIX.len() + 16;
const LEAST: usize = 4;

/// An id shortened for tables; commands take it back.
pub(crate) fn short(id: DeployId) -> String {
    let mut text = id.to_string();
    text.truncate(SHORT);
    text
}

/// A deploy as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeployRef {
    Id(DeployId),
    /// The beginning of one.
    Beginning(String),
}

impl FromStr for DeployRef {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.parse().map(Self::Id);
        let is_beginning = text.strip_prefix(DeployId::PREFIX).is_some_and(|digits| {
            let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            (LEAST..32).contains(&digits.len()) && digits.bytes().all(hex)
        });
        if id.is_err() && is_beginning {
            Ok(Self::Beginning(text.to_owned()))
        } else {
            id
        }
    }
}

impl DeployRef {
    /// Finds the id, in the Deployment's newest 200 deploys if it is shortened.
    pub(crate) async fn resolve(
        &self,
        client: &Client,
        deployment: impl AsyncFnOnce() -> Result<DeploymentName>,
    ) -> Result<DeployId> {
        let beginning = match self {
            Self::Id(id) => return Ok(*id),
            Self::Beginning(beginning) => beginning,
        };
        let deployment = deployment().await?;
        let history = client.history(&deployment, 200, None).await?;
        let mut found = history
            .deploys
            .iter()
            .map(|deploy| deploy.id)
            .filter(|id| id.to_string().starts_with(beginning.as_str()));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => Err(Failure::new(
                Exit::NotFound,
                format!("`{deployment}` has no deploy that begins with `{beginning}`"),
            )
            .code("deploy_not_found")
            .help(format!("`updraft history {deployment}` lists them"))),
            (Some(_), Some(_)) => Err(Failure::new(
                Exit::NotFound,
                format!("several deploys of `{deployment}` begin with `{beginning}`"),
            )
            .code("deploy_ambiguous")
            .help("give more of the id")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_back_what_it_shortens() {
        let id = DeployId::new();
        assert_eq!(id.to_string().parse(), Ok(DeployRef::Id(id)));
        let shortened = short(id);
        assert_eq!(
            shortened.parse(),
            Ok(DeployRef::Beginning(shortened.clone()))
        );
        for wrong in [
            "dpl_",
            "dpl_0",
            "dep_0123456789",
            "dpl_xyzw1234",
            "",
            "live",
        ] {
            assert!(wrong.parse::<DeployRef>().is_err(), "{wrong}");
        }
    }
}
