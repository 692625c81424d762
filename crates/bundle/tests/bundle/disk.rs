use std::fs::{self, FileTimes, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use updraft_bundle::{
    BundleDir, DamageKind, How, Materialize, Materialized, Scan, Verify, VersionError,
};
use updraft_model::Digest;
use updraft_testkit::SmallDisk;

use crate::{Project, source, tree};

struct Agent {
    _place: TempDir,
    disk: BundleDir,
}

impl Agent {
    fn new() -> Self {
        let place = TempDir::new().unwrap();
        let disk = BundleDir::open(place.path().join("dags")).unwrap();
        Self {
            _place: place,
            disk,
        }
    }

    fn put(&self, scan: &Scan) -> Materialized {
        self.disk
            .materialize(&Materialize::new(scan.manifest(), &source(scan)))
            .unwrap()
    }

    fn deploy(&self, scan: &Scan) -> Materialized {
        let done = self.put(scan);
        self.disk.switch_current(&done.digest).unwrap();
        done
    }

    fn damage(&self, version: &Materialized, how: Verify) -> Vec<(String, DamageKind)> {
        let damage = self.disk.verify_version(&version.digest, how).unwrap();
        damage
            .into_iter()
            .map(|damage| (damage.path, damage.kind))
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let listed = fs::read_dir(self.disk.versions_dir()).unwrap();
        let mut names: Vec<_> = listed
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn overwrite(path: &Path, content: &str) {
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn a_version_is_the_project_byte_for_byte() {
    let project = Project::with_files(200);
    project.write("bin/run.sh", "#!/bin/sh\n");
    project.set_mode("bin/run.sh", 0o700);
    project.link("latest.py", "team_1/dag_1.py");
    project.write("deep/er/and/deeper.py", "x");
    let agent = Agent::new();
    let done = agent.deploy(&project.scan());
    assert_eq!(done.how, How::Built);
    assert_eq!(tree(&done.path), tree(&project.root()));
    assert_eq!(agent.damage(&done, Verify::Full), []);
    assert_eq!(agent.damage(&done, Verify::Quick), []);
    assert_eq!(agent.disk.live_version().unwrap(), Some(done.digest));
    assert_eq!(
        tree(&agent.disk.current_link().canonicalize().unwrap()),
        tree(&project.root())
    );
    assert_eq!(agent.disk.versions().unwrap(), [done.digest]);
    let mode = |path: &str| fs::metadata(done.path.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("team_1/dag_1.py"), 0o444);
    assert_eq!(mode("bin/run.sh"), 0o555);
    assert_eq!(mode("deep/er"), 0o555);
    assert_eq!(mode(""), 0o555);

    let again = agent.put(&project.scan());
    assert_eq!((again.how, again.layers_fetched), (How::Reused, 0));
}

#[test]
fn an_empty_bundle_is_an_empty_version() {
    let agent = Agent::new();
    let done = agent.deploy(&Project::new().scan());
    assert_eq!(tree(&done.path), []);
    assert_eq!(agent.damage(&done, Verify::Full), []);
}

#[test]
fn unchanged_files_are_shared_and_changed_ones_are_new() {
    for with_spare in [false, true] {
        let project = Project::with_files(300);
        project.write("gone/only.py", "x");
        project.write("becomes_folder", "x");
        project.write("becomes_file/a.py", "x");
        project.write("mode.sh", "x");
        project.link("link", "mode.sh");
        let agent = Agent::new();
        let old = agent.deploy(&project.scan());
        let before = tree(&old.path);
        if with_spare {
            assert!(agent.disk.prepare_spare(&old.digest).unwrap());
            assert!(
                !agent.disk.prepare_spare(&old.digest).unwrap(),
                "there already"
            );
        }

        project.write("team_3/dag_3.py", "N = 4\n");
        project.write("brand/new/file.py", "x");
        fs::remove_dir_all(project.path("gone")).unwrap();
        fs::remove_file(project.path("becomes_folder")).unwrap();
        project.write("becomes_folder/b.py", "x");
        fs::remove_dir_all(project.path("becomes_file")).unwrap();
        project.write("becomes_file", "x");
        project.set_mode("mode.sh", 0o755);
        fs::remove_file(project.path("link")).unwrap();
        project.link("link", "team_3");
        let new = agent.deploy(&project.scan());

        assert_eq!(
            new.how,
            if with_spare {
                How::FromSpare
            } else {
                How::Built
            }
        );
        assert_eq!(new.files_written, 5, "{new:?}");
        assert_eq!(tree(&new.path), tree(&project.root()));
        assert_eq!(tree(&old.path), before, "the version before is as it was");
        assert_eq!(agent.damage(&new, Verify::Full), []);
        assert_eq!(agent.damage(&new, Verify::Quick), []);
        assert_eq!(agent.damage(&old, Verify::Full), []);
        let same = "team_4/dag_4.py";
        assert_eq!(inode(&old.path.join(same)), inode(&new.path.join(same)));
        let edited = "team_3/dag_3.py";
        assert_ne!(inode(&old.path.join(edited)), inode(&new.path.join(edited)));
        let mode = |path: &str| fs::metadata(new.path.join(path)).unwrap().mode() & 0o7777;
        for folder in ["", "team_3", "brand", "brand/new", "becomes_folder"] {
            assert_eq!(mode(folder), 0o555, "{folder}");
        }
        assert!(
            agent.names().iter().all(|name| !name.starts_with('.')),
            "{:?}",
            agent.names()
        );
    }
}

#[test]
fn the_spare_of_one_version_becomes_that_of_another() {
    let project = Project::with_files(300);
    let agent = Agent::new();
    let old = agent.deploy(&project.scan());
    project.write("team_3/dag_3.py", "changed\n");
    project.write("new/file.py", "x");
    let new = agent.deploy(&project.scan());
    agent.disk.prepare_spare(&new.digest).unwrap();
    let spare = || {
        let is_spare = |name: &String| name.starts_with(".spare-");
        let name = agent.names().into_iter().find(is_spare).unwrap();
        agent.disk.versions_dir().join(name)
    };
    let before = inode(&spare());

    agent.disk.switch_current(&old.digest).unwrap();
    assert!(agent.disk.prepare_spare(&old.digest).unwrap());

    assert_eq!(inode(&spare()), before, "the same tree, made over");
    assert_eq!(tree(&spare()), tree(&old.path));
    for path in ["team_3/dag_3.py", "team_4/dag_4.py"] {
        assert_eq!(inode(&spare().join(path)), inode(&old.path.join(path)));
    }
    assert!(!spare().join("new").exists());
    let mode = |path: &str| fs::metadata(spare().join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode(""), mode("team_3")), (0o555, 0o555));

    // One that somebody wrote to is made anew.
    let folder = spare().join("team_5");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(folder.join("dag_5.py")).unwrap();
    fs::write(folder.join("dag_5.py"), "import os\n").unwrap();
    agent.disk.switch_current(&new.digest).unwrap();
    agent.disk.prepare_spare(&new.digest).unwrap();
    assert_eq!(tree(&spare()), tree(&new.path));
    let path = "team_5/dag_5.py";
    assert_eq!(inode(&spare().join(path)), inode(&new.path.join(path)));
}

#[test]
fn an_edit_of_the_same_size_gets_another_second() {
    let project = Project::with_files(3);
    let agent = Agent::new();
    let mut last = None;
    for n in 1..5 {
        project.write("team_1/dag_1.py", &format!("N = {n}\n"));
        let done = agent.deploy(&project.scan());
        let mtime = fs::metadata(done.path.join("team_1/dag_1.py"))
            .unwrap()
            .mtime();
        assert!(
            last.is_none_or(|last| mtime > last),
            "Python compares whole seconds"
        );
        last = Some(mtime);
    }
}

#[test]
fn tampering_is_found_and_repaired() {
    let project = Project::with_files(30);
    project.link("link", "team_1");
    let agent = Agent::new();
    let done = agent.deploy(&project.scan());
    let at = |path: &str| done.path.join(path);
    fs::set_permissions(at("team_2"), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&done.path, Permissions::from_mode(0o755)).unwrap();

    overwrite(&at("team_1/dag_1.py"), "N = 1\n# appended by a task\n");
    overwrite(&at("team_1/dag_8.py"), "N = 9\n");
    fs::write(at("team_2/extra.pyc"), "x").unwrap();
    fs::create_dir(at("team_2/__pycache__")).unwrap();
    fs::remove_file(at("team_2/dag_2.py")).unwrap();
    fs::set_permissions(at("team_3/dag_3.py"), Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(at("link")).unwrap();
    std::os::unix::fs::symlink("team_2", at("link")).unwrap();
    let expected = [
        ("link".to_owned(), DamageKind::Changed),
        ("team_1/dag_1.py".to_owned(), DamageKind::Changed),
        ("team_1/dag_8.py".to_owned(), DamageKind::Changed),
        ("team_2/__pycache__".to_owned(), DamageKind::Extra),
        ("team_2/dag_2.py".to_owned(), DamageKind::Missing),
        ("team_2/extra.pyc".to_owned(), DamageKind::Extra),
        ("team_3/dag_3.py".to_owned(), DamageKind::Mode),
    ];
    assert_eq!(agent.damage(&done, Verify::Quick), expected);
    assert_eq!(agent.damage(&done, Verify::Full), expected);

    let repaired = agent.put(&project.scan());
    assert_eq!(repaired.how, How::Repaired);
    assert_eq!(agent.damage(&repaired, Verify::Full), []);
    assert_eq!(tree(&repaired.path), tree(&project.root()));
    assert_eq!(agent.names().len(), 2);
}

#[test]
fn a_tampered_file_is_not_carried_into_the_next_version() {
    for with_spare in [false, true] {
        let project = Project::with_files(30);
        let agent = Agent::new();
        let old = agent.deploy(&project.scan());
        if with_spare {
            agent.disk.prepare_spare(&old.digest).unwrap();
        }
        overwrite(&old.path.join("team_1/dag_1.py"), "import os\n");
        project.write("team_2/dag_2.py", "changed\n");
        let new = agent.deploy(&project.scan());
        assert_eq!(tree(&new.path), tree(&project.root()));
        assert_eq!(new.files_written, 2);
        assert_eq!(agent.damage(&old, Verify::Quick).len(), 1);
    }
}

#[test]
fn a_version_with_other_times_but_the_same_content_is_good() {
    let project = Project::with_files(5);
    let agent = Agent::new();
    let done = agent.deploy(&project.scan());
    let file = fs::File::open(done.path.join("team_1/dag_1.py")).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    file.set_times(FileTimes::new().set_modified(long_ago))
        .unwrap();
    assert_eq!(agent.damage(&done, Verify::Quick).len(), 1);
    assert_eq!(agent.damage(&done, Verify::Full), []);
    assert_eq!(agent.put(&project.scan()).how, How::Reused);
}

#[test]
fn only_layers_that_are_not_here_are_fetched() {
    let project = Project::with_files(500);
    let agent = Agent::new();
    agent.deploy(&project.scan());
    project.write("team_3/dag_3.py", "N = 4\n");
    let scan = project.scan();
    let fetches = AtomicUsize::new(0);
    let layers = |digest: &Digest| {
        fetches.fetch_add(1, Ordering::Relaxed);
        source(&scan)(digest)
    };
    let done = agent
        .disk
        .materialize(&Materialize::new(scan.manifest(), &layers))
        .unwrap();
    assert_eq!(
        (done.layers_fetched, done.files_written, done.bytes_written),
        (1, 1, 6)
    );
    assert_eq!(fetches.into_inner(), 1);
}

#[test]
fn a_failed_fetch_leaves_nothing_behind() {
    let project = Project::with_files(50);
    let agent = Agent::new();
    let live = agent.deploy(&project.scan());
    let names = agent.names();
    project.write("team_3/dag_3.py", "N = 4\n");
    let scan = project.scan();
    let layers =
        |_: &Digest| -> io::Result<Box<dyn Read>> { Err(io::ErrorKind::ConnectionReset.into()) };
    let error = agent
        .disk
        .materialize(&Materialize::new(scan.manifest(), &layers))
        .unwrap_err();
    assert!(matches!(error, VersionError::Fetch { .. }));
    assert_eq!(agent.names(), names);
    assert_eq!(agent.disk.live_version().unwrap(), Some(live.digest));
}

#[test]
fn leftovers_of_the_dead_are_removed_and_nothing_else() {
    let project = Project::with_files(20);
    let agent = Agent::new();
    let done = agent.deploy(&project.scan());
    agent.disk.prepare_spare(&done.digest).unwrap();
    let names = agent.names();
    let versions = agent.disk.versions_dir();
    let half = versions.join(".tmp-1-2-3");
    fs::create_dir_all(half.join("a/b")).unwrap();
    fs::set_permissions(half.join("a/b"), Permissions::from_mode(0o555)).unwrap();
    let other = Digest::of(b"other");
    fs::write(versions.join(format!("{}.json", other.folder())), "{}").unwrap();
    fs::create_dir(versions.join(Digest::of(b"no record").folder())).unwrap();
    fs::create_dir(versions.join(format!(".spare-{}", other.hex()))).unwrap();
    std::os::unix::fs::symlink("x", agent.disk.root().join(".tmp-4-5-6")).unwrap();
    assert_eq!(agent.disk.clean_leftovers().unwrap(), 5);
    assert_eq!(agent.names(), names);
    assert_eq!(agent.disk.clean_leftovers().unwrap(), 0);
    assert_eq!(agent.damage(&done, Verify::Full), []);
}

#[test]
fn the_live_version_cannot_be_removed_and_others_can() {
    let project = Project::with_files(20);
    let agent = Agent::new();
    let old = agent.deploy(&project.scan());
    project.write("new.py", "x");
    let live = agent.deploy(&project.scan());
    assert!(matches!(
        agent.disk.remove_version(&live.digest),
        Err(VersionError::Live(_))
    ));
    agent.disk.remove_version(&old.digest).unwrap();
    agent.disk.remove_version(&old.digest).unwrap();
    assert_eq!(agent.disk.versions().unwrap(), [live.digest]);
    assert_eq!(agent.damage(&live, Verify::Full), []);
    let error = agent.disk.switch_current(&old.digest).unwrap_err();
    assert!(matches!(error, VersionError::Missing(_)));
}

#[test]
fn a_foreign_current_is_left_alone() {
    let project = Project::with_files(2);
    let agent = Agent::new();
    let done = agent.put(&project.scan());
    fs::create_dir(agent.disk.current_link()).unwrap();
    let error = agent.disk.switch_current(&done.digest).unwrap_err();
    assert!(matches!(error, VersionError::ForeignCurrent(_)));
    assert!(!error.help().is_empty());
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let project = Project::new();
    project.write("fits.py", "x");
    let place = TempDir::new().unwrap();
    let Some(_small) = SmallDisk::mount_or_skip(place.path(), "400k", "a full disk") else {
        return;
    };
    let disk = BundleDir::open(place.path().join("dags")).unwrap();
    let small = project.scan();
    let live = disk
        .materialize(&Materialize::new(small.manifest(), &source(&small)))
        .unwrap();
    disk.switch_current(&live.digest).unwrap();
    for n in 0..60 {
        project.write(&format!("f{n}.py"), &format!("{n:>9000}"));
    }
    let large = project.scan();
    let result = disk.materialize(&Materialize::new(large.manifest(), &source(&large)));
    let left = fs::read_dir(disk.versions_dir()).unwrap().count();
    let now_live = disk.live_version();
    assert!(
        matches!(result, Err(VersionError::DiskFull { .. })),
        "{result:?}"
    );
    assert_eq!(left, 2, "the live version and its record");
    assert_eq!(now_live.unwrap(), Some(live.digest));
}
