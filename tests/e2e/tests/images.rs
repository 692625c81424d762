//! Checks in the image that a project makes, through each container engine.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use updraft_e2e::{Engine, EngineName, Front, Output, PATIENCE, Project, updraft_binary, wait_for};
use updraft_model::Role;
use updraft_testkit::{Reaper, TestServer, free_port, skipped};

const AIRFLOW: &str = "docker.io/apache/airflow:3.3.2-python3.11";

/// A DAG that needs what only the project's own image has.
const NEEDS_THE_IMAGE: &str = "from pathlib import Path\n\n\
    import made_in_the_image\n\
    from airflow.providers.standard.operators.empty import EmptyOperator\n\
    from airflow.sdk import DAG\n\n\
    with DAG(\"needs_the_image\", schedule=None, tags=[made_in_the_image.WORD]):\n    \
    EmptyOperator(task_id=\"one\")\n";

const STEPS: &str = "USER root\n\
    RUN echo \"WORD = 'made'\" > /opt/packages/made_in_the_image.py\n\
    USER airflow\n";

struct World {
    root: PathBuf,
    project: Project,
    engine: Option<Engine>,
    /// Where its commands go, and with which token.
    signed_in: Option<(String, String)>,
    _reaper: Reaper,
}

impl World {
    /// A project, and neither engine nor server.
    fn new() -> Self {
        let (root, reaper) = Reaper::folder("updraft-images-").unwrap();
        let world = Self {
            project: Project::at(root.join("shop")),
            engine: None,
            signed_in: None,
            _reaper: reaper,
            root,
        };
        fs::create_dir(world.project.root()).unwrap();
        let made = world.run(&[
            "dev",
            "init",
            "--airflow-version",
            "3.3.2",
            "--python-version",
            "3.11",
        ]);
        made.expect_code(0).unwrap();
        world.project.remove("dags/example_basic.py").unwrap();
        world
            .project
            .write("dags/needs.py", NEEDS_THE_IMAGE)
            .unwrap();
        world
    }

    fn with_or_skip(name: EngineName) -> Option<Self> {
        let mut world = Self::new();
        world.engine = Some(Engine::start_or_skip(name, &world.root).unwrap()?);
        world.engine().build_airflow(AIRFLOW).unwrap();
        Some(world)
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(updraft_binary());
        command
            .args(arguments)
            .current_dir(self.project.root())
            .env("XDG_CONFIG_HOME", self.root.join("config"))
            .env("UPDRAFT_CACHE_DIR", self.root.join("cache"))
            .env("UPDRAFT_TEST_ROOT", &self.root)
            .env_remove("UPDRAFT_TOKEN")
            .env_remove("GITHUB_ACTIONS")
            .stdin(Stdio::null());
        if let Some((server, token)) = &self.signed_in {
            command.env("UPDRAFT_SERVER", server);
            command.env("UPDRAFT_TOKEN", token);
        }
        match &self.engine {
            Some(engine) => command.envs(engine.variables()),
            None => command.env("PATH", self.root.join("nothing")),
        };
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        output.expect_code(code).unwrap().json().unwrap()
    }

    /// The rules of the findings.
    fn rules(report: &Value) -> Vec<&str> {
        let findings = report["findings"].as_array().into_iter().flatten();
        findings
            .map(|finding| finding["rule"].as_str().unwrap())
            .collect()
    }

    fn add_steps(&self, steps: &str) {
        let dockerfile = format!("FROM {AIRFLOW}\n{steps}");
        self.project.write("Dockerfile", &dockerfile).unwrap();
    }
}

