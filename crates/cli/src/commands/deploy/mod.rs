//! Deploys: making one, following it, looking back, undoing.

mod accepted;
pub(crate) mod checks;
pub(crate) mod comment;
pub(crate) mod compare;
pub(crate) mod create;
mod dags;
pub(crate) mod diff;
pub(crate) mod follow;
pub(crate) mod history;
pub(crate) mod image;
mod order;
mod plan;
pub(crate) mod promote;
pub(crate) mod report;
pub(crate) mod rollback;
pub(crate) mod show;
mod upload;
