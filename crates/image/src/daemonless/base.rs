//! The image that a build starts from, as its registry has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use updraft_model::Digest;

use super::contents::{self, Contents, Records, Site};
use super::packages::write_whole;
use super::{DaemonlessError, Say};
use crate::registry::{ImageReference, Registry};

const MOST_OF_A_CONFIG: usize = 8 << 20;
/// Layers that are read at once: more would wait for the processor.
const AT_ONCE: usize = 4;

/// What a manifest says of a blob.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Platformed>,
}

#[derive(Deserialize)]
struct Platformed {
    digest: Digest,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// An image in a registry.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) name: ImageReference,
    pub(super) registry: Arc<Registry>,
    /// Of the manifest for the platform.
    pub(super) digest: Digest,
    pub(super) layers: Vec<Descriptor>,
    /// The whole config: what is not understood here stays in it.
    pub(super) config: Map<String, Value>,
}

/// What is read of its layers.
pub(super) struct BaseContents {
    pub(super) contents: Contents,
    pub(super) site: Site,
}

impl Base {
    /// Asks the registry. What never changes is asked for once.
    pub(super) async fn resolve(
        registry: Registry,
        name: ImageReference,
        architecture: &str,
        cache: &Path,
    ) -> Result<Self, DaemonlessError> {
        let missing = || DaemonlessError::NoBase {
            name: name.to_string(),
        };
        let odd = |why: String| DaemonlessError::OddBase {
            name: name.to_string(),
            why,
        };
        let no_platform = |has: Vec<String>| DaemonlessError::NoPlatform {
            name: name.to_string(),
            architecture: architecture.to_owned(),
            has: has.join(", "),
        };
        let found = registry.manifest(&name.reference()).await?;
        let mut found = found.ok_or_else(missing)?;
        let value: Value = read_json(&found.bytes).map_err(odd)?;
        if value.get("manifests").is_some() {
            let index: Index = read_json(&found.bytes).map_err(odd)?;
            let platforms = index.manifests.iter().filter_map(|it| {
                let platform = it.platform.as_ref()?;
                Some((
                    it.digest,
                    format!("{}/{}", platform.os, platform.architecture),
                ))
            });
            let wanted = format!("linux/{architecture}");
            let chosen = platforms.clone().find(|(_, platform)| *platform == wanted);
            let Some((digest, _)) = chosen else {
                let has: BTreeSet<String> = platforms.map(|(_, platform)| platform).collect();
                let known = has.into_iter().filter(|it| !it.contains("unknown"));
                return Err(no_platform(known.collect()));
            };
            let bytes = kept(cache, &digest, async {
                let found = registry.manifest(&digest.to_string()).await?;
                Ok(found.ok_or_else(missing)?.bytes)
            });
            found.bytes = bytes.await?;
            found.digest = digest;
        }
        let manifest: Manifest = read_json(&found.bytes).map_err(odd)?;
        let config = kept(cache, &manifest.config.digest, async {
            let blob = registry.blob(&manifest.config.digest, MOST_OF_A_CONFIG);
            Ok(blob.await?)
        });
        let config: Map<String, Value> = read_json(&config.await?).map_err(odd)?;
        let said = |name: &str| config.get(name).and_then(Value::as_str).unwrap_or_default();
        if (said("os"), said("architecture")) != ("linux", architecture) {
            let has = format!("{}/{}", said("os"), said("architecture"));
            return Err(no_platform(vec![has]));
        }
        Ok(Self {
            registry: Arc::new(registry),
            digest: found.digest,
            layers: manifest.layers,
            config,
            name,
        })
    }

