//! Reads as much of a Dockerfile as it takes to know which Airflow it starts
//! from, what it sets, and whether it does more than that.

use std::collections::{BTreeMap, BTreeSet};

use updraft_model::{Digest, nearest};

use crate::airflow::{AirflowVersion, InvalidVersion, PythonVersion};

const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A Dockerfile as far as Updraft reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    base: String,
    bases: BTreeSet<String>,
    env: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    own_steps: Vec<OwnStep>,
    digest: Digest,
}

/// An instruction that needs a container build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnStep {
    pub line: usize,
    /// The instruction, shortened.
    pub text: String,
}

/// The Airflow that a base image contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseAirflow {
    pub version: AirflowVersion,
    pub python: PythonVersion,
    /// The tag names no Python, so it is the official image's usual one.
    pub python_is_default: bool,
    /// A `slim-` image, which has fewer providers.
    pub slim: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerfileError {
    #[error("the Dockerfile has no `FROM`")]
    NoFrom,
    #[error("line {line} of the Dockerfile: there is no instruction `{word}`{}", .nearest.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default())]
    UnknownInstruction {
        line: usize,
        word: String,
        nearest: Option<&'static str>,
    },
    #[error("line {line} of the Dockerfile: `{instruction}` is not written as Docker expects")]
    Malformed {
        line: usize,
        instruction: &'static str,
    },
    #[error("line {line} of the Dockerfile: `${name}` has no value")]
    NoValue { line: usize, name: String },
    #[error("it is not known which Airflow the base image `{0}` contains")]
    UnknownBase(String),
    #[error("the base image `{0}` does not name an Airflow version")]
    NoVersion(String),
    #[error("the base image `{base}` cannot be used: {source}")]
    Version {
        base: String,
        source: InvalidVersion,
    },
}

impl DockerfileError {
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoFrom => "start it with `FROM apache/airflow:3.3.2-python3.12`",
            Self::UnknownInstruction { .. } | Self::Malformed { .. } => "correct the line",
            Self::NoValue { .. } => "give the `ARG` a default, as in `ARG VERSION=3.3.2`",
            Self::UnknownBase(_) => {
                "start from the official image, as in `FROM apache/airflow:3.3.2-python3.12`"
            }
            Self::NoVersion(_) => {
                "name the version, as in `FROM apache/airflow:3.3.2-python3.12`, so that every deploy gets the same"
            }
            Self::Version { source, .. } => source.help(),
        }
    }
}

impl Dockerfile {
    pub fn parse(text: &str) -> Result<Self, DockerfileError> {
        Self::parse_with(text, &BTreeMap::new())
    }

    /// The same with build arguments, which weigh more than an `ARG`'s default.
    pub fn parse_with(
        text: &str,
        args: &BTreeMap<String, String>,
    ) -> Result<Self, DockerfileError> {
        Self::parse_on(text, args, &BTreeMap::new())
    }

    /// The same on a base whose variables are known, so that `ENV PATH=/opt/x:$PATH`
    /// can be read.
    pub fn parse_on(
        text: &str,
        args: &BTreeMap<String, String>,
        base_env: &BTreeMap<String, String>,
    ) -> Result<Self, DockerfileError> {
        let instructions = instructions(text);
        let mut digested = String::new();
        for instruction in &instructions {
            digested.push_str(&instruction.text);
            digested.push('\0');
        }
        let mut reader = Reader {
            given: args.clone(),
            base_env: base_env.clone(),
            ..Reader::default()
        };
        for instruction in &instructions {
            reader.read(instruction)?;
        }
        Ok(Self {
            base: reader.base.ok_or(DockerfileError::NoFrom)?,
            bases: reader.bases,
            env: reader.env,
            labels: reader.labels,
            own_steps: reader.own_steps,
            digest: Digest::of(digested.as_bytes()),
        })
    }

    /// The image that the last stage starts from.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The images that its stages start or take files from, without earlier stages.
    pub fn bases(&self) -> &BTreeSet<String> {
        &self.bases
    }

    /// What `ENV` sets.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// What `LABEL` sets.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The instructions that need a container build; none: the Dockerfile is
    /// plain (`FROM`, `ARG`, `ENV` and `LABEL` only) and an Environment is
    /// its equal.
    pub fn own_steps(&self) -> &[OwnStep] {
        &self.own_steps
    }

