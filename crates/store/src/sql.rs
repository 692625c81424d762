//! One way to run one SQL text on either database.

use std::str::FromStr;

use chrono::DateTime;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Postgres, Row as _, SqlSafeStr, SqlStr, Sqlite, Transaction};
use updraft_model::{
    AgentId, BundleName, DeployId, DeployKind, DeploymentId, DeploymentName, Digest, EnrollmentId,
    ExchangeId, ExchangeOutcome, OciDigest, ReleaseId, RepositoryName, Role, Tag, Timestamp,
    TokenId, TrustId, UploadId, WorkspaceId,
};

use crate::StoreError;

/// A structure as its column has it.
pub(crate) fn json<T: Serialize>(value: Option<&T>) -> Option<String> {
    value.map(|value| serde_json::to_string(value).expect("our types always serialise"))
}

/// A transaction on either database, or a connection without one.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
    SqliteLook(PoolConnection<Sqlite>),
    PostgresLook(PoolConnection<Postgres>),
}

/// A value on its way into a statement. Nulls have a type, since PostgreSQL
/// asks for one.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(Option<String>),
    Int(Option<i64>),
    Bytes(Option<Vec<u8>>),
}

pub(crate) struct Query {
    sql: SqlStr,
    values: Vec<Value>,
}

pub(crate) fn sql(text: &'static str) -> Query {
    Query {
        sql: text.into_sql_str(),
        values: Vec::new(),
    }
}

/// A statement with as many places as there are values: `{}` stands for them.
/// Nothing that anybody gave may become part of the text itself.
pub(crate) fn sql_with_list(template: &'static str, list: &str) -> Query {
    Query {
        sql: AssertSqlSafe(template.replace("{}", list)).into_sql_str(),
        values: Vec::new(),
    }
}

/// `$first, $first+1, …`
pub(crate) fn places(first: usize, count: usize) -> String {
    (first..first + count)
        .map(|place| format!("${place}"))
        .collect::<Vec<_>>()
        .join(", ")
}

macro_rules! run {
    ($self:ident, $on:ident, $method:ident) => {{
        let mut query = sqlx::query($self.sql);
        for value in $self.values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Int(int) => query.bind(int),
                Value::Bytes(bytes) => query.bind(bytes),
            };
        }
        query.$method(&mut **$on).await?
    }};
}

impl Query {
    pub(crate) fn bind(mut self, value: impl Bind) -> Self {
        self.values.push(value.value());
        self
    }

    pub(crate) fn bind_json(self, value: &impl Serialize) -> Self {
        let json = serde_json::to_string(value).expect("our types always serialise");
        self.bind(json)
    }

    /// Runs it and says how many rows it touched.
    pub(crate) async fn run(self, on: &mut Connection) -> Result<u64, StoreError> {
        Ok(match on {
            Connection::Sqlite(on) => run!(self, on, execute).rows_affected(),
            Connection::Postgres(on) => run!(self, on, execute).rows_affected(),
            Connection::SqliteLook(on) => run!(self, on, execute).rows_affected(),
            Connection::PostgresLook(on) => run!(self, on, execute).rows_affected(),
        })
    }

    pub(crate) async fn all(self, on: &mut Connection) -> Result<Vec<Row>, StoreError> {
        Ok(match on {
            Connection::Sqlite(on) => sqlite_rows(run!(self, on, fetch_all)),
            Connection::SqliteLook(on) => sqlite_rows(run!(self, on, fetch_all)),
            Connection::Postgres(on) => postgres_rows(run!(self, on, fetch_all)),
            Connection::PostgresLook(on) => postgres_rows(run!(self, on, fetch_all)),
        })
    }

    pub(crate) async fn one(self, on: &mut Connection) -> Result<Option<Row>, StoreError> {
        Ok(match on {
            Connection::Sqlite(on) => run!(self, on, fetch_optional).map(Row::Sqlite),
            Connection::SqliteLook(on) => run!(self, on, fetch_optional).map(Row::Sqlite),
            Connection::Postgres(on) => run!(self, on, fetch_optional).map(Row::Postgres),
            Connection::PostgresLook(on) => run!(self, on, fetch_optional).map(Row::Postgres),
        })
    }
}

fn sqlite_rows(rows: Vec<SqliteRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Sqlite).collect()
}

fn postgres_rows(rows: Vec<PgRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Postgres).collect()
}

/// What can be put into a statement.
pub(crate) trait Bind: Sized {
    fn value(self) -> Value;
    fn null() -> Value;
}

impl<T: Bind> Bind for Option<T> {
    fn value(self) -> Value {
        self.map_or_else(T::null, T::value)
    }

    fn null() -> Value {
        T::null()
    }
}

impl Bind for &str {
    fn value(self) -> Value {
        Value::Text(Some(self.to_owned()))
    }

    fn null() -> Value {
        Value::Text(None)
    }
}

