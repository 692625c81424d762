//! The project's own Airflow, as far as none has to run: what is refused, and
//! what is said where nothing runs. The end-to-end job `dev` has the rest.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::common::Sandbox;

const FROM: &str = "FROM apache/airflow:3.3.2-python3.12\n";
const SECRET: &str = "s3cret-value";

fn project() -> Sandbox {
    let mut sandbox = Sandbox::new();
    let state = sandbox.path("state");
    sandbox.set("UPDRAFT_STATE_DIR", state.to_str().unwrap());
    sandbox.write("here/updraft.toml", "[project]\nname = \"shop\"\n");
    sandbox.write("here/Dockerfile", FROM);
    sandbox
}

/// What is kept below the state folder.
fn kept(sandbox: &Sandbox) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(sandbox.path("state/dev"));
    let entries = entries.into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn where_nothing_runs_each_command_says_so() {
    let sandbox = project();
    for command in [&["dev", "ps"][..], &["dev", "stop"]] {
        let printed = sandbox.run(command).ended_with(0);
        assert!(
            printed.stderr.contains("Nothing runs of `shop`"),
            "{printed}"
        );
    }
    let json = sandbox.run(&["dev", "ps", "-o", "json"]).ended_with(0);
    assert_eq!(json.json()["state"], "stopped");
    sandbox.write(
        "here/airflow_settings.yaml",
        "airflow: {variables: [{variable_name: a}]}",
    );
    for command in [
        &["dev", "logs"][..],
        &["dev", "run", "dags", "list"],
        &["dev", "bash", "-c", "true"],
        &["dev", "object", "import"],
        &["dev", "object", "export", "--force"],
    ] {
        let printed = sandbox.run(command).ended_with(8);
        assert!(
            printed.stderr.contains("`updraft dev start` does"),
            "{printed}"
        );
    }
}

#[test]
fn removing_a_database_needs_a_yes() {
    let sandbox = project();
    sandbox.run(&["dev", "kill"]).ended_with(0);
    let folder = kept(&sandbox).remove(0).with_extension("");
    let database = folder.join("airflow/airflow.db");
    let make = || {
        std::fs::create_dir_all(database.parent().unwrap()).unwrap();
        std::fs::write(&database, "").unwrap();
    };
    for command in [&["dev", "kill"][..], &["dev", "stop", "--clean"]] {
        make();
        let refused = sandbox.run(command).ended_with(2);
        assert!(refused.stderr.contains("give --yes"), "{refused}");
        assert!(database.exists());
        sandbox.run(&[command, &["--force"]].concat()).ended_with(0);
        assert!(!folder.exists());
    }
    // Without --clean there is nothing to ask.
    sandbox.run(&["dev", "stop", "--yes"]).ended_with(2);
}

#[test]
fn two_projects_of_one_name_are_kept_apart() {
    let sandbox = project();
    sandbox.write("other/here/updraft.toml", "[project]\nname = \"shop\"\n");
    sandbox.run(&["dev", "stop"]).ended_with(0);
    let other = sandbox.path("other/here");
    let stop = ["--project", other.to_str().unwrap(), "dev", "stop"];
    sandbox.run(&stop).ended_with(0);
    assert_eq!(kept(&sandbox).len(), 2);
}

#[test]
fn what_needs_a_container_says_what_lacks_where_there_is_no_engine() {
    let mut sandbox = project();
    let nothing = sandbox.path("no-programs");
    std::fs::create_dir(&nothing).unwrap();
    sandbox.set("PATH", nothing.to_str().unwrap());
    let says = |arguments: &[&str], code: i32, said: &[&str]| {
        let printed = sandbox.run(&[&["dev", "start"], arguments].concat());
        let printed = printed.ended_with(code);
        for said in said {
            assert!(printed.stderr.contains(said), "{said}: {printed}");
        }
    };
    let lacks = [
        "docker: not installed",
        "podman: not installed",
        "install docker or podman",
    ];
    let why = |why| [&lacks[..], &[why]].concat();
    sandbox.write("here/Dockerfile", &format!("{FROM}RUN apt-get update\n"));
    says(&[], 16, &why("line 2: `RUN apt-get update`"));
    says(&["--engine", "podman"], 16, &["podman: not installed"]);
    says(&["--engine", "buildah"], 2, &["`docker` or `podman`"]);
    says(
        &["--runtime", "process"],
        3,
        &["line 2: `RUN apt-get update`", "--runtime auto"],
    );
    sandbox.write("here/Dockerfile", "FROM registry.acme.example/airflow\n");
    says(&[], 16, &why("registry.acme.example/airflow"));
    sandbox.write("here/Dockerfile", FROM);
    says(
        &["--runtime", "container"],
        16,
        &why("cannot run in containers"),
    );
    sandbox.write("here/packages.txt", "libpq-dev\n");
    says(&[], 16, &why("libpq-dev"));
    says(&[], 16, &["`--runtime process` does without"]);
    // What no container mends is no question of engines.
    sandbox.write("here/Dockerfile", "FROM apache/airflow:2.9.1\n");
    says(&[], 3, &["2.9.1"]);
}

