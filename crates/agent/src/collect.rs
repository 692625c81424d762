//! Removes what nothing holds any more.
//!
//! A version stays as long as the wanted or the proven Release names it, the
//! control plane wants it kept, an unfinished DAG run records it, or it is what
//! Airflow last parsed a DAG from. When Airflow cannot be asked about a bundle,
//! nothing of that bundle is removed.

use std::collections::BTreeSet;

use updraft_api::agent::Wanted;
use updraft_model::{Digest, Release};

use crate::control::explain;
use crate::disk::{Disk, Live};
use crate::environment;
use crate::failpoint::failpoint;
use crate::fetch::{Blobs, blocking};
use crate::files;
use crate::prove;
use crate::runtime::record::Record;
use crate::socket::Asked;
use crate::worker::Worker;

pub(crate) struct Collect<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) worker: &'a Worker,
    pub(crate) wanted: &'a Wanted,
    pub(crate) live: &'a Live,
    pub(crate) asked: &'a Asked,
    /// Records of components: an environment that one runs in stays.
    pub(crate) records: Vec<Record>,
}

/// What of an agent's disk is still needed, besides what Airflow holds.
fn held(wanted: &Wanted, live: &Live, asked: &Asked) -> BTreeSet<Digest> {
    let mut held: BTreeSet<Digest> = wanted.keep.iter().copied().chain(asked.lately()).collect();
    let releases: [Option<&Release>; 3] = [
        Some(&live.release),
        wanted.target.as_ref().map(|target| &target.release),
        wanted.proven.as_ref(),
    ];
    for release in releases.into_iter().flatten() {
        held.insert(release.image.digest());
        held.extend(release.bundles.values().map(|bundle| bundle.digest));
    }
    held
}

impl Collect<'_> {
    /// Runs between passes only, so never while something is being staged.
    pub(crate) async fn run(&self) -> Result<(), String> {
        failpoint("agent.collect.start");
        let mut held = held(self.wanted, self.live, self.asked);
        let bundles = self.disk.bundles().map_err(|error| error.to_string())?;
        let mut complete = true;
        for name in bundles {
            let dir = self.disk.bundle(&name).map_err(|error| explain(&error))?;
            let versions = dir.versions().map_err(|error| explain(&error))?;
            if versions.iter().all(|version| held.contains(version)) {
                continue;
            }
            match prove::status(self.disk, self.worker, &name).await {
                Ok(status) => held.extend(status.held()),
                Err(error) => {
                    tracing::debug!(%name, %error, "Airflow cannot be asked; nothing of this bundle is removed");
                    complete = false;
                    held.extend(versions);
                    continue;
                }
            }
            let doomed: Vec<Digest> = versions
                .into_iter()
                .filter(|version| !held.contains(version))
                .collect();
            blocking(move || {
                doomed.iter().try_for_each(|digest| {
                    tracing::info!(%name, version = %digest.short(), "removing a version that nothing holds");
                    dir.remove_version(digest)
                })
            })
            .await
            .map_err(|error| explain(&error))?
            .map_err(|error| explain(&error))?;
        }
        if complete {
            self.collect_environments(&held)?;
            self.collect_blobs(held).map_err(|error| explain(&error))?;
        }
        self.disk
            .forget_releases()
            .map_err(|error| error.to_string())?;
        failpoint("agent.collect.end");
        Ok(())
    }

    fn collect_environments(&self, held: &BTreeSet<Digest>) -> Result<(), String> {
        let running = self.records.iter().filter_map(|record| record.environment);
        let (mut environments, mut trees) = (BTreeSet::new(), BTreeSet::new());
        for image in held.iter().copied().chain(running) {
            // Most digests are bundles', which have no such parts.
            if let Some((environment, files)) = environment::parts(self.disk, image) {
                environments.insert(environment);
                trees.insert(files);
            } else if image == self.live.release.image.digest() {
                // Without its description nothing can be told apart.
                return Ok(());
            }
        }
        let dir = environment::project_dir(self.disk).map_err(|error| explain(&error))?;
        for digest in dir.versions().map_err(|error| explain(&error))? {
            if !trees.contains(&digest) {
                dir.remove_version(&digest)
                    .map_err(|error| explain(&error))?;
            }
        }
        let folder = self.disk.environments();
        let remove = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&folder)?.flatten() {
                let name = entry.file_name();
                let digest = name.to_str().and_then(Digest::from_folder);
                if digest.is_some_and(|digest| !environments.contains(&digest)) {
                    tracing::info!(?name, "removing an environment that nothing holds");
                    files::remove(&entry.path().join("complete"))?;
                    files::remove(&entry.path())?;
                }
            }
            Ok(())
        };
        remove().map_err(|error| error.to_string())
    }

    /// Keeps the blobs that a kept version could be repaired from.
    fn collect_blobs(
        &self,
        mut held: BTreeSet<Digest>,
    ) -> Result<(), updraft_bundle::VersionError> {
        let blobs = Blobs::new(self.disk);
        let manifests: Vec<Digest> = held.iter().copied().collect();
        for digest in manifests {
            // Any OCI manifest will do: a bundle's or an environment's.
            let manifest = blobs
                .read(&digest)
                .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
            let Some(manifest) = manifest else { continue };
            let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
            let named = layers.iter().chain([&manifest["config"]]);
            held.extend(named.filter_map(|blob| blob["digest"].as_str()?.parse::<Digest>().ok()));
        }
        if let Err(error) = blobs.keep_only(&held) {
            tracing::warn!(%error, "could not remove blobs");
        }
        Ok(())
    }
}
