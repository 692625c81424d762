use std::fmt;
use std::str::FromStr;

use updraft_model::Digest;

use super::PushError;

/// The registry of names that name none.
pub(super) const DOCKER_HUB: &str = "docker.io";

/// A repository of a registry: `ghcr.io/acme/airflow`, `127.0.0.1:8888/sales-prod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRepository {
    pub registry: String,
    pub repository: String,
}

/// An image of a registry: `apache/airflow:3.3.2`, `ghcr.io/acme/airflow@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    pub repository: ImageRepository,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl ImageReference {
    /// What the registry is asked for: of a tag and a digest, the digest counts.
    pub fn reference(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl FromStr for ImageReference {
    type Err = PushError;

    /// Reads a name as `FROM` has it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |why| PushError::InvalidName {
            given: text.chars().take(80).collect(),
            why,
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse();
                let digest = digest.map_err(|_| invalid("its digest is not one of SHA-256"))?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        // A port of a registry also has a colon; a tag has no slash behind it.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (name, None),
        };
        let is_tag = |tag: &String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !tag.is_empty() && tag.len() <= 128 && tag.chars().all(plain)
        };
        if !tag.as_ref().is_none_or(is_tag) {
            return Err(invalid("its tag is none"));
        }
        let is_host = |host: &str| host == "localhost" || host.contains(['.', ':']);
        let repository = match name.split_once('/') {
            Some((host, _)) if is_host(host) => name.parse()?,
            Some(_) => format!("{DOCKER_HUB}/{name}").parse()?,
            None => format!("{DOCKER_HUB}/library/{name}").parse()?,
        };
        Ok(Self {
            repository,
            tag,
            digest,
        })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl ImageRepository {
    /// Where its registry answers.
    pub(super) fn host(&self) -> &str {
        match self.registry.as_str() {
            DOCKER_HUB | "index.docker.io" => "registry-1.docker.io",
            host => host,
        }
    }

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

    #[test]
    fn reads_images_as_a_dockerfile_names_them() {
        for (written, whole, asked) in [
            ("airflow", "docker.io/library/airflow", "latest"),
            (
                "apache/airflow:3.3.2",
                "docker.io/apache/airflow:3.3.2",
                "3.3.2",
            ),
            ("localhost:5000/a/b", "localhost:5000/a/b", "latest"),
            ("ghcr.io/acme/airflow:v1", "ghcr.io/acme/airflow:v1", "v1"),
        ] {
            let image: ImageReference = written.parse().unwrap();
            assert_eq!(
                (image.to_string().as_str(), image.reference().as_str()),
                (whole, asked)
            );
        }
        let digest = Digest::of(b"image");
        let both: ImageReference = format!("ghcr.io/a:v1@{digest}").parse().unwrap();
        assert_eq!(both.reference(), digest.to_string());
        for wrong in ["", "ghcr.io/a:", "a@sha256:00", "Acme/a", "a:v 1"] {
            assert!(wrong.parse::<ImageReference>().is_err(), "{wrong}");
        }
    }
}
