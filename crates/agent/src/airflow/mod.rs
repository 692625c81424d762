//! What the agent knows about Airflow: its settings, its components, how to
//! ask it something.

pub(crate) mod components;
pub(crate) mod objects;
pub(crate) mod preview;
pub(crate) mod rest;
pub(crate) mod secrets;
pub(crate) mod settings;