impl Bind for String {
    fn value(self) -> Value {
        Value::Text(Some(self))
    }

    fn null() -> Value {
        Value::Text(None)
    }
}

impl Bind for i64 {
    fn value(self) -> Value {
        Value::Int(Some(self))
    }

    fn null() -> Value {
        Value::Int(None)
    }
}

impl Bind for u32 {
    fn value(self) -> Value {
        Value::Int(Some(i64::from(self)))
    }

    fn null() -> Value {
        Value::Int(None)
    }
}

impl Bind for bool {
    fn value(self) -> Value {
        Value::Int(Some(i64::from(self)))
    }

    fn null() -> Value {
        Value::Int(None)
    }
}

impl Bind for Vec<u8> {
    fn value(self) -> Value {
        Value::Bytes(Some(self))
    }

    fn null() -> Value {
        Value::Bytes(None)
    }
}

impl Bind for Timestamp {
    fn value(self) -> Value {
        Value::Int(Some(self.timestamp_micros()))
    }

    fn null() -> Value {
        Value::Int(None)
    }
}

/// A row of an answer.
pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    fn text(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    fn int(&self, column: &'static str) -> Result<Option<i64>, StoreError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    fn bytes(&self, column: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    pub(crate) fn optional<T: Column>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        T::read(self, column)
    }

    pub(crate) fn get<T: Column>(&self, column: &'static str) -> Result<T, StoreError> {
        T::read(self, column)?.ok_or_else(|| StoreError::Unreadable {
            column,
            why: "it is null".into(),
        })
    }

    pub(crate) fn optional_json<T: DeserializeOwned>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        self.text(column)?
            .map(|json| {
                serde_json::from_str(&json).map_err(|error| StoreError::Unreadable {
                    column,
                    why: error.to_string(),
                })
            })
            .transpose()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        self.optional_json(column)?
            .ok_or_else(|| StoreError::Unreadable {
                column,
                why: "it is null".into(),
            })
    }
}

/// What can be read from a row.
pub(crate) trait Column: Sized {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError>;
}

impl Column for String {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
        row.text(column)
    }
}

impl Column for i64 {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
        row.int(column)
    }
}

impl Column for u64 {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
        let int = row.int(column)?;
        int.map(|int| {
            int.try_into().map_err(|_| StoreError::Unreadable {
                column,
                why: format!("{int} is out of range"),
            })
        })
        .transpose()
    }
}

impl Column for u32 {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
        let int = row.int(column)?;
        int.map(|int| {
            int.try_into().map_err(|_| StoreError::Unreadable {
                column,
                why: format!("{int} is out of range"),
            })
        })
        .transpose()
    }
}

impl Column for bool {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
        Ok(row.int(column)?.map(|int| int != 0))
    }
}

impl Column for Vec<u8> {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
        row.bytes(column)
    }
}

impl Column for Timestamp {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
        let micros = row.int(column)?;
        micros
            .map(|micros| {
                DateTime::from_timestamp_micros(micros).ok_or_else(|| StoreError::Unreadable {
                    column,
                    why: format!("{micros} is no time"),
                })
            })
            .transpose()
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(
    text: Option<String>,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    text.map(|text| {
        text.parse()
            .map_err(|error: T::Err| StoreError::Unreadable {
                column,
                why: error.to_string(),
            })
    })
    .transpose()
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Bind for $type {
            fn value(self) -> Value {
                Value::Text(Some(self.to_string()))
            }

            fn null() -> Value {
                Value::Text(None)
            }
        }

        impl Bind for &$type {
            fn value(self) -> Value {
                Value::Text(Some(self.to_string()))
            }

            fn null() -> Value {
                Value::Text(None)
            }
        }

        impl Column for $type {
            fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
                parse(row.text(column)?, column)
            }
        }
    )*};
}

as_text!(
    AgentId,
    BundleName,
    DeployId,
    DeploymentId,
    DeploymentName,
    Digest,
    EnrollmentId,
    ExchangeId,
    ExchangeOutcome,
    OciDigest,
    ReleaseId,
    RepositoryName,
    Role,
    Tag,
    TokenId,
    TrustId,
    UploadId,
    WorkspaceId
);

impl Bind for DeployKind {
    fn value(self) -> Value {
        Value::Text(Some(self.name().to_owned()))
    }

    fn null() -> Value {
        Value::Text(None)
    }
}

impl Column for DeployKind {
    fn read(row: &Row, column: &'static str) -> Result<Option<Self>, StoreError> {
        let kind = row.text(column)?;
        kind.map(|kind| match kind.as_str() {
            "deploy" => Ok(Self::Deploy),
            "rollback" => Ok(Self::Rollback),
            "automatic_rollback" => Ok(Self::AutomaticRollback),
            "promotion" => Ok(Self::Promotion),
            other => Err(StoreError::Unreadable {
                column,
                why: format!("`{other}` is no kind of deploy"),
            }),
        })
        .transpose()
    }
}
