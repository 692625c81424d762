//! `airflow_settings.yaml`: what a local Airflow is given at its start, in the
//! format of the Astro CLI.
//!
//! A check reads names alone, as [`AirflowNames`]. [`AirflowObjects`] has the values too:
//! they are secrets, so it has no `Debug`, and no error quotes one.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Names of variables and connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AirflowNames {
    pub variables: Vec<String>,
    pub connections: Vec<String>,
}

/// What it says is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[error("`airflow_settings.yaml` cannot be read: {0}")]
pub struct AirflowSettingsError(String);

/// Connections, variables and pools with their values.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AirflowObjects {
    #[serde(deserialize_with = "list")]
    pub connections: Vec<AirflowConnection>,
    #[serde(deserialize_with = "list")]
    pub variables: Vec<AirflowVariable>,
    #[serde(deserialize_with = "list")]
    pub pools: Vec<AirflowPool>,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "as the file has them")]
pub struct AirflowConnection {
    #[serde(deserialize_with = "text")]
    pub conn_id: String,
    pub conn_type: Option<String>,
    pub conn_description: Option<String>,
    pub conn_host: Option<String>,
    pub conn_schema: Option<String>,
    pub conn_login: Option<String>,
    pub conn_password: Option<String>,
    pub conn_port: Option<u16>,
    /// All of it in one, instead of the parts.
    pub conn_uri: Option<String>,
    /// A mapping, or the text of one.
    pub conn_extra: Option<Value>,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "as the file has them")]
pub struct AirflowVariable {
    #[serde(deserialize_with = "text")]
    pub variable_name: String,
    /// Airflow keeps text; a mapping or a list is kept as JSON.
    pub variable_value: Option<Value>,
    pub variable_description: Option<String>,
}

#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "as the file has them")]
pub struct AirflowPool {
    #[serde(deserialize_with = "text")]
    pub pool_name: String,
    pub pool_slot: Option<i64>,
    pub pool_description: Option<String>,
    pub pool_include_deferred: Option<bool>,
}

#[derive(Deserialize)]
struct File<T> {
    #[serde(default = "Option::default")]
    airflow: Option<T>,
}

/// The file as a check looks at it: what else it holds is no reason to fail one.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Names {
    variables: Option<Vec<VariableName>>,
    connections: Option<Vec<ConnectionName>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct VariableName {
    variable_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConnectionName {
    conn_id: Option<String>,
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<Option<T>, AirflowSettingsError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let file: Option<File<T>> =
        serde_saphyr::from_str(text).map_err(|error| AirflowSettingsError(said(&error)))?;
    Ok(file.and_then(|file| file.airflow))
}

/// A new project's file has keys without anything behind them.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl AirflowObjects {
    /// Reads the file's text. Entries without a name are examples to fill in.
    pub fn parse(text: &str) -> Result<Self, AirflowSettingsError> {
        let mut objects = read::<Self>(text)?.unwrap_or_default();
        objects.connections.retain(|it| !it.conn_id.is_empty());
        objects.variables.retain(|it| !it.variable_name.is_empty());
        objects.pools.retain(|it| !it.pool_name.is_empty());
        Ok(objects)
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The file's text, which [`AirflowObjects::parse`] reads back. Every value is in it.
    pub fn to_yaml(&self) -> String {
        let mut yaml = Yaml("airflow:\n".to_owned());
        yaml.section("connections", &self.connections, |yaml, it| {
            yaml.entry("conn_id", Some(&it.conn_id));
            yaml.key("conn_type", it.conn_type.as_ref());
            yaml.key("conn_description", it.conn_description.as_ref());
            yaml.key("conn_host", it.conn_host.as_ref());
            yaml.key("conn_schema", it.conn_schema.as_ref());
            yaml.key("conn_login", it.conn_login.as_ref());
            yaml.key("conn_password", it.conn_password.as_ref());
            yaml.key("conn_port", it.conn_port.as_ref());
            yaml.key("conn_uri", it.conn_uri.as_ref());
            yaml.key("conn_extra", it.conn_extra.as_ref());
        });
        yaml.section("variables", &self.variables, |yaml, it| {
            yaml.entry("variable_name", Some(&it.variable_name));
            yaml.key("variable_value", it.variable_value.as_ref());
            yaml.key("variable_description", it.variable_description.as_ref());
        });
        yaml.section("pools", &self.pools, |yaml, it| {
            yaml.entry("pool_name", Some(&it.pool_name));
            yaml.key("pool_slot", it.pool_slot.as_ref());
            yaml.key("pool_description", it.pool_description.as_ref());
            yaml.key("pool_include_deferred", it.pool_include_deferred.as_ref());
        });
        yaml.0
    }
}

/// YAML as it is written. Values are JSON, which is YAML as well.
struct Yaml(String);

impl Yaml {
    fn section<T>(&mut self, name: &str, items: &[T], write: impl Fn(&mut Self, &T)) {
        let none = if items.is_empty() { " []" } else { "" };
        let _ = writeln!(self.0, "  {name}:{none}");
        for item in items {
            write(self, item);
        }
    }

    fn entry(&mut self, name: &str, value: Option<&impl Serialize>) {
        self.line("    - ", name, value);
    }

    fn key(&mut self, name: &str, value: Option<&impl Serialize>) {
        self.line("      ", name, value);
    }

    fn line(&mut self, before: &str, name: &str, value: Option<&impl Serialize>) {
        let Some(value) = value.and_then(|value| serde_json::to_string(value).ok()) else {
            return;
        };
        let _ = writeln!(self.0, "{before}{name}: {}", escaped(&value));
    }
}

/// What JSON allows in a text as it is and YAML does not.
fn escaped(json: &str) -> String {
    json.chars()
        .map(|it| match it {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                format!("\\u{:04x}", u32::from(it))
            }
            it => it.to_string(),
        })
        .collect()
}