    /// Names the instructions; comments and blank lines do not count.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Says which Airflow and Python the base image contains.
    pub fn airflow(&self) -> Result<BaseAirflow, DockerfileError> {
        let base = &self.base;
        let unknown = || DockerfileError::UnknownBase(base.clone());
        let reference = base.split('@').next().unwrap_or(base);
        // A port of a registry also has a colon; a tag has no slash behind it.
        let (repository, tag) = match reference.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (reference, ""),
        };
        if repository != "apache/airflow" && !repository.ends_with("/apache/airflow") {
            return Err(unknown());
        }
        let (slim, tag) = match tag.strip_prefix("slim-") {
            Some(rest) => (true, rest),
            None => (false, tag),
        };
        let (version, python) = match tag.split_once("-python") {
            Some((version, python)) => (version, Some(python)),
            None => (tag, None),
        };
        let refused = |source| DockerfileError::Version {
            base: base.clone(),
            source,
        };
        if !version.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(DockerfileError::NoVersion(base.clone()));
        }
        let version: AirflowVersion = version.parse().map_err(refused)?;
        let given: Option<PythonVersion> = python.map(str::parse).transpose().map_err(refused)?;
        let python = given.unwrap_or(AirflowVersion::default_python());
        version.check(python).map_err(refused)?;
        Ok(BaseAirflow {
            version,
            python,
            python_is_default: given.is_none(),
            slim,
        })
    }
}

/// One instruction, continuation lines joined.
struct Instruction {
    line: usize,
    text: String,
}

/// Cuts the text into instructions, without comments.
fn instructions(text: &str) -> Vec<Instruction> {
    let text = text.trim_start_matches('\u{feff}');
    let escape = escape_character(text);
    let mut lines = text.lines().enumerate();
    let mut found = Vec::new();
    while let Some((number, first)) = lines.next() {
        if is_blank_or_comment(first) {
            continue;
        }
        let mut joined = String::new();
        let mut line = first;
        loop {
            let trimmed = line.trim_end();
            if let Some(head) = trimmed.strip_suffix(escape) {
                joined.push_str(head);
                // Comments and blank lines between continuation lines vanish.
                match lines.by_ref().find(|(_, next)| !is_blank_or_comment(next)) {
                    Some((_, next)) => line = next,
                    None => break,
                }
            } else {
                joined.push_str(trimmed);
                break;
            }
        }
        let text = joined.trim().to_owned();
        // The body of a here-document is not Dockerfile text, but it counts.
        let mut body = String::new();
        for (end, tabs) in here_documents(&text) {
            for (_, line) in lines.by_ref() {
                body.push('\n');
                body.push_str(line);
                let line = if tabs {
                    line.trim_start_matches('\t')
                } else {
                    line
                };
                if line == end {
                    break;
                }
            }
        }
        found.push(Instruction {
            line: number + 1,
            text: text + &body,
        });
    }
    found
}

fn is_blank_or_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// Reads the parser directive `escape`; directives stand before all else.
fn escape_character(text: &str) -> char {
    for line in text.lines() {
        let directive = line
            .trim()
            .strip_prefix('#')
            .and_then(|line| line.split_once('='));
        let Some((name, value)) = directive else {
            break;
        };
        if name.trim().eq_ignore_ascii_case("escape") && value.trim() == "`" {
            return '`';
        }
    }
    '\\'
}

/// The ends of the here-documents that an instruction starts, and whether
/// tabs before them are ignored.
fn here_documents(text: &str) -> Vec<(String, bool)> {
    let takes_them = ["RUN", "COPY", "ADD"].iter().any(|name| {
        text.get(..name.len())
            .is_some_and(|word| word.eq_ignore_ascii_case(name))
    });
    if !takes_them {
        return Vec::new();
    }
    let mut found = Vec::new();
    for word in text.split_whitespace() {
        let Some((_, rest)) = word.split_once("<<") else {
            continue;
        };
        let (tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let name: String = rest
            .trim_start_matches(['"', '\''])
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        // `<<<` and `1<<2` are something else.
        if name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            found.push((name, tabs));
        }
    }
    found
}

