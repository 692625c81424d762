//! Where a project's files came from, as git tells it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The state of the git work tree that a deploy was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GitState {
    /// The full commit id; absent before the first commit.
    pub commit: Option<String>,
    /// Absent on a detached head.
    pub branch: Option<String>,
    pub tag: Option<String>,
    pub author: Option<String>,
    /// The first line of the commit message.
    pub subject: Option<String>,
    /// Whether files of the project differ from the commit.
    pub dirty: bool,
    /// The remote's address, without credentials.
    pub remote: Option<String>,
}
