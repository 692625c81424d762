//! What the command line does without a control plane.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::common::{Sandbox, filters};
use insta::assert_snapshot;

#[test]
fn help_lists_the_commands_in_the_order_of_their_use() {
    let mut sandbox = Sandbox::new();
    sandbox.set("COLUMNS", "100");
    let help = sandbox.run(&["--help"]).ended_with(0);
    let commands: Vec<_> = help
        .stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        commands.join(" "),
        "quickstart dev deploy status history show diff rollback hold promote preview ci image deployment token trust login logout whoami \
         server agent backup restore config version completions help"
    );
    assert!(help.stderr.is_empty());
}

#[test]
fn every_command_has_help_that_fits_a_narrow_terminal() {
    let mut sandbox = Sandbox::new();
    sandbox.set("COLUMNS", "60");
    for command in [
        &["deploy"][..],
        &["rollback"],
        &["promote"],
        &["hold", "lift"],
        &["history"],
        &["status"],
        &["diff"],
        &["deployment", "create"],
        &["token", "create"],
        &["login"],
        &["server"],
        &["agent"],
        &["quickstart"],
        &["dev", "init"],
        &["dev", "check"],
    ] {
        let help = sandbox.run(&[command, &["-h"]].concat()).ended_with(0);
        let longest = help.stdout.lines().map(|line| line.chars().count()).max();
        assert!(longest.unwrap() <= 60, "{command:?}: {help}");
    }
}

#[test]
fn the_version_is_printed_both_ways() {
    let sandbox = Sandbox::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        sandbox.run(&["--version"]).stdout,
        format!("updraft {version}\n")
    );
    let printed = sandbox.run(&["version", "-o", "json"]).ended_with(0);
    assert_eq!(printed.json(), serde_json::json!({ "version": version }));
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_there_is() {
    let sandbox = Sandbox::new();
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["deplyo"]), @r#"
        exit code 2
        --- stderr
        error: unrecognized subcommand 'deplyo'

          tip: some similar subcommands exist: 'deployment', 'deploy'

        Usage: updraft [OPTIONS] <COMMAND>

        For more information, try '--help'.
        "#);
        assert_snapshot!(sandbox.run(&["deploy", "sales", "--dags", "--image"]), @"
        exit code 2
        --- stderr
        error: the argument '--dags' cannot be used with '--image'

        Usage: updraft deploy --dags <DEPLOYMENT>

        For more information, try '--help'.
        ");
        assert_snapshot!(sandbox.run(&["diff", "dep_0123"]), @r#"
        exit code 2
        --- stderr
        error: invalid value 'dep_0123' for '<FROM>': `dep_0123` is not a deploy: expected an id starting with `dpl_`

        For more information, try '--help'.
        "#);
        assert_snapshot!(sandbox.run(&["status"]), @r#"
        exit code 2
        --- stderr
        error: no Deployment is named
        help: name one as the argument, in UPDRAFT_DEPLOYMENT, or as `deployment` or `[[target]]` in updraft.toml; `updraft deployment list` shows them
        "#);
        assert_snapshot!(sandbox.run(&["token", "create", "ci", "--role", "king"]), @r#"
        exit code 2
        --- stderr
        error: invalid value 'king' for '--role <ROLE>': `king` is not a role: use viewer, previewer, deployer, admin or agent

        For more information, try '--help'.
        "#);
    });
}

#[test]
fn a_secret_on_the_command_line_is_refused() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["deployment", "update", "x", "--env", "PASSWORD=hunter2"]), @r#"
        exit code 2
        --- stderr
        error: the value of `PASSWORD` stands on the command line, where others can read it
        help: give `--env PASSWORD` and the value on standard input, or use --env-file
        "#);
        assert_snapshot!(sandbox.run(&["--token", "abc", "status", "x"]), @r#"
        exit code 2
        --- stderr
        error: unexpected argument '--token' found

          tip: a similar argument exists: '--token-file'

        Usage: updraft --token-file <FILE> <COMMAND>

        For more information, try '--help'.
        "#);
    });
}