/// An error without what it quotes of the file.
fn said(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let mut shown = String::new();
    let mut quote = None;
    for it in text.lines().next().unwrap_or_default().chars() {
        match quote {
            None => {
                shown.push(it);
                if matches!(it, '"' | '`' | '\'') {
                    shown.push('…');
                    quote = Some(it);
                }
            }
            Some(end) if it == end => {
                shown.push(it);
                quote = None;
            }
            Some(_) => {}
        }
    }
    match error.location() {
        Some(at) if !shown.contains("line ") => format!("line {}: {shown}", at.line()),
        _ => shown,
    }
}

impl AirflowNames {
    /// Reads the names in the file's text; none when it names nothing, as the
    /// file of a new project does.
    pub fn parse(text: &str) -> Result<Option<Self>, AirflowSettingsError> {
        let file = read::<Names>(text)?.unwrap_or_default();
        let filled = |name: Option<String>| name.filter(|name| !name.is_empty());
        let variables = file.variables.unwrap_or_default().into_iter();
        let connections = file.connections.unwrap_or_default().into_iter();
        let names = Self {
            variables: variables
                .filter_map(|it| filled(it.variable_name))
                .collect(),
            connections: connections.filter_map(|it| filled(it.conn_id)).collect(),
        };
        Ok(Some(names).filter(|names| *names != Self::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_no_values() {
        let text = "airflow:\n  connections:\n    - conn_id: warehouse\n      conn_type: postgres\n      conn_password: secret\n  pools:\n    - pool_name:\n  variables:\n    - variable_name: region\n      variable_value: eu\n    - variable_name:\n";
        let names = AirflowNames::parse(text).unwrap().unwrap();
        assert_eq!(names.variables, ["region"]);
        assert_eq!(names.connections, ["warehouse"]);
        for nothing in [
            "",
            "# only a comment\n",
            "airflow:\n",
            include_str!("scaffold/common/airflow_settings.yaml"),
        ] {
            assert_eq!(AirflowNames::parse(nothing).unwrap(), None, "{nothing}");
        }
        assert!(AirflowNames::parse("airflow: [").is_err());
    }

    const FILE: &str = r"airflow:
  connections:
    - conn_id: warehouse
      conn_type: postgres
      conn_host: db
      conn_password: 0123
      conn_port: 5432
      conn_uri:
      conn_extra:
        sslmode: require
        nested: [1, 2]
    - conn_id:
  pools:
    - pool_name: small
      pool_slot: 5
      pool_description:
  variables:
    - variable_name: region
      variable_value: eu
    - variable_name: limits
      variable_value: {a: 1}
";

    #[test]
    fn reads_values_and_writes_what_it_reads() {
        let objects = AirflowObjects::parse(FILE).unwrap();
        let connection = &objects.connections[0];
        assert_eq!(connection.conn_password.as_deref(), Some("0123"));
        assert_eq!(connection.conn_port, Some(5432));
        let extra = serde_json::json!({"sslmode": "require", "nested": [1, 2]});
        assert_eq!(connection.conn_extra.as_ref(), Some(&extra));
        assert_eq!(objects.connections.len(), 1);
        assert_eq!(objects.pools[0].pool_slot, Some(5));
        assert!(AirflowObjects::parse(&objects.to_yaml()).unwrap() == objects);

        let unpleasant = "a: \"b\"\n#\u{85}\u{2028}\u{feff}\\ ' % é 😀\t";
        let objects = AirflowObjects {
            variables: vec![AirflowVariable {
                variable_name: "yes".into(),
                variable_value: Some(unpleasant.into()),
                variable_description: None,
            }],
            ..AirflowObjects::default()
        };
        assert!(AirflowObjects::parse(&objects.to_yaml()).unwrap() == objects);
        let nothing = AirflowObjects::default();
        assert!(AirflowObjects::parse(&nothing.to_yaml()).unwrap() == nothing);
    }

    #[test]
    fn says_the_line_and_quotes_no_value() {
        for (text, line) in [
            (
                "airflow:\n  connections:\n    - conn_id: a\n      conn_port: s3cret\n",
                "line 4",
            ),
            ("airflow:\n  variables: s3cret\n", "line 2"),
            (
                "airflow:\n  variables:\n   - variable_name: a\n     variable_value: \"s3cret\n",
                "line 4",
            ),
            (
                "airflow:\n  variables:\n   - variable_value: s3cret\n  bad\n",
                "line",
            ),
        ] {
            let Err(error) = AirflowObjects::parse(text) else {
                panic!("it was read: {text}");
            };
            let error = error.to_string();
            assert!(error.contains(line) && !error.contains("s3cret"), "{error}");
        }
    }
}
