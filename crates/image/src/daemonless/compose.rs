//! The config and the manifest of an image: those of its base, and what is added.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use updraft_model::Digest;

use super::base::{Base, Descriptor};
use super::layer::Layer;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// What a base gets.
pub(super) struct Additions<'a> {
    /// With what their history says.
    pub(super) layers: &'a [(Layer, &'static str)],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) labels: &'a BTreeMap<String, String>,
}

/// The same base and additions are the same bytes.
pub(super) struct Composed {
    pub(super) config: Bytes,
    pub(super) manifest: Bytes,
    pub(super) media_type: String,
}

pub(super) fn compose(base: &Base, added: &Additions<'_>) -> Composed {
    let config = Bytes::from(config(base, added).to_string());
    let mut layers: Vec<Value> = base.layers.iter().map(known).collect();
    layers.extend(
        added.layers.iter().map(
            |(layer, _)| json!({"mediaType": GZIP, "digest": layer.digest, "size": layer.size}),
        ),
    );
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest::of(&config), "size": config.len()},
        "layers": layers,
        "annotations": {
            "org.opencontainers.image.base.digest": base.digest,
            "org.opencontainers.image.base.name": base.name.to_string(),
        },
    });
    Composed {
        config,
        manifest: manifest.to_string().into(),
        media_type: MANIFEST.to_owned(),
    }
}

/// A layer of the base. Docker's are OCI's by another name, and a manifest of OCI
/// has OCI's names.
fn known(layer: &Descriptor) -> Value {
    let media_type = match layer.media_type.as_str() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => GZIP,
        "application/vnd.docker.image.rootfs.diff.tar" => TAR,
        other => other,
    };
    json!({"mediaType": media_type, "digest": layer.digest, "size": layer.size})
}

fn config(base: &Base, added: &Additions<'_>) -> Value {
    let mut whole = base.config.clone();
    let settings = object(&mut whole, "config");
    let mut env: Vec<String> = strings(settings.get("Env"));
    for (name, value) in added.env {
        let pair = format!("{name}={value}");
        let is_it = |old: &&mut String| old.split_once('=').is_some_and(|(old, _)| old == name);
        match env.iter_mut().find(is_it) {
            Some(old) => *old = pair,
            None => env.push(pair),
        }
    }
    settings.insert("Env".into(), json!(env));
    if !added.labels.is_empty() {
        let labels = object(settings, "Labels");
        for (name, value) in added.labels {
            labels.insert(name.clone(), json!(value));
        }
    }
    let created = whole.get("created").cloned();

    let rootfs = object(&mut whole, "rootfs");
    let mut diff_ids = strings(rootfs.get("diff_ids"));
    let of_base = diff_ids.len();
    diff_ids.extend(
        added
            .layers
            .iter()
            .map(|(layer, _)| layer.diff_id.to_string()),
    );
    rootfs.insert("type".into(), json!("layers"));
    rootfs.insert("diff_ids".into(), json!(diff_ids));

    // A history tells of every layer or is none.
    let history = whole.get("history").and_then(Value::as_array);
    let mut history = history.cloned().unwrap_or_default();
    let has_layer = |step: &&Value| step.get("empty_layer") != Some(&Value::Bool(true));
    if history.iter().filter(has_layer).count() == of_base {
        for (_, what) in added.layers {
            let mut step = Map::new();
            // As old as the base: a time of its own would make each build another image.
            if let Some(created) = &created {
                step.insert("created".into(), created.clone());
            }
            step.insert("created_by".into(), json!(what));
            history.push(Value::Object(step));
        }
        whole.insert("history".into(), json!(history));
    } else {
        whole.remove("history");
    }
    Value::Object(whole)
}

fn object<'a>(within: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = within.entry(name).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made one")
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}
