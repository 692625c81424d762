use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// A container image in a registry, by what never changes its meaning:
/// `ghcr.io/acme/airflow@sha256:…`. One without a host lies in the control plane's
/// own registry, which agents and people may know by different addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerImage {
    /// With the registry's host, as in `ghcr.io/acme/airflow`.
    pub repository: String,
    /// Of the image's manifest, or of the index of its platforms.
    pub digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidContainerImage {
    #[error("`{0}` has no digest: an image is written `NAME@sha256:…`")]
    NoDigest(String),
    #[error("`{0}` is not a name that registries know")]
    Name(String),
}

impl ContainerImage {
    /// The registry's host; none: the control plane.
    pub fn registry(&self) -> Option<&str> {
        split(&self.repository).0
    }

    /// The name inside the registry.
    pub fn name(&self) -> &str {
        split(&self.repository).1
    }

    /// How it is called by those who reach the control plane at this host.
    pub fn seen_from(&self, control_plane: &str) -> String {
        match self.registry() {
            Some(_) => self.to_string(),
            None => format!("{control_plane}/{self}"),
        }
    }
}

/// A host is told from the first part of a name as docker does it.
fn split(repository: &str) -> (Option<&str>, &str) {
    match repository.split_once('/') {
        Some((host, name)) if host == "localhost" || host.contains(['.', ':']) => {
            (Some(host), name)
        }
        _ => (None, repository),
    }
}

impl fmt::Display for ContainerImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repository, self.digest)
    }
}

impl FromStr for ContainerImage {
    type Err = InvalidContainerImage;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_digest = || InvalidContainerImage::NoDigest(text.to_owned());
        let (repository, digest) = text.split_once('@').ok_or_else(no_digest)?;
        let digest = digest.parse().map_err(|_| no_digest())?;
        let (host, name) = split(repository);
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._/".contains(c);
        let whole = |text: &str, plain: &dyn Fn(char) -> bool| {
            !text.is_empty() && text.len() <= 255 && text.chars().all(plain)
        };
        let parts_are_whole = name.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric()) && !part.contains("..")
        });
        if !host.is_none_or(|host| whole(host, &is_host))
            || !whole(name, &is_name)
            || !parts_are_whole
        {
            return Err(InvalidContainerImage::Name(text.to_owned()));
        }
        Ok(Self {
            repository: repository.to_owned(),
            digest,
        })
    }
}

impl TryFrom<String> for ContainerImage {
    type Error = InvalidContainerImage;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ContainerImage> for String {
    fn from(image: ContainerImage) -> Self {
        image.to_string()
    }
}

impl utoipa::PartialSchema for ContainerImage {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^[A-Za-z0-9/._:-]+@sha256:[0-9a-f]{64}$"))
            .build()
            .into()
    }
}

impl utoipa::ToSchema for ContainerImage {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_host_is_in_the_control_plane() {
        let digest = Digest::of(b"image");
        let text = format!("127.0.0.1:5000/sales/airflow@{digest}");
        let image: ContainerImage = text.parse().unwrap();
        assert_eq!(image.registry(), Some("127.0.0.1:5000"));
        assert_eq!(image.name(), "sales/airflow");
        assert_eq!(image.seen_from("updraft:80"), text);
        let own: ContainerImage = format!("sales/airflow@{digest}").parse().unwrap();
        assert_eq!((own.registry(), own.name()), (None, "sales/airflow"));
        assert_eq!(
            own.seen_from("127.0.0.1:5000"),
            format!("127.0.0.1:5000/sales/airflow@{digest}")
        );
        for wrong in [
            "ghcr.io/acme/airflow:1".to_owned(),
            format!("ghcr.io/../airflow@{digest}"),
            format!("ghcr.io/acme//airflow@{digest}"),
            format!("gh cr.io/acme@{digest}"),
            format!("ghcr.io/Acme@{digest}"),
            "ghcr.io/acme/airflow@sha256:1".to_owned(),
        ] {
            assert!(wrong.parse::<ContainerImage>().is_err(), "{wrong}");
        }
    }
}
