//! The checks of a project, for every command that makes them.

mod container;
pub(crate) mod dag_check;
pub(crate) mod elsewhere;
pub(crate) mod findings;
pub(crate) mod host;
pub(crate) mod names;
pub(crate) mod parse;
pub(crate) mod pytest;
pub(crate) mod reach;
pub(crate) mod wanted_tree;
