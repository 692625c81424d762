//! Tokens that were looked up a moment ago.
//!
//! An agent reports every few seconds, so the same few tokens are checked all the
//! time. Only where this process alone can revoke them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use updraft_model::Digest;
use updraft_store::Token;

const MOST: usize = 20_000;

/// Callers by the digest of their secret, which itself is not kept.
#[derive(Debug, Default)]
pub(crate) struct KnownCallers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tokens: HashMap<Digest, Token>,
    /// Grows when tokens are forgotten, so that what was read before is not kept.
    forgotten: u64,
}

pub(super) enum Seen {
    Known(Token),
    /// Not known when this much had been forgotten.
    Unknown(u64),
}

impl KnownCallers {
    pub(super) fn get(&self, secret: &str) -> Seen {
        let state = self.lock();
        match state.tokens.get(&Digest::of(secret.as_bytes())) {
            Some(token) => Seen::Known(token.clone()),
            None => Seen::Unknown(state.forgotten),
        }
    }

    pub(super) fn put(&self, seen: u64, secret: &str, token: &Token) {
        let mut state = self.lock();
        if state.forgotten != seen {
            return;
        }
        if state.tokens.len() >= MOST {
            state.tokens.clear();
        }
        state
            .tokens
            .insert(Digest::of(secret.as_bytes()), token.clone());
    }

    /// Has every token looked up again; after one was revoked or deleted.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.tokens.clear();
        state.forgotten += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
