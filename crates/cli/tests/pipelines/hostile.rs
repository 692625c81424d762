//! Every pipeline with a stand-in for the binary, which says what it is called
//! with: nothing that somebody else chooses reaches a shell.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use updraft_ci::pipeline::{Layout, Pipeline, Plain, Strategy, Tool};
use updraft_model::Digest;

use crate::runner::{Event, HOSTILE, jobs};

pub(crate) const STAND_IN: &str = "#!/bin/sh
echo \"called: $*, token: $UPDRAFT_TOKEN\"
case \"$1\" in deploy) exit \"$STAND_IN_ENDS_WITH\" ;; esac
";

/// Serves the stand-in as a control plane serves its binary, for as long as the test runs.
pub(crate) fn served() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = Vec::new();
            let mut piece = [0; 1024];
            while !asked.windows(4).any(|it| it == b"\r\n\r\n") {
                match stream.read(&mut piece).unwrap() {
                    0 => break,
                    read => asked.extend_from_slice(&piece[..read]),
                }
            }
            assert!(asked.starts_with(b"GET /install "));
            let length = STAND_IN.len();
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            stream.write_all((head + STAND_IN).as_bytes()).unwrap();
        }
    });
    url
}

/// Every pipeline that there is.
pub(crate) fn every_pipeline(server: &str, checksum: &str) -> Vec<Pipeline> {
    let plain = |text: &str| Plain::new("text", text).unwrap();
    let mut all = Vec::new();
    for tool in Tool::ALL {
        for layout in Layout::ALL {
            for strategy in Strategy::ALL {
                for oidc in [false, true] {
                    if Pipeline::is_meaningful(tool, layout, strategy, oidc).is_err() {
                        continue;
                    }
                    let previews = [false, true];
                    let previews = previews
                        .into_iter()
                        .filter(|previews| !previews || tool.check_previews().is_ok());
                    all.extend(previews.map(|previews| Pipeline {
                        previews,
                        tool,
                        layout,
                        strategy,
                        oidc,
                        server: plain(server),
                        checksum: plain(checksum),
                        branch: plain("release/1.2"),
                        project: Some(plain("teams/sales")).filter(|_| oidc),
                        insecure_http: oidc,
                    }));
                }
            }
        }
    }
    all
}

pub(crate) fn texts(pipeline: &Pipeline) -> Vec<(String, String)> {
    let files = pipeline.files().unwrap();
    files
        .into_iter()
        .map(|file| (file.path, file.text))
        .collect()
}

/// A folder to run in, and a PATH on which nothing is installed in earnest.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) path: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("checkout")).unwrap();
        std::fs::create_dir_all(dir.path().join("bin")).unwrap();
        let apt = dir.path().join("bin/apt-get");
        std::fs::write(&apt, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&apt, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!(
            "{}:{}",
            dir.path().join("bin").display(),
            std::env::var("PATH").unwrap()
        );
        Self { dir, path }
    }

    pub(crate) fn checkout(&self) -> PathBuf {
        self.dir.path().join("checkout")
    }

    /// Whether a job left the binary behind; it is gone then.
    fn has_fetched(&self) -> bool {
        let entries = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|it| it.unwrap().path());
        let mut left = entries.filter(|it| it.join("updraft").exists());
        left.next()
            .is_some_and(|dir| std::fs::remove_dir_all(dir).is_ok())
    }

    pub(crate) fn has_pwned(&self) -> bool {
        let has = |dir: &Path| dir.join("pwned").exists();
        has(self.dir.path()) || has(&self.checkout())
    }
}

