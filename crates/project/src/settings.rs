//! `updraft.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use updraft_model::{DeploymentName, nearest};

/// What `updraft.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The project's name; none: that of its folder.
    pub name: Option<String>,
    /// Where `updraft deploy` without a Deployment goes.
    pub deployment: Option<DeploymentName>,
    /// The control plane's address.
    pub server: Option<String>,
    pub deploy: DeploySettings,
    pub check: CheckSettings,
    /// Which branch belongs to which Deployment, first match first.
    pub targets: Vec<TargetSettings>,
    pub preview: Option<PreviewSettings>,
}

/// `[deploy]`: limits on what is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "they are the names in the file")]
pub struct DeploySettings {
    /// Most bytes in one file.
    pub max_file: Option<ByteSize>,
    /// Most bytes in all files of a bundle.
    pub max_bundle: Option<ByteSize>,
    /// Most files in a bundle.
    pub max_files: Option<u64>,
}

/// `[check]`: what the check says of the project's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSettings {
    /// The level of a rule, by its code.
    #[serde(default)]
    pub levels: BTreeMap<String, CheckLevel>,
    /// Whether a deploy imports every DAG file before; it does unless told otherwise.
    #[serde(default)]
    pub parse: Option<bool>,
    /// Whether a deploy runs the project's tests before.
    #[serde(default)]
    pub pytest: Option<bool>,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckLevel {
    Off,
    Warning,
    /// The check fails.
    Error,
}

impl fmt::Display for CheckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// `[[target]]`: a branch and its Deployment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetSettings {
    pub branch: String,
    pub deployment: DeploymentName,
}

/// `[preview]`: what a pull request's Deployment is made from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviewSettings {
    pub from: DeploymentName,
    /// How long it lives unused, such as `"3d"`.
    pub expire: Option<String>,
}

/// A number of bytes, written as a number or like `"100MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// The file as written. `deployment` and `server` may stand above the first
/// section or in `[project]`, since both are what people try.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    deployment: Option<DeploymentName>,
    server: Option<String>,
    #[serde(default)]
    project: ProjectSection,
    #[serde(default)]
    deploy: DeploySettings,
    #[serde(default)]
    check: CheckSettings,
    #[serde(default)]
    target: Vec<TargetSettings>,
    preview: Option<PreviewSettings>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProjectSection {
    name: Option<String>,
    deployment: Option<DeploymentName>,
    server: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("line {line} of `updraft.toml`: there is no setting `{key}`{}", or_nearest(.nearest.as_deref()))]
    UnknownKey {
        line: usize,
        key: String,
        nearest: Option<String>,
    },
    #[error("line {line} of `updraft.toml`: {problem}")]
    Invalid { line: usize, problem: String },
    #[error("`updraft.toml` sets `{0}` both at its top and in `[project]`")]
    Twice(&'static str),
}

impl SettingsError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::UnknownKey { .. } => {
                "the sections are `[project]`, `[deploy]`, `[check]`, `[[target]]` and `[preview]`"
            }
            Self::Invalid { .. } => "correct the line; the file is TOML",
            Self::Twice(_) => "keep one of the two",
        }
    }
}

fn or_nearest(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!(" (did you mean `{name}`?)"))
        .unwrap_or_default()
}

impl Settings {
    /// Sections that are understood and that nothing follows from yet.
    pub fn not_used_yet(&self) -> impl Iterator<Item = &'static str> {
        let targets = (!self.targets.is_empty()).then_some("[[target]]");
        let preview = self.preview.as_ref().map(|_| "[preview]");
        targets.into_iter().chain(preview)
    }

    /// Reads the text of `updraft.toml`.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let file: File = toml::from_str(text).map_err(|error| explain(text, &error))?;
        Ok(Self {
            name: file.project.name,
            deployment: once("deployment", file.deployment, file.project.deployment)?,
            server: once("server", file.server, file.project.server)?,
            deploy: file.deploy,
            check: file.check,
            targets: file.target,
            preview: file.preview,
        })
    }
}

fn once<T>(
    key: &'static str,
    top: Option<T>,
    section: Option<T>,
) -> Result<Option<T>, SettingsError> {
    match (top, section) {
        (Some(_), Some(_)) => Err(SettingsError::Twice(key)),
        (top, section) => Ok(top.or(section)),
    }
}

fn explain(text: &str, error: &toml::de::Error) -> SettingsError {
    let line = error.span().map_or(1, |Range { start, .. }| {
        text[..start.min(text.len())].matches('\n').count() + 1
    });
    // serde knows the key and its neighbours but hands them over as text only.
    let message = error.message();
    if let Some(rest) = message.strip_prefix("unknown field `")
        && let Some((key, rest)) = rest.split_once('`')
    {
        let known = rest.split('`').skip(1).step_by(2);
        let nearest = nearest(key, known).map(str::to_owned);
        return SettingsError::UnknownKey {
            line,
            key: key.to_owned(),
            nearest,
        };
    }
    SettingsError::Invalid {
        line,
        problem: message.trim().replace('\n', "; "),
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or text like \"100MB\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ByteSize, E> {
                u64::try_from(value)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(value))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                parse_bytes(text)
                    .map(ByteSize)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Bytes)
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_setting() {
        let settings = Settings::parse(
            r#"
            server = "http://127.0.0.1:8888"
            [project]
            name = "sales"
            deployment = "sales-dev"
            [deploy]
            max_file = "50MB"
            max_bundle = 1000
            [check.levels]
            UPD302 = "error"
            [[target]]
            branch = "main"
            deployment = "sales-prod"
            [preview]
            from = "sales-dev"
            expire = "3d"
            "#,
        )
        .expect("valid");
        assert_eq!(settings.name.as_deref(), Some("sales"));
        assert_eq!(settings.server.as_deref(), Some("http://127.0.0.1:8888"));
        assert_eq!(
            settings.deployment.as_ref().map(DeploymentName::as_str),
            Some("sales-dev")
        );
        assert_eq!(settings.deploy.max_file, Some(ByteSize(50 << 20)));
        assert_eq!(settings.deploy.max_bundle, Some(ByteSize(1000)));
        assert_eq!(settings.check.levels["UPD302"], CheckLevel::Error);
        assert_eq!(settings.targets[0].branch, "main");
        assert_eq!(
            settings.preview.expect("there").expire.as_deref(),
            Some("3d")
        );
        assert_eq!(
            Settings::parse("").expect("empty is fine"),
            Settings::default()
        );
    }

    #[test]
    fn names_the_line_and_the_nearest_setting() {
        let error =
            Settings::parse("[project]\nname = \"a\"\ndeploymnt = \"b\"\n").expect_err("typo");
        assert_eq!(
            error.to_string(),
            "line 3 of `updraft.toml`: there is no setting `deploymnt` (did you mean `deployment`?)"
        );
        let error = Settings::parse("\n\n[targets]\n").expect_err("typo");
        assert!(error.to_string().starts_with("line 3"), "{error}");
        let error = Settings::parse("deployment = \"Not Valid\"").expect_err("a name");
        assert!(error.to_string().contains("lower-case"), "{error}");
        let error = Settings::parse("a = ").expect_err("not toml");
        assert!(
            matches!(error, SettingsError::Invalid { line: 1, .. }),
            "{error}"
        );
        let error =
            Settings::parse("server = \"a\"\n[project]\nserver = \"b\"").expect_err("twice");
        assert_eq!(error, SettingsError::Twice("server"));
        let error = Settings::parse("[deploy]\nmax_file = \"5 apples\"").expect_err("no size");
        assert!(error.to_string().starts_with("line 2"), "{error}");
    }
}
