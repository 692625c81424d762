//! What is rare, refused, or goes wrong half-way.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

use insta::assert_snapshot;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use updraft_model::Role;
use updraft_testkit::TestServer;

use crate::common::stand_in::Answer;
use crate::common::world::{DEPLOYMENT, World};
use crate::common::{Printed, Sandbox, filters};

fn spawn(world: &World, arguments: &[&str]) -> Child {
    let mut command = world.sandbox.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Reads on until a line has this text; what follows is read and dropped.
fn wait_for_line(child: &mut Child, text: &str) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let found = lines.any(|line| line.unwrap().contains(text));
    assert!(found, "no line with {text}");
    std::thread::spawn(move || lines.for_each(drop));
}

fn ended(world: &World, child: Child, code: i32) -> Printed {
    let output = child.wait_with_output().unwrap();
    world.sandbox.printed(output).ended_with(code)
}

fn newest(world: &World) -> Value {
    let history = world.run(&["history", "-o", "json"]).ended_with(0).json();
    history["deploys"][0].clone()
}

#[test]
fn quiet_says_nothing_but_results_and_errors() {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    let quiet = ["-q", "deploy", "--dags"];
    let printed = world.run(&quiet).ended_with(0);
    assert_eq!(printed.stderr, "");
    assert!(printed.stdout.starts_with("dpl_"), "{printed}");

    agent.answer(Answer::ImportError);
    world.write_dag("orders", "import nope\n");
    let printed = world.run(&quiet).ended_with(10);
    assert!(
        printed.stderr.contains("No module named 'nope'"),
        "{printed}"
    );
    assert!(printed.stderr.contains("error: dpl_"), "{printed}");
    assert!(!printed.stderr.contains('✓'), "{printed}");
}

#[test]
fn a_rollback_to_what_is_live_has_nothing_to_do() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    let live = world.deploy(&[]).ended_with(0).stdout;
    let back = ["rollback", "--to", live.trim()];
    filters().bind(|| {
        assert_snapshot!(world.run(&back).ended_with(0), @r#"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        Nothing to do: `shop` runs exactly this since [dpl]
        "#);
    });
    let printed = world.run(&[&back[..], &["-o", "json"]].concat());
    assert_eq!(printed.ended_with(0).json()["outcome"], "nothing_to_do");
}

#[test]
fn a_rollback_to_what_failed_and_is_still_wanted_is_proven_again() {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world.deploy(&[]).ended_with(0);
    agent.answer(Answer::ImportError);
    world.write_dag("orders", "import nope\n");
    let failed = world.deploy(&[]).ended_with(10).stdout;
    let back = ["rollback", "--to", failed.trim()];
    world.run(&back).ended_with(10);
    // What it lacked has been installed meanwhile, say.
    agent.answer(Answer::Proven);
    let printed = world.run(&back).ended_with(0);
    assert!(printed.stderr.contains("it is proven now"), "{printed}");
    assert_eq!(printed.stdout, failed);
    assert_eq!(newest(&world)["state"]["name"], "live");
}

#[test]
fn the_time_that_was_given_holds_while_the_control_plane_is_away() {
    let mut world = World::new();
    let _agent = world.agent(Answer::Silence);
    let mut child = spawn(
        &world,
        &["deploy", "--dags", "--timeout", "3s", "-o", "json"],
    );
    wait_for_line(&mut child, "accepted as");
    world.stop_server();
    let printed = ended(&world, child, 11).json();
    assert_eq!(printed["outcome"], "timed_out");
    assert!(printed["deploy"]["id"].is_string(), "{printed:#}");
}

#[test]
fn a_deploy_that_cannot_be_followed_any_more_is_still_named() {
    let mut world = World::new();
    let _agent = world.agent(Answer::Silence);
    let new = world.run(&["token", "create", "ci", "-o", "json"]).json();
    let mut command = world.sandbox.command(&["deploy", "--dags", "-o", "json"]);
    command.env("UPDRAFT_TOKEN", new["secret"].as_str().unwrap());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    wait_for_line(&mut child, "accepted as");
    let id = new["token"]["id"].as_str().unwrap();
    world.run(&["token", "revoke", id]).ended_with(0);
    // Ends the long poll.
    world.stop_server();
    world.start_server();
    let printed = ended(&world, child, 4).json();
    assert_eq!(printed["outcome"], "lost");
    assert_eq!(printed["deploy"]["id"], newest(&world)["id"]);
}

#[test]
fn ctrl_c_ends_a_plan_that_gets_no_answer() {
    let mut sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    sandbox.set("UPDRAFT_SERVER", &url);
    sandbox.set("UPDRAFT_TOKEN", "t");
    sandbox.write("here/updraft.toml", "deployment = \"shop\"\n");
    sandbox.write("here/dags/orders.py", "");
    for arguments in [
        &["deploy", "--dags", "--plan"][..],
        &["rollback", "--to", "dpl_0192"],
        &["status"],
    ] {
        let mut child = sandbox
            .command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let asked = silent.accept().unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{arguments:?}");
        drop(asked);
    }
}

