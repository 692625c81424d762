use std::ffi::OsStr;
use std::fs::{self, FileTimes};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant, SystemTime};

use updraft_bundle::{
    Limits, Manifest, ScanOptions, ScanWork, diff, read_layer, scan, validate_bundle,
};
use updraft_model::Digest;

use crate::{Project, paths};

#[test]
fn the_digest_of_a_known_tree_never_changes() {
    let project = Project::new();
    project.write("dags/hello.py", "print('hello')\n");
    project.write("dags/run.sh", "#!/bin/sh\n");
    project.set_mode("dags/run.sh", 0o755);
    project.link("dags/latest.py", "hello.py");
    // Another zstd or level changes this: existing versions stay good, and
    // every Deployment uploads its layers once more.
    assert_eq!(
        project.scan().manifest().digest().to_string(),
        "sha256:946e685f3b2d1ca315325273660559641e4d503e27b060ceba0ab849afedd955"
    );
}

#[test]
fn an_empty_folder_is_an_empty_bundle() {
    let project = Project::new();
    fs::create_dir(project.path("nothing_in_here")).unwrap();
    let scan = project.scan();
    assert!(scan.manifest().layers().is_empty());
    let bytes = scan.manifest().to_bytes();
    assert_eq!(&Manifest::parse(&bytes).unwrap(), scan.manifest());
    validate_bundle(scan.manifest(), &[], &Limits::default()).unwrap();
}

#[test]
fn ignore_files_decide_what_is_sent() {
    let project = Project::new();
    for path in [
        "a.py",
        ".hidden",
        ".airflowignore",
        ".gitignore",
        "not_parsed.py",
        "a.log",
        "keep/a.log",
        "data/big.csv",
        ".git/config",
        "sub/.git",
        "sub/__pycache__/a.cpython-312.pyc",
        "sub/__pycache__/x.txt",
        "old.pyc",
        "sub/b.py",
    ] {
        project.write(path, "x");
    }
    project.write(".gitignore", "a.py\n");
    project.write(".airflowignore", "not_parsed.py\n");
    project.write(".updraftignore", "*.log\n/data/\n!old.pyc\n!.git\n");
    project.write("keep/.updraftignore", "!a.log\n");
    assert_eq!(
        paths(&project.scan()),
        [
            ".airflowignore",
            ".gitignore",
            ".hidden",
            ".updraftignore",
            "a.py",
            "keep/.updraftignore",
            "keep/a.log",
            "not_parsed.py",
            "sub/b.py",
        ]
    );

    let options = ScanOptions {
        ignore: vec!["/sub".into()],
        ..project.options()
    };
    assert!(!paths(&scan(&project.root(), &options).unwrap()).contains(&"sub/b.py"));

    project.write("keep/.updraftignore", "fine\n[z-a]\n");
    assert!(
        project
            .refusal()
            .starts_with("line 2 of `keep/.updraftignore`")
    );
}

#[test]
fn a_second_scan_reads_nothing() {
    let project = Project::with_files(300);
    let first = project.scan();
    assert_eq!(first.work().files_read, 300);
    std::thread::sleep(Duration::from_millis(80));
    project.scan();
    let again = project.scan();
    assert_eq!(again.work(), ScanWork::default());
    assert_eq!(again.manifest(), first.manifest());
    // The layers that are only known by digest are built when asked for.
    for layer in again.manifest().layers() {
        let bytes = again.layer_bytes(&layer.digest).unwrap();
        assert_eq!(Digest::of(&bytes), layer.digest);
        assert_eq!(bytes.len() as u64, layer.size);
    }
    assert!(again.layer_bytes(&Digest::of(b"another")).is_err());
}

#[test]
fn an_edit_reads_one_file_and_builds_one_layer() {
    let project = Project::with_files(600);
    let first = project.scan();
    std::thread::sleep(Duration::from_millis(80));
    project.scan();
    project.write("team_3/dag_3.py", "N = 4\n");
    let second = project.scan();
    assert_eq!(
        second.work(),
        ScanWork {
            files_read: 1,
            bytes_read: 6,
            layers_built: 1
        }
    );
    let diff = diff(&first.tables(), &second.tables());
    assert_eq!(diff.changed, ["team_3/dag_3.py"]);
    assert!(diff.added.is_empty() && diff.removed.is_empty());
}

