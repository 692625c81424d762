//! Builds of a project's image by docker, podman or buildah.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, EngineError, EngineName, INPUTS, Image};
use crate::process::{Stop, run_telling};

/// What is told of a build that failed, from its end.
const LINES_OF_A_FAILURE: usize = 40;

/// What is built, and with what.
pub struct BuildRequest<'a> {
    /// All that the build sees.
    pub context: &'a Path,
    pub tag: &'a str,
    /// A digest of what goes in, kept in the image.
    pub inputs: &'a str,
    pub options: &'a BuildOptions,
    /// Told each line that the engine says.
    pub tell: Option<&'a dyn Fn(&str)>,
}

/// What is asked of an engine besides.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Each `NAME=VALUE`, or `NAME` for this process's value.
    pub args: Vec<String>,
    pub secrets: Vec<BuildSecret>,
    /// `default`, or `ID=SOCKET`.
    pub ssh: Vec<String>,
    pub platform: Option<String>,
    pub network: Option<String>,
    pub cache_from: Vec<String>,
    pub cache_to: Vec<String>,
    /// Asks the registry for a newer base.
    pub pull: bool,
}

/// A secret that steps can read while they run, and no layer keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSecret {
    pub id: String,
    pub from: SecretFrom,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretFrom {
    File(PathBuf),
    /// A variable of this process.
    Variable(String),
}

impl FromStr for BuildSecret {
    type Err = String;

    /// Reads `id=NAME,src=FILE` and `id=NAME,env=VARIABLE`, as docker has them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut id, mut from) = (None, None);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("src" | "source", value)) => from = Some(SecretFrom::File(value.into())),
                Some(("env", value)) => from = Some(SecretFrom::Variable(value.to_owned())),
                Some(("type", "file" | "env")) => {}
                _ => return Err(format!("`{part}` is none of `id=`, `src=` and `env=`")),
            }
        }
        let is_plain = |id: &String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            !id.is_empty() && id.chars().all(plain)
        };
        let id = id
            .filter(is_plain)
            .ok_or("it needs an `id` of letters, digits, `_`, `-` and `.`")?;
        // As docker: a variable of that name.
        let from = from.unwrap_or_else(|| SecretFrom::Variable(id.clone()));
        Ok(Self { id, from })
    }
}

impl BuildSecret {
    /// Names what is not there. Nothing is built before.
    pub fn check(&self) -> Result<(), EngineError> {
        let is_there = match &self.from {
            SecretFrom::File(path) => path.is_file(),
            SecretFrom::Variable(name) => std::env::var_os(name).is_some(),
        };
        if is_there {
            return Ok(());
        }
        Err(EngineError::NoSecret {
            id: self.id.clone(),
            what: match &self.from {
                SecretFrom::File(path) => format!("the file `{}`", path.display()),
                SecretFrom::Variable(name) => format!("the variable `{name}`"),
            },
        })
    }

    fn to_field(&self) -> OsString {
        let mut field = OsString::from(format!("id={},", self.id));
        match &self.from {
            SecretFrom::File(path) => {
                field.push("src=");
                field.push(path);
            }
            SecretFrom::Variable(name) => field.push(format!("env={name}")),
        }
        field
    }
}

impl BuildOptions {
    /// The first thing that docker's old builder does not know.
    fn needs_buildkit(&self) -> Option<&'static str> {
        [
            (!self.secrets.is_empty(), "build secrets"),
            (!self.ssh.is_empty(), "SSH forwarding"),
            (!self.cache_to.is_empty(), "a cache in a registry"),
            (self.platform.is_some(), "a platform"),
        ]
        .into_iter()
        .find_map(|(is_asked, what)| is_asked.then_some(what))
    }
}

