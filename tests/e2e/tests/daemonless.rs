//! Images of a project that no container engine has built, and engines that run them.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use updraft_api::deployment::DeploymentSettings;
use updraft_e2e::{Engine, EngineName, Output, PATIENCE, Project, updraft_binary, wait_for};
use updraft_model::{Role, Runtime};
use updraft_testkit::{Reaper, TestServer, skipped};

/// Debian's registry, which is not ours.
struct OtherRegistry {
    address: String,
    process: Child,
}

impl Drop for OtherRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A project, and a registry that has a base for it.
struct World {
    root: PathBuf,
    project: Project,
    registry: OtherRegistry,
    docker: Engine,
    _reaper: Reaper,
}

impl World {
    fn new_or_skip() -> Option<Self> {
        let (root, reaper) = Reaper::folder("updraft-daemonless-").unwrap();
        let docker = Engine::start_or_skip(EngineName::Docker, &root).unwrap()?;
        let version = Command::new("docker-registry").arg("--version").output();
        if version.is_err() {
            skipped(
                "images without an engine",
                "docker-registry is not installed",
            );
            return None;
        }
        let address = format!("127.0.0.1:{}", updraft_testkit::free_port());
        let config = root.join("registry.yml");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            root.join("registry").display()
        );
        fs::write(&config, text).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = OtherRegistry { address, process };
        wait_for("the registry", PATIENCE, || {
            Ok(TcpStream::connect(&registry.address).ok())
        })
        .unwrap();
        let world = Self {
            project: Project::at(root.join("shop")),
            registry,
            docker,
            _reaper: reaper,
            root,
        };
        fs::create_dir_all(world.project.root().join("dags")).unwrap();
        let base = world.at("base/airflow:3.3.2");
        world.docker.build_airflow(&base).unwrap();
        world.docker.push(&base).unwrap();
        let files = [
            ("updraft.toml", ""),
            ("dags/one.py", "raise SystemExit('nobody imports it')\n"),
            ("include/words.py", "WORD = 'one'\n"),
            ("plugins/shop.py", PLUGIN),
            ("requirements.txt", "humanize==4.12.3\n"),
        ];
        for (path, text) in files {
            world.project.write(path, text).unwrap();
        }
        world.start_from(
            &base,
            "LABEL team=data\nENV PATH=/opt/tools:$PATH WHO=shop\n",
        );
        Some(world)
    }

    fn at(&self, image: &str) -> String {
        format!("{}/{image}", self.registry.address)
    }

    fn start_from(&self, base: &str, steps: &str) {
        let dockerfile = format!("FROM {base}\n{steps}");
        self.project.write("Dockerfile", &dockerfile).unwrap();
    }

    /// Builds with what was kept in a folder, and pushes.
    fn build(&self, cache: &str, to: &str, more: &[&str], variables: &[(&str, &str)]) -> Output {
        let arguments = [
            "image", "build", "--engine", "none", "-o", "json", "--push", to,
        ];
        self.run(cache, &[&arguments[..], more].concat(), variables)
    }

    fn run(&self, cache: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let output = Command::new(updraft_binary())
            .args(arguments)
            .current_dir(self.project.root())
            .env("HOME", &self.root)
            .env("XDG_CONFIG_HOME", self.root.join("config"))
            .env("UPDRAFT_CACHE_DIR", self.root.join(cache))
            .env("UPDRAFT_TEST_ROOT", &self.root)
            .env_remove("UPDRAFT_TOKEN")
            .env_remove("GITHUB_ACTIONS")
            // No engine is in reach.
            .env("DOCKER_HOST", "unix:///nowhere")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn built(&self, cache: &str, to: &str) -> Value {
        let output = self.build(cache, to, &[], &[]).expect_code(0).unwrap();
        output.json().unwrap()
    }

    fn refused(&self, code: i32, said: &[&str], more: &[&str]) {
        let to = self.at("shop/refused");
        let output = self
            .build("cache", &to, more, &[])
            .expect_code(code)
            .unwrap();
        for said in said {
            assert!(output.stderr.contains(said), "{said}: {output:?}");
        }
    }
}

const PLUGIN: &str = "from airflow.plugins_manager import AirflowPlugin\n\n\n\
    class Shop(AirflowPlugin):\n    name = 'shop_plugin'\n";

