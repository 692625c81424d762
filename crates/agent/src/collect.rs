//! Removes what nothing holds any more.
//!
//! A version stays as long as the wanted or the proven Release names it, the
//! control plane wants it kept, an unfinished DAG run records it, or it is what
//! Airflow last parsed a DAG from. When Airflow cannot be asked about a bundle,
//! nothing of that bundle is removed.

use std::collections::BTreeSet;

use updraft_api::agent::Wanted;
use updraft_bundle::{BundleDir, VersionError};
use updraft_model::{Digest, Release};

use crate::control::explain;
use crate::deliver::WantedReceiver;
use crate::disk::{Disk, Live};
use crate::environment;
use crate::failpoint::failpoint;
use crate::fetch::{Blobs, FetchError, Writing, blocking};
use crate::files;
use crate::previews::lending;
use crate::prove;
use crate::runtime::record::Record;
use crate::socket::Asked;
use crate::worker::Worker;

pub(crate) struct Collect<'a> {
    pub(crate) disk: &'a Disk,
    /// Asks Airflow; none when somebody else runs it, whose runs record no
    /// version of ours.
    pub(crate) worker: Option<&'a Worker>,
    pub(crate) wanted: &'a Wanted,
    pub(crate) live: &'a Live,
    /// What Airflow asked for lately.
    pub(crate) asked: &'a Asked,
    /// Says so when something newer is wanted: then nothing more is removed.
    pub(crate) newer: WantedReceiver,
    /// Records of components: an environment that one runs in stays.
    pub(crate) records: Vec<Record>,
}

