//! Ports that no other test takes.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;

/// Below those that the kernel gives to connections, which would take one
/// between the moment that it is chosen and the moment that it is listened on.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port on loopback that is this process's until it ends: others that ask
/// here, in this run of the tests or in another, get other ones.
pub fn free_port() -> u16 {
    static CLAIMED: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let claims = std::env::temp_dir().join("updraft-test-ports");
    fs::create_dir_all(&claims).expect("a folder for claims");
    // Several users may run tests on one machine.
    let _ = fs::set_permissions(&claims, fs::Permissions::from_mode(0o1777));
    let mut claimed = CLAIMED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let begin = u16::try_from(std::process::id() % u32::from(RANGE.end - RANGE.start))
        .expect("less than the range");
    let ports = (0..RANGE.end - RANGE.start)
        .map(|step| RANGE.start + (begin + step) % (RANGE.end - RANGE.start));
    for port in ports {
        let Ok(claim) = File::create(claims.join(port.to_string())) else {
            continue;
        };
        if claim.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            claimed.push(claim);
            return port;
        }
    }
    panic!("every port from {} to {} is taken", RANGE.start, RANGE.end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: std::collections::BTreeSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
    }
}