#[test]
fn no_project_here_says_how_to_make_one() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["deploy", "sales", "--dags"]), @r#"
        exit code 3
        --- stderr
        error: there is no project in `[SANDBOX]/here`
        help: change to a folder with `updraft.toml`, or with `dags/` and a Dockerfile, or make one with `updraft dev init`
        "#);
    });
}

#[test]
fn a_missing_or_empty_dags_folder_is_refused_before_anything_is_asked() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    sandbox.set("UPDRAFT_SERVER", "http://127.0.0.1:9");
    sandbox.write("here/updraft.toml", "deployment = \"sales\"\n");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["deploy", "--dags"]), @r#"
        exit code 3
        --- stderr
        error: `[SANDBOX]/here/dags` does not exist
        help: to take all DAGs away on purpose, give --allow-empty
        "#);
        std::fs::create_dir(sandbox.path("here/dags")).unwrap();
        assert_snapshot!(sandbox.run(&["deploy", "--dags"]), @r#"
        exit code 3
        --- stderr
        error: `[SANDBOX]/here/dags` has no files
        help: to take all DAGs away on purpose, give --allow-empty
        "#);
        sandbox.write("here/dags/team/a.py", "");
        std::os::unix::fs::symlink("..", sandbox.path("here/dags/team/up")).unwrap();
        assert_snapshot!(sandbox.run(&["deploy", "--dags"]), @r#"
        exit code 3
        --- stderr
        error: the link `team/up` in `[SANDBOX]/here/dags` leads to a folder that it is in, which ends Airflow's DAG processor
        help: remove it, or name it in `.updraftignore`
        "#);
    });
}

#[test]
fn a_bundle_that_is_refused_names_the_file() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    sandbox.write(
        "here/updraft.toml",
        "deployment = \"sales\"\n[deploy]\nmax_file = 10\n",
    );
    sandbox.write("here/dags/big.py", "0123456789 and more");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["deploy", "--dags"]), @r#"
        exit code 3
        --- stderr
        error: `big.py` is too much: 19 bytes is more than the 10 bytes one file may have
        help: keep large data outside the bundle (object storage, the image), name it in `.updraftignore`, or raise the limit: `max_file` in updraft.toml and --max-file-bytes of the control plane
        "#);
    });
    sandbox.write("here/updraft.toml", "deployment = \"sales\"\n");
    std::os::unix::fs::symlink("../../secret", sandbox.path("here/dags/link.py")).unwrap();
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["deploy", "--dags"]), @r#"
        exit code 3
        --- stderr
        error: the link `link.py` leads out of the bundle to `../../secret`
        help: copy what it points to into the folder, or name the link in `.updraftignore`
        "#);
    });
}

#[test]
fn settings_that_are_not_valid_are_named_with_their_line() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "here/updraft.toml",
        "[project]\nname = \"x\"\ndeploymnt = \"y\"\n",
    );
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["config"]), @r#"
        exit code 3
        --- stderr
        error: line 3, column 1 of `updraft.toml`: there is no setting `deploymnt` (did you mean `deployment`?)
        help: the sections are `[project]`, `[deploy]`, `[check]`, `[[target]]` and `[preview]`
        "#);
    });
    sandbox.write("here/updraft.toml", "");
    sandbox.write(
        "home/.config/updraft/config.toml",
        "servr = \"http://127.0.0.1\"\n",
    );
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["config"]), @r#"
        exit code 3
        --- stderr
        error: `[SANDBOX]/home/.config/updraft/config.toml` is not valid, line 1
          because: unknown field `servr`, expected one of `server`, `deployment`, `insecure-http`, `ca-file`
        help: settings are listed in docs/reference/configuration.md
        "#);
    });
}

#[test]
fn a_broken_credentials_file_does_not_show_its_secrets() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "home/.config/updraft/credentials.toml",
        "[servers.\"http://127.0.0.1:8888\"]\ntoken = \"very-secret\" oops\n",
    );
    let printed = sandbox.run(&["status", "x"]).ended_with(3);
    assert!(!printed.stderr.contains("very-secret"), "{printed}");
}

