//! The `airflow-updraft` wheel, made from the sources in this repository.

use std::fmt::Write as _;
use std::io::{Cursor, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use updraft_model::Digest;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

include!(concat!(env!("OUT_DIR"), "/wheel_files.rs"));

const WHEEL: &str =
    "Wheel-Version: 1.0\nGenerator: updraft\nRoot-Is-Purelib: true\nTag: py3-none-any\n";

/// The version of the embedded `airflow-updraft`.
pub fn airflow_updraft_version() -> &'static str {
    VERSION
}

/// The wheel's file name, which installers read.
pub fn airflow_updraft_wheel_name() -> String {
    format!("airflow_updraft-{VERSION}-py3-none-any.whl")
}

/// Builds the wheel. The same sources give the same bytes.
pub fn airflow_updraft_wheel() -> Vec<u8> {
    let info = format!("airflow_updraft-{VERSION}.dist-info");
    let mut files: Vec<(String, &[u8])> = FILES
        .iter()
        .map(|(name, bytes)| ((*name).to_owned(), *bytes))
        .collect();
    files.push((format!("{info}/METADATA"), METADATA.as_bytes()));
    files.push((format!("{info}/WHEEL"), WHEEL.as_bytes()));
    if !ENTRY_POINTS.is_empty() {
        files.push((format!("{info}/entry_points.txt"), ENTRY_POINTS.as_bytes()));
    }
    let record_name = format!("{info}/RECORD");
    let mut record = String::new();
    for (name, bytes) in &files {
        let digest = URL_SAFE_NO_PAD.encode(Digest::of(bytes).as_bytes());
        let _ = writeln!(record, "{name},sha256={digest},{}", bytes.len());
    }
    let _ = writeln!(record, "{record_name},,");
    files.push((record_name, record.as_bytes()));
    pack(&files).expect("writing to memory does not fail")
}

fn pack(files: &[(String, &[u8])]) -> zip::result::ZipResult<Vec<u8>> {
    // Stored, so that the bytes do not depend on a compressor's version.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644);
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        zip.start_file(name.as_str(), options)?;
        zip.write_all(bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_same_every_time_and_lists_every_file() {
        let wheel = airflow_updraft_wheel();
        assert_eq!(Digest::of(&wheel), Digest::of(&airflow_updraft_wheel()));
        let mut zip = zip::ZipArchive::new(Cursor::new(wheel)).unwrap();
        let names: Vec<String> = zip
            .file_names()
            .map(|name| name.unwrap().into_owned())
            .collect();
        assert!(
            names.contains(&"airflow_updraft/__init__.py".to_owned()),
            "{names:?}"
        );
        let record = format!("airflow_updraft-{VERSION}.dist-info/RECORD");
        let record = std::io::read_to_string(zip.by_name(&record).unwrap()).unwrap();
        assert_eq!(record.lines().count(), names.len());
        assert!(names.iter().all(|name| !name.contains("__pycache__")));
    }
}
