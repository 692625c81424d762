//! Airflow's database, kept at the version of the Airflow that runs.

use serde::{Deserialize, Serialize};
use updraft_model::Digest;
use updraft_project::AirflowVersion;

use crate::airflow::components::{self, Common};
use crate::converge::Converge;
use crate::deliver::PassError;
use crate::environment::Environment;
use crate::failpoint::failpoint;

const MIGRATED: &str = "migrated.json";

/// What a database was migrated to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Migrated {
    airflow: String,
    database: Digest,
}

const CONNECTION: &str = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN";

/// Whether the database is the file in Airflow's home, and not one that somebody
/// named, a SQLite elsewhere for instance.
fn is_own_file(common: &Common<'_>) -> bool {
    !common.variables.contains_key(CONNECTION)
}

impl Migrated {
    fn of(common: &Common<'_>) -> Self {
        let database = common.variables.get(CONNECTION);
        Self {
            airflow: common.environment.airflow_version.clone(),
            database: Digest::of(database.map_or("", String::as_str).as_bytes()),
        }
    }
}

impl Converge {
    fn migrated(&self) -> Option<Migrated> {
        self.deliver.read(MIGRATED).unwrap_or_default()
    }

    /// Says why an Airflow cannot use the database: a newer one has.
    pub(crate) fn too_old(&self, environment: &Environment) -> Option<String> {
        let newer = self.migrated()?.airflow;
        let older = &environment.airflow_version;
        is_older(older, &newer).then(|| {
            format!(
                "Airflow's database was migrated to {newer}, and Airflow {older} cannot use it; nothing was switched. \
                 Deploy {newer} or a later one, or give --allow-downgrade"
            )
        })
    }

    /// Brings Airflow's database to the environment's version, once.
    pub(crate) async fn migrate(&self, common: &Common<'_>) -> Result<(), PassError> {
        let home = self.deliver.disk.airflow_home();
        let is_own_file = is_own_file(common);
        let is_there = !is_own_file || home.join("airflow.db").exists();
        let (before, wanted) = (self.migrated(), Migrated::of(common));
        if before.as_ref() == Some(&wanted) && is_there {
            return Ok(());
        }
        let before = before.filter(|before| before.database == wanted.database && is_there);
        if before.is_some()
            && let Some(why) = self.too_old(common.environment)
        {
            return Err(PassError::Stalled(why));
        }
        // Components of another version must not write while tables change.
        self.supervisor().want(&[]);
        self.wait_until_stopped(components::LONG_RUNNING).await?;
        self.deliver.board.busy("preparing Airflow's database");
        if let Some(before) = before.filter(|_| is_own_file) {
            let backup = common.copy_database("airflow.db", &kept_as(&before.airflow));
            self.run(&backup, "a backup of Airflow's database").await?;
            failpoint("agent.migrate.backed_up");
        }
        self.run(&common.migrate(), "`airflow db migrate`").await?;
        failpoint("agent.migrate.end");
        if common.environment.is_airflow_2() {
            let admin = common.airflow_2_admin(&self.secrets.admin_password);
            self.run(&admin, "making Airflow's admin user").await?;
        }
        self.deliver.keep(MIGRATED, &wanted)?;
        Ok(())
    }

    /// Takes the database back to an older Airflow, whose successor did not come
    /// up: by the newer one's own means, and otherwise from the copy.
    pub(crate) async fn migrate_back(
        &self,
        newer: &Common<'_>,
        older: &Common<'_>,
    ) -> Result<(), PassError> {
        let is_migrated = self.migrated() == Some(Migrated::of(newer));
        let version = &older.environment.airflow_version;
        if !is_migrated || !is_older(version, &newer.environment.airflow_version) {
            return Ok(());
        }
        self.supervisor().want(&[]);
        self.wait_until_stopped(components::LONG_RUNNING).await?;
        self.deliver
            .board
            .busy(format!("taking Airflow's database back to {version}"));
        if is_own_file(older) {
            let copy =
                newer.copy_database("airflow.db", &kept_as(&newer.environment.airflow_version));
            self.run(&copy, "a copy of Airflow's database").await?;
        }
        let downgrade = newer.downgrade(version);
        if let Err(error) = self.run(&downgrade, "`airflow db downgrade`").await {
            if !is_own_file(older) {
                return Err(error);
            }
            tracing::warn!(?error, "the database is put back from its copy");
            let copy = older.copy_database(&kept_as(version), "airflow.db");
            self.run(&copy, "putting Airflow's database back").await?;
        }
        self.deliver.keep(MIGRATED, &Migrated::of(older))?;
        Ok(())
    }

    async fn run(
        &self,
        spec: &crate::runtime::supervisor::Spec,
        what: &str,
    ) -> Result<(), PassError> {
        let ended = self.launcher.run_to_end(spec).await;
        ended.map_err(|text| PassError::Retry(format!("{what} failed: {text}")))
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
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(is_older("2.11.2", "3.0.6"));
        assert!(is_older("3.2.2", "3.10.0"));
        assert!(!is_older("3.3.2", "3.3.2"));
        assert!(!is_older("3.10.0", "3.9.1"));
        assert!(!is_older("nonsense", "3.9.1"));
    }
}
