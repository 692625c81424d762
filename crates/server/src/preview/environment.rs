//! What a Preview has of the environment variables of the Deployment that it is
//! made from.

use std::collections::BTreeMap;

use updraft_model::PreviewValues;
use url::Url;

const MASK: &str = "***";

/// Of a setting of Airflow's that is a secret.
const SECRET: &[&str] = &["PASSWORD", "SECRET", "TOKEN", "KEY", "_CMD", "SQL_ALCHEMY"];

/// The variables of a Preview.
pub(super) fn of_preview(
    variables: &BTreeMap<String, String>,
    values: PreviewValues,
) -> BTreeMap<String, String> {
    let shared = variables
        .iter()
        .filter(|(name, _)| !values.leaves_out(name));
    shared
        .filter_map(|(name, value)| {
            let value = match values {
                PreviewValues::Copy => Some(value.clone()),
                PreviewValues::Mask => masked(name, value),
                PreviewValues::None => {
                    (is_setting(name) && !is_secret(name)).then(|| value.clone())
                }
            };
            Some((name.clone(), value?))
        })
        .collect()
}

/// A setting keeps its value, a connection where it leads, everything else its name.
fn masked(name: &str, value: &str) -> Option<String> {
    if name.starts_with("AIRFLOW_CONN_") {
        return Some(connection(value));
    }
    if is_setting(name) {
        return (!is_secret(name)).then(|| value.to_owned());
    }
    Some(MASK.to_owned())
}

fn is_setting(name: &str) -> bool {
    name.starts_with("AIRFLOW__")
}

fn is_secret(name: &str) -> bool {
    SECRET.iter().any(|part| name.contains(part))
}

/// A connection as Airflow reads it from a variable, without who signs in and how: an
/// address, or JSON.
fn connection(value: &str) -> String {
    if value.trim_start().starts_with('{') {
        let fields = serde_json::from_str::<BTreeMap<String, serde_json::Value>>(value);
        let mut fields = fields.unwrap_or_default();
        fields.retain(|name, _| {
            ["conn_type", "host", "schema", "port", "description"].contains(&name.as_str())
        });
        fields
            .entry("conn_type".into())
            .or_insert_with(|| "generic".into());
        return serde_json::json!(fields).to_string();
    }
    let Ok(mut address) = Url::parse(value) else {
        return "generic://".into();
    };
    address.set_query(None);
    address.set_fragment(None);
    // Without a host, all of it may be somebody's name and password.
    let has_host = address.host().is_some();
    if has_host && address.set_username("").is_ok() && address.set_password(None).is_ok() {
        return address.into();
    }
    "generic://".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)], values: PreviewValues) -> Vec<(String, String)> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        of_preview(&pairs.collect(), values).into_iter().collect()
    }

    #[test]
    fn nothing_leads_to_the_deployments_own_database() {
        let own = [
            (
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
                "postgresql://u:p@db/airflow",
            ),
            ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD", "cat /secret"),
            (
                "AIRFLOW__CORE__SQL_ALCHEMY_CONN",
                "postgresql://u:p@db/airflow",
            ),
            ("AIRFLOW__CELERY__BROKER_URL", "redis://broker"),
            ("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor"),
            ("AIRFLOW__CORE__FERNET_KEY", "k"),
        ];
        for values in [
            PreviewValues::Copy,
            PreviewValues::Mask,
            PreviewValues::None,
        ] {
            assert_eq!(given(&own, values), []);
        }
    }

    #[test]
    fn masked_names_stay_and_secrets_go() {
        let own = [
            (
                "AIRFLOW_CONN_API",
                r#"{"conn_type":"http","host":"a.example","password":"pw","extra":{"k":"v"}}"#,
            ),
            (
                "AIRFLOW_CONN_DB",
                "postgres://who:pw@db.example:5432/shop?sslcert=x",
            ),
            ("AIRFLOW_CONN_ODD", "who:pw@nowhere"),
            ("AIRFLOW_VAR_KEY", "abc"),
            ("AIRFLOW__CORE__PARALLELISM", "4"),
            ("AIRFLOW__SMTP__SMTP_PASSWORD", "pw"),
            ("AIRFLOW__SECRETS__BACKEND_KWARGS", "{}"),
            ("STRIPE_KEY", "sk"),
        ];
        let masked = given(&own, PreviewValues::Mask);
        let expected = [
            (
                "AIRFLOW_CONN_API",
                r#"{"conn_type":"http","host":"a.example"}"#,
            ),
            ("AIRFLOW_CONN_DB", "postgres://db.example:5432/shop"),
            ("AIRFLOW_CONN_ODD", "generic://"),
            ("AIRFLOW_VAR_KEY", "***"),
            ("AIRFLOW__CORE__PARALLELISM", "4"),
            ("STRIPE_KEY", "***"),
        ];
        for ((name, value), (wanted, text)) in masked.iter().zip(expected) {
            assert_eq!((name.as_str(), value.as_str()), (wanted, text));
        }
        let none = given(&own, PreviewValues::None);
        assert_eq!(
            none,
            [("AIRFLOW__CORE__PARALLELISM".to_owned(), "4".to_owned())]
        );
    }
}