#[test]
fn nothing_that_somebody_else_chooses_is_executed() {
    let (url, checksum) = (served(), Digest::of(STAND_IN.as_bytes()).hex());
    let place = Place::new();
    for pipeline in every_pipeline(&url, &checksum) {
        let (check, deploy) = jobs(pipeline.tool, &texts(&pipeline));
        let besides = [("PATH", place.path.as_str()), ("STAND_IN_ENDS_WITH", "0")];
        let runs = [
            (&check, Event::PullRequest { from: HOSTILE }),
            (&deploy, Event::Push { branch: HOSTILE }),
        ];
        for (job, event) in runs {
            let output = job.run(&place.checkout(), pipeline.tool, &event, "secret", &besides);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{pipeline:?} {output:?}");
            let wanted = match (&event, pipeline.layout, pipeline.strategy) {
                (Event::Push { .. }, _, Strategy::MultiBranch) => "called: deploy --if-mapped,",
                (Event::Push { .. }, ..) => "called: deploy,",
                (_, Layout::Image, _) => "called: config check --offline,",
                _ => "called: dev check,",
            };
            assert!(said.contains(wanted), "{pipeline:?} {output:?}");
            // What checks a pull request could be changed by it, so it has no secret.
            let has_secret =
                matches!(event, Event::Push { .. }) && (!pipeline.oidc || keeps_it(pipeline.tool));
            assert_eq!(
                said.contains("token: secret"),
                has_secret,
                "{pipeline:?} {said}"
            );
            assert!(!place.has_pwned(), "{pipeline:?} {job:?}");
            // What was fetched does not stay where a machine outlives its jobs.
            let is_new_each_time = matches!(
                pipeline.tool,
                Tool::Circleci | Tool::Bitbucket | Tool::Codebuild | Tool::Drone
            );
            assert_eq!(place.has_fetched(), is_new_each_time, "{pipeline:?}");
        }
    }
}

/// Tools whose variables every job has, whether or not the file names them.
fn keeps_it(tool: Tool) -> bool {
    matches!(tool, Tool::Gitlab | Tool::Circleci | Tool::Bitbucket)
}

#[test]
fn superseded_is_no_failure_and_everything_else_is() {
    let (url, checksum) = (served(), Digest::of(STAND_IN.as_bytes()).hex());
    let place = Place::new();
    for pipeline in every_pipeline(&url, &checksum) {
        let files = texts(&pipeline);
        let (_, deploy) = jobs(pipeline.tool, &files);
        let ended = |code: &str| {
            let besides = [("PATH", place.path.as_str()), ("STAND_IN_ENDS_WITH", code)];
            let push = Event::Push {
                branch: "release/1.2",
            };
            deploy.run(&place.checkout(), pipeline.tool, &push, "secret", &besides)
        };
        for code in [1, 17] {
            let output = ended(&code.to_string());
            assert_eq!(output.status.code(), Some(code), "{pipeline:?}");
        }
        let output = ended("12");
        match pipeline.tool {
            // Here the file says what becomes of it.
            Tool::Gitlab | Tool::Jenkins => {
                assert_eq!(output.status.code(), Some(12), "{pipeline:?}");
                let file = &files[0].1;
                assert!(
                    file.contains("exit_codes: [12]") || file.contains("if (code == 12)"),
                    "{file}"
                );
            }
            _ => {
                let said = String::from_utf8_lossy(&output.stdout);
                assert_eq!(output.status.code(), Some(0), "{pipeline:?}");
                assert!(said.contains("superseded"), "{pipeline:?} {said}");
            }
        }
    }
}

#[test]
fn another_binary_than_is_pinned_is_not_run() {
    let (url, checksum) = (served(), Digest::of(b"another").hex());
    let place = Place::new();
    for pipeline in every_pipeline(&url, &checksum) {
        let (check, deploy) = jobs(pipeline.tool, &texts(&pipeline));
        for job in [check, deploy] {
            let besides = [("PATH", place.path.as_str()), ("STAND_IN_ENDS_WITH", "0")];
            let push = Event::Push {
                branch: "release/1.2",
            };
            let output = job.run(&place.checkout(), pipeline.tool, &push, "secret", &besides);
            let said = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(1), "{pipeline:?}");
            assert!(said.contains("run updraft ci init --force"), "{said}");
            assert!(!said.contains("called:"), "{said}");
        }
    }
}
