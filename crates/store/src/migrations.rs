//! Brings a database up to date.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, PgPool, SqlSafeStr, SqlitePool};

use crate::{StoreError, quoted};

/// The migrations, oldest first. One that was released is never edited.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "initial", include_str!("migrations/0001_initial.sql")),
    (2, "checks", include_str!("migrations/0002_checks.sql")),
    (3, "dag_ids", include_str!("migrations/0003_dag_ids.sql")),
    (
        4,
        "allow_downgrade",
        include_str!("migrations/0004_allow_downgrade.sql"),
    ),
    (5, "registry", include_str!("migrations/0005_registry.sql")),
    (6, "ci", include_str!("migrations/0006_ci.sql")),
    (7, "moving", include_str!("migrations/0007_moving.sql")),
    (8, "trust", include_str!("migrations/0008_trust.sql")),
    (9, "previews", include_str!("migrations/0009_previews.sql")),
];

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|&(version, name, text)| {
        Migration::new(
            version,
            Cow::Borrowed(name),
            MigrationType::Simple,
            text.into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

fn refuse_newer(found: i64) -> Result<(), StoreError> {
    let known = newest();
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    Ok(())
}

pub(crate) async fn on_sqlite(pool: &SqlitePool, file: &Path) -> Result<(), StoreError> {
    let migrated: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM sqlite_master WHERE name = '_sqlx_migrations'")
            .fetch_optional(pool)
            .await?;
    if migrated.is_some() {
        let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(pool)
            .await?;
        let found = found.unwrap_or(0);
        refuse_newer(found)?;
        if found == newest() {
            return Ok(());
        }
        let copy = backup_name(file, found);
        tracing::info!(copy = %copy.display(), "copying the database before changing its format");
        vacuum_into(pool, &copy).await?;
    }
    migrator().run(pool).await?;
    Ok(())
}

pub(crate) async fn on_postgres(pool: &PgPool) -> Result<(), StoreError> {
    let migrated: Option<String> =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations')::text")
            .fetch_one(pool)
            .await?;
    if migrated.is_some() {
        let found: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(pool)
            .await?;
        refuse_newer(found.unwrap_or(0))?;
    }
    migrator().run(pool).await?;
    Ok(())
}

/// `updraft.db` → `updraft.db.format-3`, with a number behind it when a failed
/// attempt left one.
fn backup_name(file: &Path, found: i64) -> PathBuf {
    let name = |suffix: String| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let first = name(format!(".format-{found}"));
    if !first.exists() {
        return first;
    }
    (2..1000)
        .map(|count| name(format!(".format-{found}.{count}")))
        .find(|candidate| !candidate.exists())
        .unwrap_or(first)
}

pub(crate) async fn vacuum_into(pool: &SqlitePool, file: &Path) -> Result<(), StoreError> {
    let statement = AssertSqlSafe(format!("VACUUM INTO '{}'", quoted(file).0));
    sqlx::query(statement)
        .execute(pool)
        .await
        .map_err(|source| StoreError::Copy {
            path: file.to_owned(),
            source,
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

    use super::*;

    async fn open(file: &Path) -> SqlitePool {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true);
        SqlitePoolOptions::new()
            .connect_with(options)
            .await
            .unwrap()
    }

    async fn set_version(pool: &SqlitePool, version: i64) {
        sqlx::query("UPDATE _sqlx_migrations SET version = $1 WHERE version = (SELECT max(version) FROM _sqlx_migrations)")
            .bind(version)
            .execute(pool)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_older_database_is_copied_before_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("updraft.db");
        let pool = open(&file).await;
        on_sqlite(&pool, &file).await.unwrap();
        // As if this were the format before: what follows fails, and the copy is there.
        sqlx::query("DELETE FROM _sqlx_migrations WHERE version = $1")
            .bind(newest())
            .execute(&pool)
            .await
            .unwrap();
        let _ = on_sqlite(&pool, &file).await;
        let _ = on_sqlite(&pool, &file).await;
        let (before, ..) = MIGRATIONS[MIGRATIONS.len() - 2];
        let copy = folder.path().join(format!("updraft.db.format-{before}"));
        let tables: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE name = 'deploy'")
                .fetch_one(&open(&copy).await)
                .await
                .unwrap();
        assert_eq!(tables, 1);
        assert!(
            folder
                .path()
                .join(format!("updraft.db.format-{before}.2"))
                .exists()
        );
    }

    #[tokio::test]
    async fn a_database_of_a_newer_updraft_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("updraft.db");
        let pool = open(&file).await;
        on_sqlite(&pool, &file).await.unwrap();
        set_version(&pool, newest() + 1).await;
        let refused = on_sqlite(&pool, &file).await;
        assert!(matches!(refused, Err(StoreError::TooNew { .. })));
    }
}
