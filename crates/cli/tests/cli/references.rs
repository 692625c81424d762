//! Generated pages are checked in; `make docs` writes them again.

use std::path::Path;

fn reference(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/reference")
        .join(name);
    if std::env::var_os("UPDATE_REFERENCES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "docs/reference/{name} is stale: run `make docs`"
    );
}

#[test]
fn reference_of_exit_codes_is_up_to_date() {
    reference("exit-codes.md", &updraft_cli::exit_code_reference());
}

#[test]
fn reference_of_checks_is_up_to_date() {
    reference("checks.md", &updraft_cli::check_reference());
}

#[test]
fn reference_of_settings_is_up_to_date() {
    reference("configuration.md", &updraft_cli::configuration_reference());
}

#[test]
fn reference_of_updraft_toml_is_up_to_date() {
    let schema = updraft_project::settings_schema();
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    reference("updraft.schema.json", &text);
}

#[test]
fn reference_of_commands_is_up_to_date() {
    reference("cli.md", &updraft_cli::cli_reference());
}
