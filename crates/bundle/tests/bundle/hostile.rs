use std::io::{self, Cursor, Read, Write};

use tar::{Builder, EntryType, Header};
use updraft_bundle::{
    BundleDir, Layer, Limits, Manifest, Materialize, Scan, read_layer, validate_bundle,
};
use updraft_model::Digest;

use crate::{Project, source};

fn entry(tar: &mut Builder<Vec<u8>>, name: &[u8], kind: EntryType, target: &str, body: &[u8]) {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_size(body.len() as u64);
    header.set_mode(if kind == EntryType::Symlink {
        0o777
    } else {
        0o644
    });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_device_major(0).unwrap();
    header.set_device_minor(0).unwrap();
    seal(&mut header);
    tar.append(&header, body).unwrap();
}

/// Sets the checksum the way most programs write it; this crate differs.
fn seal(header: &mut Header) {
    header.set_cksum();
    let sum = format!("{:06o}\0 ", header.cksum().unwrap());
    header.as_old_mut().cksum.copy_from_slice(sum.as_bytes());
}

fn archive(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    fill(&mut tar);
    tar.into_inner().unwrap()
}

fn packed(archive: &[u8]) -> Vec<u8> {
    zstd::encode_all(archive, 1).unwrap()
}

fn verdict(layer: &[u8], limits: &Limits) -> String {
    let digest = Digest::of(layer);
    match read_layer(layer, &digest, limits) {
        Ok(table) => format!("{} entries", table.entries.len()),
        Err(error) => {
            assert!(!error.help().is_empty());
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            text.replace(&format!("layer {digest}"), "the layer")
        }
    }
}

fn verdict_on(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> String {
    verdict(&packed(&archive(fill)), &Limits::default())
}

#[test]
fn a_plain_archive_is_read() {
    let plain = verdict_on(|tar| {
        entry(tar, b"a", EntryType::Regular, "", b"1");
        entry(tar, b"b", EntryType::Symlink, "a", b"");
    });
    assert_eq!(plain, "2 entries");
}

#[test]
fn every_hostile_entry_is_refused_by_name() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let cases: &[(&[u8], EntryType, &str, &str)] = &[
        (
            b"../evil",
            Regular,
            "",
            "`../evil` cannot be unpacked: it contains `..`",
        ),
        (
            b"a/../../evil",
            Regular,
            "",
            "`a/../../evil` cannot be unpacked: it contains `..`",
        ),
        (
            b"/etc/cron.d/x",
            Regular,
            "",
            "`/etc/cron.d/x` cannot be unpacked: it is absolute",
        ),
        (
            b"./a",
            Regular,
            "",
            "`./a` cannot be unpacked: it has an empty part or a `.`",
        ),
        (
            b"a//b",
            Regular,
            "",
            "`a//b` cannot be unpacked: it has an empty part or a `.`",
        ),
        (b"", Regular, "", "`` cannot be unpacked: it is empty"),
        (
            b"caf\xe9",
            Regular,
            "",
            "the name `caf\u{fffd}` is not UTF-8",
        ),
        (
            b"x.pyc",
            Regular,
            "",
            "`x.pyc` cannot be unpacked: `.git`, `__pycache__`",
        ),
        (b"hard", Link, "/etc/shadow", "`hard` is a hard link"),
        (b"null", Char, "", "`null` is a device or a named pipe"),
        (b"disk", Block, "", "`disk` is a device or a named pipe"),
        (b"pipe", Fifo, "", "`pipe` is a device or a named pipe"),
        (b"folder", Directory, "", "`folder` is a folder entry"),
        (
            b"nowhere",
            Symlink,
            "",
            "the link `nowhere` has an impossible target",
        ),
        (
            b"odd",
            EntryType::new(b'S'),
            "",
            "`odd` has the unknown entry type 'S'",
        ),
        (b"esc\x1b[2J", Fifo, "", "`esc\\u{1b}[2J` is a device"),
    ];
    for (name, kind, target, expected) in cases {
        let verdict = verdict_on(|tar| entry(tar, name, *kind, target, b""));
        assert!(verdict.contains(expected), "{verdict}\nlacks\n{expected}");
    }
}

