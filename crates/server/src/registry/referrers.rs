use serde_json::{Value, json};
use updraft_model::{OciDigest, RepositoryName};

use super::manifest::INDEX;
use super::{Action, RegistryError, Visitor};
use crate::app::App;

/// Lists the manifests that say they belong to a digest, as an index; nobody has
/// to have pushed that digest.
pub(super) async fn list(
    app: &App,
    visitor: &Visitor,
    repository: &RepositoryName,
    subject: &OciDigest,
    artifact_type: Option<&str>,
) -> Result<Value, RegistryError> {
    let mut read = app.store.read().await?;
    visitor
        .deployment(&mut read, repository, Action::Pull)
        .await?;
    let referrers = read.registry_referrers(repository, subject).await?;
    let descriptors: Vec<Value> = referrers
        .into_iter()
        .map(|pushed| pushed.manifest)
        .filter(|manifest| {
            artifact_type.is_none_or(|wanted| manifest.artifact_type.as_deref() == Some(wanted))
        })
        .map(|manifest| {
            let mut descriptor = json!({
                "mediaType": manifest.media_type,
                "digest": manifest.digest.to_string(),
                "size": manifest.size,
            });
            if let Some(artifact_type) = manifest.artifact_type {
                descriptor["artifactType"] = artifact_type.into();
            }
            if !manifest.annotations.is_empty() {
                descriptor["annotations"] = json!(manifest.annotations);
            }
            descriptor
        })
        .collect();
    Ok(json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors }))
}