#[test]
fn each_layer_of_settings_wins_over_those_below_it() {
    let mut sandbox = Sandbox::new();
    let server = |sandbox: &Sandbox, arguments: &[&str]| {
        let all = [arguments, &["config", "-o", "json"]].concat();
        let json = sandbox.run(&all).ended_with(0).json();
        let text = |key: &str| json["server"][key].as_str().unwrap().to_owned();
        (text("value"), text("source"))
    };
    assert_eq!(
        server(&sandbox, &[]),
        ("http://127.0.0.1:8888".into(), "default".into())
    );
    sandbox.write(
        "home/.config/updraft/config.toml",
        "server = \"http://127.0.0.1:1\"\n",
    );
    let (value, source) = server(&sandbox, &[]);
    assert_eq!(value, "http://127.0.0.1:1");
    assert!(source.ends_with(".config/updraft/config.toml"));

    sandbox.write("here/updraft.toml", "");
    sandbox.write(
        "here/.updraft/local.toml",
        "server = \"http://127.0.0.1:2\"\n",
    );
    assert_eq!(server(&sandbox, &[]).0, "http://127.0.0.1:2");
    sandbox.write("here/updraft.toml", "server = \"http://127.0.0.1:3\"\n");
    let (value, source) = server(&sandbox, &[]);
    assert_eq!(value, "http://127.0.0.1:3");
    assert!(source.ends_with("here/updraft.toml"));

    sandbox.set("UPDRAFT_SERVER", "http://127.0.0.1:4");
    assert_eq!(
        server(&sandbox, &[]),
        ("http://127.0.0.1:4".into(), "UPDRAFT_SERVER".into())
    );
    let flag = server(&sandbox, &["--server", "http://127.0.0.1:5"]);
    assert_eq!(flag, ("http://127.0.0.1:5".into(), "--server".into()));

    // An empty variable is how CI gives a missing one.
    sandbox.unset("UPDRAFT_SERVER");
    sandbox.set("UPDRAFT_SERVER", "");
    assert_eq!(server(&sandbox, &[]).0, "http://127.0.0.1:3");
}

#[test]
fn config_tells_of_a_token_and_never_tells_it() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "very-secret");
    sandbox.set("UPDRAFT_DEPLOYMENT", "sales");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["config"]), @r#"
        exit code 0
        --- stdout
        SETTING        VALUE                                             FROM
        server         http://127.0.0.1:[PORT]                             default
        deployment     sales                                             UPDRAFT_DEPLOYMENT
        token          set                                               UPDRAFT_TOKEN
        insecure-http  false                                             default
        ca-file        not set
        project        not set
        settings file  [SANDBOX]/home/.config/updraft/config.toml
        "#);
    });
    let json = sandbox.run(&["config", "-o", "json"]).json();
    assert_eq!(
        json["token"],
        serde_json::json!({ "value": "set", "source": "UPDRAFT_TOKEN", "problem": null })
    );
    assert!(!json.to_string().contains("very-secret"));
}

#[test]
fn a_stored_token_counts_only_for_its_server() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "home/.config/updraft/credentials.toml",
        "[servers.\"http://127.0.0.1:7\"]\ntoken = \"t\"\n",
    );
    let token = |server: &str| {
        let json = sandbox
            .run(&["--server", server, "config", "-o", "json"])
            .json();
        json["token"]["value"].clone()
    };
    assert_eq!(token("http://127.0.0.1:7"), "set");
    assert_eq!(token("http://127.0.0.1:7/"), "set");
    assert_eq!(token("http://127.0.0.1:8"), serde_json::Value::Null);
}

#[test]
fn a_token_that_cannot_be_one_is_refused_here() {
    let sandbox = Sandbox::new();
    for wrong in ["", "two words", "not\u{e9}ascii"] {
        let printed =
            sandbox.run_with_input(&["--token-file", "-", "status", "x", "-o", "json"], wrong);
        assert_eq!(
            printed.json()["error"]["code"],
            "token_malformed",
            "{printed}"
        );
        printed.ended_with(4);
    }
}