#[test]
fn a_touched_file_is_read_and_found_equal() {
    let project = Project::with_files(20);
    let first = project.scan();
    std::thread::sleep(Duration::from_millis(80));
    project.scan();
    project.write("team_3/dag_3.py", "N = 3\n");
    let second = project.scan();
    assert_eq!(
        (second.work().files_read, second.work().layers_built),
        (1, 0)
    );
    assert_eq!(second.manifest(), first.manifest());
}

#[test]
fn an_edit_in_the_same_tick_is_seen() {
    let project = Project::new();
    let start = SystemTime::now();
    for n in 0..300 {
        let content = format!("{:03}", n % 2);
        project.write("dag.py", &content);
        // The size stays and the time is set back: only the change time tells.
        let file = fs::File::options()
            .write(true)
            .open(project.path("dag.py"))
            .unwrap();
        file.set_times(FileTimes::new().set_modified(start))
            .unwrap();
        let scan = project.scan();
        let [only] = scan.manifest().layers() else {
            panic!("one layer")
        };
        let bytes = scan.layer_bytes(&only.digest).unwrap();
        let table = read_layer(&bytes[..], &only.digest, &Limits::default()).unwrap();
        let updraft_bundle::EntryKind::File { digest, .. } = &table.entries[0].kind else {
            panic!("a file")
        };
        assert_eq!(*digest, Digest::of(content.as_bytes()), "round {n}");
    }
}

#[test]
fn a_foreign_or_damaged_cache_is_ignored() {
    let project = Project::with_files(10);
    let cache = project.options().cache.unwrap();
    let first = project.scan();
    fs::write(&cache, b"updraft scan 1\nnonsense").unwrap();
    let second = project.scan();
    assert_eq!(second.work().files_read, 10);
    assert_eq!(first.manifest(), second.manifest());

    let other = Project::with_files(10);
    fs::copy(cache, other.options().cache.unwrap()).unwrap();
    assert_eq!(other.scan().work().files_read, 10);
}

#[test]
fn a_layer_whose_files_changed_since_is_not_given_out() {
    let project = Project::with_files(5);
    project.scan();
    std::thread::sleep(Duration::from_millis(80));
    project.scan();
    let scan = project.scan();
    project.write("team_1/dag_1.py", "N = 9\n");
    let layer = scan
        .manifest()
        .layers()
        .iter()
        .find(|l| l.first == "team_1/dag_1.py")
        .unwrap();
    let error = scan.layer_bytes(&layer.digest).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`team_1/dag_1.py` changed while it was read"
    );
}

#[test]
fn a_file_that_never_stops_changing_is_refused() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let project = Project::new();
    project.write("log.txt", "");
    let done = AtomicBool::new(false);
    let refusal = std::thread::scope(|scope| {
        // More than one: on a busy machine each has long pauses.
        for _ in 0..4 {
            scope.spawn(|| {
                let mut log = fs::File::options()
                    .append(true)
                    .open(project.path("log.txt"))
                    .unwrap();
                while !done.load(Ordering::Relaxed) {
                    log.write_all(b"x").unwrap();
                }
            });
        }
        let mut refused = None;
        // A scan may always fall into a pause of the writer.
        let patience = Instant::now();
        while refused.is_none() && patience.elapsed() < Duration::from_secs(120) {
            refused = scan(&project.root(), &ScanOptions::default()).err();
        }
        done.store(true, Ordering::Relaxed);
        refused
    });
    let refusal = refusal.expect("some scan runs into a write each time it tries");
    assert_eq!(refusal.to_string(), "`log.txt` changed while it was read");
}

