//! With a control plane.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use insta::assert_snapshot;
use serde_json::json;
use updraft_api::deploy::CreateDeploy;
use updraft_model::Digest;
use updraft_testkit::{SmallDisk, Tree};

use crate::common::filters;
use crate::common::stand_in::Answer;
use crate::common::world::{DEPLOYMENT, World};

#[test]
fn a_first_deploy_brings_the_environment_and_goes_live() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    filters().bind(|| {
        assert_snapshot!(world.deploy(&["--description", "first"]).ended_with(0), @"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` and made its Environment ([TIME])
        ✓ sent 359 B of 359 B in 2 of 2 layers (1 of 1 file) ([TIME])
        ✓ checked 1 DAG file ([TIME])
        ✓ accepted as [dpl]: 1 file added, and the image ([TIME])
            + orders.py
        ✓ on disk, switched ([TIME])
        ✓ parsed by Airflow: 1 of 1 DAG file ([TIME])
          DAGs: 0 added, 1 changed, 0 removed; 1 in all
            ~ orders
        Live on `shop` after [TIME]
        ");
        assert_snapshot!(world.deploy(&[]).ended_with(0), @r#"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` ([TIME])
        Nothing to do: `shop` runs exactly this since [dpl]
        "#);
    });
}

#[test]
fn a_full_disk_of_the_control_plane_is_said() {
    let world = World::new();
    let blobs = world.sandbox.path("data/blobs");
    let kept = world.sandbox.path("kept");
    std::fs::rename(&blobs, &kept).unwrap();
    std::fs::create_dir(&blobs).unwrap();
    let what = "a full disk of the control plane, as the command says it";
    let Some(small) = SmallDisk::mount_or_skip(&blobs, "64k", what) else {
        return;
    };
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([kept.join("."), blobs])
        .status();
    // Half of it is left when it is compressed.
    let noise: String = (0..4096_u32)
        .map(|n| Digest::of(&n.to_be_bytes()).hex())
        .collect();
    world.write_dag("noise", &noise);
    let full = world.deploy(&[]);
    drop(small);
    assert!(copied.unwrap().success());
    let full = full.ended_with(15);
    assert!(full.stderr.contains("free some space"), "{}", full.stderr);
}

#[test]
fn the_json_of_a_deploy_has_what_scripts_need() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    let (code, first) = world.deploy_json(&[]);
    assert_eq!(code, Some(0), "{first:#}");
    assert_eq!(first["outcome"], "live");
    assert_eq!(first["exit_code"], 0);
    assert_eq!(first["files"]["added"], json!(["orders.py"]));
    assert_eq!(first["dags"]["changed"], json!(["orders"]));
    assert_eq!(first["deploy"]["state"]["name"], "live");
    assert_eq!(first["sent"]["of_files"], 1);
    for time in ["scanned", "accepted", "on_disk", "parsed", "total"] {
        assert!(first["timings_ms"][time].is_u64(), "{time}: {first:#}");
    }
    let (code, again) = world.deploy_json(&[]);
    assert_eq!(
        (code, &again["outcome"]),
        (Some(0), &json!("nothing_to_do"))
    );
    assert_eq!(again["deploy"]["id"], first["deploy"]["id"]);
}

