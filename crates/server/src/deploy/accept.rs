//! From uploaded blobs to the wanted Release.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use updraft_api::deploy::{AcceptDeploy, DeployView, Order};
use updraft_bundle::{Layer, LayerTable, Limits, failpoint, validate_bundle};
use updraft_model::{
    BundleName, DeployId, DeployState, Digest, ImageRef, Release, ReleaseId, Timestamp,
};
use updraft_store::{Deploy, DeployParts, Deployment, FileLists, Read, Write};

use super::compare::landed;
use super::create::lock;
use super::held::to_send;
use super::hold::pass_hold;
use super::suitable::refuse_other_platform;
use super::upload::{absent_manifests, manifests_of, named_blobs};
use super::wanted::{Become, files_between};
use super::{DeployError, agents_now, become_wanted, checks, view};
use crate::app::{App, READERS};
use crate::auth::Caller;
use crate::bundle::{Described, ShelfError, compose, pack};

/// Makes a deploy's Release the wanted one, once everything that it names is
/// there and was read. Accepting twice changes nothing.
///
/// The Release is composed within the transaction, with what is wanted at that
/// moment: only the parts that this deploy brings change.
pub(crate) async fn accept(
    app: &App,
    caller: &Caller,
    id: DeployId,
    ask: AcceptDeploy,
) -> Result<DeployView, DeployError> {
    failpoint("server.accept.start");
    let checks = ask
        .checks
        .map(|checks| checks::tidy(checks, caller))
        .transpose()?;
    // Its blobs stay without the gate: the deploy has named them since it was
    // recorded, and goes on doing so until it is wanted.
    let mut read = app.store.read().await?;
    let (deployment, deploy) = caller.deploy(&mut read, id).await?;
    caller.check_deploys_to(&deployment)?;
    if !may_be_accepted(&deploy)? {
        let agents = agents_now(app, &read.agents(deployment.id).await?);
        return Ok(view(deploy, &deployment, &agents));
    }
    let manifests = manifests_of(app, &mut read, &deploy.parts).await?;
    let unread = look_at_parts(app, caller, &mut read, &deploy).await?;
    // Archives take long to read, and readers of the database are few.
    drop(read);
    let tables = read_layers(app, &deploy, unread).await?;
    let mut read = app.store.read().await?;
    refuse_other_platform(app, &mut read, &deployment, deploy.parts.image.as_ref()).await?;
    let wanted = match deployment.target {
        Some(target) => read.release(target.release).await?,
        None => None,
    };
    // For now; somebody else may be quicker.
    let foreseen = foresee(app, &mut read, wanted.as_ref(), &deploy.parts).await?;
    drop(read);
    failpoint("server.accept.after_read");
    // Blobs too, for whoever reads bundles by digest.
    let absent = absent_manifests(app, manifests).await?;
    app.blobs.put_many(absent).await?;
    failpoint("server.accept.after_manifests");

    let now = app.now();
    let mut tx = app.store.begin().await?;
    let mut deployment = lock(&mut tx, deployment.id, &deployment.name).await?;
    caller.check_brings(&deployment)?;
    let (_, mut deploy) = caller.deploy(&mut tx, id).await?;
    if !may_be_accepted(&deploy)? {
        let agents = agents_now(app, &tx.agents(deployment.id).await?);
        return Ok(view(deploy, &deployment, &agents));
    }
    let wanted_now = match deployment.target {
        Some(target) => tx.release(target.release).await?,
        None => None,
    };
    let release = compose(wanted_now.as_ref(), &deploy.parts, ReleaseId::new())
        .ok_or_else(|| DeployError::ImageMissing(deployment.name.to_string()))?;
    let require = &deployment.settings.require;
    checks::judge(checks.as_ref(), &deploy.parts, &release, require)?;
    if let Some(order) = ask.order.filter(|_| !ask.force) {
        check_order(&mut tx, &deployment, &deploy, order).await?;
    }
    pass_hold(&mut deployment, wanted_now.as_ref(), &release, ask.force)?;
    deploy.checks = checks;
    store_tables(&mut tx, &tables, now).await?;
    let files = match foreseen {
        Some(foreseen) if wanted_now == wanted => foreseen,
        _ => files_between(app, &mut tx, wanted_now.as_ref(), &release).await?,
    };
    deploy.state = deploy.state.accept()?;
    let moved = become_wanted(
        app,
        &mut tx,
        &mut deployment,
        &mut deploy,
        Become {
            wanted: wanted_now,
            release,
            files,
            undone: None,
        },
        now,
    )
    .await?;
    let agents = agents_now(app, &tx.agents(deployment.id).await?);
    failpoint("server.accept.before_commit");
    tx.commit().await?;
    failpoint("server.accept.after_commit");

    app.announce(deployment.id);
    app.metrics.deploy_took(&deploy, "accepted", now);
    for deploy in &moved {
        app.metrics.deploy_came_to(deploy);
    }
    tracing::info!(deploy = %id, deployment = %deployment.name, "deploy accepted");
    Ok(view(deploy, &deployment, &agents))
}