#[test]
fn plain_http_to_another_machine_needs_a_flag() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["--server", "http://192.0.2.1:8888", "status", "x"]), @r#"
        exit code 3
        --- stderr
        error: `http://192.0.2.1:8888/` is neither https nor on this machine: the token would travel in clear
        help: use https, or --insecure-http if the network between is trusted
        "#);
        assert_snapshot!(sandbox.run(&["--server", "ftp://x", "status", "x"]), @r#"
        exit code 3
        --- stderr
        error: `ftp://x` is not the address of a control plane: it is neither http nor https
        help: give it as https://HOST[:PORT]
        "#);
    });
}

#[test]
fn no_control_plane_there_is_7() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    let printed = sandbox
        .run(&["--server", "http://127.0.0.1:9", "status", "x"])
        .ended_with(7);
    assert!(
        printed
            .stderr
            .contains("no control plane answers at http://127.0.0.1:9"),
        "{printed}"
    );
    assert!(printed.stderr.contains("help: "), "{printed}");
}

#[test]
fn an_error_is_one_json_object_too_when_json_was_asked_for() {
    let sandbox = Sandbox::new();
    let printed = sandbox.run(&["status", "x", "-o", "json"]).ended_with(4);
    filters().bind(|| {
        assert_snapshot!(printed, @r#"
        exit code 4
        --- stdout
        {
          "error": {
            "causes": [],
            "code": "token_missing",
            "exit": "not_signed_in",
            "exit_code": 4,
            "help": "sign in with `updraft login http://127.0.0.1:[PORT]`, or set UPDRAFT_TOKEN",
            "message": "there is no token for http://127.0.0.1:[PORT]"
          }
        }
        --- stderr
        error: there is no token for http://127.0.0.1:[PORT]
        help: sign in with `updraft login http://127.0.0.1:[PORT]`, or set UPDRAFT_TOKEN
        "#);
    });
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let sandbox = Sandbox::new();
    let mut child = sandbox
        .command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), stderr.as_str()),
        (Some(0), "")
    );
}

#[test]
fn a_full_disk_behind_standard_output_is_15() {
    let sandbox = Sandbox::new();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = sandbox
        .command(&["completions", "zsh"])
        .stdout(full)
        .output()
        .unwrap();
    sandbox.printed(output).ended_with(15);
}

#[test]
fn completions_are_there_for_each_shell() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let printed = sandbox.run(&["completions", shell]).ended_with(0);
        assert!(printed.stdout.contains("rollback"), "{shell}");
    }
}

#[test]
fn init_writes_a_project_and_never_overwrites() {
    let sandbox = Sandbox::new();
    sandbox.write("here/requirements.txt", "mine\n");
    let printed = sandbox
        .run(&["dev", "init", "--name", "sales"])
        .ended_with(0);
    assert!(
        printed
            .stderr
            .contains("= requirements.txt (was there; left alone)"),
        "{printed}"
    );
    assert!(
        printed.stderr.contains("+ dags/example_basic.py"),
        "{printed}"
    );
    assert_eq!(
        std::fs::read_to_string(sandbox.path("here/requirements.txt")).unwrap(),
        "mine\n"
    );
    let again = sandbox
        .run(&["dev", "init", "-o", "json"])
        .ended_with(0)
        .json();
    assert_eq!(again["written"], serde_json::json!([]));
    sandbox
        .run(&["dev", "init", "--airflow-version", "one"])
        .ended_with(3);
}

