//! `updraft.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;
use updraft_model::{DeploymentName, nearest};

use crate::target::{RefKind, RefPattern, Target};

/// What `updraft.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The project's name; none: that of its folder.
    pub name: Option<String>,
    /// Where `updraft deploy` without a Deployment goes.
    pub deployment: Option<DeploymentName>,
    /// The control plane's address.
    pub server: Option<String>,
    pub parts: ProjectParts,
    pub deploy: DeploySettings,
    pub check: CheckSettings,
    /// Which branch or tag belongs to which Deployment: the first that matches.
    pub targets: Vec<Target>,
    pub preview: Option<PreviewSettings>,
}

/// Which halves of what Airflow runs a repository has; another one has the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProjectParts {
    #[default]
    Both,
    Dags,
    Image,
}

/// A half, as `parts` names it.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Part {
    Dags,
    Image,
}

/// `[deploy]`: limits on what is sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
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

/// `[[target]]`: a branch or a tag, and where it goes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TargetSection {
    /// A branch, or a pattern: `*` is anything but `/`, `**` anything.
    branch: Option<String>,
    /// A tag, or a pattern.
    tag: Option<String>,
    /// The Deployment that it goes to.
    #[schemars(with = "String")]
    deployment: DeploymentName,
}

/// `[preview]`: what a pull request's Deployment is made from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewSettings {
    /// The Deployment whose settings and image it gets.
    #[schemars(with = "String")]
    pub from: DeploymentName,
    /// How long it lives without a deploy, such as `"3d"` or `"12h"`; `"7d"` unless set.
    #[serde(default)]
    pub expire: Lifetime,
}

/// How long something lives, written like `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Lifetime(pub Duration);

impl Default for Lifetime {
    fn default() -> Self {
        Self(Duration::from_hours(7 * 24))
    }
}

/// A number of bytes, written as a number or like `"100MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "ByteSizeText")]
pub struct ByteSize(pub u64);

/// What a number of bytes may be written as.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "for the schema only")]
enum ByteSizeText {
    Bytes(u64),
    WithUnit(
        #[schemars(regex(pattern = r"^\s*[0-9]+\s*([bB]|[kKmMgGtT]([bB]|i[bB])?)?\s*$"))] String,
    ),
}

/// What a project says of itself: which branch goes to which Deployment of
/// Updraft, what is checked before, and limits.
// `deployment` and `server` may stand above the first section or in
// `[project]`, since both are what people try.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "updraft.toml")]
struct File {
    /// The Deployment that commands mean when no target is for what is pushed.
    #[schemars(with = "Option<String>")]
    deployment: Option<DeploymentName>,
    /// Address of the control plane.
    server: Option<String>,
    #[serde(default)]
    project: ProjectSection,
    #[serde(default)]
    deploy: DeploySettings,
    #[serde(default)]
    check: CheckSettings,
    /// Where branches and tags go: the first that matches counts.
    #[serde(default)]
    #[schemars(with = "Vec<TargetSection>")]
    target: Vec<Spanned<TargetSection>>,
    preview: Option<PreviewSettings>,
}

/// Who it is and where it belongs.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProjectSection {
    /// The project's name; that of its folder unless set.
    name: Option<String>,
    /// The Deployment that commands mean when no target is for what is pushed.
    #[schemars(with = "Option<String>")]
    deployment: Option<DeploymentName>,
    /// Address of the control plane.
    server: Option<String>,
    /// The halves that this repository has, `dags` or `image`; both unless set.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Part>>")]
    parts: ProjectParts,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{at} of `updraft.toml`: there is no setting `{key}`{}", or_nearest(.nearest.as_deref()))]
    UnknownKey {
        at: Place,
        key: String,
        nearest: Option<String>,
    },
    #[error("{at} of `updraft.toml`: {problem}")]
    Invalid { at: Place, problem: String },
    #[error("{at} of `updraft.toml`: the {of} goes to `{deployment}` already, by line {before}")]
    SecondTarget {
        at: Place,
        of: String,
        deployment: DeploymentName,
        before: usize,
    },
    #[error("`updraft.toml` sets `{0}` both at its top and in `[project]`")]
    Twice(&'static str),
}

