//! Kills a process at each failpoint and looks at what it left.
//!
//! `cargo test -p updraft-bundle --test crash`

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use updraft_bundle::{
    BundleDir, FAILPOINTS, Materialize, Scan, ScanOptions, Verify, VersionError, scan,
};
use updraft_model::Digest;

const CHILD: &str = "UPDRAFT_CRASH_TEST_PLACE";
const ABORTED: i32 = 6;

fn main() {
    if let Some(place) = std::env::var_os(CHILD) {
        return deploy(Path::new(&place));
    }
    for with_spare in [false, true] {
        for name in FAILPOINTS {
            crash_at(name, with_spare);
        }
    }
}

/// What an agent does for one deploy.
fn deploy(place: &Path) {
    let disk = BundleDir::open(place.join("agent")).unwrap();
    let before = disk.live_version().unwrap().unwrap();
    let scan = scan_of(place);
    let done = put(&disk, &scan).unwrap();
    disk.switch_current(&done).unwrap();
    disk.remove_version(&before).unwrap();
    disk.prepare_spare(&done).unwrap();
}

fn crash_at(name: &str, with_spare: bool) {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    for n in 0..50 {
        write(place, n, "old");
    }
    let disk = BundleDir::open(place.join("agent")).unwrap();
    let old = put(&disk, &scan_of(place)).unwrap();
    disk.switch_current(&old).unwrap();
    if with_spare {
        disk.prepare_spare(&old).unwrap();
    }
    for n in 0..3 {
        write(place, n, "new");
    }
    let new = scan_of(place).manifest().digest();

    let mut child = Command::new(std::env::current_exe().unwrap());
    child.env(CHILD, place).env("UPDRAFT_FAILPOINT", name);
    let output = child.output().unwrap();
    assert_eq!(
        output.status.signal(),
        Some(ABORTED),
        "{name} was not reached: {output:?}"
    );

    let live = disk.live_version().unwrap().unwrap();
    assert!(live == old || live == new, "{name}");
    let versions = disk.versions().unwrap();
    assert!(
        versions.contains(&live),
        "{name}: the live version is complete"
    );
    for version in versions {
        let damage = disk.verify_version(&version, Verify::Full).unwrap();
        assert_eq!(damage, [], "{name}: {version}");
    }

    disk.clean_leftovers().unwrap();
    for entry in fs::read_dir(disk.versions_dir()).unwrap() {
        let entry = entry.unwrap().file_name().into_string().unwrap();
        assert!(!entry.starts_with(".tmp"), "{name} left {entry}");
    }
    deploy_again(&disk, place, new);
}

fn deploy_again(disk: &BundleDir, place: &Path, new: Digest) {
    assert_eq!(put(disk, &scan_of(place)).unwrap(), new);
    disk.switch_current(&new).unwrap();
    assert_eq!(disk.live_version().unwrap(), Some(new));
    assert_eq!(disk.verify_version(&new, Verify::Full).unwrap(), []);
    assert_eq!(disk.verify_version(&new, Verify::Quick).unwrap(), []);
}

fn write(place: &Path, n: usize, content: &str) {
    let folder = place.join(format!("project/team_{}", n % 5));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("dag_{n}.py")), content).unwrap();
}

fn scan_of(place: &Path) -> Scan {
    scan(&place.join("project"), &ScanOptions::default()).unwrap()
}

fn put(disk: &BundleDir, scan: &Scan) -> Result<Digest, VersionError> {
    let layers = |digest: &Digest| -> io::Result<Box<dyn Read>> {
        Ok(Box::new(Cursor::new(
            scan.layer_bytes(digest).map_err(io::Error::other)?,
        )))
    };
    Ok(disk
        .materialize(&Materialize::new(scan.manifest(), &layers))?
        .digest)
}
