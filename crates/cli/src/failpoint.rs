//! Places where a crash test can kill a deploying command.

pub(crate) use updraft_bundle::failpoint;

/// Every failpoint of this crate, in the order in which a deploy passes them.
pub const FAILPOINTS: &[&str] = &[
    "cli.read",
    "cli.planned",
    "cli.created",
    "cli.sent_one_batch",
    "cli.sent",
    "cli.accepted",
];