#[test]
fn links_are_kept_unless_they_leave() {
    let project = Project::new();
    project.write("dags/a.py", "x");
    project.link("dags/same.py", "a.py");
    project.link("dags/up", "..");
    project.link("dags/.#lock", "me@host.1234");
    project.write("common/b.py", "x");
    project.link("dags/shared", "../common");
    let scan = project.scan();
    assert_eq!(scan.entries().len(), 6);
    assert_eq!(scan.dangling(), ["dags/.#lock"]);
    assert_eq!(scan.to_folders(), ["dags/shared"]);
    assert_eq!(scan.circular(), ["dags/up"]);

    for target in ["/etc/passwd", "../../outside", "up/../x"] {
        project.link("dags/bad", target);
        assert_eq!(
            project.refusal(),
            format!("the link `dags/bad` leads out of the bundle to `{target}`")
        );
        fs::remove_file(project.path("dags/bad")).unwrap();
    }
}

#[test]
fn hard_links_are_sent_as_files() {
    let project = Project::new();
    project.write("a.py", "same");
    fs::hard_link(project.path("a.py"), project.path("b.py")).unwrap();
    let scan = project.scan();
    assert_eq!(scan.entries()[0].kind, scan.entries()[1].kind);
}

#[test]
fn what_cannot_be_sent_is_refused_by_name() {
    let project = Project::new();
    fs::write(project.root().join(OsStr::from_bytes(b"caf\xe9.py")), "x").unwrap();
    assert_eq!(project.refusal(), "the name `caf\u{fffd}.py` is not UTF-8");

    let project = Project::new();
    let _socket = UnixListener::bind(project.path("s.sock")).unwrap();
    assert_eq!(project.refusal(), "`s.sock` is a socket, not a file");
    project.write(".updraftignore", "*.sock\n");
    project.scan();

    let missing = scan("/nonexistent/dags".as_ref(), &ScanOptions::default()).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "could not open the folder `/nonexistent/dags`"
    );
}

#[test]
fn a_path_that_is_too_long_is_refused() {
    let project = Project::new();
    let name = "d".repeat(200);
    // No single call can name such a path, so it is built folder by folder.
    let mut folder = fs::File::open(project.root()).unwrap();
    for _ in 0..21 {
        let mode = rustix::fs::Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&folder, &name, mode).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        folder = rustix::fs::openat(&folder, &name, flags, mode)
            .unwrap()
            .into();
    }
    let refusal = project.refusal();
    assert!(refusal.starts_with("the path `ddd"), "{refusal}");
    assert!(refusal.len() < 300);
}

#[test]
fn limits_name_the_file_that_passes_them() {
    let project = Project::with_files(5);
    project.write("z.bin", &"x".repeat(1_000));
    let refusal = |limits| {
        let options = ScanOptions {
            limits,
            ..ScanOptions::default()
        };
        scan(&project.root(), &options).unwrap_err().to_string()
    };
    let default = Limits::default();
    assert_eq!(
        refusal(Limits {
            file_bytes: 999,
            ..default
        }),
        "`z.bin` is too much: 1000 bytes is more than the 999 bytes one file may have"
    );
    assert!(
        refusal(Limits {
            total_bytes: 1_010,
            ..default
        })
        .contains("1010 bytes")
    );
    assert!(
        refusal(Limits {
            files: 5,
            ..default
        })
        .contains("more than the 5 files")
    );
}

#[test]
fn long_and_foreign_names_travel() {
    let project = Project::new();
    let long = format!("{}/{}/ünïcode name.py", "f".repeat(120), "g".repeat(120));
    project.write(&long, "long");
    project.link("link", &long);
    project.write("new\nline", "odd");
    let scan = project.scan();
    for (layer, table) in scan.manifest().layers().iter().zip(scan.tables()) {
        let bytes = scan.layer_bytes(&layer.digest).unwrap();
        assert_eq!(
            read_layer(&bytes[..], &layer.digest, &Limits::default()).unwrap(),
            table
        );

        // Other programs read the same.
        let mut tar = tar::Archive::new(zstd::Decoder::new(&bytes[..]).unwrap());
        let names: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_owned())
            .collect();
        let listed: Vec<_> = table
            .entries
            .iter()
            .map(|entry| entry.path.clone())
            .collect();
        assert_eq!(names, listed);
    }
}
