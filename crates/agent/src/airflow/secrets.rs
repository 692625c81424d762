//! What an Airflow's components share and nobody else knows.
//!
//! Kept in a file of the agent's and handed over by environment. Code that runs
//! as Airflow's user can read the environment of its own processes, so this
//! keeps secrets from other users of the machine, not from DAG code.

use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use rand::Rng;
use serde::{Deserialize, Serialize};
use updraft_image::RunAs;

use crate::disk::Disk;
use crate::files;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) fernet_key: String,
    pub(crate) jwt_secret: String,
    pub(crate) secret_key: String,
    pub(crate) admin_password: String,
}

impl Secrets {
    /// Reads them, or makes them at the first start. They are never replaced:
    /// the Fernet key decrypts the connections in Airflow's database.
    pub(crate) fn load_or_make(path: &Path) -> io::Result<Self> {
        if let Some(secrets) = files::read_json(path)? {
            return Ok(secrets);
        }
        let secrets = Self {
            fernet_key: URL_SAFE.encode(random::<32>()),
            jwt_secret: hex::encode(random::<48>()),
            secret_key: hex::encode(random::<32>()),
            admin_password: hex::encode(random::<10>()),
        };
        files::write_json(path, &secrets, 0o600)?;
        Ok(secrets)
    }

    /// Tells Airflow 3 the admin's password, once.
    pub(crate) fn give_password(&self, disk: &Disk, user: Option<RunAs>) -> io::Result<()> {
        let passwords = disk.passwords();
        if std::fs::symlink_metadata(&passwords).is_ok() {
            return Ok(());
        }
        let content = serde_json::json!({ "admin": self.admin_password });
        let owner = user.map(|ids| (ids.uid, ids.gid));
        files::write_for(&passwords, content.to_string().as_bytes(), 0o600, owner)
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn makes_them_once_and_for_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.json");
        let made = Secrets::load_or_make(&path).unwrap();
        let read = Secrets::load_or_make(&path).unwrap();
        assert_eq!(made.fernet_key, read.fernet_key);
        assert_eq!(made.fernet_key.len(), 44);
        let permissions = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(permissions & 0o777, 0o600);
    }
}