    /// What its processes have set.
    pub(super) fn env(&self) -> BTreeMap<String, String> {
        let env = self.setting("Env").and_then(Value::as_array);
        let pairs = env.into_iter().flatten().filter_map(Value::as_str);
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// Whether builds from it begin with steps of its own.
    pub(super) fn has_on_build(&self) -> bool {
        let steps = self.setting("OnBuild").and_then(Value::as_array);
        steps.is_some_and(|steps| !steps.is_empty())
    }

    fn setting(&self, name: &str) -> Option<&Value> {
        self.config.get("config")?.get(name)
    }

    /// Reads the layers that are not known yet, once.
    pub(super) async fn read(
        &self,
        cache: &Path,
        say: &Say,
    ) -> Result<BaseContents, DaemonlessError> {
        let is_new = |layer: &&Descriptor| !Kept::of(cache, layer).is_there();
        let new: Vec<&Descriptor> = self.layers.iter().filter(is_new).collect();
        if !new.is_empty() {
            let bytes: u64 = new.iter().map(|layer| layer.size).sum();
            say(&format!(
                "reading what is in `{}`, once ({} MB)",
                self.name,
                bytes.div_ceil(1 << 20)
            ));
        }
        stream::iter(new)
            .map(|layer| self.read_layer(layer, cache))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        let mut all = Contents::default();
        for layer in &self.layers {
            all.add(Kept::of(cache, layer).contents()?);
        }
        let site = all.site(&self.env());
        let site = site.map_err(|why| DaemonlessError::NoAirflow {
            name: self.name.to_string(),
            why,
        })?;
        Ok(BaseContents {
            contents: all,
            site,
        })
    }

    async fn read_layer(&self, layer: &Descriptor, cache: &Path) -> Result<(), DaemonlessError> {
        let digest = layer.digest;
        let (send, receive) = mpsc::channel(16);
        let coming = Coming {
            receive,
            piece: Bytes::new(),
        };
        let kept = Kept::of(cache, layer);
        let reading = tokio::task::spawn_blocking(move || {
            let (contents, records) = contents::read_layer(coming, &digest)?;
            kept.write(&contents, &records)
        });
        let passed = self.registry.pass_blob(&digest, layer.size, &send).await;
        drop(send);
        let read = reading.await.map_err(io::Error::other);
        passed?;
        read.and_then(|read| read)
            .map_err(|source| DaemonlessError::Layer {
                name: self.name.to_string(),
                digest,
                source,
            })
    }

    /// What packages say that their files are.
    pub(super) fn records(&self, cache: &Path) -> Result<Records, DaemonlessError> {
        let mut all = Records::new();
        for layer in &self.layers {
            all.extend(Kept::of(cache, layer).records()?);
        }
        Ok(all)
    }
}

/// Where it is kept what is known of a layer.
struct Kept {
    contents: PathBuf,
    /// Much longer, and rarely needed.
    records: PathBuf,
}

impl Kept {
    fn of(cache: &Path, layer: &Descriptor) -> Self {
        let folder = cache.join(format!("layers-of-bases-{}", contents::FORMAT));
        let name = layer.digest.hex();
        Self {
            contents: folder.join(format!("{name}.json")),
            records: folder.join(format!("{name}.records.json")),
        }
    }

    fn is_there(&self) -> bool {
        self.contents.is_file() && self.records.is_file()
    }

    fn write(&self, contents: &Contents, records: &Records) -> io::Result<()> {
        write_whole(&self.records, &serde_json::to_vec(records)?)?;
        write_whole(&self.contents, &serde_json::to_vec(contents)?)
    }

    fn contents(&self) -> Result<Contents, DaemonlessError> {
        read(&self.contents)
    }

    fn records(&self) -> Result<Records, DaemonlessError> {
        read(&self.records)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, DaemonlessError> {
    let text = fs::read(path);
    let value = text.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from));
    value.map_err(|source| {
        // What cannot be read is read anew next time.
        let _ = fs::remove_file(path);
        DaemonlessError::Io {
            path: path.to_owned(),
            source,
        }
    })
}

fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// A blob from the cache, or from where it is and then kept.
async fn kept(
    cache: &Path,
    digest: &Digest,
    fetch: impl Future<Output = Result<Bytes, DaemonlessError>>,
) -> Result<Bytes, DaemonlessError> {
    let path = cache.join("blobs").join(digest.hex());
    if let Ok(bytes) = fs::read(&path)
        && Digest::of(&bytes) == *digest
    {
        return Ok(bytes.into());
    }
    let bytes = fetch.await?;
    // Without it the next build asks again.
    let _ = write_whole(&path, &bytes);
    Ok(bytes)
}

/// Pieces that come from another thread, as one stream.
struct Coming {
    receive: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Coming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receive.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
