//! One file of any content: it is answered for, and nothing panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use updraft_check::{DagFile, Levels, Options, check};
use updraft_project::PythonVersion;

fuzz_target!(|content: &[u8]| {
    let project = tempfile::tempdir().expect("a folder");
    std::fs::write(project.path().join("a.py"), content).expect("a file");
    let files = [DagFile {
        name: "a.py".into(),
        digest: None,
    }];
    let levels = Levels::default();
    let options = Options::new(project.path(), PythonVersion::new(3, 12), &levels);
    assert_eq!(check(&files, options).expect("checked").files, 1);
});
