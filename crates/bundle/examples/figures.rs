//! Prints how long each step takes for a tree of many small files.
//!
//! `cargo run --release -p updraft-bundle --example figures [FILES] [BYTES] [FOLDER]`

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark for a terminal"
)]

use std::fmt::Write;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::Instant;

use updraft_bundle::{BundleDir, Manifest, Materialize, Scan, ScanOptions, Verify, scan};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let files: usize = arguments.first().map_or(5_000, |n| n.parse().unwrap());
    let bytes: usize = arguments.get(1).map_or(4_500, |n| n.parse().unwrap());
    let place = match arguments.get(2) {
        Some(folder) => tempfile::tempdir_in(folder).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    let source = place.path().join("project");
    write_tree(&source, files, bytes);
    println!("{files} files of {bytes} bytes");

    let options = ScanOptions {
        cache: Some(place.path().join("cache/scan")),
        ..ScanOptions::default()
    };
    let again = || scan(&source, &options).unwrap();
    let first = timed("scan: all new, layers built", again);
    println!(
        "    {:?}, {} layers",
        first.work(),
        first.manifest().layers().len()
    );
    println!(
        "    {} bytes compressed",
        first.manifest().blobs().iter().map(|b| b.1).sum::<u64>()
    );
    std::thread::sleep(std::time::Duration::from_millis(100));
    again();
    for _ in 0..3 {
        let same = timed("scan: nothing changed", again);
        assert_eq!(same.work(), updraft_bundle::ScanWork::default());
    }
    fs::write(source.join("team_7/dag_7.py"), "changed = True\n").unwrap();
    let second = timed("scan: one file changed", again);
    println!("    {:?}", second.work());
    fs::write(source.join("team_7/dag_7.py"), "changed = None\n").unwrap();
    let third = timed("scan: one more", again);

    let disk = BundleDir::open(place.path().join("agent")).unwrap();
    put("first version", &disk, &first);
    timed("switch", || disk.switch_current(&first.manifest().digest())).unwrap();
    put("one file changed, hard links", &disk, &second);
    timed("switch", || {
        disk.switch_current(&second.manifest().digest())
    })
    .unwrap();
    timed("spare", || disk.prepare_spare(&second.manifest().digest())).unwrap();
    put("one file changed, spare", &disk, &third);
    timed("switch", || disk.switch_current(&third.manifest().digest())).unwrap();
    put("a version that is here", &disk, &first);
    let digest = first.manifest().digest();
    for how in [Verify::Quick, Verify::Full] {
        let damage = timed(&format!("verify {how:?}"), || {
            disk.verify_version(&digest, how)
        });
        assert_eq!(damage.unwrap(), []);
    }
    timed("remove a version", || disk.remove_version(&digest)).unwrap();
}

fn put(what: &str, disk: &BundleDir, scan: &Scan) {
    let manifest: &Manifest = scan.manifest();
    let layers = |digest: &updraft_model::Digest| {
        let bytes = scan.layer_bytes(digest).map_err(std::io::Error::other)?;
        Ok(Box::new(Cursor::new(bytes)) as Box<dyn std::io::Read>)
    };
    let done = timed(&format!("disk: {what}"), || {
        disk.materialize(&Materialize::new(manifest, &layers))
    });
    let done = done.unwrap();
    println!(
        "    {:?}, {} layers fetched, {} files written",
        done.how, done.layers_fetched, done.files_written
    );
}

fn write_tree(root: &Path, files: usize, bytes: usize) {
    let mut state = 1_u64;
    for n in 0..files {
        let folder = root.join(format!("team_{}", n % 100));
        fs::create_dir_all(&folder).unwrap();
        let mut text = format!("from airflow.sdk import DAG, task\n\nDAG_NUMBER = {n}\n\n");
        while text.len() < bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(n as u64 | 1);
            let (a, b) = (state >> 40, (state >> 20) & 0xff);
            write!(text, "@task(retries={b})\ndef step_{a}(value: int) -> int:\n    return value * {b} + {a}\n\n").unwrap();
        }
        text.truncate(bytes);
        fs::write(folder.join(format!("dag_{n}.py")), text).unwrap();
    }
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("{what:<32} {:>8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}