/// Refuses a pipeline's deploy when another one of its branch came since it was compared:
/// that may be the newer one.
async fn check_order(
    read: &mut Read,
    deployment: &Deployment,
    deploy: &Deploy,
    order: Order,
) -> Result<(), DeployError> {
    let Some(run) = &deploy.ci else {
        return Ok(());
    };
    let mut landed = landed(read, deployment.id).await?.into_iter();
    let newest = landed.find(|other| other.ci.is_in_line_with(run));
    match newest.map(|newest| newest.deploy) {
        newest if newest == order.after => Ok(()),
        newest => Err(DeployError::MovedOn {
            deployment: deployment.name.to_string(),
            branch: run.branch.clone().unwrap_or_default(),
            newest,
        }),
    }
}

/// False when it was accepted before.
fn may_be_accepted(deploy: &Deploy) -> Result<bool, DeployError> {
    match &deploy.state {
        DeployState::Created | DeployState::Uploading => Ok(true),
        DeployState::Expired { .. } => Err(DeployError::State {
            id: deploy.id,
            state: deploy.state.name(),
            to: "accepted",
        }),
        DeployState::Accepted
        | DeployState::RollingOut { .. }
        | DeployState::Live { .. }
        | DeployState::Failed { .. }
        | DeployState::TimedOut { .. }
        | DeployState::Superseded { .. }
        | DeployState::RolledBack { .. } => Ok(false),
    }
}

type Tables = HashMap<Digest, Arc<LayerTable>>;

/// Stores the tables that the database lacks. Only it knows which those are:
/// what was read before may never have been stored, or is collected since.
async fn store_tables(tx: &mut Write, tables: &Tables, now: Timestamp) -> Result<(), DeployError> {
    let all: Vec<Digest> = tables.keys().copied().collect();
    let stored = tx.stored_layers(&all).await?;
    let lacking = tables
        .values()
        .filter(|table| !stored.contains(&table.digest));
    let lacking = lacking.map(|table| pack(table)).collect::<Result<_, _>>()?;
    Ok(tx.insert_layers(lacking, now).await?)
}

/// What is known of a deploy's bundles before their new layers are read.
struct Unread {
    manifests: HashMap<Digest, Arc<Described>>,
    tables: Tables,
    layers: Vec<Layer>,
}

/// Finds the layers that nobody read yet. All blobs have to be there.
async fn look_at_parts(
    app: &App,
    caller: &Caller,
    read: &mut Read,
    deploy: &Deploy,
) -> Result<Unread, DeployError> {
    let named = named_blobs(app, read, &deploy.parts).await?;
    let named = named.into_iter().collect();
    let missing = to_send(app, caller, read, deploy.deployment, named).await?;
    if let Some(first) = missing.first() {
        return Err(DeployError::BlobsMissing {
            id: deploy.id,
            count: missing.len(),
            first: *first,
        });
    }
    let mut manifests = HashMap::new();
    for digest in deploy.parts.manifests() {
        manifests.insert(digest, app.shelf.manifest(read, digest).await?);
    }
    let mut layers: BTreeMap<Digest, Layer> = manifests
        .values()
        .flat_map(|manifest| manifest.files.layers())
        .map(|layer| (layer.digest, layer.clone()))
        .collect();
    let tables = app.shelf.known_tables(read, layers.keys().copied()).await?;
    layers.retain(|layer, _| !tables.contains_key(layer));
    Ok(Unread {
        manifests,
        tables,
        layers: layers.into_values().collect(),
    })
}

