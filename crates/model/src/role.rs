//! Who may do what, and where.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DeploymentId, WorkspaceId};

/// What a token may do. Each of the first four includes the ones before it;
/// `agent` stands apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Viewer,
    /// Opens, deploys to and closes Previews, and brings nothing to any other Deployment.
    Previewer,
    Deployer,
    Admin,
    /// Reads what one Deployment should run and reports what it does.
    Agent,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Previewer => "previewer",
            Self::Deployer => "deployer",
            Self::Admin => "admin",
            Self::Agent => "agent",
        }
    }

    /// Whether this role may do what `needed` may.
    pub const fn includes(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Agent, Self::Agent)
            | (Self::Viewer, Self::Viewer)
            | (Self::Previewer, Self::Viewer | Self::Previewer)
            | (Self::Deployer, Self::Viewer | Self::Previewer | Self::Deployer)
            | (Self::Admin, Self::Viewer | Self::Previewer | Self::Deployer | Self::Admin) => true,
            (Self::Viewer, Self::Previewer | Self::Deployer | Self::Admin | Self::Agent)
            | (Self::Previewer, Self::Deployer | Self::Admin | Self::Agent)
            | (Self::Deployer, Self::Admin | Self::Agent)
            | (Self::Admin, Self::Agent)
            | (Self::Agent, Self::Viewer | Self::Previewer | Self::Deployer | Self::Admin) => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "previewer" => Ok(Self::Previewer),
            "deployer" => Ok(Self::Deployer),
            "admin" => Ok(Self::Admin),
            "agent" => Ok(Self::Agent),
            other => Err(format!(
                "`{other}` is not a role: use viewer, previewer, deployer, admin or agent"
            )),
        }
    }
}

/// Where a role holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scope {
    /// Everything in this installation.
    Organization,
    Workspace {
        workspace: WorkspaceId,
    },
    Deployment {
        deployment: DeploymentId,
    },
}

impl Scope {
    /// Whether this scope covers a Deployment of a Workspace.
    pub fn covers(self, in_workspace: WorkspaceId, id: DeploymentId) -> bool {
        match self {
            Self::Organization => true,
            Self::Workspace { workspace } => workspace == in_workspace,
            Self::Deployment { deployment } => deployment == id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_no_viewer_and_an_admin_no_agent() {
        assert!(Role::Admin.includes(Role::Viewer));
        assert!(!Role::Deployer.includes(Role::Admin));
        assert!(Role::Deployer.includes(Role::Previewer));
        assert!(!Role::Previewer.includes(Role::Deployer));
        assert!(!Role::Agent.includes(Role::Viewer));
        assert!(!Role::Admin.includes(Role::Agent));
    }
}