impl Engine {
    /// Builds a folder with a Dockerfile, and remembers in the image what went
    /// in. Steps that did not change come from the engine's own cache.
    pub fn build(&self, ask: &BuildRequest<'_>, stop: &Stop) -> Result<Image, EngineError> {
        let options = ask.options;
        options.secrets.iter().try_for_each(BuildSecret::check)?;
        let mut command = self.command(&["build"]);
        if self.name() == EngineName::Docker {
            let has_buildkit = self.knows_secrets(stop)?;
            if let Some(what) = options.needs_buildkit().filter(|_| !has_buildkit) {
                return Err(EngineError::NoBuildx(what));
            }
            command.env("DOCKER_BUILDKIT", if has_buildkit { "1" } else { "0" });
            if has_buildkit {
                command.arg("--progress=plain");
                command.arg("--load");
            }
        } else {
            // Files of the build keep the labels that they have.
            command.args(["--security-opt", "label=disable"]);
        }
        if self.name() == EngineName::Buildah {
            // As the others do by themselves; without, it refuses to clean up after a step.
            command.arg("--layers");
        }
        // A step that fails would leave its container behind.
        command.args(["--force-rm", "--tag", ask.tag]);
        command
            .arg("--label")
            .arg(format!("{INPUTS}={}", ask.inputs));
        for (flag, values) in [
            ("--build-arg", &options.args),
            ("--ssh", &options.ssh),
            ("--cache-from", &options.cache_from),
            ("--cache-to", &options.cache_to),
        ] {
            for value in values {
                command.args([flag, value]);
            }
        }
        for secret in &options.secrets {
            command.arg("--secret").arg(secret.to_field());
        }
        for (flag, value) in [
            ("--platform", &options.platform),
            ("--network", &options.network),
        ] {
            if let Some(value) = value {
                command.args([flag, value]);
            }
        }
        if options.pull {
            command.arg("--pull");
        }
        command.arg(ask.context);
        let failed = |said| EngineError::Build {
            engine: self.name(),
            said,
        };
        // Which of its two streams an engine complains on differs.
        let last = RefCell::new(VecDeque::new());
        let tell = |line: &str| {
            let mut last = last.borrow_mut();
            if last.len() == LINES_OF_A_FAILURE {
                last.pop_front();
            }
            last.push_back(line.to_owned());
            if let Some(tell) = ask.tell {
                tell(line);
            }
        };
        let built = run_telling(command.stdin(Stdio::null()), stop, Some(&tell));
        let built = built.map_err(|source| EngineError::Run {
            engine: self.name(),
            source,
        })?;
        if !built.success {
            let lines: Vec<String> = last.take().into();
            return Err(failed(lines.join("\n")));
        }
        self.inspect(ask.tag, stop)?
            .ok_or_else(|| failed("it is not there after that".into()))
    }

    /// Whether a build can have secrets: docker's needs a plugin for it.
    pub fn knows_secrets(&self, stop: &Stop) -> Result<bool, EngineError> {
        if self.name() != EngineName::Docker {
            return Ok(true);
        }
        let found = self.run(self.command(&["buildx", "version"]), stop)?;
        Ok(found.success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_written_as_docker_has_them() {
        let read = |text: &str| text.parse::<BuildSecret>();
        assert_eq!(
            read("id=pip,src=/a/pip.conf").unwrap().from,
            SecretFrom::File("/a/pip.conf".into())
        );
        let named = read("type=env,id=TOKEN,env=CI_TOKEN").unwrap();
        assert_eq!(named.to_field(), "id=TOKEN,env=CI_TOKEN");
        assert_eq!(
            read("id=TOKEN").unwrap().from,
            SecretFrom::Variable("TOKEN".into())
        );
        for wrong in ["src=/a", "id=", "id=a b,src=/a", "pip", "id=a,mode=1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_secret_that_is_not_there_is_named() {
        let secret: BuildSecret = "id=pip,src=/nowhere/pip.conf".parse().unwrap();
        let error = secret.check().unwrap_err().to_string();
        assert!(
            error.contains("`pip`") && error.contains("/nowhere/pip.conf"),
            "{error}"
        );
    }
}
