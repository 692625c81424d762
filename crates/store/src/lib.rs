//! Database access, by noun. The same SQL runs on SQLite and on PostgreSQL;
//! `None` means "not there"; no policy lives here.
//!
//! [`Store::read`] gives one consistent picture, [`Store::begin`] one
//! transaction that writes. Nothing is done until [`Write::commit`] returns,
//! and then it survives a power cut.

mod agent;
mod deploy;
mod deployment;
mod error;
mod event;
mod installation;
mod layer;
mod migrations;
mod preview;
mod registry;
mod release;
mod sql;
mod token;
mod trust;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, PgPool, Postgres, SqlitePool, Transaction};

use crate::sql::Connection;

pub use agent::Agent;
pub use deploy::{Deploy, DeployParts, FileLists, Kept, NewDeploy};
pub use deployment::{Deployment, InProgress, Proven, Settings, Target};
pub use error::StoreError;
pub use event::DeployEvent;
pub use layer::StoredLayer;
pub use preview::{Preview, PreviewFacts};
pub use registry::{
    PushedManifest, RegistryLink, RegistryManifest, RegistryTag, RegistryUpload, TagPage,
};
pub use token::{Enrollment, Token};
pub use trust::{Exchange, Trust, TrustContent};

/// Readers of a SQLite database at once; each is a thread.
const SQLITE_READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 16;

/// A database.
#[derive(Debug, Clone)]
pub struct Store {
    pools: Pools,
}

#[derive(Debug, Clone)]
enum Pools {
    Sqlite {
        /// One connection: a transaction that reads before it writes fails at
        /// once when another one writes in between, whatever the time-out.
        write: SqlitePool,
        read: SqlitePool,
        file: PathBuf,
    },
    Postgres(PgPool),
}

/// One consistent picture of the database.
#[derive(Debug)]
pub struct Read {
    pub(crate) on: Connection,
}

/// A transaction. Dropping it undoes it.
#[derive(Debug)]
pub struct Write {
    read: Read,
}

impl Deref for Write {
    type Target = Read;

    fn deref(&self) -> &Read {
        &self.read
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut Read {
        &mut self.read
    }
}

/// Whether a connection may be used again. SQLite has rolled back by itself when
/// a disk was full, and one that missed it begins no transaction of its own any
/// more: what it reads stays as it was.
async fn is_good(connection: &mut sqlx::SqliteConnection) -> sqlx::Result<bool> {
    // Behind the rollback of a transaction that was dropped.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

impl Store {
    /// Opens a SQLite file, makes it if need be, and brings it up to date;
    /// a copy of what it was is left beside it when that changes it.
    pub async fn sqlite(file: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Every commit reaches the disk before it is answered.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(256);
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_release(|connection, _| Box::pin(is_good(connection)))
            .connect_with(options.clone())
            .await?;
        migrations::on_sqlite(&write, file).await?;
        let read = SqlitePoolOptions::new()
            .max_connections(SQLITE_READERS)
            .min_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_release(|connection, _| Box::pin(is_good(connection)))
            .connect_with(options.create_if_missing(false).read_only(true))
            .await?;
        Ok(Self {
            pools: Pools::Sqlite {
                write,
                read,
                file: file.to_owned(),
            },
        })
    }

    /// Connects to PostgreSQL and brings the database up to date.
    pub async fn postgres(url: &str) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse()?;
        let pool = PgPoolOptions::new()
            .max_connections(POSTGRES_CONNECTIONS)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with(options)
            .await?;
        migrations::on_postgres(&pool).await?;
        Ok(Self {
            pools: Pools::Postgres(pool),
        })
    }

    /// Whether other processes may write to the same database.
    pub const fn is_shared(&self) -> bool {
        match self.pools {
            Pools::Sqlite { .. } => false,
            Pools::Postgres(_) => true,
        }
    }

    /// The database file, when there is one.
    pub fn file(&self) -> Option<&Path> {
        match &self.pools {
            Pools::Sqlite { file, .. } => Some(file),
            Pools::Postgres(_) => None,
        }
    }

    pub async fn read(&self) -> Result<Read, StoreError> {
        let on = match &self.pools {
            Pools::Sqlite { read, .. } => Connection::Sqlite(read.begin().await?),
            Pools::Postgres(pool) => Connection::Postgres(
                begin_on_postgres(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?,
            ),
        };
        Ok(Read { on })
    }

    /// For one question: cheaper than [`Self::read`], and several answers need
    /// not fit together.
    pub async fn look(&self) -> Result<Read, StoreError> {
        let on = match &self.pools {
            Pools::Sqlite { read, .. } => Connection::SqliteLook(read.acquire().await?),
            Pools::Postgres(pool) => Connection::PostgresLook(pool.acquire().await?),
        };
        Ok(Read { on })
    }

    pub async fn begin(&self) -> Result<Write, StoreError> {
        let on = match &self.pools {
            Pools::Sqlite { write, .. } => {
                Connection::Sqlite(write.begin_with("BEGIN IMMEDIATE").await?)
            }
            Pools::Postgres(pool) => Connection::Postgres(begin_on_postgres(pool, "BEGIN").await?),
        };
        Ok(Write { read: Read { on } })
    }

    /// Writes a consistent copy of a SQLite database to a new file, whatever its
    /// format and whoever uses it. PostgreSQL has its own tools for that.
    pub async fn copy_sqlite(file: &Path, to: &Path) -> Result<(), StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(false)
            .read_only(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await?;
        let copied = migrations::vacuum_into(&pool, to).await;
        pool.close().await;
        copied
    }

    /// The version of the SQLite library, or of the PostgreSQL server.
    pub async fn version(&self) -> Result<String, StoreError> {
        Ok(match &self.pools {
            Pools::Sqlite { read, .. } => {
                sqlx::query_scalar("SELECT sqlite_version()")
                    .fetch_one(read)
                    .await?
            }
            Pools::Postgres(pool) => {
                sqlx::query_scalar("SHOW server_version")
                    .fetch_one(pool)
                    .await?
            }
        })
    }

    /// Ends all connections; transactions that are open are undone.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { write, read, .. } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

/// Begins in a task of its own. When a begin is dropped between its statement
/// and the answer, sqlx counts no transaction yet and undoes none: the connection
/// would go back to the pool with one open, and whoever gets it next would read
/// what was there long ago, or fail. A task runs on; what it hands to nobody is
/// dropped whole, and undone.
async fn begin_on_postgres(
    pool: &PgPool,
    statement: &'static str,
) -> Result<Transaction<'static, Postgres>, StoreError> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(statement).await });
    Ok(begun.await.map_err(|_| sqlx::Error::WorkerCrashed)??)
}

impl Write {
    pub async fn commit(self) -> Result<(), StoreError> {
        match self.read.on {
            Connection::Sqlite(transaction) => transaction.commit().await?,
            Connection::Postgres(transaction) => transaction.commit().await?,
            // `begin` gives transactions only.
            Connection::SqliteLook(_) | Connection::PostgresLook(_) => {}
        }
        Ok(())
    }
}

impl Read {
    /// Whether rows have to be locked by name; SQLite has one writer anyway.
    const fn locks_rows(&self) -> bool {
        match self.on {
            Connection::Sqlite(_) | Connection::SqliteLook(_) => false,
            Connection::Postgres(_) | Connection::PostgresLook(_) => true,
        }
    }
}

/// A path as SQL text.
fn quoted(path: &Path) -> AssertSqlSafe<String> {
    AssertSqlSafe(path.to_string_lossy().replace('\'', "''"))
}
