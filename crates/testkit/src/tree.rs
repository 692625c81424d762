//! Folders as bundles, ready to be sent.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use updraft_api::deploy::Parts;
use updraft_bundle::{Scan, ScanOptions, scan};
use updraft_model::{BundleName, Digest};

/// A bundle with the bytes of its layers.
#[derive(Debug, Clone)]
pub struct Tree {
    pub manifest: String,
    pub blobs: BTreeMap<Digest, Bytes>,
}

impl Tree {
    /// Makes the bundle that these files are.
    pub fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        let scan = scan(folder.path(), &ScanOptions::default()).expect("the folder is a bundle");
        Self::of_scan(&scan)
    }

    pub fn of_scan(scan: &Scan) -> Self {
        let manifest = scan.manifest();
        let blobs = manifest.layers().iter().map(|layer| {
            let bytes = scan.layer_bytes(&layer.digest).expect("it was just built");
            (layer.digest, bytes)
        });
        Self {
            blobs: blobs.collect(),
            manifest: String::from_utf8(manifest.to_bytes()).expect("JSON is UTF-8"),
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    /// Those of its blobs that a control plane lacks.
    pub fn pick(&self, missing: &[Digest]) -> Vec<(Digest, Bytes)> {
        missing
            .iter()
            .filter_map(|digest| Some((*digest, self.blobs.get(digest)?.clone())))
            .collect()
    }
}

/// An Environment that nobody could install, but that has the form of one.
pub fn environment(requirements: &str) -> Tree {
    let files = Tree::of([("include/used.py", "# used\n")]);
    environment_of(requirements, "any", files)
}

fn environment_of(requirements: &str, platform: &str, files: Tree) -> Tree {
    let config = format!("{{\"requirements\":{requirements:?},\"platform\":{platform:?}}}");
    let digest = Digest::of(config.as_bytes());
    let lock = format!("{requirements}==1.0\n");
    let lock_digest = Digest::of(lock.as_bytes());
    let manifest = files
        .manifest
        .replace(
            "application/vnd.updraft.bundle.v1",
            "application/vnd.updraft.environment.v1",
        )
        .replacen(
            &format!(
                "\"mediaType\":\"application/vnd.oci.empty.v1+json\",\"digest\":\"{}\",\"size\":2",
                Digest::of(updraft_bundle::EMPTY_BLOB)
            ),
            &format!(
                "\"mediaType\":\"application/vnd.updraft.environment.config.v1+json\",\"digest\":\"{digest}\",\"size\":{}",
                config.len()
            ),
            1,
        )
        .replacen(
            "\"layers\":[",
            &format!(
                "\"layers\":[{{\"mediaType\":\"application/vnd.updraft.environment.lock.v1+text\",\"digest\":\"{lock_digest}\",\"size\":{}}},",
                lock.len()
            ),
            1,
        );
    let mut blobs = files.blobs;
    blobs.insert(digest, config.into());
    blobs.insert(lock_digest, lock.into());
    Tree { manifest, blobs }
}

/// What is known of a container image of this name.
pub fn container_image(image: &str, platform: &str) -> Tree {
    let none = Tree::of([]);
    let known = environment_of(image, platform, none);
    let manifest = known.manifest.strip_suffix('}').expect("an object");
    let manifest = format!("{manifest},\"annotations\":{{\"io.updraft.image\":\"{image}\"}}}}");
    let mut blobs = known.blobs;
    let empty = Bytes::from_static(updraft_bundle::EMPTY_BLOB);
    blobs.insert(Digest::of(&empty), empty);
    Tree { manifest, blobs }
}

/// The parts of a deploy: a `dags` bundle, an Environment, or both.
pub fn parts(dags: Option<&Tree>, environment: Option<&Tree>) -> Parts {
    Parts {
        bundles: dags
            .map(|dags| (BundleName::dags(), dags.manifest.clone()))
            .into_iter()
            .collect(),
        environment: environment.map(|environment| environment.manifest.clone()),
    }
}
