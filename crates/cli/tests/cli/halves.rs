//! Deploys of both halves of a project: the DAGs, and the image that they run in.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::common::filters;
use crate::common::stand_in::Answer;
use crate::common::world::World;

/// What the Deployment should run: the image and the bundle `dags`.
fn wanted(world: &World) -> (Value, Value) {
    let status = world.run(&["status", "-o", "json"]).ended_with(0).json();
    let release = &status["deployment"]["wanted"];
    (
        release["image"]["digest"].clone(),
        release["bundles"]["dags"]["digest"].clone(),
    )
}

fn live() -> (World, crate::common::stand_in::Agent) {
    let world = World::new();
    let agent = world.agent(Answer::Proven);
    world.run(&["deploy"]).ended_with(0);
    (world, agent)
}

#[test]
fn without_a_flag_it_deploys_what_differs_and_just_that() {
    let (world, _agent) = live();
    let (image, dags) = wanted(&world);

    world.sandbox.write("here/include/sql.py", "ONE = 1\n");
    world.sandbox.write("here/requirements.txt", "pandas\n");
    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy", "--plan"]).ended_with(0), @"
        exit code 0
        --- stdout
        `shop` would change: the image
        to send: 560 B of 599 B, in 1 of 2 layers
        the image would change:
          - requirements.txt: changed
          - include/sql.py: added
        --- stderr
        ");
    });
    assert_eq!(
        wanted(&world),
        (image.clone(), dags.clone()),
        "a plan changes nothing"
    );
    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy"]).ended_with(0), @"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` and made its Environment ([TIME])
        the image changes:
          - requirements.txt: changed
          - include/sql.py: added
        ✓ sent 560 B of 599 B in 1 of 2 layers (1 of 1 file) ([TIME])
        ✓ checked 1 DAG file ([TIME])
        ✓ accepted as [dpl]: the image ([TIME])
        ✓ on disk, switched ([TIME])
        ✓ parsed by Airflow: 1 of 1 DAG file ([TIME])
          DAGs: 0 added, 1 changed, 0 removed; 1 in all
            ~ orders
        Live on `shop` after [TIME]
        ");
    });
    let (second, same) = wanted(&world);
    assert_ne!(second, image);
    assert_eq!(same, dags);

    let again = world.run(&["deploy", "-o", "json"]).ended_with(0).json();
    assert_eq!(again["outcome"], "nothing_to_do");
    assert_eq!(again["environment"], "kept");

    world.write_dag("orders", "# second\n");
    let alone = world.run(&["deploy", "-o", "json"]).ended_with(0).json();
    assert_eq!(
        (&alone["environment"], &alone["image_changes"]),
        (&json!("kept"), &json!([]))
    );
    assert_eq!(wanted(&world).0, second);

    world.write_dag("orders", "# third\n");
    world.sandbox.write("here/include/sql.py", "TWO = 2\n");
    let both = world.run(&["deploy", "-o", "json"]).ended_with(0).json();
    assert_eq!(both["image_changes"], json!(["include/sql.py: changed"]));
    assert_eq!(both["files"]["changed"], json!(["orders.py"]));
    // The DAGs are one layer, as are the files; the lock is there already.
    let sent = (&both["sent"]["layers"], &both["sent"]["of_layers"]);
    assert_eq!(sent, (&json!(2), &json!(3)), "{both:#}");
    let (third, both_dags) = wanted(&world);
    assert!(third != second && both_dags != dags);
    filters().bind(|| {
        assert_snapshot!(world.run(&["history"]).ended_with(0), @"
        exit code 0
        --- stdout
        DEPLOY                STATE     WHEN  BY     CHANGES   CHECKS  COMMIT  DESCRIPTION
        [dpl]  live      [AGO]  admin  image ~1  passed
        [dpl]  was live  [AGO]  admin  ~1        passed
        [dpl]  was live  [AGO]  admin  image     passed
        [dpl]  was live  [AGO]  admin  image +1  passed
        ");
        let id = both["deploy"]["id"].as_str().unwrap();
        assert_snapshot!(world.run(&["diff", id]).ended_with(0), @"
        exit code 0
        --- stdout
        from [dpl] to [dpl]
        dags: 1 file changed
          ~ orders.py
        image: changed
        DAGs:
          ~ orders
        ");
    });
}

#[test]
fn one_half_alone_leaves_the_other_as_it_is() {
    let (world, _agent) = live();
    let (image, dags) = wanted(&world);
    world.write_dag("orders", "# second\n");
    world.sandbox.write("here/include/sql.py", "ONE = 1\n");

    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy", "--image"]).ended_with(0), @"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` and made its Environment ([TIME])
        the image changes:
          - include/sql.py: added
        warning: the DAGs here are not those of `shop`, which stay, so the checks leave them to its agent
        ✓ sent 442 B of 481 B in 1 of 2 layers (1 of 1 file) ([TIME])
        ✓ accepted as [dpl]: the image ([TIME])
        ✓ on disk, switched ([TIME])
        ✓ parsed by Airflow: 1 of 1 DAG file ([TIME])
          DAGs: 0 added, 1 changed, 0 removed; 1 in all
            ~ orders
        Live on `shop` after [TIME]
        ");
    });
    let (second, same) = wanted(&world);
    assert_ne!(second, image);
    assert_eq!(same, dags);
    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy", "--image"]).ended_with(0), @"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` ([TIME])
        Nothing to do: `shop` runs exactly this since [dpl]
        ");
    });

    world.sandbox.write("here/include/sql.py", "TWO = 2\n");
    world.run(&["deploy", "--dags"]).ended_with(0);
    let (same, other) = wanted(&world);
    assert_eq!(same, second);
    assert_ne!(other, dags);
}

#[test]
fn a_rebuild_that_comes_to_the_same_is_nothing_to_do() {
    let (world, _agent) = live();
    let before = wanted(&world);
    let again = world.run(&["deploy", "--rebuild", "-o", "json"]);
    assert_eq!(again.ended_with(0).json()["outcome"], "nothing_to_do");
    assert_eq!(wanted(&world), before);
}

#[test]
fn a_first_deploy_of_an_image_alone_has_nothing_to_keep() {
    let world = World::new();
    let _agent = world.agent(Answer::Proven);
    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy", "--image"]).ended_with(3), @"
        exit code 3
        --- stderr
        error: nothing was deployed to `shop` yet, so there are no bundles to keep
        help: the first deploy brings both halves: leave out --image
        ");
    });
}

#[test]
fn what_is_required_counts_also_for_an_image_alone() {
    let (world, _agent) = live();
    world
        .run(&["deployment", "update", "--require", "static"])
        .ended_with(0);
    world.sandbox.write("here/include/sql.py", "ONE = 1\n");
    // The DAGs that stay are those here, so they can be checked with it.
    let made = world.run(&["deploy", "-o", "json"]).ended_with(0).json();
    assert_eq!(made["checks"]["static"]["errors"], 0, "{made:#}");

    world.sandbox.write("here/include/sql.py", "TWO = 2\n");
    world.write_dag("orders", "# not deployed\n");
    let before = wanted(&world);
    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy", "--image"]), @"
        exit code 17
        --- stderr
        ✓ compared 1 file with `shop` and made its Environment ([TIME])
        the image changes:
          - include/sql.py: changed
        warning: the DAGs here are not those of `shop`, which stay, so the checks leave them to its agent
        ✓ sent 442 B of 481 B in 1 of 2 layers (1 of 1 file) ([TIME])
        error: the Deployment accepts no deploy without the checks: static
        help: deploy with `updraft deploy`, which runs them; what imports files counts only where the project's other files are those of the Release
        ");
    });
    assert_eq!(wanted(&world), before);
}

#[test]
fn an_airflow_that_somebody_else_runs_gets_the_dags_alone() {
    let (world, _agent) = live();
    world
        .run(&["deployment", "update", "--runtime", "external"])
        .ended_with(0);
    let (image, dags) = wanted(&world);
    world.sandbox.write("here/include/sql.py", "ONE = 1\n");
    world.write_dag("orders", "# second\n");
    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy"]).ended_with(0), @"
        exit code 0
        --- stdout
        [dpl]
        --- stderr
        ✓ compared 1 file with `shop` ([TIME])
        warning: besides the DAGs this differs from what runs, and stays as it is:
          - include/sql.py: added
        ✓ sent 98 B of 98 B in 1 of 1 layer (1 of 1 file) ([TIME])
        ✓ checked 1 DAG file ([TIME])
        ✓ accepted as [dpl]: 1 file changed ([TIME])
            ~ orders.py
        ✓ on disk, switched ([TIME])
        ✓ parsed by Airflow: 1 of 1 DAG file ([TIME])
          DAGs: 0 added, 1 changed, 0 removed; 1 in all
            ~ orders
        Live on `shop` after [TIME]
        ");
        assert_snapshot!(world.run(&["deploy", "--image"]).ended_with(3), @"
        exit code 3
        --- stderr
        error: somebody else runs the Airflow of `shop`, so it has no image of ours
        help: deploy the DAGs: leave out --image
        ");
    });
    let (same, other) = wanted(&world);
    assert_eq!(same, image);
    assert_ne!(other, dags);
}

#[test]
fn the_other_kind_of_image_half_is_refused_with_what_to_do() {
    let (world, _agent) = live();
    let before = wanted(&world);
    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy", "--as", "image"]).ended_with(3), @"
        exit code 3
        --- stderr
        error: `shop` runs no container images
        help: `updraft deployment update shop --runtime container` has its agent run images, by docker or podman on its host
        ");
    });
    world.run(&["deployment", "update", "shop", "--runtime", "container"]);
    filters().bind(|| {
        assert_snapshot!(world.run(&["deploy", "--as", "environment"]).ended_with(3), @"
        exit code 3
        --- stderr
        error: `shop` runs container images, and no Environments
        help: leave out `--as`, or have its agent run Environments: `updraft deployment update shop --runtime process`
        ");
    });
    assert_eq!(wanted(&world), before);
}

#[test]
fn an_image_for_other_machines_than_the_agents_is_refused_before_it_is_built() {
    let (world, _agent) = live();
    world.run(&["deployment", "update", "shop", "--runtime", "container"]);
    let deploy = ["deploy", "--engine", "none", "--platform", "linux/arm64"];
    filters().bind(|| {
        assert_snapshot!(world.run(&deploy).ended_with(3), @"
        exit code 3
        --- stderr
        error: the agents of `shop` run linux/amd64, and this image is made for linux/arm64
        help: build it with `--platform linux/amd64`, or leave that out
        ");
    });
}
