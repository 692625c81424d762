//! An engine's image in a registry: pushed under a name, known by its digest.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use updraft_model::Digest;

use crate::engine::{EMPTY, Engine, EngineError, EngineName, Image, on_docker_hub, short};
use crate::process::{Stop, run_telling};
use crate::registry::{Credentials, ImageRepository};

/// How long to wait before each further attempt of a push, two minutes in all. Each goes on
/// after the layers that are there.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(20))
        .with_max_times(10)
        .with_jitter()
        .build()
}

/// Who an engine is in a registry, for the length of one command: not what is
/// stored on this machine, and not on a command line, which is for all to see.
#[derive(Debug)]
pub struct Login {
    registry: String,
    /// Holds a `config.json` as docker has it.
    folder: tempfile::TempDir,
}

impl Login {
    pub fn new(registry: &str, credentials: &Credentials) -> Result<Self, EngineError> {
        let folder = tempfile::tempdir().map_err(|source| EngineError::Write {
            path: std::env::temp_dir(),
            source,
        })?;
        let login = Self {
            registry: registry.to_owned(),
            folder,
        };
        login.write(credentials)?;
        Ok(login)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    fn write(&self, credentials: &Credentials) -> Result<(), EngineError> {
        let entry = match credentials {
            Credentials::Password { user, password } => {
                json!({ "auth": STANDARD.encode(format!("{user}:{password}")) })
            }
            Credentials::IdentityToken(token) => json!({ "identitytoken": token }),
        };
        // What docker is configured to beyond that, such as its context, holds on.
        let theirs = docker_folder();
        let mut config = theirs
            .as_ref()
            .and_then(|folder| fs::read(folder.join("config.json")).ok())
            .and_then(|text| serde_json::from_slice(&text).ok())
            .and_then(|config: Value| config.as_object().cloned())
            .unwrap_or_default();
        config.retain(|name, _| !matches!(name.as_str(), "credsStore" | "credHelpers"));
        config.insert("auths".into(), json!({ &self.registry: entry }));
        let failed = |source| EngineError::Write {
            path: self.file(),
            source,
        };
        for name in ["contexts", "cli-plugins"] {
            if let Some(folder) = theirs.as_ref().map(|folder| folder.join(name))
                && folder.is_dir()
            {
                symlink(folder, self.folder.path().join(name)).map_err(failed)?;
            }
        }
        // The folder is its owner's alone.
        let mut file = fs::File::create(self.file()).map_err(failed)?;
        file.write_all(Value::Object(config).to_string().as_bytes())
            .map_err(failed)
    }

    /// Has an engine's command sign in as this.
    fn apply(&self, engine: EngineName, command: &mut Command) {
        match engine {
            EngineName::Docker => {
                command.env("DOCKER_CONFIG", self.folder.path());
            }
            EngineName::Podman | EngineName::Buildah => {
                command.env("REGISTRY_AUTH_FILE", self.file());
            }
        }
    }
}

fn docker_folder() -> Option<PathBuf> {
    let set = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    set.map(PathBuf::from).or_else(home)
}

impl Engine {
    /// Pushes an image under a tag, and says the digest by which the registry has it.
    pub fn push(
        &self,
        image: &Image,
        to: &ImageRepository,
        tag: &str,
        login: Option<&Login>,
        stop: &Stop,
        tell: Option<&dyn Fn(&str)>,
    ) -> Result<Digest, EngineError> {
        let name = format!("{to}:{tag}");
        if self.name() != EngineName::Docker {
            return self.push_straight(image, &name, to, login, stop, tell);
        }
        let named = self.run(self.command(&["tag", &image.id, &name]), stop)?;
        if !named.success {
            return Err(self.not_pushed(&name, short(&named)));
        }
        let pushed = self.push_named(&name, login, stop, tell);
        // The name here was for this alone.
        let _ = self.run(self.command(&["rmi", "--no-prune", &name]), stop);
        pushed
    }

    /// docker pushes what has the name, and says the digest at the end.
    fn push_named(
        &self,
        name: &str,
        login: Option<&Login>,
        stop: &Stop,
        tell: Option<&dyn Fn(&str)>,
    ) -> Result<Digest, EngineError> {
        let said = self.try_to_push(name, stop, tell, || {
            let mut command = self.command(&["push", name]);
            if let Some(login) = login {
                login.apply(self.name(), &mut command);
            }
            command
        })?;
        let digest = said.lines().rev().find_map(|line| {
            let rest = line.split_once("digest: ")?.1;
            rest.split_whitespace().next()?.parse().ok()
        });
        digest.ok_or_else(|| self.not_pushed(name, "it does not say the digest".into()))
    }

    /// podman and buildah push an image by its id, and write the digest to a file.
    fn push_straight(
        &self,
        image: &Image,
        name: &str,
        to: &ImageRepository,
        login: Option<&Login>,
        stop: &Stop,
        tell: Option<&dyn Fn(&str)>,
    ) -> Result<Digest, EngineError> {
        let digest = tempfile::NamedTempFile::new().map_err(|source| EngineError::Write {
            path: std::env::temp_dir(),
            source,
        })?;
        self.try_to_push(name, stop, tell, || {
            let mut command = self.command(&["push", "--digestfile"]);
            command.arg(digest.path());
            if to.is_loopback() {
                command.arg("--tls-verify=false");
            }
            let target = OsString::from(format!("docker://{name}"));
            command.arg(&image.id).arg(target);
            if let Some(login) = login {
                login.apply(self.name(), &mut command);
            }
            command
        })?;
        let text = fs::read_to_string(digest.path()).unwrap_or_default();
        let digest = text.trim().parse();
        digest.map_err(|_| self.not_pushed(name, "it does not say the digest".into()))
    }