#[test]
fn what_login_stores_is_for_its_owner_only() {
    // No control plane answers, so nothing may be stored.
    let sandbox = Sandbox::new();
    sandbox
        .run_with_input(&["login", "http://127.0.0.1:9"], "secret\n")
        .ended_with(7);
    assert!(
        !sandbox
            .path("home/.config/updraft/credentials.toml")
            .exists()
    );
    // A file that others could read becomes private when it is written again.
    let path = "home/.config/updraft/credentials.toml";
    sandbox.write(
        path,
        "[servers.\"http://127.0.0.1:9\"]\ntoken = \"a\"\n[servers.\"https://b\"]\ntoken = \"b\"\n",
    );
    sandbox.run(&["logout", "http://127.0.0.1:9"]).ended_with(0);
    let stored = std::fs::read_to_string(sandbox.path(path)).unwrap();
    assert!(
        !stored.contains("127.0.0.1") && stored.contains("https://b"),
        "{stored}"
    );
    let mode = std::fs::metadata(sandbox.path(path))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn colours_are_for_terminals() {
    let sandbox = Sandbox::new();
    let printed = sandbox.run(&["status", "x"]);
    assert!(!printed.stderr.contains('\u{1b}'), "{printed:?}");
}

#[test]
fn deleting_without_a_terminal_needs_a_yes() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_TOKEN", "t");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["deployment", "delete", "sales"]), @r#"
    exit code 2
    --- stderr
    error: deleting `sales` needs a yes
    help: give --yes; nothing is asked without a terminal
    "#);
    });
}

#[test]
fn config_shows_what_is_not_good_and_why() {
    let mut sandbox = Sandbox::new();
    sandbox.set("UPDRAFT_SERVER", "ftp://x");
    sandbox.set("UPDRAFT_TOKEN", "two words");
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["config"]).ended_with(0), @r#"
        exit code 0
        --- stdout
        SETTING        VALUE                                             FROM            PROBLEM
        server         ftp://x                                           UPDRAFT_SERVER  `ftp://x` is not the address of a control plane: it is neither http nor https
        deployment     not set
        token          set                                               UPDRAFT_TOKEN   the token from UPDRAFT_TOKEN has characters that no token has
        insecure-http  false                                             default
        ca-file        not set
        project        not set
        settings file  [SANDBOX]/home/.config/updraft/config.toml
        "#);
    });
    sandbox.unset("UPDRAFT_SERVER");
    sandbox.unset("UPDRAFT_TOKEN");
    sandbox.set("UPDRAFT_TOKEN_FILE", "nowhere");
    sandbox.set("UPDRAFT_CA_FILE", "nothing.pem");
    let json = sandbox.run(&["config", "-o", "json"]).ended_with(0).json();
    assert_eq!(json["token"]["source"], "UPDRAFT_TOKEN_FILE");
    assert_eq!(json["token"]["problem"], "could not read `nowhere`");
    assert_eq!(json["ca-file"]["problem"], "could not read `nothing.pem`");
    assert_eq!(json["server"]["problem"], serde_json::Value::Null);
    // A command that needs it says whose word that is.
    let printed = sandbox.run(&["status", "x"]);
    assert!(printed.stderr.contains("nothing.pem"), "{printed}");
    sandbox.unset("UPDRAFT_CA_FILE");
    let printed = sandbox.run(&["status", "x"]).ended_with(3);
    assert!(printed.stderr.contains("UPDRAFT_TOKEN_FILE"), "{printed}");
}

