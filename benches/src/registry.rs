//! A layer of 1 GB into the registry and out of it, next to Debian's
//! `docker-registry` and to `cp`. One client for both: curl, a whole blob in one
//! request. What is pushed is on the disk when the command ends.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use updraft_e2e::{Installation, wait_for};
use updraft_testkit::free_port;

use crate::peers::shell;
use crate::table::{Row, Table};
use crate::{PULL, PUSH};

const ROUNDS: usize = 3;

/// A registry that listens, and what its clients send along.
struct Registry {
    tool: &'static str,
    /// Of uploads and blobs.
    repository: String,
    header: String,
}

pub(crate) fn measure(installation: &Installation, table: &mut Table) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let layer = scratch.path().join("layer");
    let asked = ["token", "create", "bench", "--deployment", "shop"];
    let token = installation.updraft(&asked)?.expect_code(0)?.stdout;
    let ours = Registry {
        tool: "updraft",
        repository: format!("{}/v2/shop/bench", installation.server_url()),
        header: format!("Authorization: Bearer {}", token.trim()),
    };
    ours.measure(&layer, table)?;
    match docker_registry(scratch.path())? {
        Some((other, mut process)) => {
            let measured = other.measure(&layer, table);
            process.kill()?;
            process.wait()?;
            measured?;
        }
        None => table.add_absent("docker-registry"),
    }
    copies(&layer, table)
}

impl Registry {
    fn measure(&self, layer: &Path, table: &mut Table) -> Result<()> {
        let (mut pushes, mut pulls) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let digest = write_layer(layer)?;
            let shown = layer.display();
            let (header, repository) = (&self.header, &self.repository);
            pushes.push(timed(&format!(
                "set -e; at=$(curl -sfi -X POST -H '{header}' {repository}/blobs/uploads/ | tr -d '\\r' \
                 | awk 'tolower($1) == \"location:\" {{ print $2 }}'); \
                 case $at in /*) at=$(echo {repository} | cut -d/ -f1-3)$at ;; esac; \
                 case $at in *\\?*) at=\"$at&digest={digest}\" ;; *) at=\"$at?digest={digest}\" ;; esac; \
                 curl -sf -T {shown} -H 'Content-Type: application/octet-stream' -H '{header}' \"$at\""
            ))?);
            pulls.push(timed(&format!(
                "curl -sf -H '{header}' -o {shown}.back {repository}/blobs/{digest} && rm {shown}.back"
            ))?);
        }
        for (what, times) in [(PUSH, pushes), (PULL, pulls)] {
            let tool = self.tool;
            table.add(Row { tool, what, times });
        }
        Ok(())
    }
}

/// `cp`, and for what stays also `sync`.
fn copies(layer: &Path, table: &mut Table) -> Result<()> {
    let shown = layer.display();
    for (what, script) in [
        (
            PUSH,
            format!("cp {shown} {shown}.there && sync {shown}.there"),
        ),
        (PULL, format!("cp {shown} {shown}.back && rm {shown}.back")),
    ] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            write_layer(layer)?;
            times.push(timed(&script)?);
        }
        table.add(Row {
            tool: "cp",
            what,
            times,
        });
    }
    Ok(())
}

/// Writes a layer that nobody has yet, and gives its digest.
fn write_layer(layer: &Path) -> Result<String> {
    let shown = layer.display();
    let script = format!("head -c 1G /dev/urandom > {shown} && sync {shown} && sha256sum {shown}");
    let output = Command::new("bash").args(["-c", &script]).output()?;
    ensure!(output.status.success(), "the layer cannot be written");
    let said = String::from_utf8(output.stdout)?;
    let hex = said
        .split_whitespace()
        .next()
        .context("sha256sum says nothing")?;
    Ok(format!("sha256:{hex}"))
}

/// Debian's, over a folder; none where it is not installed.
fn docker_registry(scratch: &Path) -> Result<Option<(Registry, Child)>> {
    let address = format!("127.0.0.1:{}", free_port());
    let config = scratch.join("registry.yml");
    fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            scratch.join("registry").display()
        ),
    )?;
    let started = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(process) = started else {
        return Ok(None);
    };
    wait_for("docker-registry", Duration::from_secs(20), || {
        Ok(TcpStream::connect(&address).ok())
    })?;
    let registry = Registry {
        tool: "registry",
        repository: format!("http://{address}/v2/shop/bench"),
        header: "X-Nobody: asks".into(),
    };
    Ok(Some((registry, process)))
}

fn timed(script: &str) -> Result<Duration> {
    let (success, time) = shell(script)?;
    ensure!(success, "failed: {script}");
    Ok(time)
}
