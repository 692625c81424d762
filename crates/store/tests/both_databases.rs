//! One suite, run on SQLite and on PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::task::Poll;

use chrono::{Duration, Utc};
use tempfile::TempDir;
use updraft_model::{
    AfterFailure, AgentId, BundleDags, BundleName, BundleRef, CiRun, DagIds, DeployId, DeployKind,
    DeployState, DeploymentId, Digest, EnrollmentId, ExchangeId, ExchangeOutcome, Expected,
    HeldRelease, Hold, Identity, ImageRef, OciDigest, PreviewValues, Release, ReleaseId,
    ReleasePart, RepositoryName, Role, Runtime, Scope, Timestamp, TokenId, TrustId, TrustProvider,
    UploadId, WorkspaceId,
};
use updraft_store::{
    Agent, DeployParts, Deployment, Enrollment, Exchange, FileLists, NewDeploy, Preview,
    PreviewFacts, Proven, PushedManifest, RegistryLink, RegistryManifest, RegistryTag,
    RegistryUpload, Settings, Store, StoreError, StoredLayer, Target, Token, Trust, TrustContent,
    Write,
};
use updraft_testkit::Postgres;

/// A database of one kind, empty but for its tables.
struct Database {
    store: Store,
    _folder: Option<TempDir>,
}

/// One server for all tests of this process; the reaper ends it with the process.
fn postgres() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    SERVER
        .get_or_init(|| Postgres::start_or_skip("the store on PostgreSQL"))
        .as_ref()
}

async fn databases() -> Vec<Database> {
    let folder = tempfile::tempdir().unwrap();
    let mut all = vec![Database {
        store: Store::sqlite(&folder.path().join("updraft.db"))
            .await
            .unwrap(),
        _folder: Some(folder),
    }];
    if let Some(server) = postgres() {
        all.push(Database {
            store: Store::postgres(&server.database()).await.unwrap(),
            _folder: None,
        });
    }
    all
}

fn now() -> Timestamp {
    Timestamp::from_timestamp_micros(Utc::now().timestamp_micros()).unwrap()
}

async fn deployment(tx: &mut Write, name: &str) -> Deployment {
    let deployment = Deployment {
        id: DeploymentId::new(),
        name: name.parse().unwrap(),
        workspace: tx.ensure_workspace("default", now()).await.unwrap(),
        created_at: now(),
        settings: Settings {
            description: "shop".into(),
            after_failure: AfterFailure::Rollback,
            proof_timeout_s: 300,
            keep_releases: 2,
            runtime: Runtime::Process,
            executor: "LocalExecutor".into(),
            require: Vec::new(),
            registry: None,
            ci_only: false,
            preview_values: PreviewValues::default(),
        },
        environment: Some(vec![1, 2, 0, 255]),
        environment_names: vec!["A".into()],
        generation: 1,
        target: None,
        proven: None,
        hold: None,
        preview: None,
    };
    assert!(tx.insert_deployment(&deployment).await.unwrap());
    deployment
}

fn new_deploy(deployment: DeploymentId, key: &str) -> NewDeploy {
    NewDeploy {
        deployment,
        kind: DeployKind::Deploy,
        key: key.into(),
        parts: DeployParts {
            bundles: [(BundleName::dags(), Digest::of(key.as_bytes()))].into(),
            image: None,
        },
        description: "d".into(),
        git: None,
        ci: None,
        created_by: "me".into(),
        created_at: now(),
        returns_to: None,
        promotes: None,
        allow_downgrade: false,
    }
}

fn release(content: &str) -> Release {
    Release {
        id: ReleaseId::new(),
        image: ImageRef::Environment {
            digest: Digest::of(b"environment"),
        },
        bundles: [(
            BundleName::dags(),
            BundleRef {
                digest: Digest::of(content.as_bytes()),
            },
        )]
        .into(),
    }
}

