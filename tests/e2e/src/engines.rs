//! docker and podman with storage of their own, which a test fills and loses.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use updraft_testkit::{is_root_or_skip, skipped};

use crate::{PATIENCE, wait_for};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineName {
    Docker,
    Podman,
}

/// A container engine below a folder, whose reaper ends what runs and removes
/// what it mounted.
#[derive(Debug)]
pub struct Engine {
    name: EngineName,
    folder: PathBuf,
    daemons: Vec<Child>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The reaper ends what runs in containers; these are ours to wait for.
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Engine {
    /// Where it cannot run, says on a line that CI looks for what is skipped.
    pub fn start_or_skip(name: EngineName, below: &Path) -> Result<Option<Self>> {
        let what = format!("checks in an image of {}", name.program());
        if !is_root_or_skip(&what, "only root can start a container engine") {
            return Ok(None);
        }
        for needed in name.needs() {
            if Command::new(needed).arg("--version").output().is_err() {
                skipped(&what, &format!("{needed} is not installed"));
                return Ok(None);
            }
        }
        let folder = below.join(name.program());
        fs::create_dir(&folder)?;
        let daemon = match name {
            EngineName::Docker => Some(dockerd(&folder)?),
            EngineName::Podman => {
                write_podman_settings(&folder)?;
                None
            }
        };
        let engine = Self {
            name,
            folder,
            daemons: daemon.into_iter().collect(),
        };
        wait_for("the engine to answer", PATIENCE, || {
            match engine.run(&["info"]) {
                Ok(_) => Ok(Some(())),
                Err(_) => Ok(None),
            }
        })?;
        Ok(Some(engine))
    }

    pub fn program(&self) -> &'static str {
        self.name.program()
    }

