//! What the Airflow of a Preview is not told of the Deployment that it is made from.

/// Its tasks run beside its scheduler, on a database of its own.
pub(crate) const EXECUTOR: &str = "LocalExecutor";

/// What holds in every Preview. The first has our policy pause those DAGs too that
/// say otherwise.
pub(super) const FIXED: [(&str, &str); 3] = [
    ("UPDRAFT_PREVIEW", "1"),
    ("AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION", "True"),
    ("AIRFLOW__LOGGING__REMOTE_LOGGING", "False"),
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use updraft_model::{DeploymentId, Digest, PreviewValues};

    use super::*;
    use crate::airflow::secrets::Secrets;
    use crate::airflow::settings::{Dags, SettingsFor, Variables, variables};
    use crate::disk::Disk;
    use crate::environment::{Environment, Packages};

    /// What Airflow gets where the Deployment sets this.
    fn settings(own: &[(&str, &str)], preview: Option<PreviewValues>) -> Variables {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), DeploymentId::new()).unwrap();
        let environment = Environment {
            digest: Digest::of(b"image"),
            key: Digest::of(b"image"),
            packages: Packages::Venv {
                folder: "/venv".into(),
                bin: "/venv/bin".into(),
                python: "/venv/bin/python".into(),
            },
            project: "/project".into(),
            variables: [("AIRFLOW__CELERY__BROKER_URL".into(), "redis://own".into())].into(),
            airflow_version: "3.3.2".into(),
            python_version: "3.12".into(),
            note: None,
        };
        let own = own
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        variables(&SettingsFor {
            disk: &disk,
            environment: &environment,
            dags: Dags::Folder(Path::new("/project/dags")),
            executor: EXECUTOR,
            own: &own.collect(),
            secrets: &Secrets::load_or_make(&disk.secrets()).unwrap(),
            port: 8080,
            metadata_db_url: None,
            apart: true,
            parse_again: 30,
            pass: &[],
            ours: &[],
            preview,
        })
    }

    #[test]
    fn a_preview_is_an_airflow_by_itself_whatever_its_deployment_sets() {
        let own = [
            ("AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION", "False"),
            ("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor"),
            ("AIRFLOW__CORE__FERNET_KEY", "the Deployment's"),
            ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://own"),
            ("AIRFLOW__SECRETS__BACKEND", "a.Vault"),
            ("REGION", "north"),
        ];
        let deployment = settings(&own, None);
        assert!(own.iter().all(|(name, value)| deployment[*name] == *value));
        assert!(!deployment.contains_key("UPDRAFT_PREVIEW"));

        let preview = settings(&own, Some(PreviewValues::Mask));
        for name in [
            "AIRFLOW__CELERY__BROKER_URL",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
            "AIRFLOW__SECRETS__BACKEND",
        ] {
            assert!(!preview.contains_key(name), "{name}");
        }
        assert_eq!(preview["AIRFLOW__CORE__EXECUTOR"], EXECUTOR);
        // A key of its own.
        assert_eq!(preview["AIRFLOW__CORE__FERNET_KEY"].len(), 44);
        let paused = &preview["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"];
        assert_eq!((&**paused, &*preview["REGION"]), ("True", "north"));
        assert_eq!(preview["UPDRAFT_PREVIEW"], "1");
    }
}