#[derive(Default)]
struct Reader {
    /// Build arguments.
    given: BTreeMap<String, String>,
    /// `ARG`s before the first `FROM`.
    global_args: BTreeMap<String, Option<String>>,
    args: BTreeMap<String, Option<String>>,
    env: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    /// What the base sets.
    base_env: BTreeMap<String, String>,
    base: Option<String>,
    bases: BTreeSet<String>,
    /// Base image by stage name.
    stages: BTreeMap<String, String>,
    own_steps: Vec<OwnStep>,
}

impl Reader {
    fn read(&mut self, instruction: &Instruction) -> Result<(), DockerfileError> {
        let line = instruction.line;
        let text = instruction.text.as_str();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let upper = word.to_ascii_uppercase();
        let Some(&name) = INSTRUCTIONS.iter().find(|name| **name == upper) else {
            let nearest = nearest(&upper, INSTRUCTIONS)
                .and_then(|near| INSTRUCTIONS.iter().find(|name| **name == near).copied());
            let word = word.chars().take(40).collect();
            return Err(DockerfileError::UnknownInstruction {
                line,
                word,
                nearest,
            });
        };
        if rest.is_empty() {
            return Err(DockerfileError::Malformed {
                line,
                instruction: name,
            });
        }
        match name {
            "FROM" => self.from(line, rest, instruction)?,
            "ARG" => self.arg(line, rest)?,
            _ if self.base.is_none() => return Err(DockerfileError::NoFrom),
            "ENV" => self.env(line, rest, instruction)?,
            "LABEL" => self.label(rest),
            "MAINTAINER" => {}
            _ => {
                self.takes_from(rest);
                self.own_step(instruction);
            }
        }
        Ok(())
    }

    fn from(
        &mut self,
        line: usize,
        rest: &str,
        whole: &Instruction,
    ) -> Result<(), DockerfileError> {
        let malformed = || DockerfileError::Malformed {
            line,
            instruction: "FROM",
        };
        let mut words = rest
            .split_whitespace()
            .skip_while(|word| word.starts_with("--"));
        let image = words.next().ok_or_else(malformed)?;
        let image = expand(image, &|name| lookup(&self.global_args, name))
            .map_err(|name| DockerfileError::NoValue { line, name })?;
        if image.is_empty() {
            return Err(malformed());
        }
        let base = if let Some(base) = self.stages.get(&image.to_ascii_lowercase()) {
            base.clone()
        } else {
            self.bases.insert(image.clone());
            image
        };
        match (words.next(), words.next(), words.next()) {
            (None, ..) => {}
            (Some(keyword), Some(stage), None) if keyword.eq_ignore_ascii_case("as") => {
                self.stages.insert(stage.to_ascii_lowercase(), base.clone());
            }
            _ => return Err(malformed()),
        }
        if self.base.replace(base).is_some() {
            self.own_step(whole);
        }
        self.args.clear();
        self.env.clear();
        self.labels.clear();
        Ok(())
    }

    /// Notes the images that a step takes files from: `--from=` of `COPY`, and of a `--mount=` of `RUN`.
    fn takes_from(&mut self, rest: &str) {
        let flags = rest
            .split_whitespace()
            .take_while(|word| word.starts_with("--"));
        for flag in flags {
            let from = match flag.split_once('=') {
                Some(("--from", image)) => Some(image),
                Some(("--mount", fields)) => fields
                    .split(',')
                    .find_map(|field| field.strip_prefix("from=")),
                _ => None,
            };
            let is_image = |image: &&str| {
                let is_number = image.bytes().all(|c| c.is_ascii_digit());
                !is_number
                    && !image.contains('$')
                    && !self.stages.contains_key(&image.to_ascii_lowercase())
            };
            self.bases.extend(from.filter(is_image).map(str::to_owned));
        }
    }

