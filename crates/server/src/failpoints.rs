//! The places at which a crash test can kill the server, in the order in which
//! a deploy passes them. [`updraft_bundle::failpoint`] does it.

/// Every failpoint on a deploy's way.
pub const FAILPOINTS: &[&str] = &[
    "server.create.before_commit",
    "server.create.after_commit",
    "server.upload.before_blob",
    "server.upload.after_blob",
    "server.upload.end",
    "server.accept.start",
    "server.accept.after_read",
    "server.accept.after_manifests",
    "server.accept.before_commit",
    "server.accept.after_commit",
    "server.report.before_commit",
    "server.report.after_commit",
    "server.rollback.before_commit",
    "server.rollback.after_commit",
];

/// Those that a push to the registry passes.
pub const REGISTRY_FAILPOINTS: &[&str] = &[
    "server.registry.after_part",
    "server.registry.after_blob",
    "server.registry.after_row",
    "server.registry.after_manifest",
    "server.registry.after_manifest_row",
];
