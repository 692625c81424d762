use std::fmt;
use std::str::FromStr;

use super::PushError;

/// A repository of a registry: `ghcr.io/acme/airflow`, `127.0.0.1:8888/sales-prod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRepository {
    pub registry: String,
    pub repository: String,
}

impl ImageRepository {
    /// Whether the registry is on this machine, and plain http is nobody's to read.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.registry,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = host.parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for ImageRepository {
    type Err = PushError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |why| PushError::InvalidName {
            given: text.chars().take(80).collect(),
            why,
        };
        let (registry, repository) = text.split_once('/').ok_or_else(|| {
            invalid("begin with the registry's host name, as in `ghcr.io/acme/airflow`")
        })?;
        let is_host = registry == "localhost" || registry.contains(['.', ':']);
        let is_host_part = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
        if !is_host || !registry.bytes().all(is_host_part) {
            return Err(invalid(
                "begin with the registry's host name, as in `ghcr.io/acme/airflow`",
            ));
        }
        let is_part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let is_component = |part: &str| {
            let ends = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            part.bytes().all(is_part)
                && part.bytes().next().is_some_and(ends)
                && part.bytes().last().is_some_and(ends)
        };
        if !repository.split('/').all(is_component) {
            return Err(invalid(
                "use lower-case letters and digits, separated by `/`, `.`, `_` or `-`, without a tag",
            ));
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
        })
    }
}

impl fmt::Display for ImageRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_repositories() {
        for (good, is_loopback) in [
            ("ghcr.io/acme/airflow", false),
            ("localhost/shop", true),
            ("127.0.0.1:8888/shop/a", true),
            ("[::1]:8888/shop", true),
            ("updraft:8888/shop", false),
        ] {
            let name: ImageRepository = good.parse().unwrap();
            assert_eq!(name.to_string(), good);
            assert_eq!(name.is_loopback(), is_loopback, "{good}");
        }
        for wrong in [
            "airflow",
            "acme/airflow",
            "ghcr.io/",
            "ghcr.io/Acme",
            "ghcr.io/a:v1",
            "ghcr.io/../a",
            "gh cr.io/a",
            "ghcr.io@evil/a",
        ] {
            assert!(wrong.parse::<ImageRepository>().is_err(), "{wrong}");
        }
    }
}
