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

/// Settings that lead to the Deployment's own database, queue, keys and logs, or count a
/// Preview's work as the Deployment's.
const SHARED: &[&str] = &[
    "AIRFLOW__API_AUTH__",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__CELERY",
    "AIRFLOW__CORE__EXECUTOR",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__CORE__SQL_ALCHEMY_",
    "AIRFLOW__DATABASE__",
    "AIRFLOW__KUBERNETES",
    "AIRFLOW__LOGGING__REMOTE_",
    "AIRFLOW__METRICS__",
    "AIRFLOW__OPENLINEAGE__",
    "AIRFLOW__TRACES__",
    "AIRFLOW__WEBSERVER__SECRET_KEY",
];

/// What reads connections and variables from elsewhere, whatever was masked here.
const VAULTS: &[&str] = &["AIRFLOW__SECRETS__", "AIRFLOW__WORKERS__SECRETS_BACKEND"];

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

    /// Whether a Preview does without an environment variable, whoever sets it.
    pub fn leaves_out(self, variable: &str) -> bool {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|it| variable.starts_with(it));
        begins(SHARED) || (self != Self::Copy && begins(VAULTS))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_leads_to_the_deployments_own_airflow() {
        let all = [
            PreviewValues::Copy,
            PreviewValues::Mask,
            PreviewValues::None,
        ];
        for name in [
            "AIRFLOW__API_AUTH__JWT_SECRET",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD",
            "AIRFLOW__CORE__SQL_ALCHEMY_CONN_SECRET",
            "AIRFLOW__CELERY__BROKER_URL",
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT",
            "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER",
        ] {
            assert!(all.iter().all(|it| it.leaves_out(name)), "{name}");
        }
        for name in ["AIRFLOW__CORE__PARALLELISM", "AIRFLOW_VAR_REGION", "PATH"] {
            assert!(!all.iter().any(|it| it.leaves_out(name)), "{name}");
        }
        let backend = all.map(|it| it.leaves_out("AIRFLOW__SECRETS__BACKEND"));
        assert_eq!(backend, [false, true, true]);
    }
}
