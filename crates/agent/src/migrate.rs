//! Airflow's database, kept at the version of the Airflow that runs.

use std::io;

use serde::{Deserialize, Serialize};
use updraft_model::Digest;
use updraft_project::AirflowVersion;

use crate::airflow::components::{self, Common};
use crate::converge::Converge;
use crate::deliver::PassError;
use crate::disk::Disk;
use crate::environment::Environment;
use crate::failpoint::failpoint;
use crate::files;
use crate::runtime::supervisor::{Launcher, Spec};

const MIGRATED: &str = "migrated.json";

/// What a database was migrated to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Migrated {
    airflow: String,
    database: Digest,
}

const CONNECTION: &str = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN";

/// Airflow's database as it is, and as an Airflow wants it.
pub(crate) struct Database<'a> {
    pub(crate) launcher: &'a Launcher,
    pub(crate) common: &'a Common<'a>,
}

/// What is to be done before that Airflow starts.
pub(crate) struct Migration {
    /// The Airflow that the database was migrated to before.
    before: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    #[error("Airflow's database was migrated to {newer}, and Airflow {older} cannot use it")]
    TooOld { older: String, newer: String },
    #[error("{what} failed: {said}")]
    Failed { what: &'static str, said: String },
    #[error(transparent)]
    Kept(#[from] io::Error),
}

impl Migrated {
    fn of(common: &Common<'_>) -> Self {
        let database = common.variables.get(CONNECTION);
        Self {
            airflow: common.environment.airflow_version.clone(),
            database: Digest::of(database.map_or("", String::as_str).as_bytes()),
        }
    }

    fn read(disk: &Disk) -> Option<Self> {
        files::read_json(&disk.root().join(MIGRATED)).unwrap_or_default()
    }

    fn keep(&self, disk: &Disk) -> io::Result<()> {
        files::write_json(&disk.root().join(MIGRATED), self, 0o600)
    }
}

/// Says that an Airflow cannot use the database: a newer one has.
pub(crate) fn too_old(disk: &Disk, environment: &Environment) -> Result<(), MigrateError> {
    let Some(Migrated { airflow: newer, .. }) = Migrated::read(disk) else {
        return Ok(());
    };
    let older = environment.airflow_version.clone();
    if is_older(&older, &newer) {
        return Err(MigrateError::TooOld { older, newer });
    }
    Ok(())
}

impl Database<'_> {
    /// Whether it is the file in Airflow's home, and not one that somebody
    /// named, a SQLite elsewhere for instance.
    fn is_own_file(&self) -> bool {
        !self.common.variables.contains_key(CONNECTION)
    }

    /// What is to be done, while nothing of Airflow runs.
    pub(crate) fn pending(&self) -> Result<Option<Migration>, MigrateError> {
        let disk = self.common.disk;
        let is_own_file = self.is_own_file();
        let is_there = !is_own_file || disk.airflow_home().join("airflow.db").exists();
        let (before, wanted) = (Migrated::read(disk), Migrated::of(self.common));
        if before.as_ref() == Some(&wanted) && is_there {
            return Ok(None);
        }
        let before = before.filter(|before| before.database == wanted.database && is_there);
        if before.is_some() {
            too_old(disk, self.common.environment)?;
        }
        let before = before.map(|before| before.airflow);
        Ok(Some(Migration { before }))
    }

    /// Brings it to the environment's version.
    pub(crate) async fn migrate(
        &self,
        migration: Migration,
        admin_password: &str,
    ) -> Result<(), MigrateError> {
        let common = self.common;
        if let Some(before) = &migration.before
            && self.is_own_file()
        {
            let backup = common.copy_database("airflow.db", &kept_as(before));
            self.run(&backup, "a backup of Airflow's database").await?;
            failpoint("agent.migrate.backed_up");
        }
        if let Some(before) = &migration.before {
            self.set_aside_settings(before)?;
        }
        self.run(&common.migrate(), "`airflow db migrate`").await?;
        failpoint("agent.migrate.end");
        if common.environment.is_airflow_2() {
            let admin = common.airflow_2_admin(admin_password);
            self.run(&admin, "making Airflow's admin user").await?;
        }
        Migrated::of(common).keep(common.disk)?;
        Ok(())
    }

    /// Airflow writes its defaults into a file and believes them later. Those of
    /// Airflow 2 name things that Airflow 3 has not.
    fn set_aside_settings(&self, before: &str) -> io::Result<()> {
        if before.starts_with("2.") == self.common.environment.is_airflow_2() {
            return Ok(());
        }
        let home = self.common.disk.airflow_home();
        let kept = home.join(format!("airflow.cfg.of-{before}"));
        match std::fs::rename(home.join("airflow.cfg"), kept) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn run(&self, spec: &Spec, what: &'static str) -> Result<(), MigrateError> {
        let ended = self.launcher.run_to_end(spec).await;
        ended.map_err(|said| MigrateError::Failed { what, said })
    }
}

impl From<MigrateError> for PassError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::TooOld { .. } => Self::Stalled(why_too_old(&error)),
            MigrateError::Failed { .. } => Self::Retry(error.to_string()),
            MigrateError::Kept(error) => error.into(),
        }
    }
}

fn why_too_old(error: &MigrateError) -> String {
    let MigrateError::TooOld { newer, .. } = error else {
        return error.to_string();
    };
    format!(
        "{error}; nothing was switched. Deploy {newer} or a later one, or give --allow-downgrade"
    )
}

