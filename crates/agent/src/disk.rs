//! Where everything lies on the agent's disk, and the one switch.
//!
//! ```text
//! <root>/agent.lock, agent.json                 one agent for each root; who it is
//! <root>/previews/<preview>/                    the root of a Preview's own agent, see `previews`
//! <root>/<deployment>/
//!   live -> releases/rel_…                      the switch: one rename for all bundles
//!   releases/rel_…/release.json                 the whole Release, and those before it
//!   releases/rel_…/<bundle>/current -> …        what Airflow reads: live/<bundle>/current
//!   bundles/<bundle>/versions/sha256-…/         immutable trees, shared by hard links
//!   bundles/<bundle>/current -> versions/…      follows `live`; where the next version starts from
//!   environments/<digest>/                      virtual environments
//!   blobs/                                      fetched layers and manifests (a cache)
//!   airflow/                                    AIRFLOW_HOME; belongs to Airflow's user
//!   exchange/                                   the agent's; in it two folders of Airflow's user
//!   run/                                        records and locks of components, the agent's socket
//!   logs/                                       the components' own output
//!   wanted.json, secrets.json, proof.json       the agent's alone
//! ```
//!
//! A Release can have several bundles, and a kill may come between any two
//! renames. So there is only one: `live` names a folder that holds the record of
//! the Release and a link for each of its bundles. Whoever reads through `live`
//! sees one Release, whole, and so does the next agent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use updraft_bundle::BundleDir;
use updraft_model::{
    AgentId, BundleName, DeployId, DeploymentId, Proof, ProofOutcome, Release, Timestamp,
};

use crate::failpoint::failpoint;
use crate::files;
use crate::runtime::identity::BootTime;

/// How many earlier Releases are remembered: a proof that follows more of them
/// than this looks at everything.
const REMEMBERED: usize = 50;

/// The lock on an agent's root; held as long as this lives, however it ends.
#[derive(Debug)]
pub(crate) struct RootLock {
    _file: File,
    pub(crate) agent: AgentId,
}

#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("another agent is running in `{}`", .0.display())]
    Locked(PathBuf),
    #[error("could not use the folder `{}`", folder.display())]
    Io { folder: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
struct Identity {
    agent: AgentId,
    /// The Deployment it works for.
    #[serde(default)]
    deployment: Option<DeploymentId>,
}

impl RootLock {
    pub(crate) fn take(root: &Path) -> Result<Self, RootError> {
        let failed = |source| RootError::Io {
            folder: root.to_owned(),
            source,
        };
        // Passable, because Airflow's user goes through it; not listable.
        files::make_folder(root, 0o711).map_err(failed)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("agent.lock"))
            .map_err(failed)?;
        // Whoever can open it can hold it; also one that an earlier agent made.
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(RootError::Locked(root.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let path = root.join(IDENTITY);
        let known = files::read_json::<Identity>(&path).map_err(failed)?;
        let agent = if let Some(known) = known {
            known.agent
        } else {
            let agent = AgentId::new();
            files::write_json(
                &path,
                &Identity {
                    agent,
                    deployment: None,
                },
                0o600,
            )
            .map_err(failed)?;
            agent
        };
        Ok(Self { _file: file, agent })
    }

    pub(crate) fn deployment(&self, root: &Path) -> io::Result<Option<DeploymentId>> {
        let known = files::read_json::<Identity>(&root.join(IDENTITY))?;
        Ok(known
            .filter(|known| known.agent == self.agent)
            .and_then(|known| known.deployment))
    }
}

/// Which Deployment the agent of a root worked for last.
pub(crate) fn deployment_of(root: &Path) -> io::Result<Option<DeploymentId>> {
    let known = files::read_json::<Identity>(&root.join(IDENTITY))?;
    Ok(known.and_then(|known| known.deployment))
}

/// Remembers which Deployment the agent works for. That never changes: another
/// Deployment's Airflow would be a second one beside what runs.
pub(crate) fn remember_deployment(root: &Path, deployment: DeploymentId) -> io::Result<()> {
    let path = root.join(IDENTITY);
    match files::read_json::<Identity>(&path)? {
        Some(known) if known.deployment.is_none() => {
            let known = Identity {
                deployment: Some(deployment),
                ..known
            };
            files::write_json(&path, &known, 0o600)
        }
        _ => Ok(()),
    }
}

const IDENTITY: &str = "agent.json";

/// The folder of one Deployment.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    root: PathBuf,
}

/// The Release that the live tree is, and how it came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) release: Release,
    pub(crate) deploy: DeployId,
    pub(crate) switched_at: Timestamp,
    /// The same on the clock that processes start by.
    #[serde(default)]
    pub(crate) switched_at_boot_time: Option<BootTime>,
    /// The Releases that were live before, the latest last.
    pub(crate) before: Vec<Release>,
    /// The last Release before this one that Airflow has given a verdict on.
    #[serde(default)]
    pub(crate) judged: Option<Judged>,
    /// Whether nothing was at the place that Airflow reads, until this Release.
    #[serde(default)]
    pub(crate) is_first: bool,
}

