//! Where tests keep what they fetch.

use std::fs;
use std::path::{Path, PathBuf};

/// A folder in the repository's own `.updraft`, kept between runs.
pub fn state_folder(name: &str) -> PathBuf {
    let folder = repository().join(".updraft").join(name);
    fs::create_dir_all(&folder).expect("a folder to keep things in");
    folder
}

/// The root of this repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("crates lie two folders down")
        .to_owned()
}
