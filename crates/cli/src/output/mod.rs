//! How results look, apart from what they are.

pub(crate) mod deploy_ref;
pub(crate) mod fold;
pub(crate) mod names;
pub(crate) mod size;
pub(crate) mod table;
pub(crate) mod tame;
pub(crate) mod time;