#[test]
fn names_must_be_in_order_and_there_once() {
    let file = |tar: &mut Builder<Vec<u8>>, name: &str| {
        entry(tar, name.as_bytes(), EntryType::Regular, "", b"");
    };
    let twice = verdict_on(|tar| {
        file(tar, "a");
        file(tar, "a");
    });
    assert_eq!(twice, "the layer has `a` twice");
    let order = verdict_on(|tar| {
        file(tar, "b");
        file(tar, "a");
    });
    assert_eq!(
        order,
        "the layer has `a` after `b`, which is not their order"
    );
    let conflict = verdict_on(|tar| {
        file(tar, "a");
        file(tar, "a-b");
        file(tar, "a/c");
    });
    assert_eq!(
        conflict,
        "the layer has `a` as a file and as the folder of `a/c`"
    );
    let through_link = verdict_on(|tar| {
        entry(tar, b"a", EntryType::Symlink, "b", b"");
        file(tar, "a/evil");
    });
    assert_eq!(
        through_link,
        "the layer has `a` as a file and as the folder of `a/evil`"
    );
}

#[test]
fn anything_but_our_own_spelling_is_refused() {
    let good = archive(|tar| entry(tar, b"a", EntryType::Regular, "", b"1234"));
    let limits = Limits::default();
    assert_eq!(verdict(&packed(&good), &limits), "1 entries");

    let mut times = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_path("a").unwrap();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    times.append(&header, io::empty()).unwrap();
    let verdict_on_times = verdict(&packed(&times.into_inner().unwrap()), &limits);
    assert!(verdict_on_times.contains("the header of `a` is not written the way bundles are"));

    let mut padding = good.clone();
    padding[512 + 100] = 1;
    assert!(verdict(&packed(&padding), &limits).contains("the header of `a` is not written"));

    let behind = [&good[..], b"more"].concat();
    assert!(
        verdict(&packed(&behind), &limits).contains("behind the end of the archive, after `a`")
    );

    let frames = [packed(&good), packed(b"second frame")].concat();
    assert!(verdict(&frames, &limits).contains("bytes behind its compressed content"));

    let cut = &good[..good.len() - 600];
    assert!(verdict(&packed(cut), &limits).contains("ends within or after `a`"));
    assert!(verdict(&packed(&[0; 1024]), &limits).contains("is empty"));
    assert!(verdict(b"not zstd at all", &limits).contains("the beginning"));
    assert!(verdict(b"", &limits).contains("the beginning"));

    let long = archive(|tar| {
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_data(&mut header, "n".repeat(150), io::empty())
            .unwrap();
    });
    assert!(verdict(&packed(&long), &limits).contains("unknown entry type 'L'"));
}

#[test]
fn a_bomb_is_stopped_by_the_limits() {
    let limits = Limits {
        file_bytes: 1 << 20,
        total_bytes: 3 << 20,
        files: 100,
    };
    let one = packed(&archive(|tar| {
        entry(tar, b"bomb", EntryType::Regular, "", &vec![0; 2 << 20]);
    }));
    assert!(one.len() < 2_000, "it is small when packed");
    assert!(verdict(&one, &limits).starts_with("the layer is too large at `bomb`"));

    let many = packed(&archive(|tar| {
        for n in 0..5 {
            let name = format!("bomb{n}");
            entry(
                tar,
                name.as_bytes(),
                EntryType::Regular,
                "",
                &vec![0; 1 << 20],
            );
        }
    }));
    assert!(verdict(&many, &limits).starts_with("the layer is too large at `bomb3`"));

    let names = packed(&archive(|tar| {
        for n in 100..300 {
            entry(tar, format!("f{n}").as_bytes(), EntryType::Regular, "", b"");
        }
    }));
    assert!(verdict(&names, &limits).starts_with("the layer is too large at `f200`"));
}

#[test]
fn bytes_that_are_not_the_digests_are_refused() {
    let project = Project::with_files(1);
    let scan = project.scan();
    let digest = scan.manifest().layers()[0].digest;
    let bytes = scan.layer_bytes(&digest).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x10;
        let error = read_layer(&damaged[..], &digest, &Limits::default()).unwrap_err();
        let expected = format!("the bytes of layer {digest} have the digest ");
        assert!(
            error.to_string().starts_with(&expected),
            "byte {at}: {error}"
        );
    }
}