#[test]
fn a_plan_changes_nothing() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    filters().bind(|| {
        assert_snapshot!(world.deploy(&["--plan"]).ended_with(0), @"
        exit code 0
        --- stdout
        `shop` would change: 1 file added, and the image
          + orders.py
        to send: 359 B of 359 B, in 2 of 2 layers
        --- stderr
        ");
    });
    world.deploy(&[]).ended_with(0);
    world.write_dag("orders", "# second\n");
    world.write_dag("returns", "# new\n");
    filters().bind(|| {
        assert_snapshot!(world.deploy(&["--plan"]).ended_with(0), @r#"
        exit code 0
        --- stdout
        `shop` would change: 1 file added, 1 changed
          + returns.py
          ~ orders.py
        to send: 192 B of 192 B, in 2 of 2 layers
        "#);
    });
    let (_, plan) = world.deploy_json(&["--plan"]);
    assert_eq!(plan["outcome"], "planned");
    assert_eq!(
        plan["files"],
        json!({ "added": ["returns.py"], "changed": ["orders.py"], "removed": [] })
    );
    let history = world.run(&["history", "-o", "json"]).json();
    assert_eq!(history["deploys"].as_array().unwrap().len(), 1);
}

#[test]
fn an_image_half_that_differs_is_said_file_by_file() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    world.sandbox.write("here/requirements.txt", "pandas\n");
    world.sandbox.write("here/include/sql.py", "");
    world.write_dag("orders", "# second\n");
    filters().bind(|| {
        assert_snapshot!(world.deploy(&[]).ended_with(0), @"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` ([TIME])
        warning: besides the DAGs this differs from what runs, and stays as it is:
          - requirements.txt: changed
          - include/sql.py: added
        ✓ sent 98 B of 98 B in 1 of 1 layer (1 of 1 file) ([TIME])
        ✓ checked 1 DAG file ([TIME])
        ✓ accepted as [dpl]: 1 file changed ([TIME])
            ~ orders.py
        ✓ on disk, switched ([TIME])
        ✓ parsed by Airflow: 1 of 1 DAG file ([TIME])
          DAGs: 0 added, 1 changed, 0 removed; 1 in all
            ~ orders
        Live on `shop` after [TIME]
        ");
    });
}

#[test]
fn an_import_error_is_10_with_the_traceback_and_stays_10() {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    agent.answer(Answer::ImportError);
    world.write_dag("orders", "import nope\n");
    filters().bind(|| {
        assert_snapshot!(world.deploy(&[]).ended_with(10), @r#"
        exit code 10
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` ([TIME])
        ✓ sent 99 B of 99 B in 1 of 1 layer (1 of 1 file) ([TIME])
        ✓ checked 1 DAG file ([TIME])
        ✓ accepted as [dpl]: 1 file changed ([TIME])
            ~ orders.py
        ✓ on disk, switched ([TIME])
          DAGs: 0 added, 1 changed, 0 removed; 1 in all
            ~ orders
        orders.py
          Traceback (most recent call last):
            File "orders.py", line 2
          ModuleNotFoundError: No module named 'nope'
        error: [dpl] failed: Airflow cannot import 1 file
        help: mend it and deploy again, or `updraft rollback shop`; the new Release stays until then
        "#);
    });
    // The same again is proven again, and no greener.
    let (code, printed) = world.deploy_json(&[]);
    assert_eq!((code, &printed["outcome"]), (Some(10), &json!("failed")));
    assert_eq!(printed["import_errors"][0]["file"], "orders.py");
    agent.answer(Answer::Proven);
    world.deploy(&[]).ended_with(0);
}

#[test]
fn a_deploy_that_its_policy_takes_back_is_14() {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    world
        .run(&["deployment", "update", "--after-failure", "rollback"])
        .ended_with(0);
    agent.answer(Answer::ImportError);
    world.write_dag("orders", "import nope\n");
    let printed = world.deploy(&[]).ended_with(14);
    assert!(
        printed.stderr.contains("No module named 'nope'"),
        "{printed}"
    );
    let history = world.run(&["history", "-o", "json"]).json();
    let by = &history["deploys"][0]["id"].as_str().unwrap()[..20];
    let text = format!("taken back by {by}");
    assert!(printed.stderr.contains(&text), "{printed}");
}

#[test]
fn without_an_agent_it_is_13_and_waits_for_one() {
    let world = World::new();
    let printed = world.deploy(&["--wait-for-agent", "1s"]).ended_with(13);
    assert!(
        printed.stderr.contains("no agent of `shop` is connected"),
        "{printed}"
    );
    // It is wanted: with an agent, the same command waits for the same deploy.
    let _agent = world.agent(Answer::Proven);
    let again = world.deploy(&[]).ended_with(0);
    assert_eq!(again.stdout, printed.stdout);
}

#[test]
fn time_that_runs_out_is_11_whoevers_it_was() {
    let world = World::new();
    let _agent = world.agent(Answer::Silence);
    let printed = world.deploy(&["--timeout", "2s"]).ended_with(11);
    assert!(
        printed.stderr.contains("goes on without this command"),
        "{printed}"
    );
    world
        .run(&["deployment", "update", "--proof-timeout", "1"])
        .ended_with(0);
    world.write_dag("orders", "# second\n");
    let (code, printed) = world.deploy_json(&[]);
    assert_eq!(
        (code, &printed["outcome"]),
        (Some(11), &json!("timed_out")),
        "{printed:#}"
    );
}

#[test]
fn blobs_that_went_bad_are_sent_again_whatever_else_there_is_to_do() {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world
        .sandbox
        .write("here/include/sql.py", "# of the image half\n");
    world.deploy(&[]).ended_with(0);
    // Nothing else to do: a layer and a manifest of the DAGs, and a layer, a
    // config and a manifest of the Environment.
    world.damage_blobs();
    assert!(world.bad_blobs().len() >= 5, "{:?}", world.bad_blobs());
    let printed = world.deploy(&[]).ended_with(0);
    assert!(printed.stderr.contains("had lost"), "{printed}");
    assert!(!printed.stderr.contains("cannot make again"), "{printed}");
    assert_eq!(world.bad_blobs(), Vec::<String>::new());

    // Beside a change, which keeps one layer of the DAGs and the Environment.
    let status = world.run(&["status", "-o", "json"]).json();
    let replaced = &status["wanted_deploy"]["release"]["bundles"]["dags"]["digest"];
    let replaced = replaced.as_str().unwrap().replace("sha256:", "");
    agent.answer(Answer::ImportError);
    world.write_dag("returns", "# new\n");
    world.damage_blobs();
    let printed = world.deploy(&[]).ended_with(10);
    assert!(printed.stderr.contains("had lost"), "{printed}");
    assert_eq!(world.bad_blobs(), std::slice::from_ref(&replaced));

    // While it is proven again.
    world.damage_blobs();
    let printed = world.deploy(&[]).ended_with(10);
    assert!(printed.stderr.contains("had lost"), "{printed}");
    assert_eq!(world.bad_blobs(), [replaced]);
    let printed = world.deploy(&[]).ended_with(10);
    assert!(!printed.stderr.contains("had lost"), "{printed}");

    // What this project cannot make again is said.
    std::fs::remove_file(world.sandbox.path("here/include/sql.py")).unwrap();
    world.damage_blobs();
    let printed = world.deploy(&[]).ended_with(10);
    assert!(printed.stderr.contains("cannot make again"), "{printed}");
}

#[test]
fn a_later_deploy_makes_an_earlier_one_12() {
    let world = World::new();
    let agent = world.agent(Answer::Silence);
    let first = world
        .sandbox
        .command(&["deploy", "--dags", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_history(&world, 1);
    world.write_dag("orders", "# second\n");
    world.deploy(&["--no-wait"]).ended_with(0);
    let printed = world
        .sandbox
        .printed(first.wait_with_output().unwrap())
        .ended_with(12);
    assert_eq!(printed.json()["outcome"], "superseded");
    let history = world.run(&["history", "-o", "json"]).json();
    let by = history["deploys"][0]["id"].as_str().unwrap()[..20].to_owned();
    let text = format!("error: {by} took the place of ");
    assert!(printed.stderr.contains(&text), "{printed}");
    drop(agent);
}

#[test]
fn who_is_superseded_by_the_same_content_learns_how_that_went() {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    // Somebody else is about to deploy the same, and a moment later accepted.
    let text = "# second\n";
    world.write_dag("orders", text);
    let tree = Tree::of([("orders.py", text)]);
    let name = DEPLOYMENT.parse().unwrap();
    let (runtime, client) = world.client();
    let ask = CreateDeploy {
        parts: updraft_testkit::parts(Some(&tree), None),
        description: String::new(),
        git: None,
        ci: None,
        allow_downgrade: false,
        force: false,
        key: "somebody else".into(),
    };
    let other = runtime.block_on(client.create_deploy(&name, &ask)).unwrap();
    let blobs = tree.pick(&other.missing);
    let other = other.deploy.unwrap().id;
    runtime
        .block_on(client.upload_blobs(other, &blobs))
        .unwrap();

    agent.answer(Answer::Silence);
    let own = world
        .sandbox
        .command(&["deploy", "--dags", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_history(&world, 3);
    runtime.block_on(client.accept_deploy(other, None)).unwrap();
    agent.answer(Answer::Proven);
    let printed = own.wait_with_output().unwrap();
    let printed = world.sandbox.printed(printed).ended_with(0);
    let json = printed.json();
    assert_eq!(json["outcome"], "live", "{printed}");
    assert_eq!(json["deploy"]["id"], other.to_string(), "{printed}");
    assert!(
        printed.stderr.contains("with the same content"),
        "{printed}"
    );
}

#[test]
fn a_rollback_in_the_middle_ends_who_follows_and_says_by_which() {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    agent.answer(Answer::Silence);
    world.write_dag("orders", "# second\n");
    let followed = world
        .sandbox
        .command(&["deploy", "--dags", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_history(&world, 2);
    let back = world.run(&["rollback", "--no-wait"]).ended_with(0).stdout;
    let printed = world
        .sandbox
        .printed(followed.wait_with_output().unwrap())
        .ended_with(14);
    assert_eq!(printed.json()["outcome"], "rolled_back");
    let text = format!("taken back by {}", &back[..20]);
    assert!(printed.stderr.contains(&text), "{printed}");
    assert!(printed.stderr.contains("did not get proven"), "{printed}");
}

#[test]
fn interrupting_leaves_the_deploy_going_and_is_130() {
    let world = World::new();
    let _agent = world.agent(Answer::Silence);
    let mut child = world
        .sandbox
        .command(&["deploy", "--dags"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let accepted = lines.by_ref().find(|line| line.contains("accepted as"));
    assert!(accepted.is_some());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let rest: Vec<_> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(
        rest.iter()
            .any(|line| line.contains("goes on without this command")),
        "{rest:?}"
    );
    let history = world.run(&["history", "-o", "json"]).json();
    assert_ne!(history["deploys"][0]["state"]["name"], "expired");
}

#[test]
fn a_rollback_goes_live_and_says_where_to() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    let first = world.deploy(&[]).ended_with(0).stdout;
    world.write_dag("orders", "# second\n");
    world.deploy(&[]).ended_with(0);
    filters().bind(|| {
        assert_snapshot!(world.run(&["rollback"]).ended_with(0), @r#"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        Rolling `shop` back to [dpl]
        ✓ accepted ([TIME])
        What was rolled back is on hold: other content ends that, or `updraft hold lift shop`
        ✓ on disk, switched ([TIME])
        ✓ parsed by Airflow: 1 of 1 DAG file ([TIME])
          DAGs: 0 added, 1 changed, 0 removed; 1 in all
            ~ orders
        Live on `shop` after [TIME]
        "#);
    });
    // An id shortened as the history shows it is enough.
    world.write_dag("orders", "# third\n");
    world.deploy(&[]).ended_with(0);
    let short = &first.trim()[..20];
    let printed = world
        .run(&["rollback", "--to", short, "-o", "json"])
        .ended_with(0)
        .json();
    assert_eq!(printed["deploy"]["returns_to"], first.trim());
    assert_eq!(printed["deploy"]["kind"], "rollback");
}

#[test]
fn nothing_to_roll_back_to_is_8() {
    let world = World::new();
    let printed = world.run(&["rollback", "-o", "json"]).ended_with(8);
    assert_eq!(printed.json()["error"]["exit"], "conflict", "{printed}");
}

#[test]
fn history_status_and_diff_tell_what_happened() {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world.wait_for_agent();
    filters().bind(|| {
        assert_snapshot!(world.run(&["history"]).ended_with(0), @r#"
        exit code 0
        --- stderr
        Nothing was deployed to `shop` yet
        "#);
        assert_snapshot!(world.run(&["status"]).ended_with(0), @"
        exit code 0
        --- stdout
        shop
          nothing was deployed yet; `updraft deploy` is next
          Airflow    1 DAG, no import errors
          agent      stand-in ([VERSION]), connected, serves nothing yet
        ");
    });
    let first = world
        .deploy(&["--description", "Orders for the first time"])
        .ended_with(0)
        .stdout;
    world.write_dag("orders", "# second\n");
    world.write_dag("returns", "# new\n");
    let second = world
        .deploy(&["--description", "Returns"])
        .ended_with(0)
        .stdout;
    filters().bind(|| {
        assert_snapshot!(world.run(&["history"]).ended_with(0), @"
        exit code 0
        --- stdout
        DEPLOY                STATE     WHEN  BY     CHANGES   CHECKS  COMMIT  DESCRIPTION
        [dpl]  live      [AGO]  admin  +1 ~1     passed          Returns
        [dpl]  was live  [AGO]  admin  image +1  passed          Orders for the first time
        ");
        assert_snapshot!(world.run(&["status"]).ended_with(0), @r#"
        exit code 0
        --- stdout
        shop
          state      live, [AGO] (deploy [dpl])
          runs       dags [DIGEST], environment [DIGEST]
          Airflow    1 DAG, no import errors
          agent      stand-in ([VERSION]), connected, serves the wanted Release
        "#);
        assert_snapshot!(world.run(&["diff", first.trim(), second.trim()]).ended_with(0), @r#"
        exit code 0
        --- stdout
        from [dpl] to [dpl]
        dags: 1 file added, 1 changed
          + returns.py
          ~ orders.py
        DAGs:
          ~ orders
        "#);
    });
    let diff = world
        .run(&["diff", second.trim(), "-o", "json"])
        .ended_with(0)
        .json();
    assert_eq!(diff["bundles"]["dags"]["added"], json!(["returns.py"]));
    assert_eq!(diff["image_changed"], false);
    let status = world.run(&["status", "-o", "json"]).json();
    assert_eq!(status["agents"][0]["host"], "stand-in");
    assert_eq!(status["wanted_deploy"]["state"]["name"], "live");
    drop(agent);
}

#[test]
fn tables_fit_a_narrow_terminal() {
    let mut world = World::new();
    let _agent = world.agent(Answer::Proven);
    let description = "A description that is longer than the terminal is wide";
    world.deploy(&["--description", description]).ended_with(0);
    world.sandbox.set("COLUMNS", "40");
    for command in [
        &["history"][..],
        &["deployment", "list"],
        &["token", "list"],
        &["config"],
    ] {
        let printed = world.run(command).ended_with(0);
        let longest = printed
            .stdout
            .lines()
            .map(|line| line.chars().count())
            .max();
        assert!(longest.unwrap() <= 40, "{printed}");
    }
    filters().bind(|| {
        assert_snapshot!(world.run(&["history"]).ended_with(0), @"
        exit code 0
        --- stdout
        deploy       [dpl]
        state        live
        when         [AGO]
        by           admin
        changes      image +1
        checks       passed
        description  A description that is
                     longer than the terminal is
                     wide
        ");
    });
    world.sandbox.unset("COLUMNS");
    world.sandbox.set("COLUMNS", "110");
    filters().bind(|| {
        assert_snapshot!(world.run(&["history"]).ended_with(0), @"
        exit code 0
        --- stdout
        DEPLOY                STATE  WHEN  BY     CHANGES   CHECKS  COMMIT  DESCRIPTION
        [dpl]  live   [AGO]  admin  image +1  passed          A description that is longer than
                                                                                the terminal is wide
        ");
    });
}

#[test]
fn an_unknown_deployment_is_6_with_the_nearest_name() {
    let world = World::new();
    let printed = world.run(&["status", "shpo", "-o", "json"]).ended_with(6);
    let json = printed.json();
    let error = &json["error"];
    assert_eq!(error["code"], "deployment_not_found");
    assert!(
        error["message"].as_str().unwrap().contains("shop"),
        "{printed}"
    );
    world
        .run(&["token", "revoke", "tok_0192f6f7a6b07c3f8a8b1c2d3e4f5a6b"])
        .ended_with(6);
    world
        .run(&["diff", "dpl_0192f6f7a6b07c3f8a8b1c2d3e4f5a6b"])
        .ended_with(6);
    world.run(&["diff", "dpl_0192"]).ended_with(6);
}

#[test]
fn a_deploy_to_an_unknown_deployment_is_6_with_the_nearest_name() {
    let world = World::new();
    for arguments in [&["deploy", "--dags", "shpo"][..], &["rollback", "shpo"]] {
        let printed = world.run(arguments).ended_with(6);
        assert!(printed.stderr.contains("`shop`"), "{printed}");
    }
}

#[test]
fn deleting_a_deployment_with_connected_agents_takes_force() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    let delete = ["deployment", "delete", DEPLOYMENT];
    world.run(&delete).ended_with(2);
    let printed = world.run(&[&delete[..], &["--yes"]].concat()).ended_with(3);
    assert!(printed.stderr.contains("--force"), "{printed}");
    let force = [&delete[..], &["--yes", "--force", "-o", "json"]].concat();
    let printed = world.run(&force).ended_with(0);
    assert_eq!(printed.json(), json!({ "deleted": DEPLOYMENT }));
    world.run(&force).ended_with(6);
    let list = world.run(&["deployment", "list", "-o", "json"]).json();
    assert_eq!(list, json!({ "deployments": [] }));
}

#[test]
fn tokens_that_are_no_good_are_4() {
    let mut world = World::new();
    let mut code = |token: &str| {
        world.sandbox.unset("UPDRAFT_TOKEN");
        world.sandbox.set("UPDRAFT_TOKEN", token);
        let printed = world.run(&["status", "-o", "json"]).ended_with(4);
        printed.json()["error"]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(code("nonsense"), "token_malformed");
    assert_eq!(code("a.b.c"), "token_malformed");
    let admin = world.token.clone();
    world.sandbox.unset("UPDRAFT_TOKEN");
    world.sandbox.set("UPDRAFT_TOKEN", &admin);
    let new = world
        .run(&["token", "create", "ci", "-o", "json"])
        .ended_with(0)
        .json();
    let id = new["token"]["id"].as_str().unwrap();
    world.run(&["token", "revoke", id]).ended_with(0);
    world.sandbox.unset("UPDRAFT_TOKEN");
    world
        .sandbox
        .set("UPDRAFT_TOKEN", new["secret"].as_str().unwrap());
    let printed = world.run(&["status", "-o", "json"]).ended_with(4);
    assert_eq!(printed.json()["error"]["code"], "token_revoked");
}

#[test]
fn what_a_token_may_not_do_is_5() {
    let mut world = World::new();
    let viewer = world
        .run(&["token", "create", "eyes", "--role", "viewer"])
        .ended_with(0)
        .stdout;
    world.sandbox.unset("UPDRAFT_TOKEN");
    world.sandbox.set("UPDRAFT_TOKEN", viewer.trim());
    world.run(&["status"]).ended_with(0);
    world.run(&["deployment", "create", "other"]).ended_with(5);
    world.deploy(&[]).ended_with(5);
}

#[test]
fn login_stores_what_whoami_confirms() {
    let mut world = World::new();
    let url = world.url.clone();
    let token = world.token.clone();
    for name in ["UPDRAFT_TOKEN", "UPDRAFT_SERVER"] {
        world.sandbox.unset(name);
    }
    world
        .sandbox
        .run_with_input(&["login", &url], "a.b.c")
        .ended_with(4);
    world.run(&["--server", &url, "status"]).ended_with(4);
    let printed = world
        .sandbox
        .run_with_input(&["login", &url], &format!("{token}\n"))
        .ended_with(0);
    assert!(!printed.stderr.contains(&token) && !printed.stdout.contains(&token));
    world.run(&["--server", &url, "status"]).ended_with(0);
    filters().bind(|| {
        assert_snapshot!(world.run(&["--server", &url, "whoami"]).ended_with(0), @r#"
        exit code 0
        --- stdout
        token    admin ([tok])
        role     admin of everything
        expires  in 3649 days
        server   http://127.0.0.1:[PORT] (version [VERSION])
        "#);
    });
    world.run(&["logout", &url]).ended_with(0);
    world.run(&["--server", &url, "status"]).ended_with(4);
}

#[test]
fn a_name_that_is_taken_is_8() {
    let world = World::new();
    world
        .run(&["deployment", "create", DEPLOYMENT])
        .ended_with(8);
}

#[test]
fn values_of_variables_come_from_standard_input_and_are_not_shown() {
    let world = World::new();
    let update = ["deployment", "update", "--env", "PASSWORD"];
    world
        .sandbox
        .run_with_input(&update, "hunter2\n")
        .ended_with(0);
    world.sandbox.write("here/more.env", "REGION=eu\n");
    world
        .run(&["deployment", "update", "--env-file", "more.env"])
        .ended_with(0);
    filters().bind(|| {
        assert_snapshot!(world.run(&["deployment", "show"]).ended_with(0), @r#"
        exit code 0
        --- stdout
        name           shop
        id             [dep]
        created        [DATE]
        runtime        process, LocalExecutor
        after failure  keep
        proof timeout  300 s
        keep releases  10
        require        none
        previews       have its connections and variables, without their secrets
        environment    PASSWORD, REGION
        wanted         none
        proven         none
        "#);
    });
    world
        .run(&["deployment", "update", "--unset-env", "REGION"])
        .ended_with(0);
    let shown = world.run(&["deployment", "show", "-o", "json"]).json();
    assert_eq!(shown["environment"], json!(["PASSWORD"]));
    world.run(&["deployment", "update"]).ended_with(2);
}

#[test]
fn a_code_works_once() {
    let world = World::new();
    let code = world.run(&["agent", "invite"]).ended_with(0).stdout;
    let enroll = ["agent", "enroll", "--root", "agent"];
    world.sandbox.run_with_input(&enroll, &code).ended_with(0);
    world.sandbox.run_with_input(&enroll, &code).ended_with(4);
    world.run(&["agent", "--root", "nowhere"]).ended_with(4);
}

#[test]
fn a_package_index_out_of_reach_is_16() {
    let mut world = World::new();
    world.sandbox.set("UV_OFFLINE", "1");
    let printed = world.deploy(&[]).ended_with(16);
    assert!(printed.stderr.contains("package index"), "{printed}");
    let history = world.run(&["history", "-o", "json"]).json();
    assert_eq!(history["deploys"], json!([]));
}

#[test]
fn an_agent_takes_no_port_of_somebody_else_and_keeps_its_own() {
    let world = World::new();
    let code = world.run(&["agent", "invite"]).ended_with(0).stdout;
    let enroll = ["agent", "enroll", "--root", "agent"];
    world.sandbox.run_with_input(&enroll, &code).ended_with(0);
    let taken = world.url.rsplit(':').next().unwrap();
    let refused = |port: &[&str]| {
        let agent = [&["agent", "--root", "agent"], port].concat();
        let printed = world.run(&agent).ended_with(16);
        let said = format!("port {taken}, which Airflow needs, cannot be used");
        assert!(printed.stderr.contains(&said), "{printed}");
    };
    refused(&["--airflow-port", taken]);
    // Where an earlier one was is where the next one begins, unless it is told.
    let address = format!(r#"{{"url": "http://127.0.0.1:{taken}"}}"#);
    std::fs::write(world.sandbox.path("here/agent/address.json"), address).unwrap();
    refused(&[]);
}

#[test]
fn a_port_in_use_stops_the_quickstart_before_it_begins() {
    let world = World::new();
    let port = world.url.rsplit(':').next().unwrap().to_owned();
    let printed = world
        .run(&["quickstart", "--dir", "new", "--port", &port])
        .ended_with(16);
    filters().bind(|| {
        assert_snapshot!(printed.shown().replace(&port, "[PORT]"), @r#"
    exit code 16
    --- stderr
    error: port [PORT], which the control plane needs, cannot be used
      because: Address already in use (os error 98)
    help: stop what listens there (perhaps another Updraft or Airflow), or choose another port with --port
    "#);
    });
    assert!(!world.sandbox.path("here/new").exists());
}

#[test]
fn a_control_plane_that_restarts_is_waited_for() {
    let mut world = World::new();
    let agent = world.agent(Answer::Silence);
    let mut child = world
        .sandbox
        .command(&["deploy", "--dags", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.contains("accepted as")));
    world.stop_server();
    agent.answer(Answer::Proven);
    world.start_server();
    std::thread::spawn(move || lines.for_each(drop));
    let printed = world
        .sandbox
        .printed(child.wait_with_output().unwrap())
        .ended_with(0);
    assert_eq!(printed.json()["outcome"], "live");
}

#[test]
fn two_servers_do_not_share_a_data_folder() {
    let world = World::new();
    let data = world.sandbox.path("data");
    let data = data.to_str().unwrap();
    let printed = world
        .run(&["server", "--data-dir", data, "--listen", "127.0.0.1:0"])
        .ended_with(8);
    assert!(printed.stderr.contains("help: "), "{printed}");
    // The first admin token is printed once.
    world
        .run(&["server", "init", "--data-dir", data])
        .ended_with(8);
}

#[test]
fn a_backup_comes_back() {
    let mut world = World::new();
    let _agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    let (data, backup) = (world.sandbox.path("data"), world.sandbox.path("backup"));
    let (data, backup) = (data.to_str().unwrap(), backup.to_str().unwrap());
    world
        .run(&["backup", backup, "--data-dir", data])
        .ended_with(0);
    world.stop_server();
    std::fs::remove_dir_all(data).unwrap();
    world
        .run(&["restore", backup, "--data-dir", data])
        .ended_with(0);
    world.start_server();
    let history = world.run(&["history", "-o", "json"]).ended_with(0).json();
    assert_eq!(history["deploys"][0]["state"]["name"], "live");
}

#[test]
fn an_empty_tree_is_deployed_when_that_is_meant() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    std::fs::remove_dir_all(world.sandbox.path("here/dags")).unwrap();
    world.deploy(&[]).ended_with(3);
    let (code, printed) = world.deploy_json(&["--allow-empty"]);
    assert_eq!(code, Some(0));
    assert_eq!(printed["files"]["removed"], json!(["orders.py"]));
}

fn wait_for_history(world: &World, many: usize) {
    for _ in 0..200 {
        let history = world.run(&["history", "-o", "json"]).json();
        let deploys = history["deploys"].as_array().unwrap();
        if deploys.len() >= many && deploys[0]["accepted_at"].is_string() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("no deploy was accepted");
}

#[test]
fn a_file_that_cannot_be_written_is_1() {
    let mut world = World::new();
    world.sandbox.write("file", "");
    let config = world.sandbox.path("file/config.toml");
    world
        .sandbox
        .set("UPDRAFT_CONFIG", config.to_str().unwrap());
    let (url, token) = (world.url.clone(), world.token.clone());
    let printed = world
        .sandbox
        .run_with_input(&["login", &url], &token)
        .ended_with(1);
    assert!(printed.stderr.contains("credentials.toml"), "{printed}");
}

#[test]
fn another_version_of_the_control_plane_is_9() {
    let mut sandbox = crate::common::Sandbox::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = std::io::Read::read(&mut connection, &mut request);
        let body = r#"{"code":"version_skew","message":"this control plane is 9.0.0","help":"install 9.0.0"}"#;
        let length = body.len();
        let head =
            "HTTP/1.1 426 Upgrade Required\r\nContent-Type: application/json\r\nConnection: close";
        let answer = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        std::io::Write::write_all(&mut connection, answer.as_bytes()).unwrap();
    });
    sandbox.set("UPDRAFT_TOKEN", "t");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["--server", &url, "status", "shop"]).ended_with(9), @r#"
        exit code 9
        --- stderr
        error: this control plane is 9.0.0
        help: install 9.0.0
        "#);
    });
}
