//! Ports of this machine.

use std::net::{Ipv4Addr, TcpListener};

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Whether nothing listens there.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Refuses a port where something else listens.
pub(crate) fn must_be_free(what: &str, port: u16, flag: &str) -> Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(
            Exit::Prerequisite,
            format!("port {port}, which {what} needs, cannot be used"),
        )
        .code("port_in_use")
        .cause(&error)
        .help(format!("stop what listens there (perhaps another Updraft or Airflow), or choose another port with {flag}"))),
    }
}