impl Converge {
    /// Says why an Airflow cannot use the database: a newer one has.
    pub(crate) fn too_old(&self, environment: &Environment) -> Option<String> {
        let refused = too_old(&self.deliver.disk, environment);
        refused.err().map(|error| why_too_old(&error))
    }

    /// Brings Airflow's database to the environment's version, once.
    pub(crate) async fn migrate(&self, common: &Common<'_>) -> Result<(), PassError> {
        let database = Database {
            launcher: &self.launcher,
            common,
        };
        let Some(migration) = database.pending()? else {
            return Ok(());
        };
        // Components of another version must not write while tables change.
        self.supervisor().want(&[]);
        self.wait_until_stopped(components::LONG_RUNNING).await?;
        self.deliver.board.busy("preparing Airflow's database");
        let password = &self.secrets.admin_password;
        Ok(database.migrate(migration, password).await?)
    }

    /// Takes the database back to an older Airflow, whose successor did not come
    /// up: by the newer one's own means, and otherwise from the copy.
    pub(crate) async fn migrate_back(
        &self,
        newer: &Common<'_>,
        older: &Common<'_>,
    ) -> Result<(), PassError> {
        let is_migrated = Migrated::read(&self.deliver.disk) == Some(Migrated::of(newer));
        let version = &older.environment.airflow_version;
        if !is_migrated || !is_older(version, &newer.environment.airflow_version) {
            return Ok(());
        }
        self.supervisor().want(&[]);
        self.wait_until_stopped(components::LONG_RUNNING).await?;
        self.deliver
            .board
            .busy(format!("taking Airflow's database back to {version}"));
        let database = Database {
            launcher: &self.launcher,
            common: older,
        };
        let is_own_file = database.is_own_file();
        if is_own_file {
            let copy =
                newer.copy_database("airflow.db", &kept_as(&newer.environment.airflow_version));
            database.run(&copy, "a copy of Airflow's database").await?;
        }
        let downgrade = newer.downgrade(version);
        if let Err(error) = database.run(&downgrade, "`airflow db downgrade`").await {
            if !is_own_file {
                return Err(error.into());
            }
            tracing::warn!(?error, "the database is put back from its copy");
            let copy = older.copy_database(&kept_as(version), "airflow.db");
            database
                .run(&copy, "putting Airflow's database back")
                .await?;
        }
        Migrated::of(older).keep(&self.deliver.disk)?;
        Ok(())
    }
}

/// The name of the copy that was made before a migration.
fn kept_as(version: &str) -> String {
    format!("airflow.db.before-migration-from-{version}")
}

fn is_older(version: &str, than: &str) -> bool {
    let parsed = |text: &str| text.parse::<AirflowVersion>().ok();
    parsed(version)
        .zip(parsed(than))
        .is_some_and(|(version, than)| version < than)
}

#[cfg(test)]
mod tests {
    use updraft_model::DeploymentId;

    use super::*;
    use crate::airflow::settings::{AskedFor, Variables};
    use crate::environment::Packages;
    use crate::runtime::logs::Hidden;

    /// What there is to do, with Airflow's database at this address.
    fn pending(disk: &Disk, address: Option<&str>) -> Option<Migration> {
        let asked = Digest::of(b"asked");
        let address = address.map(|address| (CONNECTION.to_owned(), address.to_owned()));
        let common = Common {
            disk,
            environment: &environment(),
            variables: &Variables::from_iter(address),
            asked: AskedFor {
                with_bundles: asked,
                without_bundles: asked,
            },
            hidden: Hidden::default(),
            user: None,
        };
        let launcher = Launcher {
            wrapper: Vec::new(),
            run: disk.run(),
            logs: disk.logs(),
        };
        let database = Database {
            launcher: &launcher,
            common: &common,
        };
        let pending = database.pending().unwrap();
        // As when it has been brought to this version.
        Migrated::of(&common).keep(disk).unwrap();
        pending
    }

    fn environment() -> Environment {
        Environment {
            digest: Digest::of(b"image"),
            key: Digest::of(b"image"),
            packages: Packages::Venv {
                folder: "/venv".into(),
                bin: "/venv/bin".into(),
                python: "/venv/bin/python".into(),
            },
            project: "/project".into(),
            variables: Variables::new(),
            airflow_version: "3.3.2".into(),
            python_version: "3.12".into(),
            note: None,
        }
    }

    #[test]
    fn a_database_is_migrated_once_wherever_it_is() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(root.path(), DeploymentId::new()).unwrap();
        let elsewhere = format!("sqlite:///{}/elsewhere.db", root.path().display());
        for address in [
            Some(elsewhere.as_str()),
            Some("postgresql+psycopg2://localhost/airflow"),
        ] {
            assert!(pending(&disk, address).is_some(), "{address:?}");
            assert!(pending(&disk, address).is_none(), "{address:?}");
        }

        // The file in Airflow's home is Airflow's to make, and can be removed.
        assert!(pending(&disk, None).is_some());
        std::fs::create_dir(disk.airflow_home()).unwrap();
        std::fs::write(disk.airflow_home().join("airflow.db"), "").unwrap();
        assert!(pending(&disk, None).is_none());
        std::fs::remove_file(disk.airflow_home().join("airflow.db")).unwrap();
        assert!(pending(&disk, None).is_some());
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_older("2.11.2", "3.0.6"));
        assert!(is_older("3.2.2", "3.10.0"));
        assert!(!is_older("3.3.2", "3.3.2"));
        assert!(!is_older("3.10.0", "3.9.1"));
        assert!(!is_older("nonsense", "3.9.1"));
    }
}