    fn arg(&mut self, line: usize, rest: &str) -> Result<(), DockerfileError> {
        for word in words(rest) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => {
                    let value = expand(value, &|name| self.value_of(name))
                        .map_err(|name| DockerfileError::NoValue { line, name })?;
                    (name, Some(value))
                }
                None => (word, self.global_args.get(word).cloned().flatten()),
            };
            let value = self.given.get(name).cloned().or(value);
            let args = if self.base.is_none() {
                &mut self.global_args
            } else {
                &mut self.args
            };
            args.insert(name.to_owned(), value);
        }
        Ok(())
    }

    fn env(&mut self, line: usize, rest: &str, whole: &Instruction) -> Result<(), DockerfileError> {
        let malformed = || DockerfileError::Malformed {
            line,
            instruction: "ENV",
        };
        let words = words(rest);
        let first = words.first().ok_or_else(malformed)?;
        let pairs: Vec<(&str, &str)> = if first.contains('=') {
            words
                .iter()
                .map(|word| word.split_once('=').ok_or_else(malformed))
                .collect::<Result<_, _>>()?
        } else {
            // The old form: one name, and the rest of the line is its value.
            vec![rest.split_once(char::is_whitespace).ok_or_else(malformed)?]
        };
        let mut set = Vec::new();
        for (name, value) in pairs {
            let Ok(value) = expand(value.trim(), &|name| self.value_of(name)) else {
                // Such as `PATH=/opt/x:$PATH`: only the base image knows.
                self.own_step(whole);
                return Ok(());
            };
            set.push((name.to_owned(), value));
        }
        self.env.extend(set);
        Ok(())
    }

    fn label(&mut self, rest: &str) {
        let value = |text: &str| expand(text, &|name| self.value_of(name));
        let words = words(rest);
        let pairs: Vec<(&str, &str)> = if words.first().is_some_and(|word| word.contains('=')) {
            let pairs = words.iter().filter_map(|word| word.split_once('='));
            pairs.collect()
        } else {
            rest.split_once(char::is_whitespace).into_iter().collect()
        };
        let read = pairs
            .into_iter()
            // A variable that nobody has set is nothing.
            .map(|(name, text)| (value(name), value(text.trim()).unwrap_or_default()))
            .filter_map(|(name, value)| Some((name.ok()?, value)));
        let read: Vec<(String, String)> = read.collect();
        self.labels.extend(read);
    }

    fn value_of(&self, name: &str) -> Option<String> {
        if self.base.is_none() {
            return lookup(&self.global_args, name);
        }
        self.env
            .get(name)
            .cloned()
            .or_else(|| self.base_env.get(name).cloned())
            .or_else(|| lookup(&self.args, name))
    }

    fn own_step(&mut self, instruction: &Instruction) {
        let first = instruction.text.lines().next().unwrap_or_default();
        let mut text: String = first.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((at, _)) = text.char_indices().nth(60) {
            text.truncate(at);
            text.push('…');
        }
        self.own_steps.push(OwnStep {
            line: instruction.line,
            text,
        });
    }
}

fn lookup(args: &BTreeMap<String, Option<String>>, name: &str) -> Option<String> {
    args.get(name).cloned().flatten()
}

/// Splits at white space outside quotes.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c.is_whitespace() && quote.is_none() && !escaped {
            if let Some(start) = start.take() {
                words.push(&text[start..at]);
            }
            continue;
        }
        start.get_or_insert(at);
        match (escaped, quote) {
            (true, _) => escaped = false,
            (false, Some('\'')) if c == '\'' => quote = None,
            (false, Some('"')) if c == '"' => quote = None,
            (false, None) if c == '"' || c == '\'' => quote = Some(c),
            (false, _) if c == '\\' && quote != Some('\'') => escaped = true,
            (false, _) => {}
        }
    }
    if let Some(start) = start {
        words.push(&text[start..]);
    }
    words
}

