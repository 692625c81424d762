//! Places where a crash test can kill the agent.

pub(crate) use updraft_bundle::failpoint;

/// Every failpoint of this crate, in the order in which a deploy passes them.
pub const FAILPOINTS: &[&str] = &[
    "agent.wanted.before_keep",
    "agent.wanted.after_keep",
    "agent.fetch.start",
    "agent.fetch.after_one_blob",
    "agent.fetch.end",
    "agent.materialize.end",
    "agent.environment.end",
    "agent.staged",
    "agent.switch.start",
    "agent.switch.after_release",
    "agent.switch.after_rename",
    "agent.switch.end",
    "agent.report.start",
    "agent.report.end",
    "agent.exec.before_record",
    "agent.exec.after_record",
    "agent.prove.start",
    "agent.prove.before_keep",
    "agent.prove.end",
    "agent.collect.start",
    "agent.collect.end",
];

/// Those that only a deploy of another image passes.
pub const IMAGE_FAILPOINTS: &[&str] = &[
    "agent.switch.tried",
    "agent.switch.quiet",
    "agent.migrate.backed_up",
    "agent.migrate.end",
    "agent.switch.refused",
];

/// Those that only a container image passes.
pub const CONTAINER_FAILPOINTS: &[&str] = &[
    "agent.image.pulled",
    "agent.container.before_note",
    "agent.container.made",
    "agent.container.started",
    "agent.container.recorded",
];
