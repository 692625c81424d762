//! Who is asking, and what they may do.
//!
//! A token is a JWT that one of our keys signed; its row in the database says
//! whether it still holds. The router checks the role that a route needs before
//! the handler runs; operations check the scope, since only they know the
//! Deployment. A pipeline gets its token for its identity: [`trust`].

mod caller;
mod enroll;
pub(crate) mod http;
mod init;
mod keys;
mod known;
mod tokens;
pub(crate) mod trust;

pub use caller::{AccessError, AuthError, Caller, Needs};
pub(crate) use caller::{Guard, LONGEST_DEPLOY, authenticate, authorise, caller_of, still_holds};
pub(crate) use enroll::{create_enrollment_code, enroll};
pub use init::{InitError, init_admin};
pub use keys::{KeyError, rotate_keys};
pub(crate) use keys::{Keys, Lacking};
pub(crate) use known::KnownCallers;
pub(crate) use tokens::{
    Issue, TokenError, create_token, issue, list_tokens, revoke_token, token_view,
};