/// A Release that was proven or failed. Who deploys after it answers for what
/// differs from it, and not for what was broken in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Judged {
    pub(crate) release: Release,
    /// Files that had an import error, as the proof of the whole Release names them.
    pub(crate) import_errors: BTreeSet<String>,
}

impl Judged {
    /// The files of one bundle that had an import error.
    pub(crate) fn errors_of(&self, bundle: &BundleName) -> BTreeSet<&str> {
        let prefix = (self.release.bundles.len() > 1).then(|| format!("{bundle}/"));
        let own = |path| match &prefix {
            Some(prefix) => str::strip_prefix(path, prefix.as_str()),
            None => Some(path),
        };
        let errors = self.import_errors.iter();
        errors.filter_map(|path| own(path.as_str())).collect()
    }
}

impl Live {
    /// What follows this Release on the same disk; `proof` is what came of it.
    pub(crate) fn next(
        live: Option<&Self>,
        proof: Option<&Proof>,
        release: Release,
        deploy: DeployId,
    ) -> Self {
        let verdict = proof.filter(|proof| proof.outcome != ProofOutcome::TimedOut);
        let judged = live.and_then(|live| match verdict {
            Some(proof) => Some(Judged {
                release: live.release.clone(),
                import_errors: (proof.import_errors.iter())
                    .map(|error| error.file.clone())
                    .collect(),
            }),
            None => live.judged.clone(),
        });
        let mut before = live.map(|live| live.before.clone()).unwrap_or_default();
        before.extend(live.map(|live| live.release.clone()));
        let forgotten = before.len().saturating_sub(REMEMBERED);
        before.drain(..forgotten);
        Self {
            release,
            deploy,
            switched_at: chrono::Utc::now(),
            switched_at_boot_time: BootTime::now(),
            before,
            judged,
            is_first: false,
        }
    }
}