    /// What a command needs in its environment to meet this one.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        match self.name {
            EngineName::Docker => {
                let mut address = OsString::from("unix://");
                address.push(self.folder.join("docker.sock"));
                let config = self.folder.join("config").into();
                vec![("DOCKER_HOST", address), ("DOCKER_CONFIG", config)]
            }
            EngineName::Podman => vec![
                (
                    "CONTAINERS_CONF",
                    self.folder.join("containers.conf").into(),
                ),
                (
                    "CONTAINERS_STORAGE_CONF",
                    self.folder.join("storage.conf").into(),
                ),
                (
                    "CONTAINERS_REGISTRIES_CONF",
                    self.folder.join("registries.conf").into(),
                ),
            ],
        }
    }

    /// Has it answer at its socket, which podman by itself does not, and takes
    /// plain http for a registry on loopback.
    pub fn serve(&mut self, registry: &str) -> Result<()> {
        if self.name == EngineName::Docker {
            return Ok(());
        }
        let insecure = format!("[[registry]]\nlocation = {registry:?}\ninsecure = true\n");
        fs::write(self.folder.join("registries.conf"), insecure)?;
        let log = File::create(self.folder.join("log"))?;
        let service = Command::new("podman")
            .args(["system", "service", "--time=0", &self.address()])
            .envs(self.variables())
            .env("UPDRAFT_TEST_ROOT", &self.folder)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.daemons.push(service);
        let socket = self.folder.join("podman.sock");
        wait_for("podman's service", PATIENCE, || {
            Ok(std::os::unix::net::UnixStream::connect(&socket)
                .is_ok()
                .then_some(()))
        })
    }

    /// Its socket's address.
    pub fn address(&self) -> String {
        let socket = self.name.program().to_owned() + ".sock";
        format!("unix://{}", self.folder.join(socket).display())
    }

    /// Removes every image but this one, and those that run.
    pub fn remove_images_but(&self, kept: &str) -> Result<()> {
        let listed = self.run(&["images", "--quiet", "--no-trunc"])?;
        let kept = self.run(&["image", "inspect", "--format", "{{.Id}}", kept])?;
        let others = listed.lines().filter(|id| *id != kept.trim());
        for other in others {
            // One that runs is refused.
            let _ = self.run(&["rmi", "--no-prune", other]);
        }
        Ok(())
    }

    /// Whether it has the image that registries know by this digest.
    pub fn has(&self, digest: &str) -> Result<bool> {
        let listed = self.run(&["images", "--digests", "--format", "{{.Digest}}"])?;
        Ok(listed.lines().any(|line| line == digest))
    }

    /// Builds the image with Airflow that `scripts/tools` has prepared.
    pub fn build_airflow(&self, tag: &str) -> Result<()> {
        let context = std::env::var("UPDRAFT_IMAGE").context("scripts/test names a folder")?;
        self.run(&["build", "--quiet", "--tag", tag, &context])?;
        Ok(())
    }

    /// Builds a folder with a Dockerfile.
    pub fn build(&self, tag: &str, context: &Path) -> Result<()> {
        let context = context.to_str().context("a path is UTF-8")?;
        self.run(&["build", "--quiet", "--tag", tag, context])?;
        Ok(())
    }

    /// Brings an image to a registry of this machine.
    pub fn push(&self, image: &str) -> Result<()> {
        self.run(&[&["push", "--quiet"], self.plain_http(), &[image]].concat())?;
        Ok(())
    }

    /// Gets an image from a registry of this machine.
    pub fn pull(&self, image: &str) -> Result<()> {
        self.run(&[&["pull", "--quiet"], self.plain_http(), &[image]].concat())?;
        Ok(())
    }

    /// docker trusts this machine by itself.
    const fn plain_http(&self) -> &'static [&'static str] {
        match self.name {
            EngineName::Docker => &[],
            EngineName::Podman => &["--tls-verify=false"],
        }
    }

    /// What a program says that Python runs in an image, as the image's own user.
    pub fn python(&self, image: &str, program: &str) -> Result<String> {
        let arguments = ["run", "--rm", "--network=none", "--entrypoint=python3"];
        let said = self.run(&[&arguments[..], &[image, "-c", program]].concat())?;
        Ok(said.trim().to_owned())
    }

    /// Whether docker has its newer builder.
    pub fn has_buildx(&self) -> bool {
        self.run(&["buildx", "version"]).is_ok()
    }

    /// The containers that it has, ended ones too.
    pub fn containers(&self) -> Result<Vec<String>> {
        let listed = self.run(&["ps", "--all", "--format", "{{.Names}}"])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// Those that run.
    pub fn running(&self) -> Result<Vec<String>> {
        let listed = self.run(&["ps", "--format", "{{.Names}}"])?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// What it says to a command of its own.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(self.program())
            .args(arguments)
            .envs(self.variables())
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!(
                "{} {arguments:?}: {}",
                self.program(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl EngineName {
    const fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    const fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["docker", "dockerd", "containerd", "runc"],
            Self::Podman => &["podman", "runc"],
        }
    }
}

/// Leaves the machine's network alone: no bridge, no rules of a firewall, no
/// forwarding. A build's steps then have the machine's own.
fn dockerd(folder: &Path) -> Result<Child> {
    let log = File::create(folder.join("log"))?;
    let mut socket = OsString::from("unix://");
    socket.push(folder.join("docker.sock"));
    let child = Command::new("dockerd")
        .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
        .args(["--ip-forward=false", "--ip-masq=false"])
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("run"))
        .arg("--pidfile")
        .arg(folder.join("pid"))
        .arg("--host")
        .arg(socket)
        // By this the reaper knows what containerd and its shims belong to.
        .env("UPDRAFT_TEST_ROOT", folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(child)
}

fn write_podman_settings(folder: &Path) -> Result<()> {
    let shown = |name: &str| format!("{:?}", folder.join(name).display().to_string());
    fs::write(folder.join("registries.conf"), "")?;
    fs::write(
        folder.join("storage.conf"),
        format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = {}\nrunroot = {}\n",
            shown("data"),
            shown("run")
        ),
    )?;
    // runc and these limits: crun refuses hybrid cgroups, and not every machine
    // allows what podman asks for by itself.
    fs::write(
        folder.join("containers.conf"),
        format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
             netns = \"none\"\n\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
             tmp_dir = {}\n",
            shown("tmp")
        ),
    )?;
    ensure!(folder.is_absolute(), "podman wants absolute paths");
    Ok(())
}
