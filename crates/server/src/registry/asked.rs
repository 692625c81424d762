//! What an address asks for. Repositories' names contain `/`, so it is read from
//! its end.

use updraft_model::{InvalidDigest, InvalidTag, OciDigest, RepositoryName, Tag, UploadId};

use super::RegistryError;

/// An address below `/v2/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    Base,
    Token,
    Tags(RepositoryName),
    Manifest(RepositoryName, Reference),
    Blob(RepositoryName, OciDigest),
    Uploads(RepositoryName),
    Upload(RepositoryName, UploadId),
    Referrers(RepositoryName, OciDigest),
}

/// How a manifest is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(Tag),
    Digest(OciDigest),
}

impl Asked {
    /// Reads what follows `/v2/`, as it was sent: no name has anything that
    /// would have to be encoded.
    pub(crate) fn parse(path: &str) -> Result<Self, RegistryError> {
        match path {
            "" => return Ok(Self::Base),
            "token" => return Ok(Self::Token),
            _ => {}
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Ok(Self::Tags(name.parse()?));
        }
        let uploads = path.strip_suffix('/').unwrap_or(path);
        if let Some(name) = uploads.strip_suffix("/blobs/uploads") {
            return Ok(Self::Uploads(name.parse()?));
        }
        let (rest, last) = path.rsplit_once('/').ok_or(RegistryError::Nowhere)?;
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            let name = name.parse()?;
            // An id that is none of ours is that of no upload.
            let id = last.parse().map_err(|_| RegistryError::UploadUnknown)?;
            Ok(Self::Upload(name, id))
        } else if let Some(name) = rest.strip_suffix("/blobs") {
            Ok(Self::Blob(name.parse()?, last.parse()?))
        } else if let Some(name) = rest.strip_suffix("/manifests") {
            Ok(Self::Manifest(name.parse()?, Reference::parse(last)?))
        } else if let Some(name) = rest.strip_suffix("/referrers") {
            Ok(Self::Referrers(name.parse()?, last.parse()?))
        } else {
            Err(RegistryError::Nowhere)
        }
    }

    /// The repository that is meant.
    pub(crate) const fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Base | Self::Token => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }
}

impl Reference {
    fn parse(text: &str) -> Result<Self, RegistryError> {
        if text.contains(':') {
            let digest: Result<_, InvalidDigest> = text.parse();
            return Ok(Self::Digest(digest?));
        }
        let tag: Result<_, InvalidTag> = text.parse();
        Ok(Self::Tag(tag?))
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use updraft_model::Digest;

    use super::*;

    #[test]
    fn names_may_hold_the_words_that_addresses_are_made_of() {
        let digest = Digest::of(b"x");
        let id = UploadId::new();
        let name = |text: &str| text.parse::<RepositoryName>().unwrap();
        let by_tag = Reference::Tag("v1".parse().unwrap());
        for (path, asked) in [
            (String::new(), Asked::Base),
            ("token".into(), Asked::Token),
            ("a/tags/list".into(), Asked::Tags(name("a"))),
            (
                "a/tags/list/tags/list".into(),
                Asked::Tags(name("a/tags/list")),
            ),
            (
                "a/b/manifests/v1".into(),
                Asked::Manifest(name("a/b"), by_tag.clone()),
            ),
            (
                "a/blobs/manifests/v1".into(),
                Asked::Manifest(name("a/blobs"), by_tag),
            ),
            (
                format!("a/manifests/{digest}"),
                Asked::Manifest(name("a"), Reference::Digest(digest.into())),
            ),
            (
                format!("a/blobs/{digest}"),
                Asked::Blob(name("a"), digest.into()),
            ),
            ("a/blobs/uploads".into(), Asked::Uploads(name("a"))),
            ("a/blobs/uploads/".into(), Asked::Uploads(name("a"))),
            ("token/blobs/uploads/".into(), Asked::Uploads(name("token"))),
            (
                format!("a/blobs/uploads/{id}"),
                Asked::Upload(name("a"), id),
            ),
            (
                format!("a/blobs/uploads/blobs/{digest}"),
                Asked::Blob(name("a/blobs/uploads"), digest.into()),
            ),
            (
                format!("a/referrers/{digest}"),
                Asked::Referrers(name("a"), digest.into()),
            ),
        ] {
            assert_eq!(Asked::parse(&path).unwrap(), asked, "{path}");
        }
    }

    #[test]
    fn whatever_is_no_address_is_refused() {
        let digest = Digest::of(b"x");
        for wrong in [
            "_catalog".to_owned(),
            "a".into(),
            "a/".into(),
            "a/tags".into(),
            "/tags/list".into(),
            "tags/list".into(),
            "A/tags/list".into(),
            "../tags/list".into(),
            "a/../b/tags/list".into(),
            "a/%2e%2e/b/tags/list".into(),
            "a//b/tags/list".into(),
            "a/manifests/".into(),
            "a/manifests/..".into(),
            "a/manifests/sha256:x".into(),
            "a/blobs/x".into(),
            "a/blobs/uploads/x".into(),
            "a/blobs/uploads/../../../x".into(),
            "a/referrers/v1".into(),
            format!("blobs/{digest}"),
            format!("a/blob/{digest}"),
        ] {
            assert!(Asked::parse(&wrong).is_err(), "{wrong}");
        }
    }
}
