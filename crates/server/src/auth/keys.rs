//! The keys that sign tokens and seal environment variables.
//!
//! They lie in a folder of their own, outside the database, readable by the
//! server's user alone. Of several signing keys the first signs, of several
//! sealing keys the first seals; all of them verify and open, so a key can be
//! replaced while what the older one made is still used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const SIGNING: &str = "signing.json";
const SEALING: &str = "environment.key";
/// The first byte of what is sealed, for the day it is done differently.
const FORMAT: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("could not read or write the key file `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the key file `{}` is damaged", .0.display())]
    Damaged(PathBuf),
    #[error("the key file `{}` is gone, and the database was made with it", .0.display())]
    Gone(PathBuf),
    #[error("the system gave no random numbers")]
    Random,
}

impl KeyError {
    /// One sentence that says what to do next.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Io { .. } => "see whether the folder is the server's own and its disk has space",
            Self::Damaged(_) => "put the `keys` folder back from a backup",
            Self::Gone(_) => {
                "put the `keys` folder back from a backup; without one, `updraft server rotate-keys --forget-old` makes new keys, for which tokens are made and environment variables set again"
            }
            Self::Random => "start it again",
        }
    }
}

/// All keys of a control plane.
pub(crate) struct Keys {
    signing: Vec<SigningKey>,
    sealing: Vec<LessSafeKey>,
}

/// What to do where there are no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// Nothing was made with any yet.
    Make,
    Refuse,
}

struct SigningKey {
    id: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

#[derive(Serialize, Deserialize)]
struct SigningFile {
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    kid: String,
    pkcs8: String,
}

/// Why a signed text is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotOurs;

impl Keys {
    /// Reads the keys, and makes them when there are none and may be made.
    pub(crate) fn open(folder: &Path, lacking: Lacking) -> Result<Self, KeyError> {
        let (signing, sealing) = (folder.join(SIGNING), folder.join(SEALING));
        for file in [&signing, &sealing] {
            if lacking == Lacking::Refuse && !exists(file)? {
                return Err(KeyError::Gone(file.clone()));
            }
        }
        make_missing(folder)?;
        Ok(Self {
            signing: read_signing(&signing)?
                .keys
                .iter()
                .map(|key| key.open(&signing))
                .collect::<Result<_, _>>()?,
            sealing: read_sealing(&sealing)?
                .iter()
                .map(|key| sealing_key(key).ok_or_else(|| KeyError::Damaged(sealing.clone())))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Signs claims as a compact JWT.
    pub(crate) fn sign(&self, claims: &impl Serialize) -> String {
        let key = &self.signing[0];
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key.id.clone());
        jsonwebtoken::encode(&header, claims, &key.encoding).expect("our keys sign our claims")
    }

    /// Reads claims that one of our keys signed, for those that take such an
    /// issuer's. When they hold is not looked at.
    pub(crate) fn verify<C: DeserializeOwned + Clone>(
        &self,
        issuer: &str,
        token: &str,
    ) -> Result<C, NotOurs> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| NotOurs)?;
        let key = self
            .signing
            .iter()
            .find(|key| Some(&key.id) == header.kid.as_ref())
            .ok_or(NotOurs)?;
        // Pinned: what the token says about its algorithm is not asked.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        validation.set_issuer(&[issuer]);
        jsonwebtoken::decode::<C>(token, &key.decoding, &validation)
            .map(|token| token.claims)
            .map_err(|_| NotOurs)
    }

    /// Encrypts bytes so that they open only in the same place.
    pub(crate) fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce)?;
        let mut sealed = plain.to_vec();
        self.sealing[0]
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| KeyError::Random)?;
        let mut all = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        all.push(FORMAT);
        all.extend_from_slice(&nonce);
        all.extend_from_slice(&sealed);
        Ok(all)
    }

    /// Decrypts what [`Self::seal`] made for the same place; none when it was
    /// made with another key, for another place, or was changed.
    pub(crate) fn open_sealed(&self, place: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (format, rest) = sealed.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>()?;
        if *format != FORMAT {
            return None;
        }
        self.sealing.iter().find_map(|key| {
            let mut bytes = rest.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut bytes);
            let length = opened.ok()?.len();
            bytes.truncate(length);
            Some(bytes)
        })
    }
}