#[test]
fn layers_that_do_not_belong_together_are_no_bundle() {
    let (one, two) = (Project::new(), Project::new());
    one.write("a", "1");
    one.write("b/c", "1");
    two.write("b", "2");
    let (one, two) = (one.scan(), two.scan());
    let limits = Limits::default();
    let mix = |parts: &[(&Scan, usize)]| {
        let (layers, tables) = parts
            .iter()
            .map(|(scan, at)| {
                (
                    scan.manifest().layers()[*at].clone(),
                    scan.tables()[*at].clone(),
                )
            })
            .collect::<(Vec<_>, Vec<_>)>();
        let manifest = Manifest::new(layers).unwrap();
        validate_bundle(&manifest, &tables, &limits).map_err(|error| error.to_string())
    };
    assert_eq!(mix(&[(&one, 0), (&one, 1)]), Ok(()));
    assert_eq!(
        mix(&[(&one, 1), (&one, 0)]).unwrap_err(),
        "`a` comes after `b/c`, which is not their order, or is there twice"
    );
    assert_eq!(
        mix(&[(&two, 0), (&one, 1)]).unwrap_err(),
        "`b` is a file and also the folder of `b/c`"
    );
    let error = validate_bundle(one.manifest(), &two.tables(), &limits).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the manifest names 2 layers and 1 were read"
    );
}

#[test]
fn a_link_that_leaves_the_tree_never_reaches_a_disk() {
    for (path, target) in [("abs", "/etc"), ("a/out", "../../x")] {
        let bytes = packed(&archive(|tar| {
            entry(tar, path.as_bytes(), EntryType::Symlink, target, b"");
        }));
        let layer = Layer {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
            files: 1,
            content_size: 0,
            first: path.into(),
        };
        let manifest = Manifest::new(vec![layer]).unwrap();
        let place = tempfile::tempdir().unwrap();
        let disk = BundleDir::open(place.path()).unwrap();
        let source =
            |_: &Digest| -> io::Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(bytes.clone()))) };
        let error = disk
            .materialize(&Materialize::new(&manifest, &source))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the link `{path}` leads out of the bundle to `{target}`")
        );
        let left = std::fs::read_dir(disk.versions_dir()).unwrap().count();
        assert_eq!(left, 0, "nothing is left behind");
    }
}

#[test]
fn a_layer_is_unpacked_no_further_than_its_manifest_says() {
    let bytes = packed(&archive(|tar| {
        entry(tar, b"a", EntryType::Regular, "", b"12");
        entry(tar, b"bomb", EntryType::Regular, "", &vec![0; 2 << 20]);
    }));
    let layer = |files, content_size| Layer {
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        files,
        content_size,
        first: "a".into(),
    };
    let read = |layer: &Layer| layer.read(&bytes[..], &Limits::default());
    assert!(read(&layer(2, 2 + (2 << 20))).is_ok());
    for liar in [layer(2, 2), layer(1, 2 << 30)] {
        let error = read(&liar).unwrap_err().to_string();
        assert!(
            error.ends_with("holds more than its manifest says, at `bomb`"),
            "{error}"
        );
    }
}

#[test]
fn a_damaged_layer_never_becomes_a_version() {
    let project = Project::with_files(50);
    let scan = project.scan();
    let place = tempfile::tempdir().unwrap();
    let disk = BundleDir::open(place.path()).unwrap();
    let bad = scan.manifest().layers()[7].digest;
    for damage in [0, 1, 2] {
        let layers = |digest: &Digest| -> io::Result<Box<dyn Read>> {
            let mut bytes = scan.layer_bytes(digest).unwrap().to_vec();
            if *digest == bad {
                match damage {
                    0 => bytes.truncate(20),
                    1 => bytes[30] ^= 1,
                    _ => bytes.write_all(b"more")?,
                }
            }
            Ok(Box::new(Cursor::new(bytes)))
        };
        let error = disk
            .materialize(&Materialize::new(scan.manifest(), &layers))
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("the bytes of layer {bad}")),
            "{error}"
        );
        let left = std::fs::read_dir(disk.versions_dir()).unwrap().count();
        assert_eq!(left, 0, "nothing is left behind");
    }
    disk.materialize(&Materialize::new(scan.manifest(), &source(&scan)))
        .unwrap();
}