/// What of an agent's disk is still needed, besides what Airflow holds.
pub(crate) fn held(wanted: &Wanted, live: &Live, asked: &Asked) -> BTreeSet<Digest> {
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

/// Removes versions until it is told to stop. What this does goes on when its
/// caller is dropped in the middle, and then keeps others from writing: a
/// version that is wanted again must not be found whole and removed after that.
async fn remove(
    dir: BundleDir,
    doomed: Vec<Digest>,
    writing: &Writing,
    is_over: impl Fn() -> bool + Send + 'static,
) -> Result<(), FetchError> {
    let writing = writing.clone();
    blocking(move || {
        let _writing = writing;
        let mut first = Ok(());
        for digest in &doomed {
            if is_over() {
                break;
            }
            tracing::info!(folder = %dir.root().display(), version = %digest.short(), "removing a version that nothing holds");
            first = first.and(dir.remove_version(digest));
        }
        first
    })
    .await??;
    Ok(())
}

impl Collect<'_> {
    /// Runs between passes only, so never while something is being staged.
    pub(crate) async fn run(&self, writing: &Writing) -> Result<(), String> {
        failpoint("agent.collect.start");
        let mut held = held(self.wanted, self.live, self.asked);
        let bundles = self.disk.bundles().map_err(|error| error.to_string())?;
        let mut complete = true;
        // What cannot be removed keeps nothing else from being removed.
        let mut failed: Vec<String> = Vec::new();
        for name in bundles {
            let dir = self.disk.bundle(&name).map_err(|error| explain(&error))?;
            let versions = dir.versions().map_err(|error| explain(&error))?;
            if versions.iter().all(|version| held.contains(version)) {
                continue;
            }
            if let Some(worker) = self.worker {
                match prove::status(self.disk, worker, &name).await {
                    Ok(status) => held.extend(status.held()),
                    Err(error) => {
                        tracing::debug!(%name, %error, "Airflow cannot be asked; nothing of this bundle is removed");
                        complete = false;
                        held.extend(versions);
                        continue;
                    }
                }
            }
            let doomed: Vec<Digest> = versions
                .into_iter()
                .filter(|version| !held.contains(version))
                .collect();
            let newer = self.newer.clone();
            // An error is the agent's end.
            let is_over = move || newer.has_changed().unwrap_or(true);
            if let Err(error) = remove(dir, doomed, writing, is_over).await {
                failed.push(explain(&error));
            }
        }
        if self.newer.has_changed().unwrap_or(true) {
            return Ok(());
        }
        if complete {
            failed.extend(self.collect_environments(&held, writing).await.err());
            failed.extend(self.collect_blobs(held).err().map(|error| explain(&error)));
        }
        failed.extend(self.disk.forget_releases().err().map(|e| e.to_string()));
        failpoint("agent.collect.end");
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("; "))
        }
    }

    async fn collect_environments(
        &self,
        held: &BTreeSet<Digest>,
        writing: &Writing,
    ) -> Result<(), String> {
        let running = self.records.iter().filter_map(|record| record.environment);
        let mut environments: BTreeSet<Digest> = environment::kept(self.disk).into_iter().collect();
        let mut trees = BTreeSet::new();
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
        let mut doomed = dir.versions().map_err(|error| explain(&error))?;
        doomed.retain(|digest| !trees.contains(digest));
        let newer = self.newer.clone();
        let is_over = move || newer.has_changed().unwrap_or(true);
        remove(dir, doomed, writing, is_over)
            .await
            .map_err(|error| explain(&error))?;
        lending::give_back(self.disk, &environments).map_err(|error| error.to_string())?;
        let disk = self.disk.clone();
        let remove = move || -> std::io::Result<()> {
            let mut doomed = Vec::new();
            lending::with_lent(&disk, |lent| {
                for entry in std::fs::read_dir(disk.environments())?.flatten() {
                    let name = entry.file_name();
                    let digest = name.to_str().and_then(Digest::from_folder);
                    let is_held = |it: &Digest| environments.contains(it) || lent.contains(it);
                    if digest.is_some_and(|digest| !is_held(&digest)) {
                        tracing::info!(?name, "removing an environment that nothing holds");
                        files::remove(&entry.path().join("complete"))?;
                        doomed.push(entry.path());
                    }
                }
                std::io::Result::Ok(())
            })?;
            doomed.iter().try_for_each(|folder| files::remove(folder))
        };
        let writing = writing.clone();
        blocking(move || {
            let _writing = writing;
            remove()
        })
        .await
        .map_err(|error| explain(&error))?
        .map_err(|error| error.to_string())
    }

    /// Keeps the blobs that a kept version could be repaired from.
    fn collect_blobs(&self, mut held: BTreeSet<Digest>) -> Result<(), VersionError> {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use tokio::sync::{Mutex, watch};
    use updraft_model::{
        BundleName, BundleRef, DeployId, DeploymentId, ImageRef, ReleaseId, Runtime,
    };

    use super::*;
    use crate::fetch;
    use crate::runtime::logs::Hidden;
    use crate::runtime::supervisor::{Launcher, Spec};

    /// A version that is there as far as a clean-up looks at it.
    fn version(disk: &Disk, content: &[u8]) -> PathBuf {
        let dir = disk.bundle(&BundleName::dags()).unwrap();
        let folder = dir.version_path(&Digest::of(content));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.with_extension("json"), "").unwrap();
        folder
    }

    #[tokio::test]
    async fn as_long_as_airflow_cannot_be_asked_nothing_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let deployment = DeploymentId::new();
        let disk = Disk::open(root.path(), deployment).unwrap();
        let (old, now) = (version(&disk, b"old"), version(&disk, b"now"));
        let digest = Digest::of(b"now");
        let release = Release {
            id: ReleaseId::new(),
            image: ImageRef::Environment {
                digest: Digest::of(b"image"),
            },
            bundles: [(BundleName::dags(), BundleRef { digest })].into(),
        };
        let live = Live::next(None, None, release, DeployId::new());
        disk.switch(&live).unwrap();
        let wanted = Wanted {
            generation: 1,
            deployment,
            deployment_name: "test".parse().unwrap(),
            runtime: Runtime::Process,
            executor: "LocalExecutor".into(),
            environment: BTreeMap::new(),
            target: None,
            proven: None,
            keep: Vec::new(),
            lease_s: 30,
            previews: Vec::new(),
            view_url: String::new(),
        };
        // A worker that does not come up.
        let worker = Worker::new(Launcher {
            wrapper: vec!["/bin/false".into()],
            run: disk.run(),
            logs: disk.logs(),
        });
        worker.want(Spec {
            component: crate::worker::WORKER,
            command: vec!["/bin/false".into()],
            variables: BTreeMap::new(),
            folder: root.path().to_owned(),
            user: None,
            environment: None,
            container: None,
            asked: Digest::of(b""),
            hidden: Hidden::default(),
            grace: Duration::from_secs(1),
            leaves_tasks: false,
        });
        let (_sender, newer) = watch::channel(None);
        let lock = Arc::new(Mutex::new(()));
        for (worker, is_kept) in [(Some(&worker), true), (None, false)] {
            let collect = Collect {
                disk: &disk,
                worker,
                wanted: &wanted,
                live: &live,
                asked: &Asked::default(),
                newer: newer.clone(),
                records: Vec::new(),
            };
            collect.run(&fetch::may_write(&lock).await).await.unwrap();
            assert_eq!((old.exists(), now.exists()), (is_kept, true));
        }
    }

    #[tokio::test]
    async fn a_clean_up_that_was_cut_off_keeps_the_lock_until_it_has_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let dir = BundleDir::open(folder.path()).unwrap();
        let versions = [b"a", b"b"].map(|content| Digest::of(content));
        for version in &versions {
            fs::create_dir(dir.version_path(version)).unwrap();
        }
        let lock = Arc::new(Mutex::new(()));
        let writing = fetch::may_write(&lock).await;
        let (looked, looks) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let is_over = move || {
            looked.send(()).unwrap();
            answers.recv().unwrap()
        };
        let doomed = (dir.clone(), versions.to_vec());
        let work = tokio::spawn(async move { remove(doomed.0, doomed.1, &writing, is_over).await });
        let looks = tokio::task::spawn_blocking(move || {
            looks.recv().unwrap();
            looks
        })
        .await
        .unwrap();
        // In the middle of it, something newer is wanted.
        work.abort();
        assert!(work.await.unwrap_err().is_cancelled());
        assert!(lock.try_lock().is_err());
        answer.send(false).unwrap();
        answer.send(true).unwrap();
        let _next = lock.lock().await;
        assert!(!dir.version_path(&versions[0]).exists());
        assert!(dir.version_path(&versions[1]).exists());
        drop(looks);
    }
}