#[tokio::test]
async fn sqlite_is_one_without_the_bug_that_loses_commits() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::sqlite(&folder.path().join("x.db")).await.unwrap();
    let version = store.version().await.unwrap();
    let numbers: Vec<u32> = version.split('.').map(|n| n.parse().unwrap()).collect();
    assert!(numbers >= vec![3, 51, 3], "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_deployments() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let mut shop = deployment(&mut tx, "shop").await;
        let other = deployment(&mut tx, "another").await;
        assert!(
            !tx.insert_deployment(&Deployment {
                id: DeploymentId::new(),
                ..shop.clone()
            })
            .await
            .unwrap()
        );
        tx.commit().await.unwrap();

        let mut read = store.read().await.unwrap();
        assert_eq!(read.deployment(shop.id).await.unwrap(), Some(shop.clone()));
        assert_eq!(
            read.deployment_named(&shop.name).await.unwrap(),
            Some(shop.clone())
        );
        assert_eq!(read.deployment(DeploymentId::new()).await.unwrap(), None);
        let names: Vec<_> = read
            .deployments()
            .await
            .unwrap()
            .into_iter()
            .map(|d| d.name)
            .collect();
        assert_eq!(names, [other.name, shop.name.clone()]);
        drop(read);

        shop.generation = 7;
        shop.environment = None;
        shop.target = Some(Target {
            deploy: DeployId::new(),
            release: ReleaseId::new(),
            attempt: 2,
            since: now(),
            generation: 6,
            may_switch: true,
        });
        shop.proven = Some(Proven {
            deploy: DeployId::new(),
            release: ReleaseId::new(),
        });
        shop.hold = Some(Box::new(Hold {
            by: "ada".into(),
            since: now(),
            reason: "it doubles orders".into(),
            rollback: DeployId::new(),
            held: vec![HeldRelease {
                deploy: DeployId::new(),
                release: release("bad"),
                parts: vec![ReleasePart::Image],
            }],
        }));
        let before = now();
        let mut tx = store.begin().await.unwrap();
        assert!(tx.lock_deployment(shop.id).await.unwrap().is_some());
        tx.update_deployment(&shop, before).await.unwrap();
        tx.commit().await.unwrap();
        let mut read = store.read().await.unwrap();
        assert_eq!(read.deployment(shop.id).await.unwrap(), Some(shop.clone()));
        assert_eq!(read.generation(shop.id).await.unwrap(), Some(7));
        let changed = read.deployments_changed_since(before).await.unwrap();
        assert_eq!(changed, [(shop.id, before)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_never_was() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        deployment(&mut tx, "shop").await;
        drop(tx);
        assert!(
            store
                .read()
                .await
                .unwrap()
                .deployments()
                .await
                .unwrap()
                .is_empty()
        );
        // The writer is free again.
        let mut tx = store.begin().await.unwrap();
        deployment(&mut tx, "shop").await;
        tx.commit().await.unwrap();
        assert_eq!(
            store
                .read()
                .await
                .unwrap()
                .deployments()
                .await
                .unwrap()
                .len(),
            1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_on_one_deployment_wait_for_each_other() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        tx.commit().await.unwrap();
        let count = |store: Store| async move {
            let mut tx = store.begin().await.unwrap();
            let mut shop = tx.lock_deployment(shop.id).await.unwrap().unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            shop.generation += 1;
            tx.update_deployment(&shop, now()).await.unwrap();
            tx.commit().await.unwrap();
        };
        let all: Vec<_> = (0..8).map(|_| tokio::spawn(count(store.clone()))).collect();
        for one in all {
            one.await.unwrap();
        }
        assert_eq!(
            store
                .read()
                .await
                .unwrap()
                .generation(shop.id)
                .await
                .unwrap(),
            Some(9)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tells_which_runs_landed_in_the_order_of_their_acceptance() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        let mut latest = None;
        let mut landed = Vec::new();
        let seconds = Duration::seconds;
        for (number, accepted) in [
            (1, Some(seconds(1))),
            (2, Some(seconds(3))),
            (3, Some(seconds(2))),
            (4, Some(seconds(4))),
            (5, None),
        ] {
            let mut new = new_deploy(shop.id, &format!("run {number}"));
            new.ci = Some(Box::new(CiRun {
                run_number: Some(number),
                ..CiRun::default()
            }));
            let mut deploy = new.into_deploy(latest);
            latest = Some(deploy.id);
            tx.insert_deploy(&deploy).await.unwrap();
            if let Some(after) = accepted {
                deploy.accepted_at = Some(now() + after);
                deploy.state = deploy.state.accept().unwrap();
            }
            if number == 4 {
                let by = DeployId::new();
                deploy.state = deploy.state.roll_back(now(), by).unwrap();
            }
            tx.update_deploy(&mut deploy, now()).await.unwrap();
            landed.push(deploy.id);
        }
        let mut manual = new_deploy(shop.id, "by hand").into_deploy(latest);
        manual.promotes = Some(DeployId::new());
        tx.insert_deploy(&manual).await.unwrap();
        manual.accepted_at = Some(now() + seconds(9));
        manual.state = manual.state.accept().unwrap();
        tx.update_deploy(&mut manual, now()).await.unwrap();
        tx.commit().await.unwrap();

        let mut read = store.read().await.unwrap();
        assert_eq!(read.deploy(manual.id).await.unwrap(), Some(manual));
        let runs = read.landed_runs(shop.id, 10).await.unwrap();
        let ids: Vec<_> = runs.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [landed[1], landed[2], landed[0]]);
        assert_eq!(runs[0].1.run_number, Some(2));
        assert_eq!(read.landed_runs(shop.id, 1).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_deploys_with_every_transition() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        let mut deploy = new_deploy(shop.id, "first").into_deploy(None);
        tx.insert_deploy(&deploy).await.unwrap();
        let wanted = release("first");
        tx.insert_release(shop.id, &wanted, now()).await.unwrap();
        deploy.state = deploy.state.accept().unwrap();
        deploy.release = Some(wanted.clone());
        deploy.base = Some(ReleaseId::new());
        deploy.changed = vec![ReleasePart::Image];
        deploy.carried = vec![ReleasePart::Bundle {
            name: BundleName::dags(),
        }];
        deploy.files = BTreeMap::from([(
            BundleName::dags(),
            FileLists {
                added: vec!["a".into()],
                ..FileLists::default()
            },
        )]);
        deploy.accepted_at = Some(now());
        tx.update_deploy(&mut deploy, now()).await.unwrap();
        tx.commit().await.unwrap();

        let mut read = store.read().await.unwrap();
        assert_eq!(read.deploy(deploy.id).await.unwrap(), Some(deploy.clone()));
        assert_eq!(
            read.deploy_by_key(shop.id, "first").await.unwrap(),
            Some(deploy.clone())
        );
        assert_eq!(read.deploy_by_key(shop.id, "other").await.unwrap(), None);
        assert_eq!(
            read.deploy_of_release(shop.id, wanted.id).await.unwrap(),
            Some(deploy.clone())
        );
        let version = wanted.bundles[&BundleName::dags()].digest;
        assert_eq!(
            read.deploy_of_version(shop.id, &version).await.unwrap(),
            Some(deploy.id)
        );
        assert_eq!(
            read.deploy_of_version(shop.id, &Digest::of(b"no"))
                .await
                .unwrap(),
            None
        );
        assert_eq!(read.unfinished_deploys(shop.id).await.unwrap().len(), 1);
        let events = read.deploy_events(deploy.id).await.unwrap();
        let states: Vec<_> = events
            .iter()
            .map(|e| (e.revision, e.state.clone()))
            .collect();
        assert_eq!(
            states,
            [(0, DeployState::Created), (1, DeployState::Accepted)]
        );
        drop(read);

        // Somebody who read it before does not overwrite.
        let mut stale = deploy.clone();
        stale.revision = 0;
        let mut tx = store.begin().await.unwrap();
        let refused = tx.update_deploy(&mut stale, now()).await;
        assert!(matches!(refused, Err(StoreError::Conflict)));
        drop(tx);

        let mut tx = store.begin().await.unwrap();
        let second = new_deploy(shop.id, "second").into_deploy(None);
        tx.insert_deploy(&second).await.unwrap();
        tx.commit().await.unwrap();
        let mut read = store.read().await.unwrap();
        let ids = |deploys: Vec<updraft_store::Deploy>| {
            deploys.into_iter().map(|d| d.id).collect::<Vec<_>>()
        };
        assert_eq!(
            ids(read.history(shop.id, None, 10).await.unwrap()),
            [second.id, deploy.id]
        );
        assert_eq!(
            ids(read.history(shop.id, Some(second.id), 10).await.unwrap()),
            [deploy.id]
        );
        assert_eq!(
            ids(read.history(shop.id, None, 1).await.unwrap()),
            [second.id]
        );
        let later = now() + Duration::minutes(1);
        assert_eq!(read.stale_uploads(later).await.unwrap(), [second.id]);
        assert!(
            read.stale_uploads(second.touched_at)
                .await
                .unwrap()
                .is_empty()
        );
        drop(read);

        // The same key is the same deploy.
        let mut tx = store.begin().await.unwrap();
        assert!(
            tx.insert_deploy(&new_deploy(shop.id, "second").into_deploy(None))
                .await
                .is_err()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_releases_layers_and_manifests_until_nobody_needs_them() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        let releases: Vec<Release> = (0..6).map(|n| release(&n.to_string())).collect();
        for release in &releases {
            tx.insert_release(shop.id, release, now()).await.unwrap();
        }
        let digests: Vec<Digest> = (0..600)
            .map(|n: u32| Digest::of(&n.to_be_bytes()))
            .collect();
        tx.insert_named_blobs(shop.id, &digests).await.unwrap();
        tx.insert_named_blobs(shop.id, &digests[..3]).await.unwrap();
        for _ in 0..2 {
            let manifests = vec![(digests[0], "{}")];
            tx.insert_manifests(manifests, now()).await.unwrap();
        }
        let layers: Vec<StoredLayer> = digests
            .iter()
            .take(300)
            .map(|digest| StoredLayer {
                digest: *digest,
                file_table: vec![0, 1, 255],
            })
            .collect();
        tx.insert_layers(layers.clone(), now()).await.unwrap();
        tx.insert_layers(layers[..2].to_vec(), now()).await.unwrap();
        tx.commit().await.unwrap();

        let mut read = store.read().await.unwrap();
        assert_eq!(
            read.release(releases[0].id).await.unwrap(),
            Some(releases[0].clone())
        );
        assert_eq!(
            read.newest_releases(shop.id, 2).await.unwrap(),
            [releases[5].clone(), releases[4].clone()]
        );
        let mut named = read.named_blobs(shop.id, &digests).await.unwrap();
        named.sort_unstable();
        let mut all = digests.clone();
        all.sort_unstable();
        assert_eq!(named, all);
        assert!(
            read.named_blobs(DeploymentId::new(), &digests)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(read.layers(&digests).await.unwrap().len(), 300);
        assert_eq!(read.layers(&digests[..1]).await.unwrap(), layers[..1]);
        assert_eq!(
            read.manifest(&digests[0]).await.unwrap().as_deref(),
            Some("{}")
        );
        // Two that are kept, and the two that are wanted and proven.
        let keep = read
            .manifests_to_keep(now() + Duration::days(1))
            .await
            .unwrap();
        assert_eq!(keep.manifests.len(), 8);
        drop(read);

        let keep = digests[..100].iter().copied().collect();
        let mut tx = store.begin().await.unwrap();
        tx.forget_unused(&keep, now() + Duration::days(1))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let mut read = store.read().await.unwrap();
        assert_eq!(read.layers(&digests).await.unwrap().len(), 100);
        assert_eq!(
            read.named_blobs(shop.id, &digests).await.unwrap().len(),
            100
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_tokens_and_uses_an_enrolment_code_once() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        let token = |scope, name: &str| Token {
            id: TokenId::new(),
            name: name.into(),
            role: Role::Deployer,
            scope,
            created_by: "me".into(),
            created_at: now(),
            expires_at: now() + Duration::days(1),
            revoked_at: None,
            last_used_at: None,
            trust: None,
        };
        let wide = token(
            Scope::Workspace {
                workspace: WorkspaceId::new(),
            },
            "wide",
        );
        let narrow = token(
            Scope::Deployment {
                deployment: shop.id,
            },
            "narrow",
        );
        tx.insert_token(&wide).await.unwrap();
        tx.insert_token(&narrow).await.unwrap();
        let code = Enrollment {
            id: EnrollmentId::new(),
            deployment: shop.id,
            created_by: "me".into(),
            created_at: now(),
            expires_at: now() + Duration::hours(1),
        };
        tx.insert_enrollment(&code, "hash").await.unwrap();
        tx.commit().await.unwrap();

        let at = now();
        let mut tx = store.begin().await.unwrap();
        tx.revoke_token(wide.id, at).await.unwrap();
        tx.revoke_token(wide.id, at + Duration::hours(1))
            .await
            .unwrap();
        tx.token_was_used(narrow.id, at).await.unwrap();
        tx.token_was_used(narrow.id, at - Duration::hours(1))
            .await
            .unwrap();
        assert_eq!(tx.use_enrollment("other", at).await.unwrap(), None);
        assert_eq!(
            tx.use_enrollment("hash", at + Duration::hours(2))
                .await
                .unwrap(),
            None
        );
        assert_eq!(tx.use_enrollment("hash", at).await.unwrap(), Some(code));
        assert_eq!(tx.use_enrollment("hash", at).await.unwrap(), None);
        tx.commit().await.unwrap();
        let mut read = store.read().await.unwrap();
        assert_eq!(
            read.token(wide.id).await.unwrap().unwrap().revoked_at,
            Some(at)
        );
        assert_eq!(
            read.token(narrow.id).await.unwrap().unwrap().last_used_at,
            Some(at)
        );
        assert_eq!(read.tokens().await.unwrap().len(), 2);
        assert_eq!(read.tokens_of(shop.id).await.unwrap()[0].id, narrow.id);
        drop(read);

        let mut tx = store.begin().await.unwrap();
        tx.delete_deployment(shop.id).await.unwrap();
        tx.commit().await.unwrap();
        let mut read = store.read().await.unwrap();
        assert_eq!(read.token(narrow.id).await.unwrap(), None);
        assert_eq!(read.deployment(shop.id).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_agents_and_their_leases() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        let at = now();
        let agent = |host: &str, until| Agent {
            id: AgentId::new(),
            deployment: shop.id,
            token: TokenId::new(),
            host: host.into(),
            first_seen: at,
            last_seen: at,
            lease_until: until,
            report: "{}".into(),
        };
        let (mut here, gone) = (agent("here", at), agent("gone", at - Duration::hours(1)));
        tx.save_agent(&here).await.unwrap();
        tx.save_agent(&gone).await.unwrap();
        here.report = "{\"x\":1}".into();
        here.first_seen = at + Duration::hours(1);
        tx.save_agent(&here).await.unwrap();
        here.first_seen = at;
        tx.commit().await.unwrap();

        let mut read = store.read().await.unwrap();
        assert_eq!(read.agent(here.id).await.unwrap(), Some(here.clone()));
        assert_eq!(read.agents(shop.id).await.unwrap().len(), 2);
        assert_eq!(read.agents_of_token(gone.token).await.unwrap(), [gone.id]);
        assert_eq!(
            read.agents_with_lease(at - Duration::seconds(1))
                .await
                .unwrap(),
            1
        );
        drop(read);

        let later = at + Duration::seconds(15);
        let mut tx = store.begin().await.unwrap();
        // Only the one that was there when the server went.
        assert_eq!(tx.revive_leases(15_000_000, later).await.unwrap(), 1);
        let second = Duration::seconds(1);
        tx.renew_leases(&[(here.id, at)], second).await.unwrap();
        let revived = tx.agent(here.id).await.unwrap().unwrap();
        assert_eq!(revived.lease_until, later);
        let leases = [(here.id, later + second), (gone.id, later + second * 2)];
        tx.renew_leases(&leases, second).await.unwrap();
        for (id, until) in leases {
            let agent = tx.agent(id).await.unwrap().unwrap();
            assert_eq!(
                (agent.lease_until, agent.last_seen),
                (until, until - second)
            );
        }
        assert_eq!(tx.agents_with_lease(later).await.unwrap(), 2);
        assert_eq!(tx.forget_agents(later).await.unwrap(), 0);
        assert_eq!(
            tx.forget_agents(later + Duration::hours(1)).await.unwrap(),
            2
        );
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn keeps_the_dag_ids_that_an_agent_told_last_as_long_as_the_agent() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        let agent = Agent {
            id: AgentId::new(),
            deployment: shop.id,
            token: TokenId::new(),
            host: "one".into(),
            first_seen: now(),
            last_seen: now(),
            lease_until: now(),
            report: "{}".into(),
        };
        tx.save_agent(&agent).await.unwrap();
        assert_eq!(tx.dag_ids_digest(agent.id).await.unwrap(), None);
        let ids = |id: &str| {
            let dags = BundleDags {
                version: Digest::of(b"version"),
                ids: vec![id.parse().unwrap()],
            };
            DagIds([(BundleName::dags(), dags)].into())
        };
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        tx.save_dag_ids(agent.id, old, &ids("a")).await.unwrap();
        tx.save_dag_ids(agent.id, new, &ids("b")).await.unwrap();
        // Whoever reports again takes nothing away.
        tx.save_agent(&agent).await.unwrap();
        tx.commit().await.unwrap();

        let mut read = store.read().await.unwrap();
        assert_eq!(read.dag_ids_digest(agent.id).await.unwrap(), Some(new));
        assert_eq!(read.dag_ids(agent.id, old).await.unwrap(), None);
        assert_eq!(read.dag_ids(agent.id, new).await.unwrap(), Some(ids("b")));
        drop(read);

        let mut tx = store.begin().await.unwrap();
        tx.delete_agent(agent.id).await.unwrap();
        assert_eq!(tx.dag_ids_digest(agent.id).await.unwrap(), None);
        tx.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_a_fact_once() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        assert!(tx.record_fact("a", "1").await.unwrap());
        assert!(!tx.record_fact("a", "2").await.unwrap());
        let workspace = tx.ensure_workspace("default", now()).await.unwrap();
        assert_eq!(
            tx.ensure_workspace("default", now()).await.unwrap(),
            workspace
        );
        tx.commit().await.unwrap();
        assert_eq!(
            store
                .read()
                .await
                .unwrap()
                .fact("a")
                .await
                .unwrap()
                .as_deref(),
            Some("1")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_again_changes_nothing_and_leaves_no_copy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("updraft.db");
    for round in 0..2 {
        let store = Store::sqlite(&file).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        assert_eq!(tx.record_fact("kept", "1").await.unwrap(), round == 0);
        tx.commit().await.unwrap();
        store.close().await;
    }
    let copies = std::fs::read_dir(folder.path())
        .unwrap()
        .filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_string_lossy()
                .contains("format")
        })
        .count();
    assert_eq!(copies, 0);
    if let Some(server) = postgres() {
        let url = server.database();
        for _ in 0..2 {
            Store::postgres(&url).await.unwrap().close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_a_database_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::sqlite(&folder.path().join("it's.db")).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.record_fact("kept", "1").await.unwrap();
    tx.commit().await.unwrap();
    let copy = folder.path().join("it's a copy.db");
    let file = folder.path().join("it's.db");
    Store::copy_sqlite(&file, &copy).await.unwrap();
    // What is not there is not made.
    let nothing = folder.path().join("nothing.db");
    let refused = Store::copy_sqlite(&nothing, &folder.path().join("other.db")).await;
    assert!(refused.is_err() && !nothing.exists());
    let copied = Store::sqlite(&copy).await.unwrap();
    assert_eq!(
        copied
            .read()
            .await
            .unwrap()
            .fact("kept")
            .await
            .unwrap()
            .as_deref(),
        Some("1")
    );
}

/// Polls a future this many times, then drops it wherever it is. None when that
/// was before its end.
async fn drop_after<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut done = 0;
    std::future::poll_fn(move |context| {
        if done == polls {
            return Poll::Ready(None);
        }
        done += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            // The last poll got it to here; what it waits for is still under way.
            Poll::Pending if done == polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_dropped_anywhere_leaves_no_transaction_behind() {
    for Database { store, .. } in &databases().await {
        let mut written = 0;
        for polls in 0.. {
            let key = format!("fact {polls}");
            let write = async {
                let mut tx = store.begin().await.unwrap();
                tx.record_fact(&key, "written").await.unwrap();
                tx.fact(&key).await.unwrap();
                tx.commit().await.unwrap();
            };
            let read = async {
                let mut read = store.read().await.unwrap();
                read.fact("x").await.unwrap();
                read.fact("y").await.unwrap();
            };
            let look = async {
                let mut look = store.look().await.unwrap();
                look.fact("x").await.unwrap();
            };
            let committed = drop_after(polls, write).await.is_some();
            let done = drop_after(polls, read).await.is_some()
                & drop_after(polls, look).await.is_some()
                & committed;

            // A look on a connection that is still in a transaction would pin what
            // that one sees; several at once meet every connection.
            let mut looks = Vec::new();
            for _ in 0..4 {
                let mut look = store.look().await.unwrap();
                look.fact("x").await.unwrap();
                looks.push(look);
            }
            drop(looks);
            let mark = format!("mark {polls}");
            let mut tx = store.begin().await.unwrap();
            assert!(tx.record_fact(&mark, "1").await.unwrap());
            tx.commit().await.unwrap();
            let mut open = Vec::new();
            for round in 0..8 {
                let mut read = match round % 2 {
                    0 => store.look().await.unwrap(),
                    _ => store.read().await.unwrap(),
                };
                assert_eq!(read.fact(&mark).await.unwrap().as_deref(), Some("1"));
                open.push(read);
                if open.len() == 4 {
                    open.clear();
                }
            }
            let kept = store.look().await.unwrap().fact(&key).await.unwrap();
            assert!(kept.is_some() || !committed, "what was committed is there");
            written = polls;
            if done {
                break;
            }
        }
        assert!(written >= 2, "it was dropped at {written} places only");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_store_the_same_at_once_never_wait_for_each_other() {
    for Database { store, .. } in &databases().await {
        for round in 0..10 {
            let digest = |at: u32| Digest::of(format!("{round} {at}").as_bytes());
            let write = |order: Vec<u32>| async move {
                let mut tx = store.begin().await?;
                let manifests = order.iter().map(|at| (digest(*at), "{}")).collect();
                tx.insert_manifests(manifests, now()).await?;
                let layers = order.iter().map(|at| StoredLayer {
                    digest: digest(*at),
                    file_table: vec![1],
                });
                tx.insert_layers(layers.collect(), now()).await?;
                tx.commit().await
            };
            let (forwards, backwards) =
                tokio::join!(write((0..60).collect()), write((0..60).rev().collect()));
            forwards.unwrap();
            backwards.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_what_the_registry_has_for_as_long_as_the_deployment() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await.id;
        let office = deployment(&mut tx, "office").await.id;
        let repository: RepositoryName = "shop/airflow".parse().unwrap();
        let (stored, at) = (Digest::of(b"layer"), now());
        let sha512 = OciDigest::Sha512(Box::new([7; 64]));
        let link = |repository: &str, digest: &OciDigest| RegistryLink {
            deployment: shop,
            repository: repository.parse().unwrap(),
            digest: digest.clone(),
            stored,
            size: 5,
            linked_at: at,
        };
        // Twice, under two names, in two repositories: the same bytes all the time.
        for blob in [
            link("shop/airflow", &stored.into()),
            link("shop/airflow", &stored.into()),
            link("shop/airflow", &sha512),
            link("shop", &sha512),
        ] {
            tx.link_registry_blob(&blob).await.unwrap();
        }
        assert_eq!(tx.registry_usage(shop).await.unwrap(), 5);
        assert_eq!(tx.registry_usage(office).await.unwrap(), 0);
        let found = tx.registry_blob(&repository, &sha512).await.unwrap();
        assert_eq!(found, Some(link("shop/airflow", &sha512)));
        assert!(
            tx.registry_blob_within(shop, &sha512)
                .await
                .unwrap()
                .is_some()
        );
        assert!(
            tx.registry_blob_within(office, &sha512)
                .await
                .unwrap()
                .is_none()
        );

        let manifest = PushedManifest {
            deployment: shop,
            repository: repository.clone(),
            manifest: RegistryManifest {
                digest: Digest::of(b"manifest").into(),
                stored: Digest::of(b"manifest"),
                size: 100,
                media_type: "application/x".into(),
                artifact_type: Some("a".into()),
                subject: Some(sha512.clone()),
                annotations: [("by".to_owned(), "me".to_owned())].into(),
                named: vec![stored.into(), sha512.clone()],
            },
            pushed_at: at,
        };
        tx.insert_registry_manifest(&manifest).await.unwrap();
        tx.insert_registry_manifest(&manifest).await.unwrap();
        assert_eq!(tx.registry_usage(shop).await.unwrap(), 105);
        let digest = manifest.manifest.digest.clone();
        let referrers = tx.registry_referrers(&repository, &sha512).await.unwrap();
        assert_eq!(referrers, std::slice::from_ref(&manifest));
        let named = tx.registry_manifest_of_bytes(&repository, manifest.manifest.stored);
        assert_eq!(named.await.unwrap(), Some(digest.clone()));
        for tag in ["v10", "V2", "v1", "v1"] {
            let tag = RegistryTag {
                repository: repository.clone(),
                tag: tag.parse().unwrap(),
                digest: digest.clone(),
            };
            tx.set_registry_tag(shop, &tag, at).await.unwrap();
        }
        let page = tx.registry_tags(&repository, Some("V2"), 1).await.unwrap();
        assert_eq!((page.tags[0].as_str(), page.has_more), ("v1", true));
        let v1 = "v1".parse().unwrap();
        let tagged = tx.registry_tagged(&repository, &v1).await.unwrap();
        assert_eq!(tagged, Some(manifest.clone()));
        assert!(tx.delete_registry_tag(&repository, &v1).await.unwrap());
        assert!(!tx.delete_registry_tag(&repository, &v1).await.unwrap());
        assert_eq!(tx.registry_tags_of(shop).await.unwrap().len(), 2);
        assert_eq!(tx.registry_stored().await.unwrap().len(), 2);

        assert!(
            tx.delete_registry_manifest(&repository, &digest)
                .await
                .unwrap()
        );
        assert!(
            !tx.delete_registry_manifest(&repository, &digest)
                .await
                .unwrap()
        );
        assert!(tx.registry_tags_of(shop).await.unwrap().is_empty());
        assert!(tx.unlink_registry_blob(&repository, &sha512).await.unwrap());
        tx.insert_registry_manifest(&manifest).await.unwrap();
        tx.delete_deployment(shop).await.unwrap();
        assert!(!tx.has_repository(&repository).await.unwrap());
        assert!(tx.registry_stored().await.unwrap().is_empty());
        tx.commit().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_to_the_registry_expire_unless_they_move() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await.id;
        let repository: RepositoryName = "shop/airflow".parse().unwrap();
        let at = now();
        let upload = |touched_at| RegistryUpload {
            id: UploadId::new(),
            deployment: shop,
            repository: repository.clone(),
            begun_at: at,
            touched_at,
        };
        let (old, young) = (upload(at - Duration::hours(1)), upload(at));
        tx.insert_registry_upload(&old).await.unwrap();
        tx.insert_registry_upload(&young).await.unwrap();
        assert_eq!(tx.registry_upload(old.id).await.unwrap(), Some(old.clone()));
        let expired = tx
            .expire_registry_uploads(at - Duration::minutes(1))
            .await
            .unwrap();
        assert_eq!(expired, [old.id]);
        assert!(!tx.touch_registry_upload(old.id, at).await.unwrap());
        assert!(tx.touch_registry_upload(young.id, at).await.unwrap());
        assert_eq!(tx.registry_uploads_of(shop).await.unwrap(), [young]);
        tx.delete_deployment(shop).await.unwrap();
        assert!(!tx.has_repository(&repository).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_trusts_and_what_came_of_them() {
    for Database { store, .. } in &databases().await {
        let mut tx = store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        let scope = Scope::Deployment {
            deployment: shop.id,
        };
        let mut trust = Trust {
            id: TrustId::new(),
            scope,
            issuer: "https://issuer.example".into(),
            content: TrustContent {
                provider: TrustProvider::Oidc,
                role: Role::Deployer,
                audience: None,
                claims: [("sub".to_owned(), Expected::Is("job".into()))].into(),
                pin: vec!["id".into()],
            },
            pinned: BTreeMap::new(),
            created_by: "me".into(),
            created_at: now(),
            last_used_at: None,
        };
        tx.insert_trust(&trust).await.unwrap();
        assert_eq!(tx.trusts_of_issuer("another").await.unwrap(), []);
        let at = now();
        trust.pinned.insert("id".into(), "7".into());
        trust.last_used_at = Some(at);
        tx.trust_was_used(trust.id, &trust.pinned, at)
            .await
            .unwrap();
        assert_eq!(tx.lock_trust(trust.id).await.unwrap(), Some(trust.clone()));

        let token = Token {
            id: TokenId::new(),
            name: "job".into(),
            role: Role::Deployer,
            scope,
            created_by: "me".into(),
            created_at: at,
            expires_at: at + Duration::minutes(15),
            revoked_at: None,
            last_used_at: None,
            trust: Some(trust.id),
        };
        tx.insert_token(&token).await.unwrap();
        let deploy = new_deploy(shop.id, "one").into_deploy(None);
        tx.insert_deploy(&deploy).await.unwrap();
        for _ in 0..2 {
            tx.bind_deploy_to_token(token.id, deploy.id).await.unwrap();
        }
        assert!(tx.is_deploy_of_token(token.id, deploy.id).await.unwrap());
        let exchange = |outcome| Exchange {
            id: ExchangeId::new(),
            at,
            trust: Some(trust.id),
            scope: Some(scope),
            outcome,
            identity: Identity {
                subject: "job".into(),
                ..Identity::default()
            },
            token: None,
            why: None,
        };
        let good = exchange(ExchangeOutcome::Exchanged);
        tx.insert_exchange(&good).await.unwrap();
        for _ in 0..3 {
            let refused = exchange(ExchangeOutcome::Refused);
            tx.insert_exchange(&refused).await.unwrap();
        }
        tx.forget_refused_exchanges(2).await.unwrap();
        let log = tx.exchanges(Some(shop.id), 10).await.unwrap();
        assert_eq!((log.len(), &log[2]), (3, &good));
        assert_eq!(tx.exchanges(None, 1).await.unwrap().len(), 1);

        tx.delete_trust(trust.id, at).await.unwrap();
        let revoked = tx.token(token.id).await.unwrap().unwrap();
        assert_eq!(revoked.revoked_at, Some(at));
        tx.forget_exchanges(at, at).await.unwrap();
        assert!(tx.token(token.id).await.unwrap().is_some());
        let later = at + Duration::hours(1);
        tx.forget_exchanges(later, later).await.unwrap();
        assert_eq!(tx.token(token.id).await.unwrap(), None);
        assert_eq!(tx.exchanges(None, 10).await.unwrap(), []);
        assert!(!tx.is_deploy_of_token(token.id, deploy.id).await.unwrap());
        tx.delete_deployment(shop.id).await.unwrap();
    }
}

#[tokio::test]
async fn previews_are_found_by_what_they_are_made_from_and_go_with_it() {
    for database in databases().await {
        let mut tx = database.store.begin().await.unwrap();
        let shop = deployment(&mut tx, "shop").await;
        let preview = Preview {
            of: shop.id,
            facts: PreviewFacts {
                repository: "acme/shop".into(),
                project: String::new(),
                pull_request: 7,
                branch: Some("feature/x".into()),
                agent: None,
            },
            expires_at: now(),
        };
        let made = Deployment {
            id: DeploymentId::new(),
            name: "shop-pr-7".parse().unwrap(),
            preview: Some(Box::new(preview.clone())),
            ..shop.clone()
        };
        assert!(tx.insert_deployment(&made).await.unwrap());
        let later = Preview {
            facts: PreviewFacts {
                agent: Some(AgentId::new()),
                ..preview.facts.clone()
            },
            ..preview.clone()
        };
        let found = tx.previews_of(shop.id).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&made));
        tx.set_preview(made.id, &later).await.unwrap();
        let found = tx.deployment(made.id).await.unwrap().unwrap();
        assert_eq!(found.preview, Some(Box::new(later)));
        let before = preview.expires_at - chrono::Duration::seconds(1);
        assert!(tx.expired_previews(before).await.unwrap().is_empty());
        let expired = tx.expired_previews(preview.expires_at).await.unwrap();
        assert_eq!(expired.len(), 1);
        assert_eq!(tx.previews_of(made.id).await.unwrap(), []);
        tx.delete_deployment(shop.id).await.unwrap();
        assert!(tx.deployment(made.id).await.unwrap().is_none());
    }
}