/// Removes quotes and puts in variables; fails with the name of one that has
/// no value.
fn expand(text: &str, value_of: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' if quote == Some(c) => quote = None,
            '\'' | '"' if quote.is_none() => quote = Some(c),
            '\\' if quote != Some('\'') => out.extend(chars.next()),
            '$' if quote != Some('\'') => {
                if chars.next_if_eq(&'{').is_some() {
                    let mut depth = 1;
                    let mut inner = String::new();
                    for c in chars.by_ref() {
                        depth += match c {
                            '{' => 1,
                            '}' => -1,
                            _ => 0,
                        };
                        if depth == 0 {
                            break;
                        }
                        inner.push(c);
                    }
                    out.push_str(&braced(&inner, value_of)?);
                } else {
                    let mut name = String::new();
                    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                        name.push(c);
                    }
                    if name.is_empty() {
                        out.push('$');
                    } else {
                        out.push_str(&value_of(&name).ok_or(name)?);
                    }
                }
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

/// The inside of `${…}`: a name, and perhaps `:-` or `:+` and a word.
fn braced(inner: &str, value_of: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let end = inner
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(inner.len());
    let (name, rest) = inner.split_at(end);
    let value = value_of(name);
    let filled = value.clone().filter(|value| !value.is_empty());
    if rest.is_empty() {
        value.ok_or_else(|| name.to_owned())
    } else if let Some(word) = rest.strip_prefix(":-") {
        filled.map_or_else(|| expand(word, value_of), Ok)
    } else if let Some(word) = rest.strip_prefix(":+") {
        filled.map_or_else(|| Ok(String::new()), |_| expand(word, value_of))
    } else if let Some(word) = rest.strip_prefix('-') {
        value.map_or_else(|| expand(word, value_of), Ok)
    } else {
        // `${X#pattern}` and the like: rare, and never guessed at.
        Err(inner.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Dockerfile {
        Dockerfile::parse(text).expect("a Dockerfile")
    }

    fn airflow(base: &str) -> Result<BaseAirflow, DockerfileError> {
        parse(&format!("FROM {base}\n")).airflow()
    }

    #[test]
    fn knows_the_airflow_of_official_images() {
        let base = airflow("apache/airflow:3.3.2-python3.11").expect("known");
        assert_eq!(base.version.to_string(), "3.3.2");
        assert_eq!(base.python, PythonVersion::new(3, 11));
        assert!(!base.python_is_default && !base.slim);

        let base = airflow("docker.io/apache/airflow:slim-2.11.2").expect("known");
        assert!(base.python_is_default && base.slim);
        assert_eq!(base.python, PythonVersion::new(3, 12));

        assert!(airflow("localhost:5000/mirror/apache/airflow:3.3.2@sha256:00").is_ok());
        assert!(airflow("--platform=linux/amd64 apache/airflow:3.4.0rc1").is_ok());
    }

    #[test]
    fn refuses_images_whose_airflow_is_not_known() {
        for unknown in [
            "quay.io/astronomer/astro-runtime:12.1.0",
            "my/airflow:3.3.2",
            "python:3.12",
        ] {
            assert!(
                matches!(airflow(unknown), Err(DockerfileError::UnknownBase(_))),
                "{unknown}"
            );
        }
        for unnamed in [
            "apache/airflow",
            "apache/airflow:latest",
            "apache/airflow:slim-latest-python3.12",
        ] {
            assert!(
                matches!(airflow(unnamed), Err(DockerfileError::NoVersion(_))),
                "{unnamed}"
            );
        }
        for unfit in [
            "apache/airflow:2.9.1",
            "apache/airflow:3.0.6-python3.14",
            "apache/airflow:3",
        ] {
            assert!(
                matches!(airflow(unfit), Err(DockerfileError::Version { .. })),
                "{unfit}"
            );
        }
    }

    #[test]
    fn reads_labels_and_what_builds_on_the_bases_variables() {
        let text = "FROM apache/airflow:3.3.2\n\
             ARG TEAM=data\n\
             LABEL team=$TEAM \"a b\"=\"c d\"\n\
             LABEL old form\n\
             ENV PATH=/opt/x:$PATH\n";
        let base = BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]);
        let file = Dockerfile::parse_on(text, &BTreeMap::new(), &base).unwrap();
        assert_eq!(file.env()["PATH"], "/opt/x:/bin");
        assert_eq!(file.own_steps(), []);
        let labels: Vec<_> = file
            .labels()
            .iter()
            .map(|(k, v)| (&k[..], &v[..]))
            .collect();
        assert_eq!(labels, [("a b", "c d"), ("old", "form"), ("team", "data")]);
        assert_eq!(parse(text).own_steps().len(), 1);
    }

    #[test]
    fn puts_arguments_into_the_base_and_the_environment() {
        let file = parse(
            "# syntax=docker/dockerfile:1\n\
             ARG AIRFLOW=3.3.2\n\
             ARG TAG=${AIRFLOW}-python${PY:-3.12}\n\
             FROM apache/airflow:$TAG AS final\n\
             ARG AIRFLOW\n\
             ARG REGION=\"eu west\"\n\
             # a note\n\
             ENV A=1 \\\n\
             # inside\n\
             \n\
               B=\"two words\" C='$AIRFLOW' D=$AIRFLOW-x\n\
             ENV OLD form of  it\n\
             ENV E=${REGION:+in-}${REGION}\n\
             LABEL who=us\n",
        );
        assert_eq!(file.base(), "apache/airflow:3.3.2-python3.12");
        assert!(file.own_steps().is_empty());
        let env: Vec<_> = file.env().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            env,
            [
                "A=1",
                "B=two words",
                "C=$AIRFLOW",
                "D=3.3.2-x",
                "E=in-eu west",
                "OLD=form of  it"
            ]
        );
    }

    #[test]
    fn finds_steps_of_its_own() {
        let file = parse(
            "FROM apache/airflow:3.3.2\nUSER root\nRUN <<EOF\nFROM nothing\nEOF\n\
             ENV PATH=/opt/x:$PATH\nRUN apt-get update && \\\n  apt-get install -y gcc\n",
        );
        let steps: Vec<_> = file
            .own_steps()
            .iter()
            .map(|s| (s.line, s.text.as_str()))
            .collect();
        assert_eq!(
            steps,
            [
                (2, "USER root"),
                (3, "RUN <<EOF"),
                (6, "ENV PATH=/opt/x:$PATH"),
                (7, "RUN apt-get update && apt-get install -y gcc"),
            ]
        );
        let stages = parse("FROM apache/airflow:3.3.2 AS base\nENV A=1\nFROM base\n");
        assert_eq!(stages.base(), "apache/airflow:3.3.2");
        assert_eq!(stages.own_steps().len(), 1);
        let windows = parse("# escape=`\nFROM apache/airflow:3.3.2`\n-python3.12\n");
        assert_eq!(windows.base(), "apache/airflow:3.3.2-python3.12");
    }

    #[test]
    fn comments_do_not_change_the_digest() {
        let plain = parse("FROM apache/airflow:3.3.2\nENV A=1\n");
        assert_eq!(
            plain.digest(),
            parse("# hi\n\nFROM apache/airflow:3.3.2\n# x\nENV A=1").digest()
        );
        assert_ne!(
            plain.digest(),
            parse("FROM apache/airflow:3.3.2\nENV A=2\n").digest()
        );
    }

    #[test]
    fn a_stage_that_another_starts_from_is_no_image() {
        let text = "ARG V=3.3.2\nFROM python:3.12 AS tools\nFROM apache/airflow:$V AS all\n\
             COPY --from=tools /a /a\nFROM All\n";
        let bases = parse(text).bases().clone();
        let bases: Vec<&str> = bases.iter().map(String::as_str).collect();
        assert_eq!(bases, ["apache/airflow:3.3.2", "python:3.12"]);
    }

    #[test]
    fn what_steps_take_files_from_are_images_too() {
        let text = "FROM python:3.12 AS Tools\nFROM apache/airflow:3.3.2\n\
             COPY --chown=1:0 --from=tools /a /a\nCOPY --from=0 /a /a\nCOPY --from=busybox:1 /a --from=no\n\
             RUN --mount=type=bind,from=astral/uv,target=/uv --mount=type=cache,target=/c uv --from=no\n";
        let bases = parse(text).bases().clone();
        let bases: Vec<&str> = bases.iter().map(String::as_str).collect();
        assert_eq!(
            bases,
            [
                "apache/airflow:3.3.2",
                "astral/uv",
                "busybox:1",
                "python:3.12"
            ]
        );
    }

    #[test]
    fn names_the_line_of_what_is_wrong() {
        let error = |text: &str| Dockerfile::parse(text).expect_err("wrong");
        assert_eq!(error("# only\n"), DockerfileError::NoFrom);
        assert_eq!(error("RUN x\n"), DockerfileError::NoFrom);
        assert_eq!(
            error("\nFORM x\n").to_string(),
            "line 2 of the Dockerfile: there is no instruction `FORM` (did you mean `FROM`?)"
        );
        assert_eq!(
            error("FROM a b\n"),
            DockerfileError::Malformed {
                line: 1,
                instruction: "FROM"
            }
        );
        assert_eq!(
            error("ARG V\nFROM apache/airflow:$V\n"),
            DockerfileError::NoValue {
                line: 2,
                name: "V".into()
            }
        );
    }
}
