//! Who you are to a control plane.

pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod whoami;