pub(crate) const ISSUER: &str = "updraft";

/// Makes new keys the ones that sign and seal. Tokens of older keys stay good;
/// with `forget_old` they do not, and everybody needs a new one. What older keys
/// sealed is always opened. A running server uses the new keys after a restart.
///
/// With `forget_old` it also makes the keys that are gone.
pub fn rotate_keys(data_dir: &Path, forget_old: bool) -> Result<(), KeyError> {
    let folder = data_dir.join("keys");
    if forget_old && exists(data_dir)? {
        make_missing(&folder)?;
    }
    let (signing, sealing) = (folder.join(SIGNING), folder.join(SEALING));
    let mut file = read_signing(&signing)?;
    let mut keys = read_sealing(&sealing)?;
    if forget_old {
        file.keys.clear();
    }
    file.keys.insert(0, new_signing_key()?);
    keys.insert(0, new_sealing_key()?);
    write_secret(&sealing, keys.join("\n").as_bytes())?;
    write_signing(&signing, &file)
}

/// Makes the folder and the key files that are not there.
fn make_missing(folder: &Path) -> Result<(), KeyError> {
    let (signing, sealing) = (folder.join(SIGNING), folder.join(SEALING));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(at(folder))?;
    if !exists(&signing)? {
        let keys = vec![new_signing_key()?];
        write_signing(&signing, &SigningFile { keys })?;
    }
    if !exists(&sealing)? {
        write_secret(&sealing, new_sealing_key()?.as_bytes())?;
    }
    // The folder may be new itself.
    let parent = folder.parent().filter(|path| !path.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let sync = || File::open(parent)?.sync_all();
    sync().map_err(at(parent))
}

impl StoredKey {
    fn open(&self, path: &Path) -> Result<SigningKey, KeyError> {
        let damaged = || KeyError::Damaged(path.to_owned());
        let pkcs8 = STANDARD.decode(&self.pkcs8).map_err(|_| damaged())?;
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| damaged())?;
        let public = URL_SAFE_NO_PAD.encode(pair.public_key());
        Ok(SigningKey {
            id: self.kid.clone(),
            encoding: EncodingKey::from_ed_der(&pkcs8),
            decoding: DecodingKey::from_ed_components(&public).map_err(|_| damaged())?,
        })
    }
}

fn new_signing_key() -> Result<StoredKey, KeyError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?;
    let pkcs8 = pair.to_pkcs8().map_err(|_| KeyError::Random)?;
    let mut kid = [0; 8];
    random(&mut kid)?;
    Ok(StoredKey {
        kid: hex::encode(kid),
        pkcs8: STANDARD.encode(pkcs8.as_ref()),
    })
}

fn read_signing(path: &Path) -> Result<SigningFile, KeyError> {
    let bytes = fs::read(path).map_err(at(path))?;
    serde_json::from_slice::<SigningFile>(&bytes)
        .ok()
        .filter(|file| !file.keys.is_empty())
        .ok_or_else(|| KeyError::Damaged(path.to_owned()))
}

fn write_signing(path: &Path, file: &SigningFile) -> Result<(), KeyError> {
    let json = serde_json::to_vec_pretty(file).map_err(|_| KeyError::Damaged(path.to_owned()))?;
    write_secret(path, &json)
}

/// One key in each line, the newest first.
fn read_sealing(path: &Path) -> Result<Vec<String>, KeyError> {
    let text = fs::read_to_string(path).map_err(at(path))?;
    let keys: Vec<String> = text.split_whitespace().map(ToOwned::to_owned).collect();
    if keys.is_empty() {
        return Err(KeyError::Damaged(path.to_owned()));
    }
    Ok(keys)
}

fn sealing_key(text: &str) -> Option<LessSafeKey> {
    let key = STANDARD.decode(text).ok()?;
    let key = UnboundKey::new(&AES_256_GCM, &key).ok()?;
    Some(LessSafeKey::new(key))
}

fn new_sealing_key() -> Result<String, KeyError> {
    let mut key = [0; 32];
    random(&mut key)?;
    Ok(STANDARD.encode(key))
}