/// Prints what an image has of the project, and what Airflow says in it.
const LOOK: &str = "import json, os, subprocess, sys\n\
    import humanize\n\
    from include.words import WORD\n\
    def airflow(*what):\n    \
    done = subprocess.run([sys.executable, '-m', 'airflow', *what], capture_output=True, text=True)\n    \
    return done.stdout.strip()\n\
    plugins = [it['name'] for it in json.loads(airflow('plugins', '-o', 'json'))]\n\
    print(json.dumps([humanize.__version__, WORD, os.environ['WHO'], os.environ['PATH'][:11], os.getuid(), \
    os.path.exists('/opt/airflow/dags/one.py'), os.access('/opt/airflow', os.W_OK), airflow('version').split()[-1], \
    'shop_plugin' in plugins]))";

/// The counts of what a push sent, found and mounted.
fn counts(built: &Value) -> [u64; 3] {
    ["sent", "there", "mounted"].map(|name| built["pushed"][name].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_project_needs_no_engine() {
    let Some(world) = World::new_or_skip() else {
        return;
    };
    let image = world.at("shop/airflow");
    let first = world.built("cache", &image);
    assert_eq!(
        first["packages"],
        json!({"humanize": "4.12.3"}),
        "{first:#}"
    );
    assert_eq!(
        (&first["airflow_version"], &first["python_version"]),
        (&json!("3.3.2"), &json!("3.11"))
    );
    // The base's only layer stays where it is.
    assert_eq!(counts(&first), [3, 0, 1], "{first:#}");
    assert!(
        first["pushed"]["bytes"].as_u64().unwrap() < 1 << 20,
        "{first:#}"
    );

    // Where nothing is known yet, it is the same image.
    let elsewhere = world.built("other-cache", &image);
    assert_eq!(elsewhere["digest"], first["digest"]);
    assert_eq!(counts(&elsewhere), [0, 4, 0], "{elsewhere:#}");

    // An edited file is a small layer, and nothing is installed.
    world
        .project
        .write("include/words.py", "WORD = 'two'\n")
        .unwrap();
    let to = format!("{image}:second");
    let output = world.build("cache", &to, &[], &[]).expect_code(0).unwrap();
    let second = output.json().unwrap();
    assert_ne!(second["digest"], first["digest"]);
    assert_eq!(
        (counts(&second), &second["reused"]),
        ([2, 2, 0], &json!(true))
    );
    assert!(
        second["pushed"]["bytes"].as_u64().unwrap() < 10_000,
        "{second:#}"
    );
    for said in ["resolving", "installing", "reading what is in"] {
        assert!(!output.stderr.contains(said), "{output:?}");
    }

    // Into the control plane's registry, everything is passed on; it is the same image.
    let server = TestServer::start().await;
    let shop = server.deployment("shop").await.name;
    let token = server.token(Role::Deployer, Some(&shop)).await;
    let ours = server.url().trim_start_matches("http://").to_owned() + "/shop/airflow";
    let signed_in = [
        ("UPDRAFT_SERVER", &*server.url()),
        ("UPDRAFT_TOKEN", &token),
    ];
    let sent = world
        .build("cache", &ours, &[], &signed_in)
        .expect_code(0)
        .unwrap();
    let sent = sent.json().unwrap();
    assert_eq!(
        (&sent["digest"], counts(&sent)),
        (&second["digest"], [4, 0, 0])
    );
    let again = world
        .build("cache", &ours, &[], &signed_in)
        .expect_code(0)
        .unwrap();
    assert_eq!(counts(&again.json().unwrap()), [0, 4, 0]);
    let stranger = world.build("cache", &ours, &[], &[("UPDRAFT_SERVER", &*server.url())]);
    let stranger = stranger.expect_code(3).unwrap();
    assert!(
        stranger
            .stderr
            .contains("repository:shop/airflow:pull,push"),
        "{stranger:?}"
    );

    let containers = DeploymentSettings {
        runtime: Some(Runtime::Container),
        ..DeploymentSettings::default()
    };
    let admin = server.as_admin();
    admin.update_deployment(&shop, &containers).await.unwrap();
    deploys_need_no_engine(&world, &signed_in, &second);

    let wanted = r#"["4.12.3", "two", "shop", "/opt/tools:", 50000, false, true, "3.3.2", true]"#;
    world.docker.pull(&to).unwrap();
    assert_eq!(world.docker.python(&to, LOOK).unwrap(), wanted);
    if let Some(podman) = Engine::start_or_skip(EngineName::Podman, &world.root).unwrap() {
        podman.pull(&to).unwrap();
        assert_eq!(podman.python(&to, LOOK).unwrap(), wanted);
    }

    what_cannot_be_is_told(&world);
    packages_of_the_base_are_replaced(&world);
}

/// The image of a deploy is the one that a build makes; or one of a registry, as it is.
fn deploys_need_no_engine(world: &World, signed_in: &[(&str, &str)], built: &Value) {
    let base = world.at("base/airflow");
    let deploy = |code, more: &[&str]| {
        let arguments = [
            "deploy",
            "shop",
            "--engine",
            "none",
            "--no-parse",
            "-o",
            "json",
        ];
        let output = world.run("cache", &[&arguments[..], more].concat(), signed_in);
        output.expect_code(code).unwrap().json().unwrap()
    };
    let image = |told: &Value| told["deploy"]["release"]["image"]["image"].clone();
    // What it imports is among the image's packages, which are had without an engine.
    let dag = "import os\nimport humanize\nfrom airflow.sdk import DAG\n\n\
        with DAG(os.environ['WHO'], schedule=None):\n    pass\n";
    let before = fs::read_to_string(world.project.root().join("dags/one.py")).unwrap();
    world.project.write("dags/one.py", dag).unwrap();
    let checked = [
        "deploy",
        "shop",
        "--engine",
        "none",
        "--no-wait",
        "-o",
        "json",
    ];
    let uv = std::env::var("UPDRAFT_UV").unwrap_or_default();
    let told = world
        .run(
            "cache",
            &checked,
            &[signed_in, &[("UPDRAFT_UV", &uv)]].concat(),
        )
        .expect_code(0)
        .unwrap()
        .json()
        .unwrap();
    let parse = &told["checks"]["parse"];
    assert_eq!(
        (&parse["checked"], &parse["errors"]),
        (&json!(1), &json!(0)),
        "{told:#}"
    );
    let note = parse["notes"][0].as_str().unwrap();
    assert!(note.contains("no container engine works here"), "{note}");
    world.project.write("dags/one.py", &before).unwrap();

    let first = deploy(0, &["--no-wait"]);
    let built = built["digest"].as_str().unwrap();
    assert_eq!(image(&first), json!(format!("shop@{built}")), "{first:#}");
    let again = deploy(0, &["--no-wait"]);
    assert_eq!(again["deploy"]["id"], first["deploy"]["id"], "{again:#}");
    world
        .project
        .write("include/more.py", "MORE = 1\n")
        .unwrap();
    let planned = deploy(0, &["--plan"]);
    assert_eq!(
        planned["image_changes"],
        json!(["include/more.py: added"]),
        "{planned:#}"
    );
    world.project.remove("include/more.py").unwrap();

    let named = format!("{base}:3.3.2");
    let prebuilt = deploy(0, &["--no-wait", "--image-name", &named]);
    let has = image(&prebuilt);
    let has = has.as_str().unwrap();
    assert!(has.starts_with(&format!("{base}@sha256:")), "{prebuilt:#}");
    let same = deploy(0, &["--plan", "--image-name", &named]);
    assert_eq!(same["image_changes"], json!([]), "{same:#}");
    let missing = format!("{base}:none");
    deploy(3, &["--no-wait", "--image-name", &missing]);
}

/// Nothing is pushed.
fn what_cannot_be_is_told(world: &World) {
    let (project, base) = (&world.project, world.at("base/airflow:3.3.2"));
    world.refused(
        3,
        &["linux/arm64", "linux/amd64"],
        &["--platform", "linux/arm64"],
    );
    world.refused(2, &["--tag"], &["--tag", "shop"]);
    project.write("packages.txt", "git\n").unwrap();
    world.refused(3, &["`packages.txt`", "git"], &[]);
    project.write("packages.txt", "").unwrap();
    project.write("requirements.txt", "tinydb==99\n").unwrap();
    world.refused(3, &["tinydb==99"], &[]);
    project
        .write("requirements.txt", "apache-airflow==2.10.5\n")
        .unwrap();
    world.refused(3, &["apache-airflow==3.3.2"], &[]);
    project.write("requirements.txt", "").unwrap();
    world.start_from(&base, "RUN true\n");
    world.refused(3, &["line 2: `RUN true`", "--engine docker"], &[]);
    world.start_from(&world.at("base/other:1"), "");
    world.refused(3, &["base/other:1"], &[]);
    let nobody = format!("127.0.0.1:{}/base:1", updraft_testkit::free_port());
    world.start_from(&nobody, "");
    world.refused(7, &["cannot be reached"], &[]);

    // What an engine has pushed is looked into: a base with steps of its own, and one without Airflow.
    let context = world.root.join("odd");
    fs::create_dir(&context).unwrap();
    for (step, said) in [
        ("ONBUILD RUN true", "ONBUILD"),
        (
            "USER root\nRUN rm -r /opt/packages/apache_airflow-*.dist-info",
            "apache_airflow-",
        ),
    ] {
        let odd = world.at(&format!("base/odd:{}", said.len()));
        fs::write(context.join("Dockerfile"), format!("FROM {base}\n{step}\n")).unwrap();
        world.docker.build(&odd, &context).unwrap();
        world.docker.push(&odd).unwrap();
        world.start_from(&odd, "");
        world.refused(3, &[said], &[]);
    }
}

/// Prints which of two versions is imported and told, what is left of the other, and
/// whether files are those of their lists.
const LOOK_FOR_REPLACED: &str = "import base64, hashlib, json, pathlib, shutil, subprocess, sys\n\
    import airflow.providers.standard as standard, tabulate\n\
    from importlib.metadata import distribution, version\n\
    site = pathlib.Path(tabulate.__file__).parents[1]\n\
    names = ['tabulate', 'apache-airflow-providers-standard']\n\
    infos = [len(list(site.glob(name.replace('-', '_') + '-*.dist-info'))) for name in names]\n\
    def fits(file):\n    \
    found = base64.urlsafe_b64encode(hashlib.sha256(file.locate().read_bytes()).digest()).decode().rstrip('=')\n    \
    return not file.hash or found == file.hash.value\n\
    wrong = [str(file) for name in names for file in distribution(name).files if not fits(file)]\n\
    script = shutil.which('tabulate')\n\
    piped = subprocess.run([script], input='a b', capture_output=True, text=True).returncode\n\
    check = subprocess.run([sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True).stdout.strip()\n\
    print(json.dumps([standard.__version__, [version(name) for name in names], infos, wrong, script, piped, check]))";

/// As by an installer in the image: Airflow's packages are in Python's own folder there,
/// as they mostly are, and what replaces some of them leaves nothing of the old.
fn packages_of_the_base_are_replaced(world: &World) {
    let site = "/usr/local/lib/python3.11/dist-packages";
    let context = world.root.join("site");
    fs::create_dir(&context).unwrap();
    let dockerfile = format!(
        "FROM {}\nUSER root\nRUN mkdir -p {site} && mv /opt/packages/* {site}/ && rm -r /opt/packages\n\
         ENV PYTHONPATH=\nUSER airflow\n",
        world.at("base/airflow:3.3.2")
    );
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let base = world.at("base/airflow:site");
    world.docker.build(&base, &context).unwrap();
    world.docker.push(&base).unwrap();
    world.start_from(&base, "");
    let requirements = "apache-airflow-providers-standard==1.20.1\ntabulate==0.9.0\n";
    world
        .project
        .write("requirements.txt", requirements)
        .unwrap();
    let image = world.at("shop/replaced:1");
    let built = world.built("cache", &image);
    let names = ["apache-airflow-providers-standard", "tabulate"];
    assert_eq!(built["replaced"], json!(names), "{built:#}");
    world.docker.pull(&image).unwrap();
    let looked = world.docker.python(&image, LOOK_FOR_REPLACED).unwrap();
    let wanted = json!([
        "1.20.1",
        ["0.9.0", "1.20.1"],
        [1, 1],
        [],
        "/usr/local/bin/tabulate",
        0,
        "No broken requirements found.",
    ]);
    assert_eq!(serde_json::from_str::<Value>(&looked).unwrap(), wanted);

    // What the base has already is not installed.
    world
        .project
        .write("requirements.txt", "rich\nrequests>=2\n")
        .unwrap();
    let same = world.built("cache", &image);
    assert_eq!(same["packages"], json!({}), "{same:#}");
}