/// Where something stands in the file, counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    fn of(text: &str, offset: usize) -> Self {
        let before = &text[..text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl SettingsError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::UnknownKey { .. } => {
                "the sections are `[project]`, `[deploy]`, `[check]`, `[[target]]` and `[preview]`"
            }
            Self::Invalid { .. } => "correct the line; the file is TOML",
            Self::SecondTarget { .. } => "keep one of the two: a branch goes to one Deployment",
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
    /// Reads the text of `updraft.toml`.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let file: File = toml::from_str(text).map_err(|error| explain(text, &error))?;
        Ok(Self {
            name: file.project.name,
            deployment: once("deployment", file.deployment, file.project.deployment)?,
            server: once("server", file.server, file.project.server)?,
            parts: file.project.parts,
            deploy: file.deploy,
            check: file.check,
            targets: targets(text, file.target)?,
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

fn targets(
    text: &str,
    sections: Vec<Spanned<TargetSection>>,
) -> Result<Vec<Target>, SettingsError> {
    let mut targets: Vec<Target> = Vec::new();
    for section in sections {
        let at = Place::of(text, section.span().start);
        let invalid = |problem: String| SettingsError::Invalid { at, problem };
        let section = section.into_inner();
        let of = match (&section.branch, &section.tag) {
            (Some(branch), None) => RefPattern::new(RefKind::Branch, branch),
            (None, Some(tag)) => RefPattern::new(RefKind::Tag, tag),
            (None, None) => Err("a `[[target]]` needs a `branch` or a `tag`".to_owned()),
            (Some(_), Some(_)) => {
                Err("a `[[target]]` has a `branch` or a `tag`, not both".to_owned())
            }
        };
        let of = of.map_err(invalid)?;
        if let Some(before) = targets.iter().find(|it| it.of == of) {
            return Err(SettingsError::SecondTarget {
                at,
                of: of.to_string(),
                deployment: before.deployment.clone(),
                before: before.line,
            });
        }
        targets.push(Target {
            of,
            deployment: section.deployment,
            line: at.line,
        });
    }
    Ok(targets)
}

/// The JSON schema of the file, for editors.
pub fn settings_schema() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft07();
    settings
        .into_generator()
        .into_root_schema_for::<File>()
        .into()
}

fn explain(text: &str, error: &toml::de::Error) -> SettingsError {
    let at = error
        .span()
        .map_or(Place { line: 1, column: 1 }, |Range { start, .. }| {
            Place::of(text, start)
        });
    // serde knows the key and its neighbours but hands them over as text only.
    let message = error.message();
    if let Some(rest) = message.strip_prefix("unknown field `")
        && let Some((key, rest)) = rest.split_once('`')
    {
        let known = rest.split('`').skip(1).step_by(2);
        let nearest = nearest(key, known).map(str::to_owned);
        return SettingsError::UnknownKey {
            at,
            key: key.to_owned(),
            nearest,
        };
    }
    SettingsError::Invalid {
        at,
        problem: message.trim().replace('\n', "; "),
    }
}

impl<'de> Deserialize<'de> for ProjectParts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = Vec::<Part>::deserialize(deserializer)?;
        let has = |part| named.contains(&part);
        match (has(Part::Dags), has(Part::Image)) {
            (true, true) => Ok(Self::Both),
            (true, false) => Ok(Self::Dags),
            (false, true) => Ok(Self::Image),
            (false, false) => Err(de::Error::custom("`parts` names `dags`, `image`, or both")),
        }
    }
}

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_lifetime(&text).map(Self).ok_or_else(|| {
            let given = de::Unexpected::Str(&text);
            de::Error::invalid_value(given, &"hours or days, 1h to 365d, like \"12h\" or \"7d\"")
        })
    }
}

fn parse_lifetime(text: &str) -> Option<Duration> {
    let (number, hours) = match (text.strip_suffix('h'), text.strip_suffix('d')) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 24),
        _ => return None,
    };
    let number: u64 = number.trim().parse().ok().filter(|number| *number > 0)?;
    let hours = number
        .checked_mul(hours)
        .filter(|hours| *hours <= 24 * 365)?;
    Some(Duration::from_hours(hours))
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
            parts = ["dags"]
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
        assert_eq!(settings.parts, ProjectParts::Dags);
        assert_eq!(settings.deploy.max_file, Some(ByteSize(50 << 20)));
        assert_eq!(settings.deploy.max_bundle, Some(ByteSize(1000)));
        assert_eq!(settings.check.levels["UPD302"], CheckLevel::Error);
        assert_eq!(settings.targets[0].of.to_string(), "branch `main`");
        let expire = settings.preview.expect("there").expire;
        assert_eq!(expire.0, Duration::from_hours(72));
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
            "line 3, column 1 of `updraft.toml`: there is no setting `deploymnt` (did you mean `deployment`?)"
        );
        let error = Settings::parse("\n\n[targets]\n").expect_err("typo");
        assert!(error.to_string().starts_with("line 3"), "{error}");
        let error = Settings::parse("deployment = \"Not Valid\"").expect_err("a name");
        assert!(error.to_string().contains("lower-case"), "{error}");
        let error = Settings::parse("a = ").expect_err("not toml");
        assert!(
            matches!(
                error,
                SettingsError::Invalid {
                    at: Place { line: 1, column: 5 },
                    ..
                }
            ),
            "{error}"
        );
        let error =
            Settings::parse("server = \"a\"\n[project]\nserver = \"b\"").expect_err("twice");
        assert_eq!(error, SettingsError::Twice("server"));
        let error =
            Settings::parse("[preview]\nfrom = \"a\"\nexpire = \"soon\"").expect_err("no time");
        assert!(error.to_string().contains("line 3, column 10"), "{error}");
        assert!(error.to_string().contains("like \"12h\""), "{error}");
        for parts in ["[]", "[\"plugins\"]", "\"dags\""] {
            let error = Settings::parse(&format!("[project]\nparts = {parts}")).expect_err(parts);
            assert!(error.to_string().starts_with("line 2"), "{error}");
        }
        let error = Settings::parse("[deploy]\nmax_file = \"5 apples\"").expect_err("no size");
        assert!(error.to_string().starts_with("line 2"), "{error}");
    }

    #[test]
    fn a_branch_goes_to_one_deployment() {
        let target = |what: &str| format!("[[target]]\n{what}\ndeployment = \"a\"\n");
        let problem = |text: &str| Settings::parse(text).expect_err(text).to_string();
        let twice = target("branch = \"main\"").repeat(2);
        assert_eq!(
            problem(&twice),
            "line 4, column 1 of `updraft.toml`: the branch `main` goes to `a` already, by line 1"
        );
        let neither = problem("[[target]]\ndeployment = \"a\"\n");
        assert!(neither.contains("needs a `branch` or a `tag`"), "{neither}");
        let both = problem(&target("branch = \"a\"\ntag = \"a\""));
        assert!(both.contains("not both"), "{both}");
        let pattern = problem(&target("branch = \"a[\""));
        assert!(pattern.contains("is no pattern"), "{pattern}");
        let branch_and_tag = target("branch = \"v1\"") + &target("tag = \"v1\"");
        assert_eq!(Settings::parse(&branch_and_tag).unwrap().targets.len(), 2);
    }
}
