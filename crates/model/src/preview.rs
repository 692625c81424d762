//! Previews: Deployments that live as long as a pull request.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::nearest;

/// What a Preview has of the connections and variables of the Deployment that it is made from.
/// Pools have no secrets and always come along, unless nothing does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PreviewValues {
    /// All of them, with their secrets.
    Copy,
    /// All names; of connections also where they lead, without login, password and extra. Values are `***`.
    #[default]
    Mask,
    /// None, and no pools.
    None,
}

/// The text names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is none of copy, mask and none{}", .nearest.map(|it| format!("; did you mean `{it}`?")).unwrap_or_default())]
pub struct InvalidPreviewValues {
    text: String,
    nearest: Option<&'static str>,
}

impl PreviewValues {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Mask => "mask",
            Self::None => "none",
        }
    }
}

impl fmt::Display for PreviewValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PreviewValues {
    type Err = InvalidPreviewValues;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Copy, Self::Mask, Self::None];
        let found = all.into_iter().find(|it| it.name() == text);
        found.ok_or_else(|| InvalidPreviewValues {
            text: text.to_owned(),
            nearest: nearest(text, all.into_iter().map(Self::name)),
        })
    }
}
