//! A Deployment's environment variables, which rest encrypted.

use std::collections::BTreeMap;

use updraft_model::DeploymentId;
use updraft_store::Deployment;

use super::DeploymentError;
use crate::auth::Keys;

const MOST_VARIABLES: usize = 500;
const MOST_BYTES: usize = 128 << 10;

/// Decrypts the variables, on their way to an agent.
pub(crate) fn open(
    keys: &Keys,
    deployment: &Deployment,
) -> Result<BTreeMap<String, String>, DeploymentError> {
    let Some(sealed) = &deployment.environment else {
        return Ok(BTreeMap::new());
    };
    keys.open_sealed(&place(deployment.id), sealed)
        .and_then(|plain| serde_json::from_slice(&plain).ok())
        .ok_or_else(|| DeploymentError::Sealed {
            deployment: deployment.name.to_string(),
            names: deployment.environment_names.join(", "),
        })
}

/// Sets and removes variables. False when that changed nothing.
pub(crate) fn change(
    keys: &Keys,
    deployment: &mut Deployment,
    changes: BTreeMap<String, Option<String>>,
) -> Result<bool, DeploymentError> {
    if changes.is_empty() {
        return Ok(false);
    }
    let before = match open(keys, deployment) {
        Err(DeploymentError::Sealed { .. }) if replaces_all(deployment, &changes) => None,
        opened => Some(opened?),
    };
    let mut after = before.clone().unwrap_or_default();
    for (name, value) in changes {
        check_name(&name)?;
        match value {
            Some(value) if value.contains('\0') => {
                return Err(DeploymentError::Invalid(format!(
                    "the value of the environment variable `{name}` has a zero byte"
                )));
            }
            Some(value) => {
                after.insert(name, value);
            }
            None => {
                after.remove(&name);
            }
        }
    }
    if before.as_ref() == Some(&after) {
        return Ok(false);
    }
    let bytes: usize = after
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if after.len() > MOST_VARIABLES || bytes > MOST_BYTES {
        return Err(DeploymentError::Invalid(format!(
            "a Deployment has at most {MOST_VARIABLES} environment variables of {MOST_BYTES} bytes together"
        )));
    }
    deployment.environment_names = after.keys().cloned().collect();
    let plain = serde_json::to_vec(&after).expect("text always serialises");
    deployment.environment = Some(keys.seal(&place(deployment.id), &plain)?);
    Ok(true)
}

/// Whether nothing of the old values is left, so that nobody need open them.
fn replaces_all(deployment: &Deployment, changes: &BTreeMap<String, Option<String>>) -> bool {
    let mut names = deployment.environment_names.iter();
    names.all(|name| changes.contains_key(name))
}

fn place(deployment: DeploymentId) -> String {
    format!("environment of {deployment}")
}

fn check_name(name: &str) -> Result<(), DeploymentError> {
    let valid = !name.is_empty()
        && name.len() <= 256
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !valid {
        let shown: String = name.chars().take(80).collect();
        return Err(DeploymentError::Invalid(format!(
            "`{shown}` is no name for an environment variable: use letters, digits and `_`"
        )));
    }
    if name.starts_with("UPDRAFT_") {
        return Err(DeploymentError::Invalid(format!(
            "`{name}` cannot be set: names that start with `UPDRAFT_` belong to Updraft"
        )));
    }
    Ok(())
}