#[test]
fn a_code_is_not_spent_where_its_token_cannot_be_kept() {
    let world = World::new();
    let code = world.run(&["agent", "invite"]).ended_with(0).stdout;
    world.sandbox.write("here/file", "");
    let enroll = |root: &str| {
        let arguments = ["agent", "enroll", "--insecure-http", "--root", root];
        world.sandbox.run_with_input(&arguments, &code)
    };
    enroll("file/agent").ended_with(1);
    enroll("agent").ended_with(0);
    // The agent reaches it later as it was reached now.
    let kept = std::fs::read_to_string(world.sandbox.path("here/agent/enrolled.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept["insecure_http"], true);
}

#[test]
fn the_servers_log_is_json_alone_and_says_where_it_listens() {
    let mut sandbox = Sandbox::new();
    // Empty is how CI gives what is missing.
    for name in [
        "UPDRAFT_LISTEN",
        "UPDRAFT_PUBLIC_URL",
        "UPDRAFT_DATABASE_URL",
    ] {
        sandbox.set(name, "");
    }
    sandbox.run(&["server", "init"]).ended_with(0);
    let mut child = sandbox
        .command(&["server", "--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let listens = lines.find_map(|line| line["addr"].as_str().map(str::to_owned));
    let listens = listens.unwrap();
    assert!(!listens.ends_with(":0"), "{listens}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}

#[test]
fn names_that_cannot_be_deployed_are_refused() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    sandbox.write("here/updraft.toml", "deployment = \"shop\"\n");
    sandbox.write("here/dags/orders.py", "");
    let refused = |sandbox: &Sandbox| sandbox.run(&["deploy", "--dags"]).ended_with(3).stderr;

    let file = sandbox
        .path("here/dags")
        .join(OsStr::from_bytes(b"caf\xe9.py"));
    std::fs::write(&file, "").unwrap();
    assert_snapshot!(refused(&sandbox), @r#"
    error: the name `caf�.py` is not UTF-8
    help: rename it, or name its folder in `.updraftignore`
    "#);
    std::fs::remove_file(file).unwrap();

    let large = sandbox.path("here/dags/large.csv");
    File::create(&large).unwrap().set_len(2 << 30).unwrap();
    let said = refused(&sandbox);
    assert!(said.contains("`large.csv` is too much"), "{said}");
    assert!(said.contains("help: "), "{said}");
    std::fs::remove_file(large).unwrap();

    let mut folder = openat(
        CWD,
        sandbox.path("here/dags"),
        OFlags::DIRECTORY,
        Mode::empty(),
    )
    .unwrap();
    let name = "d".repeat(200);
    for _ in 0..21 {
        mkdirat(&folder, name.as_str(), Mode::RWXU).unwrap();
        folder = openat(&folder, name.as_str(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    openat(
        &folder,
        "deep.py",
        OFlags::CREATE | OFlags::WRONLY,
        Mode::RWXU,
    )
    .unwrap();
    let said = refused(&sandbox);
    assert!(said.contains("` has 4220 bytes, more than the "), "{said}");
    // The whole of it would fill a screen.
    assert!(said.len() < 500 && said.lines().count() == 2, "{said}");
}

#[test]
fn the_commit_is_in_the_history() {
    if Command::new("git").arg("--version").output().is_err() {
        return updraft_testkit::skipped("the commit of a deploy", "git is not installed");
    }
    let world = World::new();
    world.git(&["init", "-q", "-b", "main"]);
    world.git(&["add", "."]);
    world.git(&["commit", "-q", "-m", "Count orders"]);
    world.deploy(&["--no-wait"]).ended_with(0);
    let clean = newest(&world)["git"].clone();
    assert_eq!(clean["commit"].as_str().unwrap().len(), 40);
    assert_eq!(clean["branch"], "main");
    assert_eq!(clean["author"], "Ada <ada@example.com>");
    assert_eq!(clean["subject"], "Count orders");
    assert_eq!(clean["dirty"], false);

    world.write_dag("orders", "# second\n");
    world.deploy(&["--no-wait"]).ended_with(0);
    let dirty = newest(&world)["git"].clone();
    assert_eq!(dirty["dirty"], true);
    assert_eq!(dirty["commit"], clean["commit"]);
}

#[test]
fn two_deploys_at_once_are_both_recorded() {
    let world = World::new();
    world.deploy(&["--no-wait"]).ended_with(0);
    for there in ["one", "two"] {
        world
            .sandbox
            .write(&format!("{there}/updraft.toml"), "[check]\nparse = false\n");
        let dag = format!("# {there}\n");
        world
            .sandbox
            .write(&format!("{there}/dags/orders.py"), &dag);
    }
    let deploy = |there: &str| {
        let project = world.sandbox.path(there);
        let project = project.to_str().unwrap();
        spawn(
            &world,
            &["--project", project, "deploy", "--dags", "--no-wait"],
        )
    };
    let both = [deploy("one"), deploy("two")];
    let mut ids = both.map(|child| ended(&world, child, 0).stdout.trim().to_owned());
    let history = world.run(&["history", "-o", "json"]).ended_with(0).json();
    let deploys = history["deploys"].as_array().unwrap();
    let recorded = |at: usize| deploys[at]["id"].as_str().unwrap().to_owned();
    let mut newest = [recorded(0), recorded(1)];
    ids.sort();
    newest.sort();
    assert_eq!((ids, deploys.len()), (newest, 3));
    // One after the other: the later one is wanted.
    let states = [&deploys[0], &deploys[1]].map(|deploy| deploy["state"]["name"].clone());
    assert!(states.contains(&json!("accepted")), "{states:?}");
    assert!(states.contains(&json!("superseded")), "{states:?}");
}

#[test]
fn settings_of_the_user_and_of_the_environment_are_used() {
    let mut world = World::new();
    world.sandbox.unset("UPDRAFT_DEPLOYMENT");
    world.sandbox.write(
        "home/.config/updraft/config.toml",
        "deployment = \"shop\"\n",
    );
    world.run(&["status"]).ended_with(0);

    let printed = world.run(&["version", "--with-server"]).ended_with(0);
    filters().bind(|| {
        assert_snapshot!(printed, @r#"
        exit code 0
        --- stdout
        updraft [VERSION]
        http://127.0.0.1:[PORT] [VERSION]
        "#);
    });

    // Not an address of this machine alone, as far as a client can tell.
    let elsewhere = ["--server", "http://0.0.0.0:9", "status"];
    world.run(&elsewhere).ended_with(3);
    world.sandbox.set("UPDRAFT_INSECURE_HTTP", "1");
    world.run(&elsewhere).ended_with(7);
    world.sandbox.unset("UPDRAFT_INSECURE_HTTP");
    world.sandbox.set("UPDRAFT_INSECURE_HTTP", "perhaps");
    world.run(&elsewhere).ended_with(3);
}

#[test]
fn a_token_is_shown_with_the_deployment_that_it_is_for() {
    let mut world = World::new();
    let create = ["token", "create", "ci", "--deployment", DEPLOYMENT];
    let token = world.run(&create).ended_with(0).stdout;
    let list = world.run(&["token", "list"]).ended_with(0).stdout;
    let line = list.lines().find(|line| line.starts_with("ci ")).unwrap();
    assert!(line.contains("  shop  "), "{list}");

    // `login` takes it from a file as well.
    world.sandbox.unset("UPDRAFT_TOKEN");
    world.sandbox.write("here/token", &token);
    world.run(&["--token-file", "token", "login"]).ended_with(0);
    let who = world.run(&["whoami"]).ended_with(0).stdout;
    assert!(who.contains("deployer of shop\n"), "{who}");
}

/// A control plane in this process, whose clock can be set.
fn in_process() -> (tokio::runtime::Runtime, TestServer, Sandbox) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(TestServer::start());
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_SERVER", &server.url());
    sandbox.set("UPDRAFT_DEPLOYMENT", DEPLOYMENT);
    (runtime, server, sandbox)
}

#[test]
fn a_token_that_has_expired_is_4_and_one_for_something_else_is_5() {
    let (runtime, server, mut sandbox) = in_process();
    let elsewhere = runtime.block_on(async {
        server.deployment(DEPLOYMENT).await;
        let other = server.deployment("other").await;
        server.token(Role::Deployer, Some(&other.name)).await
    });
    sandbox.set("UPDRAFT_TOKEN", &elsewhere);
    sandbox.run(&["status", "other"]).ended_with(0);
    let printed = sandbox.run(&["status", "-o", "json"]).ended_with(5);
    assert_eq!(printed.json()["error"]["code"], "forbidden");

    server.advance_clock(chrono::Duration::days(91));
    let printed = sandbox
        .run(&["status", "other", "-o", "json"])
        .ended_with(4);
    assert_eq!(printed.json()["error"]["code"], "token_expired");
}

#[test]
fn history_lists_as_many_as_were_asked_for() {
    let (runtime, server, mut sandbox) = in_process();
    sandbox.set("UPDRAFT_TOKEN", server.admin_token());
    runtime.block_on(async {
        let name = server.deployment(DEPLOYMENT).await.name;
        let mut there = [
            server.deploy_tree(&name, &[("a.py", "1")]).await.id,
            server.deploy_tree(&name, &[("a.py", "2")]).await.id,
        ];
        for _ in 2..205 {
            let ask = updraft_api::deploy::RollbackRequest {
                to: Some(there[0]),
                description: String::new(),
                allow_downgrade: false,
                key: uuid::Uuid::now_v7().to_string(),
            };
            there = [
                there[1],
                server.as_admin().roll_back(&name, &ask).await.unwrap().id,
            ];
        }
    });
    let many = |limit: &str| {
        let printed = sandbox.run(&["history", "-n", limit, "-o", "json"]);
        let deploys = printed.ended_with(0).json()["deploys"].clone();
        deploys.as_array().unwrap().len()
    };
    assert_eq!(many("1000"), 205);
    assert_eq!(many("203"), 203);
    assert_eq!(many("3"), 3);
}