impl Disk {
    /// A folder as it is; nothing is made.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn open(root: &Path, deployment: DeploymentId) -> io::Result<Self> {
        let disk = Self {
            root: root.join(deployment.to_string()),
        };
        for (folder, mode) in [
            (disk.root.clone(), 0o711),
            (disk.root.join("bundles"), 0o755),
            (disk.root.join("releases"), 0o755),
            (disk.environments(), 0o755),
            (disk.blobs(), 0o700),
            (disk.root.join("exchange"), 0o711),
            (disk.run(), 0o711),
            (disk.logs(), 0o700),
        ] {
            files::make_folder(&folder, mode)?;
        }
        Ok(disk)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn environments(&self) -> PathBuf {
        self.root.join("environments")
    }
    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }
    pub(crate) fn run(&self) -> PathBuf {
        self.root.join("run")
    }
    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    pub(crate) fn airflow_home(&self) -> PathBuf {
        self.root.join("airflow")
    }
    pub(crate) fn passwords(&self) -> PathBuf {
        self.airflow_home()
            .join("simple_auth_manager_passwords.json")
    }
    /// Where the DAG processor says what it has refreshed to.
    pub(crate) fn notes(&self) -> PathBuf {
        self.root.join("exchange/notes")
    }
    /// Where the worker keeps what it knows of each version's files.
    pub(crate) fn worker_state(&self) -> PathBuf {
        self.root.join("exchange/state")
    }
    /// Where Celery workers say that they work.
    pub(crate) fn signs_of_life(&self) -> PathBuf {
        self.root.join("exchange/alive")
    }
    pub(crate) fn wanted(&self) -> PathBuf {
        self.root.join("wanted.json")
    }
    pub(crate) fn secrets(&self) -> PathBuf {
        self.root.join("secrets.json")
    }
    pub(crate) fn proof(&self) -> PathBuf {
        self.root.join("proof.json")
    }

    /// The socket for Airflow's bundle class. Addresses of sockets are short,
    /// so under a long root it lies in the system's folder for such things.
    pub(crate) fn socket(&self) -> PathBuf {
        let inside = self.run().join("agent.sock");
        if inside.as_os_str().len() < 100 {
            return inside;
        }
        let name = updraft_model::Digest::of(self.root.as_os_str().as_encoded_bytes()).short();
        // Not the shell's folder: Airflow outlives the agent that told it where.
        Path::new("/tmp")
            .join(format!("updraft-{name}"))
            .join("agent.sock")
    }

    pub(crate) fn bundle_folder(&self, bundle: &str) -> PathBuf {
        self.root.join("bundles").join(bundle)
    }

    pub(crate) fn bundle(
        &self,
        bundle: &BundleName,
    ) -> Result<BundleDir, updraft_bundle::VersionError> {
        Self::tree(&self.bundle_folder(bundle.as_str()))
    }

    /// A folder of versions.
    pub(crate) fn tree(folder: &Path) -> Result<BundleDir, updraft_bundle::VersionError> {
        let dir = BundleDir::open(folder)?;
        // Whatever the mask of the process: Airflow's user reads these.
        for folder in [folder, dir.versions_dir()] {
            let _ = files::make_folder(folder, 0o755);
        }
        Ok(dir)
    }

    /// Every bundle that has versions here, also those no Release names now.
    pub(crate) fn bundles(&self) -> io::Result<Vec<BundleName>> {
        let mut names: Vec<BundleName> = fs::read_dir(self.root.join("bundles"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The folder that Airflow's bundle class gets: `versions` and `current`
    /// below it stay where they are, whatever is live.
    pub(crate) fn airflow_bundle(&self, bundle: &str) -> PathBuf {
        self.live_link().join(bundle)
    }

    pub(crate) fn airflow_link(&self, bundle: &str) -> PathBuf {
        self.airflow_bundle(bundle).join("current")
    }

    fn live_link(&self) -> PathBuf {
        self.root.join("live")
    }

    /// What is live, by the one link that decides it.
    pub(crate) fn live(&self) -> io::Result<Option<Live>> {
        files::read_json(&self.live_link().join("release.json"))
    }

    /// Makes a Release live, all of it in one rename. Its versions are there.
    pub(crate) fn switch(&self, live: &Live) -> io::Result<()> {
        failpoint("agent.switch.start");
        let releases = self.root.join("releases");
        let name = format!(
            "{}-{}",
            live.release.id,
            live.switched_at.timestamp_micros()
        );
        let staged = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempdir_in(&releases)?;
        files::make_folder(staged.path(), 0o755)?;
        for bundle in self.bundles()? {
            let folder = staged.path().join(bundle.as_str());
            files::make_folder(&folder, 0o755)?;
            for (name, target) in links(live, &bundle) {
                symlink(target, folder.join(name))?;
            }
            files::sync_folder(&folder)?;
        }
        files::write_json(&staged.path().join("release.json"), live, 0o600)?;
        let release = releases.join(&name);
        fs::rename(staged.keep(), &release)?;
        files::sync_folder(&releases)?;
        failpoint("agent.switch.after_release");

        let link = self.root.join(".tmp-live");
        files::remove(&link)?;
        symlink(Path::new("releases").join(&name), &link)?;
        // The switch: readers have the old Release until here and the new one after.
        fs::rename(&link, self.live_link())?;
        files::sync_folder(&self.root)?;
        failpoint("agent.switch.after_rename");
        self.follow_live(live);
        failpoint("agent.switch.end");
        Ok(())
    }

    /// Makes those links of the live Release again that are not as its record
    /// says: a power cut can take them on some file systems. Says whether any were.
    pub(crate) fn mend_links(&self, live: &Live) -> io::Result<bool> {
        let mut mended = false;
        for bundle in live.release.bundles.keys() {
            let folder = self.airflow_bundle(bundle.as_str());
            for (name, target) in links(live, bundle) {
                let link = folder.join(name);
                if fs::read_link(&link).is_ok_and(|there| there == target) {
                    continue;
                }
                mended = true;
                files::make_folder(&folder, 0o755)?;
                let temporary = folder.join(".tmp-link");
                files::remove(&temporary)?;
                symlink(target, &temporary)?;
                fs::rename(&temporary, &link)?;
                files::sync_folder(&folder)?;
            }
        }
        Ok(mended)
    }

    /// Points each bundle's own `current` where `live` does. Nothing reads it
    /// but people and the code that builds the next version, so that it is late
    /// after a kill does no harm.
    pub(crate) fn follow_live(&self, live: &Live) {
        for name in self.bundles().unwrap_or_default() {
            let followed = match live.release.bundles.get(&name) {
                Some(bundle) => self
                    .bundle(&name)
                    .and_then(|dir| dir.switch_current(&bundle.digest))
                    .map_err(|error| error.to_string()),
                // Or its last version could never be removed.
                None => files::remove(&self.bundle_folder(name.as_str()).join("current"))
                    .map_err(|error| error.to_string()),
            };
            if let Err(error) = followed {
                tracing::warn!(%name, %error, "could not point `current` at the live version");
            }
        }
    }

    /// Removes the folders of Releases that nobody can be reading any more: all
    /// but the live one and the one before it.
    pub(crate) fn forget_releases(&self) -> io::Result<()> {
        let live = fs::read_link(self.live_link())?;
        let live = live.file_name().map(std::ffi::OsStr::to_owned);
        let mut others: Vec<(std::time::SystemTime, PathBuf)> =
            fs::read_dir(self.root.join("releases"))?
                .flatten()
                .filter(|entry| Some(entry.file_name()) != live)
                .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
                .collect();
        others.sort_unstable();
        others.pop();
        others
            .into_iter()
            .try_for_each(|(_, path)| files::remove(&path))
    }
}

/// What a Release's folder holds of a bundle.
fn links(live: &Live, bundle: &BundleName) -> Vec<(&'static str, PathBuf)> {
    let versions = Path::new("../../../bundles")
        .join(bundle.as_str())
        .join("versions");
    let current = live.release.bundles.get(bundle);
    let current = current.map(|target| ("current", versions.join(target.digest.folder())));
    // Also for a bundle that is gone: its runs still end on its versions.
    [("versions", versions)]
        .into_iter()
        .chain(current)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use updraft_model::{BundleRef, Digest, ImageRef, ImportError, ReleaseId};

    use super::*;

    fn release(bundles: &[(&str, &[u8])]) -> Release {
        Release {
            id: ReleaseId::new(),
            image: ImageRef::Environment {
                digest: Digest::of(b"image"),
            },
            bundles: bundles
                .iter()
                .map(|(name, content)| {
                    (
                        name.parse().unwrap(),
                        BundleRef {
                            digest: Digest::of(content),
                        },
                    )
                })
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn read(disk: &Disk, bundle: &str) -> io::Result<String> {
        fs::read_to_string(disk.airflow_link(bundle).join("file"))
    }

    #[test]
    fn all_bundles_switch_in_one_rename() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), DeploymentId::new()).unwrap();
        for (bundle, content) in [("dags", "a"), ("dags", "b"), ("dbt", "c"), ("dbt", "d")] {
            let version = disk
                .bundle(&bundle.parse().unwrap())
                .unwrap()
                .version_path(&Digest::of(content.as_bytes()));
            fs::create_dir_all(&version).unwrap();
            fs::write(version.join("file"), content).unwrap();
        }
        assert_eq!(disk.live().unwrap(), None);

        let first = Live::next(
            None,
            None,
            release(&[("dags", b"a"), ("dbt", b"c")]),
            DeployId::new(),
        );
        disk.switch(&first).unwrap();
        assert_eq!(disk.live().unwrap().as_ref(), Some(&first));
        assert_eq!(
            (read(&disk, "dags").unwrap(), read(&disk, "dbt").unwrap()),
            ("a".into(), "c".into())
        );

        fs::remove_file(disk.airflow_link("dags")).unwrap();
        assert!(disk.mend_links(&first).unwrap());
        assert_eq!(read(&disk, "dags").unwrap(), "a");
        assert!(!disk.mend_links(&first).unwrap());

        let second = Live::next(
            Some(&first),
            None,
            release(&[("dags", b"b")]),
            DeployId::new(),
        );
        disk.switch(&second).unwrap();
        assert_eq!(read(&disk, "dags").unwrap(), "b");
        assert!(read(&disk, "dbt").is_err());
        // A run that began on the bundle still finds its version.
        let version = disk
            .airflow_bundle("dbt")
            .join("versions")
            .join(Digest::of(b"c").folder());
        assert_eq!(fs::read_to_string(version.join("file")).unwrap(), "c");
        assert_eq!(second.before.last(), Some(&first.release));

        let third = Live::next(
            Some(&second),
            None,
            release(&[("dags", b"a")]),
            DeployId::new(),
        );
        disk.switch(&third).unwrap();
        disk.forget_releases().unwrap();
        assert_eq!(
            fs::read_dir(disk.root().join("releases")).unwrap().count(),
            2
        );
        assert_eq!(read(&disk, "dags").unwrap(), "a");
    }

    #[test]
    fn a_release_answers_for_what_differs_from_the_last_one_with_a_verdict() {
        let proof = |outcome| Proof {
            outcome,
            import_errors: [("dags/old.py", true), ("dbt/x.py", false)]
                .map(|(file, new)| ImportError {
                    file: file.into(),
                    traceback: String::new(),
                    new,
                })
                .into(),
            ..crate::prove::merge(Vec::new())
        };
        let both = |dags| release(&[("dags", dags), ("dbt", b"c")]);
        let next = |live: &Live, proof: Option<&Proof>, release| {
            Live::next(Some(live), proof, release, DeployId::new())
        };
        let first = Live::next(None, None, both(b"a"), DeployId::new());
        assert_eq!(first.judged, None);

        let failed = proof(ProofOutcome::ImportErrors);
        let second = next(&first, Some(&failed), both(b"b"));
        let judged = second.judged.clone().unwrap();
        assert_eq!(judged.release, first.release);
        let errors = judged.errors_of(&"dags".parse().unwrap());
        assert_eq!(errors, BTreeSet::from(["old.py"]));

        // Overtaken, or out of time: what it broke is still to be answered for.
        let timed_out = proof(ProofOutcome::TimedOut);
        for proof in [None, Some(&timed_out)] {
            let third = next(&second, proof, both(b"d"));
            assert_eq!(third.judged.as_ref(), Some(&judged));
        }
    }

    #[test]
    fn one_agent_for_each_root() {
        let root = tempfile::tempdir().unwrap();
        let first = RootLock::take(root.path()).unwrap();
        let mode = fs::metadata(root.path().join("agent.lock"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "who can open it can hold it");
        assert!(matches!(
            RootLock::take(root.path()),
            Err(RootError::Locked(_))
        ));
        let agent = first.agent;
        drop(first);
        assert_eq!(RootLock::take(root.path()).unwrap().agent, agent);
    }
}
