//! Deploys, from the first comparison to the proof and back again.
//!
//! ```text
//! compare ─▶ create ─▶ upload ─▶ accept ─▶ (agents report) ─▶ advance ─▶ live | failed | timed out
//!                       └─▶ withdraw  rollback ─▶┤                └─▶ automatic rollback
//!                                      promote ─▶┘
//! ```
//!
//! Whatever changes what is wanted goes through [`become_wanted`], and whatever
//! evidence changes goes through [`advance`].

mod accept;
mod advance;
mod checks;
mod compare;
mod create;
mod diff;
mod error;
mod held;
mod history;
mod hold;
pub(crate) mod http;
mod promote;
mod rollback;
mod show;
mod suitable;
mod upload;
mod view;
mod wanted;
mod withdraw;

pub(crate) use accept::accept;
pub(crate) use advance::{Advanced, GoingBack, advance, late_failure};
pub(crate) use compare::{plan, reports};
pub(crate) use create::create;
pub(crate) use diff::diff;
pub(crate) use error::DeployError;
pub(crate) use history::{history, of_version};
pub(crate) use hold::lift_hold;
pub(crate) use promote::{plan_promotion, promote};
pub(crate) use rollback::rollback;
pub(crate) use show::{follow, show};
pub(crate) use upload::upload;
pub(crate) use view::{agents_now, view};
use wanted::become_wanted;
pub(crate) use withdraw::withdraw;
