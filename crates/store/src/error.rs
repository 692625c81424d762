use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the disk that holds the database is full")]
    Full(#[source] sqlx::Error),
    /// It may work in a moment: the database is busy, restarting or not there.
    #[error("the database cannot be reached")]
    Unavailable(#[source] sqlx::Error),
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
    #[error("the database holds something unreadable in `{column}`: {why}")]
    Unreadable { column: &'static str, why: String },
    #[error("a deploy was changed by somebody else in between")]
    Conflict,
    #[error("could not bring the database up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error(
        "the database was made by a newer Updraft (its format is {found}, this one knows {known})"
    )]
    TooNew { found: i64, known: i64 },
    #[error("could not copy the database to `{}`", path.display())]
    Copy { path: PathBuf, source: sqlx::Error },
}

impl StoreError {
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::Full(_) => Some("free some space and try again; nothing was lost"),
            Self::Unavailable(_) => Some("see whether the database is up, then try again"),
            Self::TooNew { .. } => Some(
                "use the newer version, or restore the backup that it left beside the database",
            ),
            Self::Copy { .. } => Some("see whether the folder is writable and has space"),
            Self::Database(_) | Self::Unreadable { .. } | Self::Conflict | Self::Migrate(_) => None,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Io(_)
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // SQLITE_FULL; PostgreSQL's disk_full.
                Some("13" | "53100") => Self::Full(error),
                // SQLITE_BUSY and SQLITE_LOCKED; serialisation failure, deadlock; too many
                // connections, shutting down, starting up.
                Some("5" | "6" | "40001" | "40P01" | "53300" | "57P01" | "57P02" | "57P03") => {
                    Self::Unavailable(error)
                }
                _ => Self::Database(error),
            },
            _ => Self::Database(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_its_own_error() {
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect("sqlite::memory:")
            .await
            .unwrap();
        let run = async |statement: &'static str| sqlx::query(statement).execute(&pool).await;
        run("CREATE TABLE t (x BLOB)").await.unwrap();
        run("PRAGMA max_page_count = 4").await.unwrap();
        let full = run("INSERT INTO t VALUES (zeroblob(1000000))")
            .await
            .unwrap_err();
        assert!(matches!(StoreError::from(full), StoreError::Full(_)));
    }
}