#[test]
fn init_takes_the_folder_and_the_python_that_are_named() {
    let sandbox = Sandbox::new();
    let python = ["dev", "init", "--python-version", "3.11"];
    let named = [&["--project", "sales"][..], &python].concat();
    sandbox.run(&named).ended_with(0);
    let dockerfile = std::fs::read_to_string(sandbox.path("here/sales/Dockerfile")).unwrap();
    assert!(dockerfile.contains("-python3.11"), "{dockerfile}");
    filters().bind(|| {
        let other = ["dev", "init", "sales", "--python-version", "3.12"];
        assert_snapshot!(sandbox.run(&other), @r#"
        exit code 3
        --- stderr
        error: `Dockerfile` is there already and says 3.11, not 3.12
        help: change it there, or leave the flag out
        "#);
        assert_snapshot!(sandbox.run(&["--project", "nowhere", "status", "x"]), @r#"
        exit code 3
        --- stderr
        error: there is no folder `nowhere`
        help: check the path; `updraft dev init` makes a project
        "#);
    });
}

/// A project whose DAG files have one error and one warning. What Airflow 3
/// removed is looked for by a ruff that finds nothing.
fn project_to_check() -> Sandbox {
    let mut sandbox = Sandbox::new();
    let ruff = sandbox.stand_in("ruff", "#!/bin/sh\necho '[]'\n");
    sandbox.set("UPDRAFT_RUFF", &ruff);
    sandbox.write("here/updraft.toml", "[project]\nname = \"shop\"\n");
    sandbox.write("here/Dockerfile", "FROM apache/airflow:3.3.2-python3.12\n");
    sandbox.write("here/dags/sales/broken.py", "def total(:\n    pass\n");
    sandbox.write(
        "here/dags/stock.py",
        "from airflow.sdk import DAG, Variable\n\nPATH = Variable.get(\"path\")\n",
    );
    sandbox.write("here/dags/good.py", "X = 1\n");
    sandbox
}

#[test]
fn a_check_tells_each_finding_with_its_line_and_an_error_is_17() {
    let sandbox = project_to_check();
    filters().bind(|| {
        assert_snapshot!(sandbox.run(&["dev", "check"]).ended_with(17), @r#"
        exit code 17
        --- stdout
        dags/sales/broken.py:1:11: error UPD002: Expected a parameter or the end of the parameter list
          | def total(:
          = mend it, or have the Dockerfile name a Python that knows this syntax

        dags/stock.py:3:8: warning UPD302: `Variable.get` is called while the file is imported
          | PATH = Variable.get("path")
          = read it within a task, or as `{{ var.value.name }}` in a templated field

        1 error, 1 warning in 3 DAG files ([TIME])
        --- stderr
        warning: imports are not looked up, because no environment with the project's packages was made here: `updraft dev parse` makes it, `--venv` names one
        "#);
    });
    let only_warned = sandbox.run(&["dev", "check", "dags/stock.py", "dags/good.py"]);
    let only_warned = only_warned.ended_with(0);
    let last = only_warned.stdout.lines().last().unwrap();
    assert!(
        last.contains("0 errors, 1 warning in 2 DAG files"),
        "{last}"
    );
    std::fs::remove_file(sandbox.path("here/dags/sales/broken.py")).unwrap();
    std::fs::remove_file(sandbox.path("here/dags/stock.py")).unwrap();
    let clean = sandbox.run(&["dev", "check"]).ended_with(0);
    assert!(
        clean.stdout.contains("1 DAG file, nothing found"),
        "{clean}"
    );
}

#[test]
fn a_check_is_one_object_of_json() {
    let sandbox = project_to_check();
    let printed = sandbox.run(&["dev", "check", "-o", "json"]).ended_with(17);
    let json = printed.json();
    assert_eq!(json["files"], 3);
    assert_eq!((&json["errors"], &json["warnings"]), (&1.into(), &1.into()));
    let found = &json["findings"][1];
    assert_eq!(found["rule"], "UPD302", "{json:#}");
    assert_eq!(found["level"], "warning");
    assert_eq!(found["file"], "dags/stock.py");
    assert_eq!((&found["line"], &found["column"]), (&3.into(), &8.into()));
    assert_eq!(found["text"], "PATH = Variable.get(\"path\")");
}

#[test]
fn reports_name_files_from_the_repository() {
    let mut sandbox = project_to_check();
    std::fs::create_dir(sandbox.path(".git")).unwrap();
    let reports = ["--sarif", "s.json", "--gitlab", "g.json"];
    sandbox.set("GITHUB_ACTIONS", "true");
    let checked = sandbox.run(&[&["dev", "check"][..], &reports].concat());
    let checked = checked.ended_with(17);
    let line = "::warning file=here/dags/stock.py,line=3,col=8,title=UPD302::";
    assert!(checked.stdout.contains(line), "{checked}");
    for (report, path) in [
        (
            "s.json",
            "/runs/0/results/1/locations/0/physicalLocation/artifactLocation/uri",
        ),
        ("g.json", "/1/location/path"),
    ] {
        let text = std::fs::read_to_string(sandbox.path("here").join(report)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            json.pointer(path).unwrap(),
            "here/dags/stock.py",
            "{json:#}"
        );
    }
    sandbox.run(&["dev", "check", "--junit", "j.xml"]);
    let xml = std::fs::read_to_string(sandbox.path("here/j.xml")).unwrap();
    assert!(
        xml.contains("<testcase name=\"here/dags/good.py\""),
        "{xml}"
    );
    let refused = sandbox.run(&["dev", "check", "--sarif", "/nowhere/s.json"]);
    assert!(refused.ended_with(1).stderr.contains("/nowhere/s.json"));
}

#[test]
fn a_check_looks_at_what_airflow_looks_at() {
    let sandbox = project_to_check();
    sandbox.write("here/dags/.airflowignore", "sales/\n[z-a]\n");
    sandbox.write("here/dags/.updraftignore", "stock.py\n");
    std::os::unix::fs::symlink("good.py", sandbox.path("here/dags/same.py")).unwrap();
    std::os::unix::fs::symlink("sales", sandbox.path("here/dags/linked")).unwrap();
    let checked = sandbox.run(&["dev", "check"]).ended_with(0);
    assert!(
        checked.stdout.contains("2 DAG files, nothing found"),
        "{checked}"
    );
    let note = "`[z-a]` in `dags/.airflowignore` is no valid pattern";
    assert!(checked.stderr.contains(note), "{checked}");
    let json = sandbox.run(&["dev", "check", "-o", "json"]).json();
    assert!(json["notes"][0].as_str().unwrap().contains(note), "{json}");

    // The Dockerfile may ask for the other syntax.
    sandbox.write(
        "here/Dockerfile",
        "FROM apache/airflow:3.3.2-python3.12\nENV AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX=regexp\n",
    );
    sandbox.write("here/dags/.airflowignore", "^sal.s/\n");
    sandbox.run(&["dev", "check"]).ended_with(0);

    std::fs::remove_dir_all(sandbox.path("here/dags")).unwrap();
    let without = sandbox.run(&["dev", "check"]).ended_with(0);
    let says = "no DAG files in `dags/`";
    assert!(without.stdout.contains(says), "{without}");
}

#[test]
fn a_check_looks_imports_up_in_an_environment() {
    let sandbox = project_to_check();
    std::fs::remove_dir_all(sandbox.path("here/dags")).unwrap();
    sandbox.write("here/dags/a.py", "import numpy, helper, shop, pandas\n");
    sandbox.write("here/dags/helper.py", "");
    sandbox.write("here/shop/__init__.py", "");
    sandbox.write("venv/lib/python3.12/site-packages/numpy/__init__.py", "");
    let venv = sandbox.path("venv").display().to_string();
    let checked = sandbox.run(&["dev", "check", "--venv", &venv]);
    let checked = checked.ended_with(17);
    assert!(
        checked.stdout.contains("UPD201: `pandas`") && checked.stdout.contains("1 error,"),
        "{checked}"
    );
    sandbox.run(&["dev", "check"]).ended_with(0);
    let refused = sandbox.run(&["dev", "check", "--venv", "/etc"]);
    assert!(refused.ended_with(3).stderr.contains("no virtual env"));
    let from = "FROM apache/airflow:3.3.2-python3.12\nENV PYTHONPATH=/opt/shared\n";
    sandbox.write("here/Dockerfile", from);
    let noted = sandbox.run(&["dev", "check", "--venv", &venv]);
    let noted = noted.ended_with(0);
    assert!(noted.stderr.contains("sets PYTHONPATH"), "{noted}");
}

#[test]
fn a_check_says_what_airflow_3_removed_or_why_it_does_not() {
    let mut sandbox = project_to_check();
    std::fs::remove_file(sandbox.path("here/dags/sales/broken.py")).unwrap();
    sandbox.set("UPDRAFT_RUFF", "/nowhere/ruff");
    let checked = sandbox.run(&["dev", "check"]).ended_with(0);
    let note = "names that Airflow 3 removed were not looked for: \
                `UPDRAFT_RUFF` names `/nowhere/ruff`, which is no program";
    assert!(checked.stderr.contains(note), "{checked}");
    let found = format!(
        "#!/bin/sh\necho '[{{\"filename\": \"{}\", \"code\": \"AIR301\", \"message\": \"gone\", \
         \"fix\": null, \"location\": {{\"row\": 1, \"column\": 1}}, \"noqa_row\": 1}}]'\n",
        sandbox
            .path("here/dags/good.py")
            .canonicalize()
            .unwrap()
            .display()
    );
    let ruff = sandbox.stand_in("ruff", &found);
    sandbox.set("UPDRAFT_RUFF", &ruff);
    let checked = sandbox.run(&["dev", "check"]).ended_with(17);
    let says = "dags/good.py:1:1: error UPD501: gone (ruff's AIR301)";
    assert!(checked.stdout.contains(says), "{checked}");
    // To Airflow 2 they are all there.
    sandbox.write("here/Dockerfile", "FROM apache/airflow:2.11.2-python3.12\n");
    sandbox.run(&["dev", "check"]).ended_with(0);
}

#[test]
fn a_check_that_watches_checks_again_after_a_change_until_interrupted() {
    use std::io::{BufRead as _, BufReader};

    let sandbox = project_to_check();
    std::fs::remove_file(sandbox.path("here/dags/sales/broken.py")).unwrap();
    let mut command = sandbox.command(&["dev", "check", "--watch", "--junit", "j.xml"]);
    command.stdout(std::process::Stdio::piped());
    command.stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut comes = |what: &str| {
        let mut lines = lines.by_ref().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(what)), "{what}");
    };
    comes("0 errors, 1 warning in 2 DAG files");
    sandbox.write("here/dags/stock.py", "def total(:\n");
    comes("2 errors, 0 warnings in 2 DAG files");
    sandbox.write("here/updraft.toml", "[check.levels]\nUPD002 = \"off\"\n");
    comes("2 DAG files, nothing found");
    // What fails does not end it.
    sandbox.write("here/updraft.toml", "[check.levels]\nUPD999 = \"off\"\n");
    std::fs::remove_file(sandbox.path("here/dags/stock.py")).unwrap();
    sandbox.write("here/updraft.toml", "");
    comes("1 DAG file, nothing found");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(told.contains(": something changed"), "{told}");
}

#[test]
fn levels_of_rules_come_from_the_project() {
    let sandbox = project_to_check();
    std::fs::remove_file(sandbox.path("here/dags/sales/broken.py")).unwrap();
    for (levels, code) in [("UPD302 = \"error\"", 17), ("UPD302 = \"off\"", 0)] {
        sandbox.write("here/updraft.toml", &format!("[check.levels]\n{levels}\n"));
        sandbox.run(&["dev", "check"]).ended_with(code);
    }
    for (levels, says) in [
        ("UPD312 = \"off\"", "no rule `UPD312`"),
        ("UPD302 = \"loud\"", "line 2"),
    ] {
        sandbox.write("here/updraft.toml", &format!("[check.levels]\n{levels}\n"));
        let refused = sandbox.run(&["dev", "check"]).ended_with(3);
        assert!(refused.stderr.contains(says), "{refused}");
    }
}

#[test]
fn a_check_of_what_is_no_dag_file_is_refused() {
    let sandbox = project_to_check();
    for (path, says) in [
        ("Dockerfile", "has no DAG files"),
        ("nowhere.py", "cannot be found"),
        ("/etc", "is not in the project"),
    ] {
        let refused = sandbox.run(&["dev", "check", path]).ended_with(3);
        assert!(refused.stderr.contains(says), "{refused}");
    }
    std::fs::remove_file(sandbox.path("here/Dockerfile")).unwrap();
    let refused = sandbox.run(&["dev", "check"]).ended_with(3);
    assert!(refused.stderr.contains("Dockerfile"), "{refused}");
}
