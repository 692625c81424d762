//! Processes that outlive the agent: started once, found again, stopped whole.
//!
//! [`exec`] says why nothing is started twice, [`supervisor`] keeps components
//! up, [`drains`] sees those to their end that still have tasks, [`identity`] and [`record`] are how they are recognised.
//! [`container`] says what differs where they run in containers.

pub(crate) mod container;
mod drains;
pub(crate) mod exec;
pub(crate) mod identity;
pub(crate) mod logs;
pub(crate) mod record;
pub(crate) mod started;
pub(crate) mod supervisor;
pub(crate) mod user;