#[test]
fn a_folder_without_a_project_or_a_dockerfile_is_refused() {
    let sandbox = project();
    std::fs::remove_file(sandbox.path("here/Dockerfile")).unwrap();
    let printed = sandbox.run(&["dev", "start"]).ended_with(3);
    assert!(printed.stderr.contains("no Dockerfile"), "{printed}");
    std::fs::remove_file(sandbox.path("here/updraft.toml")).unwrap();
    sandbox.run(&["dev", "start"]).ended_with(3);
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_its_line_and_no_value() {
    let sandbox = project();
    sandbox.write(
        "here/airflow_settings.yaml",
        &format!("airflow:\n  connections:\n    - conn_id: a\n      conn_port: {SECRET}\n"),
    );
    sandbox.write("broken.env", &format!("A=1\nB='{SECRET}\n"));
    let broken = sandbox.path("broken.env");
    let env = ["dev", "start", "--env", broken.to_str().unwrap()];
    for (command, said) in [
        (&["dev", "start"][..], "line 4"),
        (&["dev", "restart"], "line 4"),
        (&["dev", "object", "import"], "line 4"),
        (
            &env,
            "`broken.env` cannot be read: line 2: the quote is not closed",
        ),
        (&["dev", "start", "--env", "none"], "could not read"),
        (
            &["dev", "start", "--settings-file", "none"],
            "could not read",
        ),
    ] {
        let printed = sandbox.run(command).ended_with(3);
        assert!(printed.stderr.contains(said), "{printed}");
        assert!(!printed.stderr.contains(SECRET), "{printed}");
    }
}

#[test]
fn an_export_replaces_no_file() {
    let sandbox = project();
    sandbox.write("here/airflow_settings.yaml", "airflow:\n");
    let printed = sandbox.run(&["dev", "object", "export"]).ended_with(8);
    assert!(printed.stderr.contains("give --force"), "{printed}");
    let text = std::fs::read_to_string(sandbox.path("here/airflow_settings.yaml")).unwrap();
    assert_eq!(text, "airflow:\n");
}

#[test]
fn a_machine_without_a_package_index_is_told_so() {
    let mut sandbox = project();
    let uv = sandbox.stand_in_uv();
    sandbox.set("UPDRAFT_UV", &uv);
    sandbox.set("UV_OFFLINE", "1");
    let printed = sandbox.run(&["dev", "start"]).ended_with(16);
    assert!(printed.stderr.contains("index"), "{printed}");
    let start = ["dev", "start", "--engine", "docker"];
    let printed = sandbox.run(&start).ended_with(16);
    assert!(
        printed.stderr.contains("`--engine` is for containers"),
        "{printed}"
    );
    // Nothing was begun that would have to be stopped.
    let printed = sandbox.run(&["dev", "ps"]).ended_with(0);
    assert!(printed.stderr.contains("Nothing runs"), "{printed}");
}

#[test]
fn the_state_folder_has_to_be_usable() {
    let sandbox = project();
    sandbox.write("state/dev", "a file");
    let printed = sandbox.run(&["dev", "stop"]).ended_with(1);
    assert!(printed.stderr.contains("state/dev"), "{printed}");
    let mode = std::fs::metadata(sandbox.path("state"))
        .unwrap()
        .permissions();
    assert_ne!(mode.mode() & 0o700, 0);
}
