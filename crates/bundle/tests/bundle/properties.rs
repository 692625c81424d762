use std::collections::BTreeMap;
use std::fs::{self, FileTimes};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use updraft_bundle::{
    BundleDir, How, Limits, MAX_LAYERS, Materialize, diff, read_layer, validate_bundle,
};
use updraft_model::Digest;

use crate::{Project, source, tree};

type Files = BTreeMap<String, (String, bool)>;

/// Trees whose names cannot be a file and a folder at once.
fn files(most: usize) -> impl Strategy<Value = Files> {
    let name = "(d[a-c]/){0,3}[a-zé-]{1,6}\\.py";
    prop::collection::btree_map(name, ("[a-z\n]{0,40}", any::<bool>()), 1..most)
}

fn lay_out<'a>(project: &Project, files: impl Iterator<Item = (&'a String, &'a (String, bool))>) {
    for (path, (content, executable)) in files {
        project.write(path, content);
        project.set_mode(path, if *executable { 0o755 } else { 0o600 });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_same_tree_has_the_same_digest(files in files(60), seed in any::<u64>()) {
        let (one, two) = (Project::new(), Project::new());
        lay_out(&one, files.iter());
        lay_out(&two, files.iter().rev());
        for (n, (path, (_, executable))) in files.iter().enumerate() {
            two.set_mode(path, if *executable { 0o711 } else { 0o666 });
            let file = fs::File::options().write(true).open(two.path(path)).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seed % 1_000_000 + n as u64);
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
        }
        prop_assert_eq!(one.scan().manifest().to_bytes(), two.scan().manifest().to_bytes());
    }

    #[test]
    fn what_is_sent_is_what_arrives(old in files(40), new in files(40), spare in any::<bool>()) {
        let place = tempfile::tempdir().unwrap();
        let disk = BundleDir::open(place.path()).unwrap();
        let mut tables = Vec::new();
        for files in [&old, &new] {
            let project = Project::new();
            lay_out(&project, files.iter());
            let scan = project.scan();
            let read: Vec<_> = scan.manifest().layers().iter().map(|layer| {
                let bytes = scan.layer_bytes(&layer.digest).unwrap();
                read_layer(&bytes[..], &layer.digest, &Limits::default()).unwrap()
            }).collect();
            prop_assert_eq!(&read, &scan.tables());
            validate_bundle(scan.manifest(), &read, &Limits::default()).unwrap();

            let done = disk.materialize(&Materialize::new(scan.manifest(), &source(&scan))).unwrap();
            disk.switch_current(&done.digest).unwrap();
            if spare {
                disk.prepare_spare(&done.digest).unwrap();
            }
            prop_assert_eq!(tree(&done.path), tree(&project.root()));
            for digest in disk.versions().unwrap() {
                prop_assert_eq!(disk.verify_version(&digest, updraft_bundle::Verify::Full).unwrap(), []);
            }
            tables.push(read);
        }
        if spare {
            // Back, which makes the one spare into the other; and on from there.
            let back = Project::new();
            lay_out(&back, old.iter());
            disk.switch_current(&back.scan().manifest().digest()).unwrap();
            disk.prepare_spare(&back.scan().manifest().digest()).unwrap();
            back.write("on from there", "x");
            let scan = back.scan();
            let done = disk.materialize(&Materialize::new(scan.manifest(), &source(&scan))).unwrap();
            prop_assert_eq!((done.how, done.files_written), (How::FromSpare, 1));
            prop_assert_eq!(tree(&done.path), tree(&back.root()));
            for digest in disk.versions().unwrap() {
                prop_assert_eq!(disk.verify_version(&digest, updraft_bundle::Verify::Full).unwrap(), []);
                prop_assert_eq!(disk.verify_version(&digest, updraft_bundle::Verify::Quick).unwrap(), []);
            }
        }
        let diff = diff(&tables[0], &tables[1]);
        for path in &diff.added {
            prop_assert!(!old.contains_key(path) && new.contains_key(path));
        }
        for path in &diff.removed {
            prop_assert!(old.contains_key(path) && !new.contains_key(path));
        }
        let changed: Vec<&String> =
            new.keys().filter(|p| old.get(*p).is_some_and(|o| *o != new[*p])).collect();
        prop_assert_eq!(diff.changed.iter().collect::<Vec<_>>(), changed);
    }

    #[test]
    fn one_change_touches_two_layers_at_most(count in 1_usize..900, at in any::<prop::sample::Index>()) {
        let project = Project::with_files(count);
        let before = project.scan();
        prop_assert!(before.manifest().layers().len() <= MAX_LAYERS);
        let new_layers = |after: &updraft_bundle::Scan| {
            let old: Vec<_> = before.manifest().layers().iter().map(|l| l.digest).collect();
            after.manifest().layers().iter().filter(|l| !old.contains(&l.digest)).count()
        };
        let n = at.index(count);
        let path = format!("team_{}/dag_{n}.py", n % 7);
        project.write(&path, "edited");
        prop_assert_eq!(new_layers(&project.scan()), 1);
    }

    #[test]
    fn a_mangled_archive_is_refused_or_as_good_as_ours(
        files in files(6),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let project = Project::new();
        lay_out(&project, files.iter());
        let scan = project.scan();
        let bytes = scan.layer_bytes(&scan.manifest().layers()[0].digest).unwrap();
        let mut archive = zstd::decode_all(&bytes[..]).unwrap();
        for (at, byte) in edits {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        if cut.index(4) == 0 {
            archive.truncate(cut.index(archive.len()));
        }
        let packed = zstd::encode_all(&archive[..], 1).unwrap();
        let limits = Limits::default();
        if let Ok(table) = read_layer(&packed[..], &Digest::of(&packed), &limits) {
            for entry in table.entries {
                prop_assert!(!entry.path.starts_with('/') && !entry.path.contains(".."));
            }
        }
    }
}
