//! The agents' side: what is wanted, what they report, which blobs they get.

mod blobs;
mod dag_ids;
pub(crate) mod http;
mod leases;
mod report;
mod wanted;

pub(crate) use blobs::fetch;
pub(crate) use dag_ids::keep_dag_ids;
pub(crate) use leases::Leases;
pub(crate) use report::report;
pub(crate) use wanted::wanted;
