//! `airflow_settings.yaml`: what a local Airflow is given at its start. Only
//! names are read here; values are nobody's business.

use serde::Deserialize;

/// Names of variables and connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AirflowNames {
    pub variables: Vec<String>,
    pub connections: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("`airflow_settings.yaml` cannot be read: {0}")]
pub struct AirflowSettingsError(String);

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    airflow: Option<Airflow>,
}

#[derive(Debug, Default, Deserialize)]
struct Airflow {
    #[serde(default)]
    variables: Option<Vec<Variable>>,
    #[serde(default)]
    connections: Option<Vec<Connection>>,
}

#[derive(Debug, Deserialize)]
struct Variable {
    #[serde(default)]
    variable_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    #[serde(default)]
    conn_id: Option<String>,
}

impl AirflowNames {
    /// Reads the names in the file's text; none when it names nothing, as the
    /// file of a new project does.
    pub fn parse(text: &str) -> Result<Option<Self>, AirflowSettingsError> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let file: Option<File> = serde_saphyr::from_str(text)
            .map_err(|error| AirflowSettingsError(error.to_string()))?;
        let airflow = file.unwrap_or_default().airflow.unwrap_or_default();
        let filled = |name: Option<String>| name.filter(|name| !name.is_empty());
        let variables = airflow.variables.unwrap_or_default().into_iter();
        let connections = airflow.connections.unwrap_or_default().into_iter();
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
}
