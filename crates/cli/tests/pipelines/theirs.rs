//! Pipelines that are there already: what is said of them, and what one becomes.

use updraft_ci::lint::lint;

use crate::common::world::World;
use crate::hostile::{every_pipeline, texts};
use crate::init::repository;

const ASTRO: &str = "name: Astronomer CI - Deploy code
on:
  push:
    branches: [main]
env:
  ASTRO_API_TOKEN: ${{ secrets.ASTRO_API_TOKEN }}
jobs:
  build:
    runs-on: ubuntu-latest
    steps:
      - name: Deploy to Astro
        uses: astronomer/deploy-action@v0.12.0
        with:
          deployment-id: clabcdefghijklmnopqrstuvw
";

fn with_astro() -> World {
    let world = repository();
    world
        .sandbox
        .write("here/.github/workflows/astro.yml", ASTRO);
    world
}

#[test]
fn what_we_write_has_nothing_to_be_said_of() {
    for pipeline in every_pipeline("https://updraft.example.com", &"0a".repeat(32)) {
        for (path, text) in texts(&pipeline) {
            assert_eq!(lint(&path, &text).unwrap(), [], "{text}");
        }
    }
}

#[test]
fn lint_reads_what_is_there() {
    let world = repository();
    let printed = world.run(&["ci", "lint"]).ended_with(6);
    assert!(printed.stderr.contains("updraft ci init"), "{printed}");

    let world = with_astro();
    let printed = world.run(&["ci", "lint"]).ended_with(17);
    for said in [
        "error[diffs-last-push]: .github/workflows/astro.yml:12:",
        "warning[unpinned-action]: .github/workflows/astro.yml:12:",
        "warning[open-permissions]: .github/workflows/astro.yml:1:",
        "warning[pasted-id]: .github/workflows/astro.yml:14:",
        "instead: `[[target]]`",
    ] {
        assert!(printed.stdout.contains(said), "{said} {printed}");
    }
    let json = world
        .run(&["ci", "lint", "-o", "json"])
        .ended_with(17)
        .json();
    assert_eq!(json["errors"], 1);
    assert_eq!(json["findings"][0]["rule"], "open-permissions");

    // By name, without a project, and none at all.
    world
        .sandbox
        .write("here/Jenkinsfile", "sh 'updraft deploy'\n");
    world.run(&["ci", "lint", "Jenkinsfile"]).ended_with(0);
    world.run(&["ci", "lint", "updraft.toml"]).ended_with(3);
    world.run(&["ci", "lint", "missing.yml"]).ended_with(3);
    std::fs::remove_file(world.sandbox.path("here/updraft.toml")).unwrap();
    std::fs::remove_file(world.sandbox.path("here/Dockerfile")).unwrap();
    world.run(&["ci", "lint"]).ended_with(17);
}

#[test]
fn a_workflow_with_the_deploy_action_is_rewritten() {
    let world = with_astro();
    let path = ".github/workflows/astro.yml";
    let read = || std::fs::read_to_string(world.sandbox.path("here").join(path)).unwrap();
    let printed = world.run(&["ci", "migrate", path, "--print"]).ended_with(0);
    assert!(
        printed.stdout.contains("\"$bin/updraft\" deploy ||"),
        "{printed}"
    );
    assert_eq!(read(), ASTRO);
    let printed = world.run(&["ci", "migrate", path]).ended_with(0);
    assert!(
        printed.stderr.contains("an id means nothing here"),
        "{printed}"
    );
    assert!(
        printed.stderr.contains("whatever the repository allows"),
        "{printed}"
    );
    assert!(!read().contains("ASTRO_API_TOKEN"), "{}", read());
    world.run(&["ci", "lint"]).ended_with(0);
    let printed = world.run(&["ci", "migrate", path]).ended_with(3);
    assert!(printed.stderr.contains("was left as it is"), "{printed}");
}