/// Reads every layer that is new, from whoever sent it, and checks that each
/// bundle is one. Returns the tables of all its layers.
async fn read_layers(app: &App, deploy: &Deploy, unread: Unread) -> Result<Tables, DeployError> {
    let Unread {
        manifests,
        mut tables,
        layers,
    } = unread;
    let new: Vec<LayerTable> = stream::iter(layers)
        .map(|layer| read_one(app, deploy.id, layer))
        .buffer_unordered(READERS)
        .try_collect()
        .await?;
    for table in new {
        tables.insert(table.digest, app.shelf.put_table(table));
    }

    let limits = app.config.limits.bundle;
    let parts = deploy.parts.clone();
    let check = move || check_bundles(&parts, &manifests, &tables, &limits).map(|()| tables);
    tokio::task::spawn_blocking(check)
        .await
        .map_err(|_| DeployError::Invalid("the bundle could not be checked".into()))?
}

async fn read_one(app: &App, id: DeployId, layer: Layer) -> Result<LayerTable, DeployError> {
    // Before its bytes are in memory: whoever waits holds nothing.
    let _turn = app.readers.acquire().await;
    let digest = layer.digest;
    let bytes = app
        .blobs
        .get(&digest)
        .await?
        .ok_or(DeployError::BlobsMissing {
            id,
            count: 1,
            first: digest,
        })?;
    let limits = app.config.limits.bundle;
    let read = move || {
        layer
            .read(&*bytes, &limits)
            .map_err(|source| DeployError::Layer {
                what: "the bundle",
                source,
            })
    };
    tokio::task::spawn_blocking(read)
        .await
        // It panicked on what somebody sent: that much is known about it.
        .map_err(|_| DeployError::Invalid(format!("layer {digest} could not be read")))?
}

fn check_bundles(
    parts: &DeployParts,
    manifests: &HashMap<Digest, Arc<Described>>,
    tables: &HashMap<Digest, Arc<LayerTable>>,
    limits: &Limits,
) -> Result<(), DeployError> {
    let bundles = parts
        .bundles
        .iter()
        .map(|(name, digest)| (format!("bundle `{name}`"), *digest));
    let image = parts.image.iter().map(ImageRef::digest);
    let image = image.map(|digest| ("the environment".to_owned(), digest));
    for (what, digest) in bundles.chain(image) {
        let Some(manifest) = manifests.get(&digest) else {
            continue;
        };
        let tables: Vec<LayerTable> = manifest
            .files
            .layers()
            .iter()
            .filter_map(|layer| tables.get(&layer.digest))
            .map(|table| LayerTable::clone(table))
            .collect();
        validate_bundle(&manifest.files, &tables, limits)
            .map_err(|source| DeployError::Bundle { what, source })?;
    }
    Ok(())
}

/// What will differ, if that can be told without the tables that are about to
/// be stored: the shelf forgets.
async fn foresee(
    app: &App,
    read: &mut Read,
    wanted: Option<&Release>,
    parts: &DeployParts,
) -> Result<Option<BTreeMap<BundleName, FileLists>>, DeployError> {
    let Some(release) = compose(wanted, parts, ReleaseId::new()) else {
        return Ok(None);
    };
    match files_between(app, read, wanted, &release).await {
        Ok(files) => Ok(Some(files)),
        Err(DeployError::Shelf(ShelfError::TableGone(_))) => Ok(None),
        Err(error) => Err(error),
    }
}
