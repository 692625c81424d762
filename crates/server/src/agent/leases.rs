//! Which agents count at this moment.
//!
//! Thousands of agents renew their leases every few seconds. That is kept here
//! and written to the database together, some seconds later: a lease that was
//! not written yet when the process dies is asked for again at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::Duration;
use updraft_model::{AgentId, Timestamp, TokenId};
use updraft_store::{Agent, Store, StoreError};

/// How coarse `last_used_at` of tokens is.
const USED: Duration = Duration::minutes(5);

#[derive(Debug)]
pub(crate) struct Leases {
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    until: HashMap<AgentId, Timestamp>,
    unwritten: Vec<AgentId>,
    tokens: HashMap<TokenId, Timestamp>,
}

impl Leases {
    pub(crate) fn new(lease_s: u32) -> Self {
        Self {
            lease: Duration::seconds(i64::from(lease_s)),
            state: Mutex::default(),
        }
    }

    /// Until when an agent counts.
    pub(crate) fn until(&self, agent: &Agent) -> Timestamp {
        let renewed = self.lock().until.get(&agent.id).copied();
        renewed.map_or(agent.lease_until, |until| until.max(agent.lease_until))
    }

    /// Counts an agent from now on for the length of a lease.
    pub(crate) fn renew(&self, agent: AgentId, now: Timestamp) -> Timestamp {
        let until = now + self.lease;
        let mut state = self.lock();
        state.until.insert(agent, until);
        state.unwritten.push(agent);
        until
    }

    /// How often a waiting agent's lease has to be renewed for it.
    pub(crate) fn renewal(&self) -> std::time::Duration {
        (self.lease / 3).to_std().unwrap_or_default()
    }

    pub(crate) fn token_used(&self, id: TokenId, written: Option<Timestamp>, now: Timestamp) {
        if written.is_none_or(|written| now - written > USED) {
            self.lock().tokens.insert(id, now);
        }
    }

    pub(crate) async fn write(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let (mut agents, tokens) = {
            let mut state = self.lock();
            state.until.retain(|_, until| *until > now);
            (
                std::mem::take(&mut state.unwritten),
                std::mem::take(&mut state.tokens),
            )
        };
        agents.sort_unstable();
        agents.dedup();
        if agents.is_empty() && tokens.is_empty() {
            return Ok(());
        }
        let mut tx = store.begin().await?;
        tx.renew_leases(&agents, now, now + self.lease).await?;
        for (token, at) in tokens {
            tx.token_was_used(token, at).await?;
        }
        tx.commit().await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
