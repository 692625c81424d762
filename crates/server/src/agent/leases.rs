//! Which agents count at this moment.
//!
//! Thousands of agents report every few seconds. Leases are kept here and written
//! to the database together, some seconds later: one that was not written when
//! the process dies is asked for again at once. Waiting on an open connection
//! alone keeps no lease: a host that lost its power does not close it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::Duration;
use updraft_model::{AgentId, Timestamp, TokenId};
use updraft_store::{Agent, Store, StoreError, Token};

use crate::clock::Clock;

/// How coarse `last_used_at` of tokens is.
const USED: Duration = Duration::minutes(5);

#[derive(Debug)]
pub(crate) struct Leases {
    lease: Duration,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    until: HashMap<AgentId, Timestamp>,
    unwritten: Vec<AgentId>,
    /// When a token was last written down as used, or is about to be.
    tokens: HashMap<TokenId, Timestamp>,
    unwritten_tokens: Vec<TokenId>,
}

impl Leases {
    pub(crate) fn new(lease_s: u32, clock: Clock) -> Self {
        Self {
            lease: Duration::seconds(i64::from(lease_s)),
            clock,
            state: Mutex::default(),
        }
    }

    /// Until when an agent counts.
    pub(crate) fn until(&self, agent: &Agent) -> Timestamp {
        let renewed = self.lock().until.get(&agent.id).copied();
        renewed.map_or(agent.lease_until, |until| until.max(agent.lease_until))
    }

    /// Counts an agent from now on for the length of a lease.
    pub(crate) fn renew(&self, agent: AgentId) -> Timestamp {
        let until = self.clock.now() + self.lease;
        let mut state = self.lock();
        state.until.insert(agent, until);
        state.unwritten.push(agent);
        until
    }

    /// How many agents count, as far as this process has heard.
    pub(crate) fn counted(&self) -> usize {
        let now = self.clock.now();
        let state = self.lock();
        state.until.values().filter(|until| **until > now).count()
    }

    pub(crate) fn token_used(&self, token: &Token, now: Timestamp) {
        let mut state = self.lock();
        let last = state.tokens.get(&token.id).copied().or(token.last_used_at);
        if last.is_none_or(|last| now - last > USED) {
            state.tokens.insert(token.id, now);
            state.unwritten_tokens.push(token.id);
        }
    }

    pub(crate) async fn write(&self, store: &Store) -> Result<(), StoreError> {
        let now = self.clock.now();
        let (agents, mut tokens) = {
            let mut state = self.lock();
            let mut unwritten = std::mem::take(&mut state.unwritten);
            // In one order, as everybody who changes many rows at once.
            unwritten.sort_unstable();
            unwritten.dedup();
            // Each its own end: whoever went silent meanwhile does not come back.
            let agents: Vec<(AgentId, Timestamp)> = unwritten
                .into_iter()
                .filter_map(|agent| Some((agent, *state.until.get(&agent)?)))
                .collect();
            state.until.retain(|_, until| *until > now);
            (agents, std::mem::take(&mut state.unwritten_tokens))
        };
        tokens.sort_unstable();
        if agents.is_empty() && tokens.is_empty() {
            return Ok(());
        }
        let mut tx = store.begin().await?;
        tx.renew_leases(&agents, self.lease).await?;
        for token in tokens {
            tx.token_was_used(token, now).await?;
        }
        tx.commit().await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