fn checks_run_in_the_image(name: EngineName) {
    let Some(world) = World::with_or_skip(name) else {
        return;
    };
    let engine = ["--engine", world.engine().program()];
    world.add_steps(STEPS);
    let dev = |what: &[&'static str]| [&["dev"], what, &engine[..]].concat();

    // The image is built for it, and answers like any other environment.
    let parsed = world.json(&dev(&["parse"]), 0);
    assert_eq!(World::rules(&parsed), [""; 0], "{parsed:#}");
    assert_eq!(parsed["known"], 0, "{parsed:#}");
    let again = world.json(&dev(&["parse"]), 0);
    assert_eq!(again["known"], again["files"], "{again:#}");

    // Without the project's own steps, it is not there to import.
    let base = world.json(&dev(&["parse", "--image", AIRFLOW]), 17);
    assert_eq!(World::rules(&base), ["UPD601"], "{base:#}");

    // Other steps are another image; one that fails is told with its words.
    world.add_steps(&STEPS.replace("made'", "other'"));
    let other = world.json(&dev(&["parse"]), 0);
    assert_eq!(other["known"], 0, "{other:#}");
    world.add_steps("RUN echo nothing here does this >&2 && false\n");
    let failed = world.run(&dev(&["parse"])).expect_code(17).unwrap();
    assert!(
        failed.stderr.contains("nothing here does this"),
        "{failed:?}"
    );

    // Tests run there too, and what they write is kept.
    world.add_steps(STEPS);
    let mut tests = dev(&["pytest", "tests/test_dag_integrity.py"]);
    tests.extend(["--", "-q", "--junitxml", "kept.xml", "-k", "imports"]);
    let tests = world.run(&tests).expect_code(0).unwrap();
    assert!(tests.stdout.contains("passed"), "{tests:?}");
    let kept = fs::read_to_string(world.project.root().join("kept.xml")).unwrap();
    assert!(kept.contains("test_every_file_imports"), "{kept}");

    let missing = world.run(&dev(&["parse", "--image", "localhost/no/such:image"]));
    let missing = missing.expect_code(3).unwrap();
    assert!(
        missing.stderr.contains("localhost/no/such:image"),
        "{missing:?}"
    );

    // A killed command leaves no container behind.
    world
        .project
        .write(
            "dags/slow.py",
            "import time  # airflow DAG\ntime.sleep(600)\n",
        )
        .unwrap();
    let mut killed = world.command(&dev(&["parse"])).spawn().unwrap();
    wait_for("a container", PATIENCE, || {
        Ok((!world.engine().containers()?.is_empty()).then_some(()))
    })
    .unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_for("no container", PATIENCE, || {
        Ok(world.engine().containers()?.is_empty().then_some(()))
    })
    .unwrap();
}

#[test]
fn checks_run_in_an_image_of_docker() {
    checks_run_in_the_image(EngineName::Docker);
}

#[test]
fn checks_run_in_an_image_of_podman() {
    checks_run_in_the_image(EngineName::Podman);
}

#[test]
fn without_an_engine_it_is_said_what_is_missing() {
    let world = World::new();
    world.add_steps(STEPS);
    let parsed = world.run(&["dev", "parse"]).expect_code(16).unwrap();
    for said in [
        "Dockerfile",
        "docker: not installed",
        "podman: not installed",
    ] {
        assert!(parsed.stderr.contains(said), "{parsed:?}");
    }
    let named = world.run(&["dev", "parse", "--engine", "podman", "--image", AIRFLOW]);
    let named = named.expect_code(16).unwrap();
    assert!(named.stderr.contains("podman: not installed"), "{named:?}");
    assert!(!named.stderr.contains("docker: not"), "{named:?}");
}

/// Prints what of the project an image has.
const LOOK: &str = "import json, os, shutil, sys\n\
    import tinydb\n\
    from include.words import WORD\n\
    print(json.dumps([tinydb.__version__, WORD, shutil.which('tree') is not None, os.path.exists('/opt/airflow/dags'), \
    os.getuid()]))";

fn a_plain_project_gets_the_standard_steps(name: EngineName) {
    let Some(world) = World::with_or_skip(name) else {
        return;
    };
    let program = world.engine().program();
    let project = &world.project;
    project.write("packages.txt", "tree\n").unwrap();
    project
        .write("requirements.txt", "tinydb==4.8.1\n")
        .unwrap();
    project.write("include/words.py", "WORD = 'one'\n").unwrap();
    let image_build = |more: &[&'static str]| {
        let mut arguments = vec!["image", "build", "--engine", program, "--network", "host"];
        arguments.extend(["--tag", "shop:built"]);
        arguments.extend(more);
        world.run(&arguments)
    };
    world.add_steps("ENV WHO=shop\n");
    let built = image_build(&["-o", "json"]).expect_code(0).unwrap();
    let told = built.json().unwrap();
    assert_eq!(
        (&told["standard"], &told["engine"]),
        (&Value::Bool(true), &Value::from(program))
    );
    let look = || world.engine().python("shop:built", LOOK).unwrap();
    assert_eq!(look(), r#"["4.8.1", "one", true, false, 50000]"#);

    // An edited file installs nothing again, and is there.
    project.write("include/words.py", "WORD = 'two'\n").unwrap();
    let built = image_build(&[]).expect_code(0).unwrap();
    assert_eq!(look(), r#"["4.8.1", "two", true, false, 50000]"#);
    assert!(!built.stderr.contains("Collecting tinydb"), "{built:?}");
    assert_ne!(Value::from(built.stdout.trim()), told["id"]);

    // What cannot be had is told in the resolver's words, and quietly no sooner than then.
    project.write("requirements.txt", "tinydb==99.0\n").unwrap();
    let broken = image_build(&["--quiet"]).expect_code(17).unwrap();
    assert!(broken.stderr.contains("tinydb==99.0"), "{broken:?}");
    project
        .write("requirements.txt", "apache-airflow==2.10.5\n")
        .unwrap();
    let other = image_build(&["--quiet"]).expect_code(17).unwrap();
    assert!(other.stderr.contains("apache-airflow==3.3.2"), "{other:?}");
    project.write("requirements.txt", "").unwrap();

    // An image is for Airflow, or it is none.
    world.add_steps("USER root\nRUN rm -r /opt/packages/apache_airflow-*.dist-info\n");
    let other = image_build(&["--quiet"]).expect_code(3).unwrap();
    assert!(other.stderr.contains("has no Airflow"), "{other:?}");

    // A secret is read by a step, and is in no layer.
    let secret = world.root.join("secret");
    fs::write(&secret, "hush-hush").unwrap();
    let given = format!("id=word,src={}", secret.display());
    world.add_steps(
        "ARG WHO\nRUN --mount=type=secret,id=word,mode=0444 \
         [ \"$(cat /run/secrets/word)\" = hush-hush ] && echo \"$WHO\" > /tmp/who\n",
    );
    let arguments = ["--build-arg", "WHO=me", "--build-secret"];
    let mut all = vec!["image", "build", "--engine", program, "--tag", "shop:own"];
    all.extend(arguments);
    let refused = world.run(&[&all[..], &["id=word,src=nowhere"]].concat());
    let refused = refused.expect_code(3).unwrap();
    assert!(refused.stderr.contains("`nowhere`"), "{refused:?}");
    let own = world.run(&[&all[..], &[&given]].concat());
    if name == EngineName::Docker && !world.engine().has_buildx() {
        let own = own.expect_code(16).unwrap();
        assert!(own.stderr.contains("buildx"), "{own:?}");
        return;
    }
    own.expect_code(0).unwrap();
    let read =
        "import os; print(open('/tmp/who').read().strip(), os.path.exists('/run/secrets/word'))";
    assert_eq!(world.engine().python("shop:own", read).unwrap(), "me False");
}

#[test]
fn docker_builds_a_plain_project() {
    a_plain_project_gets_the_standard_steps(EngineName::Docker);
}

#[test]
fn podman_builds_a_plain_project() {
    a_plain_project_gets_the_standard_steps(EngineName::Podman);
}

/// What a deploy wants of an image, without anybody to run it.
fn a_deploy_brings_an_image(name: EngineName) {
    let Some(mut world) = World::with_or_skip(name) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (server, token) = runtime.block_on(async {
        let server = TestServer::start().await;
        let shop = server.deployment("shop").await.name;
        let token = server.token(Role::Deployer, Some(&shop)).await;
        (server, token)
    });
    let program = world.engine().program();
    let admin = server.admin_token().to_owned();
    world.signed_in = Some((server.url(), admin));
    let update = |runtime| world.run(&["deployment", "update", "shop", "--runtime", runtime]);
    let deploy = |more: &[&'static str]| {
        let mut arguments = vec!["deploy", "shop", "--engine", program];
        arguments.extend(more);
        arguments
    };
    let wanted = |told: &Value| told["deploy"]["release"]["image"].clone();

    // A registry that is out of order for a moment is waited for.
    let front = Front::start(server.url()).unwrap();

    // Nobody runs it but containers.
    world.add_steps(STEPS);
    let refused = world.run(&deploy(&["--no-wait"])).expect_code(3).unwrap();
    assert!(
        refused.stderr.contains("--runtime container"),
        "{refused:?}"
    );
    update("container").expect_code(0).unwrap();
    world.signed_in = Some((front.url().to_owned(), token));

    // What a plan says is done by nobody.
    let planned = world.json(&deploy(&["--plan"]), 0);
    assert_eq!(planned["outcome"], "planned", "{planned:#}");
    let tags = || runtime.block_on(tags(&server, "shop"));
    assert_eq!(tags(), [""; 0]);

    // It is built, its DAGs are imported in it, and it is in the registry by its digest.
    front.refuse_uploads(2);
    let first = world.json(&deploy(&["--no-wait"]), 0);
    assert_eq!(front.refusals_left(), 0);
    let image = wanted(&first);
    assert_eq!(image["kind"], "container", "{first:#}");
    let named = image["image"].as_str().unwrap();
    assert!(named.starts_with("shop@sha256:"), "{named}");
    assert_eq!(first["checks"]["parse"]["errors"], 0, "{first:#}");
    assert_eq!(tags().len(), 1);

    // DAGs alone leave it where it is.
    world
        .project
        .write(
            "dags/more.py",
            &NEEDS_THE_IMAGE.replace("needs_the", "more_of_the"),
        )
        .unwrap();
    let second = world.json(&deploy(&["--no-wait"]), 0);
    assert_eq!(wanted(&second), image, "{second:#}");
    assert_eq!(second["environment"], "kept", "{second:#}");
    assert_eq!(tags().len(), 1);

    // Another step is another image, and no other DAGs.
    world.add_steps(&STEPS.replace("made'", "other'"));
    let planned = world.json(&deploy(&["--plan"]), 0);
    assert_eq!(
        planned["image_changes"],
        json!(["Dockerfile: changed"]),
        "{planned:#}"
    );
    let third = world.json(&deploy(&["--no-wait"]), 0);
    assert_ne!(wanted(&third), image, "{third:#}");
    assert_eq!(
        third["deploy"]["changed"],
        json!([{"kind": "image"}]),
        "{third:#}"
    );

    // One that is there is taken as it is, and is the same again.
    let tag = "localhost/shop:prebuilt";
    world
        .run(&["image", "build", "--engine", program, "--tag", tag])
        .expect_code(0)
        .unwrap();
    let prebuilt = world.json(&deploy(&["--no-wait", "--image-name", tag]), 0);
    assert_eq!(wanted(&prebuilt)["kind"], "container", "{prebuilt:#}");
    let again = world.json(&deploy(&["--plan", "--image-name", tag]), 0);
    assert_eq!(again["image_changes"], json!([]), "{again:#}");
    let missing = world.run(&deploy(&["--image-name", "localhost/no/such:image"]));
    missing.expect_code(3).unwrap();

    // Whoever may only look pushes nothing, and is told by whom.
    let viewer = runtime.block_on(server.token(Role::Viewer, Some(&"shop".parse().unwrap())));
    world.signed_in = Some((server.url(), viewer));
    world.add_steps(&STEPS.replace("made'", "third'"));
    let before = tags().len();
    let looked = ["deploy", "shop", "--engine", program, "--no-wait"];
    let refused = world.run(&looked).expect_code(5).unwrap();
    assert!(refused.stderr.contains("viewer"), "{refused:?}");
    assert_eq!(tags().len(), before);
}

async fn tags(server: &TestServer, repository: &str) -> Vec<String> {
    let list = format!("{}/v2/{repository}/tags/list", server.url());
    let asked = reqwest::Client::new()
        .get(list)
        .bearer_auth(server.admin_token());
    let told: Value = asked.send().await.unwrap().json().await.unwrap();
    let tags = told["tags"].as_array().into_iter().flatten();
    tags.map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_deploy_brings_an_image_of_docker() {
    a_deploy_brings_an_image(EngineName::Docker);
}

#[test]
fn a_deploy_brings_an_image_of_podman() {
    a_deploy_brings_an_image(EngineName::Podman);
}

/// A registry that podman and buildah take for Docker Hub, with one image of one file.
struct DockerHub {
    process: Child,
    /// By which they do.
    settings: PathBuf,
}

impl Drop for DockerHub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn docker_hub(world: &World) -> DockerHub {
    let address = format!("127.0.0.1:{}", free_port());
    let [config, data, tools] = ["hub.yml", "hub", "tools"].map(|name| world.root.join(name));
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let process = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        // By this the reaper finds it too.
        .current_dir(&world.root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the registry", PATIENCE, || {
        Ok(std::net::TcpStream::connect(&address).is_ok().then_some(()))
    })
    .unwrap();
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("word"), "made").unwrap();
    fs::write(tools.join("Dockerfile"), "FROM scratch\nCOPY word /\n").unwrap();
    let (tools, there) = (tools.display(), format!("docker://{address}/acme/tools:1"));
    let engine = world.engine();
    let build = ["build", "--quiet", "--tag", "made", &tools.to_string()];
    engine.run(&build).unwrap();
    let push = ["push", "--quiet", "--tls-verify=false", "made", &there];
    engine.run(&push).unwrap();
    let settings = world.root.join("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"docker.io\"\n\
         [[registry.mirror]]\nlocation = \"{address}\"\ninsecure = true\n"
    );
    fs::write(&settings, text).unwrap();
    DockerHub { process, settings }
}

#[test]
fn a_name_without_a_registry_is_on_docker_hub() {
    let mut world = World::new();
    for program in ["buildah", "docker-registry"] {
        if Command::new(program).arg("--version").output().is_err() {
            let why = format!("{program} is not installed");
            return skipped("builds on names without a registry", &why);
        }
    }
    let Some(engine) = Engine::start_or_skip(EngineName::Podman, &world.root).unwrap() else {
        return;
    };
    world.engine = Some(engine);
    let hub = docker_hub(&world);
    let build = |engine: &str, dockerfile: &str| {
        world.engine().run(&["rmi", "--all", "--force"]).unwrap();
        world.project.write("Dockerfile", dockerfile).unwrap();
        let mut command = world.command(&["image", "build", "--engine", engine, "--quiet"]);
        let output = command
            .env("CONTAINERS_REGISTRIES_CONF", &hub.settings)
            .output();
        let output = output.unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let stages = "FROM acme/tools:1 AS tools\nFROM scratch\nCOPY --from=tools /word /word\n";
    let (code, said) = build("buildah", stages);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = build(
        "buildah",
        "FROM scratch\nCOPY --from=acme/tools:1 /word /word\n",
    );
    assert_eq!(code, Some(0), "{said}");
    // It was found, and is no image to run Airflow in.
    let (code, said) = build("podman", "FROM acme/tools:1\n");
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("the image `acme/tools:1` has no Airflow"),
        "{said}"
    );
    let (code, said) = build("podman", "FROM scratch\n");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("`scratch` has no Airflow"), "{said}");

    for (engine, base) in [
        ("podman", "acme/none:1"),
        ("buildah", "127.0.0.1:1/acme/none:1"),
    ] {
        let (code, said) = build(engine, &format!("FROM {base}\n"));
        assert_eq!(code, Some(3), "{said}");
        let found = format!("{engine} does not have the image `{base}` and could not pull it");
        assert!(said.contains(&found), "{said}");
        assert!(!said.contains("short-name"), "{said}");
    }
    let (code, said) = build("podman", "FROM acme/tools:1\n\nRUM tree\n");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("line 3 of the Dockerfile"), "{said}");
}

#[test]
fn what_is_no_package_is_refused() {
    let world = World::new();
    world.add_steps("");
    world
        .project
        .write("packages.txt", "git\ngcc;reboot\n")
        .unwrap();
    let refused = world.run(&["dev", "parse"]).expect_code(3).unwrap();
    assert!(
        refused.stderr.contains("line 2 of `packages.txt`"),
        "{refused:?}"
    );
}