/// Replaces a file at once or not at all; only the owner can read it.
fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let write = || -> io::Result<()> {
        let temporary = path.with_extension("new");
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent()
            .map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(at(path))
}

fn exists(path: &Path) -> Result<bool, KeyError> {
    path.try_exists().map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = path.to_owned();
    move |source| KeyError::Io { path, source }
}

/// Fills a buffer with random bytes.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), KeyError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| KeyError::Random)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Claims {
        iss: String,
        sub: String,
    }

    fn claims() -> Claims {
        Claims {
            iss: ISSUER.into(),
            sub: "me".into(),
        }
    }

    #[test]
    fn tokens_survive_a_rotation_unless_it_forgets() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Keys::open(&folder.path().join("keys"), Lacking::Make).unwrap();
        let old = open().sign(&claims());
        assert_eq!(open().verify::<Claims>(ISSUER, &old), Ok(claims()));

        rotate_keys(folder.path(), false).unwrap();
        assert_eq!(open().verify::<Claims>(ISSUER, &old), Ok(claims()));
        let new = open().sign(&claims());
        rotate_keys(folder.path(), true).unwrap();
        for gone in [&old, &new] {
            assert_eq!(open().verify::<Claims>(ISSUER, gone), Err(NotOurs));
        }
    }

    #[test]
    fn what_was_sealed_before_a_rotation_still_opens() {
        let folder = tempfile::tempdir().unwrap();
        let open = |lacking| Keys::open(&folder.path().join("keys"), lacking);
        let old = open(Lacking::Make).unwrap().seal("here", b"one").unwrap();
        rotate_keys(folder.path(), true).unwrap();
        let keys = open(Lacking::Refuse).unwrap();
        let new = keys.seal("here", b"two").unwrap();
        assert_eq!(keys.open_sealed("here", &old).unwrap(), b"one");
        assert_eq!(keys.open_sealed("here", &new).unwrap(), b"two");

        fs::remove_dir_all(folder.path().join("keys")).unwrap();
        assert!(matches!(open(Lacking::Refuse), Err(KeyError::Gone(_))));
        assert!(rotate_keys(folder.path(), false).is_err());
        rotate_keys(folder.path(), true).unwrap();
        let keys = open(Lacking::Refuse).unwrap();
        assert_eq!(keys.open_sealed("here", &new), None);
    }

    #[test]
    fn a_changed_or_unsigned_token_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path(), Lacking::Make).unwrap();
        let token = keys.sign(&claims());
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(br#"{"alg":"none"}"#);
        let other = URL_SAFE_NO_PAD.encode(br#"{"iss":"updraft","sub":"you"}"#);
        for wrong in [
            format!("{}.{other}.{}", parts[0], parts[2]),
            format!("{none}.{}.", parts[1]),
            "x".into(),
        ] {
            assert_eq!(
                keys.verify::<Claims>(ISSUER, &wrong),
                Err(NotOurs),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_token_of_one_kind_is_none_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path(), Lacking::Make).unwrap();
        let token = keys.sign(&claims());
        assert_eq!(keys.verify::<Claims>("another", &token), Err(NotOurs));
        let token = keys.sign(&Claims {
            iss: "another".into(),
            ..claims()
        });
        assert_eq!(keys.verify::<Claims>(ISSUER, &token), Err(NotOurs));
    }

    #[test]
    fn only_the_owner_can_read_the_keys() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        Keys::open(&keys, Lacking::Make).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&keys), 0o700);
        assert_eq!(mode(&keys.join(SIGNING)), 0o600);
        assert_eq!(mode(&keys.join(SEALING)), 0o600);
    }

    #[test]
    fn what_is_sealed_opens_only_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path(), Lacking::Make).unwrap();
        let sealed = keys.seal("here", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(keys.open_sealed("here", &sealed).unwrap(), b"secret");
        assert_eq!(keys.open_sealed("there", &sealed), None);
        let mut changed = sealed.clone();
        changed[20] ^= 1;
        assert_eq!(keys.open_sealed("here", &changed), None);
        assert_eq!(keys.open_sealed("here", &[]), None);
    }
}