    fn try_to_push(
        &self,
        name: &str,
        stop: &Stop,
        tell: Option<&dyn Fn(&str)>,
        command: impl Fn() -> Command,
    ) -> Result<String, EngineError> {
        let mut pauses = pauses();
        loop {
            let mut command = command();
            let pushed = run_telling(command.stdin(Stdio::null()), stop, tell);
            let pushed = pushed.map_err(|source| EngineError::Run {
                engine: self.name(),
                source,
            })?;
            if pushed.success {
                return Ok(pushed.stdout);
            }
            let said = short(&pushed);
            let pause = pauses.next().filter(|_| may_pass(&said));
            if !pause.is_some_and(|pause| stop.pause(pause)) {
                return Err(self.not_pushed(name, said));
            }
            if let Some(tell) = tell {
                tell(&format!("{said}; the push is tried again"));
            }
        }
    }

    fn not_pushed(&self, name: &str, said: String) -> EngineError {
        EngineError::Push {
            engine: self.name(),
            name: name.to_owned(),
            said,
        }
    }

    /// The image of this name, pulled as somebody where it is not here.
    pub fn image_as(
        &self,
        name: &str,
        login: Option<&Login>,
        stop: &Stop,
        say: &dyn Fn(&str),
    ) -> Result<Image, EngineError> {
        if let Some(image) = self.inspect(name, stop)? {
            return Ok(image);
        }
        if name == EMPTY {
            return Err(EngineError::NoAirflow {
                name: name.to_owned(),
                said: "it is empty".into(),
            });
        }
        say(&format!("pulling {name}"));
        let pull = |name: &str| {
            let mut command = self.command(&["pull", "--quiet"]);
            if self.name() != EngineName::Docker
                && repository_of(name).is_some_and(|it| it.is_loopback())
            {
                command.arg("--tls-verify=false");
            }
            command.args(["--", name]);
            if let Some(login) = login {
                login.apply(self.name(), &mut command);
            }
            self.run(command, stop)
        };
        let mut pulled = pull(name)?;
        // Only docker knows by itself where names without a registry are. The others may have been
        // told; what they have pulled from there, they find under its short name.
        if !pulled.success
            && self.name() != EngineName::Docker
            && let Some(name) = on_docker_hub(name)
        {
            pulled = pull(&name)?;
        }
        let lacks = |said| EngineError::Pull {
            engine: self.name(),
            name: name.to_owned(),
            said,
        };
        if !pulled.success {
            return Err(lacks(short(&pulled)));
        }
        self.inspect(name, stop)?
            .ok_or_else(|| lacks("it is not there after that".into()))
    }
}

/// The repository of an image's name, where it has a registry.
fn repository_of(name: &str) -> Option<ImageRepository> {
    without_tag(name).parse().ok()
}

/// The name of an image without its tag and its digest.
pub fn without_tag(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

/// Whether the same push may succeed in a moment: the engines try again by themselves
/// what they know to be passing, and not what breaks on the way. A full disk is not passing.
fn may_pass(said: &str) -> bool {
    let said = said.to_lowercase();
    let is_any = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    let breaks = [
        "eof",
        "timeout",
        "connection reset",
        "connection refused",
        "broken pipe",
        "too many requests",
    ];
    // As docker, and as containers/image say an answer that they do not understand.
    let answers = ["http status: 5", "statuscode: 5", "status code 5"];
    is_any(&breaks) || is_any(&answers) && !said.contains("507")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_repository_with_or_without_a_tag() {
        for name in [
            "127.0.0.1:5000/shop",
            "127.0.0.1:5000/shop:1",
            "127.0.0.1:5000/shop@sha256:00",
            "127.0.0.1:5000/shop:1@sha256:00",
        ] {
            assert_eq!(without_tag(name), "127.0.0.1:5000/shop");
            assert!(repository_of(name).is_some_and(|it| it.is_loopback()));
        }
        assert_eq!(without_tag("shop:1"), "shop");
        assert!(repository_of("shop:1").is_none());
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for passes in [
            "Put https://…: unexpected EOF",
            "received unexpected HTTP status: 503 Service Unavailable",
            "dial tcp 127.0.0.1:5000: connect: connection refused",
        ] {
            assert!(may_pass(passes), "{passes}");
        }
        for stays in [
            "denied: requested access to the resource is denied",
            "received unexpected HTTP status: 507 Insufficient Storage",
            "received unexpected HTTP status: 413 Request Entity Too Large",
        ] {
            assert!(!may_pass(stays), "{stays}");
        }
    }

    #[test]
    fn a_push_is_tried_again_for_two_minutes() {
        let all: Duration = pauses().sum();
        assert!((60..200).contains(&all.as_secs()), "{all:?}");
    }
}
