//! Environment variables for Airflow. Their values are secrets, so they never
//! stand on the command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::{files, prompt};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct EnvironmentArgs {
    /// Set an environment variable; its value is asked for, or is standard input
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,

    /// Set the variables in this file, one NAME=VALUE a line (`-`: standard input)
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,

    /// Remove an environment variable
    #[arg(long, value_name = "NAME")]
    unset_env: Vec<String>,
}

impl EnvironmentArgs {
    pub(crate) async fn read(&self) -> Result<BTreeMap<String, Option<String>>> {
        let mut variables = BTreeMap::new();
        if let Some(path) = &self.env_file {
            let text = files::input(path.clone()).await?;
            for (name, value) in parse(&text).map_err(|line| {
                Failure::new(
                    Exit::Refused,
                    format!("line {line} of `{}` is not NAME=VALUE", path.display()),
                )
            })? {
                variables.insert(name, Some(value));
            }
        }
        if self.env.len() > 1 && !prompt::is_possible() {
            return Err(Failure::new(
                Exit::Usage,
                "standard input can hold the value of one variable only",
            )
            .help("put several into a file and give it with --env-file"));
        }
        for name in &self.env {
            if let Some((name, _)) = name.split_once('=') {
                return Err(Failure::new(
                    Exit::Usage,
                    format!(
                        "the value of `{name}` stands on the command line, where others can read it"
                    ),
                )
                .help(format!(
                    "give `--env {name}` and the value on standard input, or use --env-file"
                )));
            }
            variables.insert(checked(name)?, Some(value_of(name).await?));
        }
        for name in &self.unset_env {
            variables.insert(checked(name)?, None);
        }
        Ok(variables)
    }
}

async fn value_of(name: &str) -> Result<String> {
    if prompt::is_possible() {
        return prompt::secret(&format!("Value of {name}: ")).await;
    }
    let value = files::input("-".into()).await?;
    Ok(value.strip_suffix('\n').unwrap_or(&value).to_owned())
}

fn checked(name: &str) -> Result<String> {
    if is_name(name) {
        return Ok(name.to_owned());
    }
    Err(Failure::new(
        Exit::Usage,
        format!("`{name}` is not the name of an environment variable"),
    )
    .help("use letters, digits and `_`, not beginning with a digit"))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Reads `NAME=VALUE` lines: blank lines and `#` comments are left out, a value
/// may be in quotes. Gives the number of a line that is neither.
fn parse(text: &str) -> Result<Vec<(String, String)>, usize> {
    let mut variables = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(at + 1)?;
        let (name, value) = (name.trim(), value.trim());
        if !is_name(name) {
            return Err(at + 1);
        }
        let quoted = |quote| {
            value
                .strip_prefix(quote)
                .and_then(|rest| rest.strip_suffix(quote))
        };
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        variables.push((name.to_owned(), value.to_owned()));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_files_of_variables_as_they_are_written() {
        let text = "# comment\n\nA=1\nexport B = two words \nC=\"x=y\"\nD='#'\nE=\n";
        let names = |(name, value): &(String, String)| format!("{name}:{value}");
        let read: Vec<_> = parse(text).unwrap().iter().map(names).collect();
        assert_eq!(read, ["A:1", "B:two words", "C:x=y", "D:#", "E:"]);
        assert_eq!(parse("A=1\nnonsense\n"), Err(2));
        assert_eq!(parse("1A=1\n"), Err(1));
    }
}
