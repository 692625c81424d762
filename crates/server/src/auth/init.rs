//! The first token of an installation.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;

use updraft_api::token::NewToken;
use updraft_model::{Role, Scope, Timestamp};
use updraft_store::StoreError;

use super::tokens::{Issue, issue};
use super::{KeyError, Keys};
use crate::config::ServerConfig;
use crate::server::{lacking_keys, open_store};

const ADMIN_DAYS: u32 = 3650;

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("this control plane has its first admin token already, made at {0}")]
    Done(String),
    #[error("could not make the data folder")]
    Folder(#[source] std::io::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("could not prepare the database")]
    Store(#[from] StoreError),
}

impl InitError {
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Done(_) => Some(
                "make others with `updraft token create`; if it is lost, `updraft server init --again` makes another one",
            ),
            Self::Folder(_) => Some("see whether the folder's parent is writable"),
            Self::Key(error) => Some(error.help()),
            Self::Store(error) => error.help(),
        }
    }
}

/// Mints the first admin token; with `again`, another one. Works beside a
/// running server: whoever can write to the data folder is an admin anyway.
pub async fn init_admin(config: &ServerConfig, again: bool) -> Result<NewToken, InitError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .map_err(InitError::Folder)?;
    let store = open_store(config).await?;
    let minted = async {
        let keys = Keys::open(&config.keys_dir(), lacking_keys(&store).await?)?;
        mint(&keys, &store, again, config.clock.now()).await
    };
    let minted = minted.await;
    store.close().await;
    minted
}

async fn mint(
    keys: &Keys,
    store: &updraft_store::Store,
    again: bool,
    now: Timestamp,
) -> Result<NewToken, InitError> {
    let mut tx = store.begin().await?;
    let first = tx
        .record_fact("admin_token_made_at", &now.to_rfc3339())
        .await?;
    if !first && !again {
        let at = tx.fact("admin_token_made_at").await?;
        return Err(InitError::Done(at.unwrap_or_default()));
    }
    let new = issue(
        keys,
        &mut tx,
        Issue {
            name: "admin".into(),
            role: Role::Admin,
            scope: Scope::Organization,
            lives: chrono::Duration::days(i64::from(ADMIN_DAYS)),
            trust: None,
            created_by: "server init".into(),
        },
        now,
    )
    .await?;
    tx.commit().await?;
    Ok(new)
}
