use std::borrow::Cow;
use std::collections::BTreeMap;

use updraft_model::{OciDigest, Tag};

use super::RegistryError;

/// A query's values by name, in order.
pub(super) struct Query<'a>(BTreeMap<Cow<'a, str>, Vec<Cow<'a, str>>>);

impl<'a> Query<'a> {
    pub(super) fn of(text: Option<&'a str>) -> Self {
        let mut values: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for pair in text.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            values.entry(decode(name)).or_default().push(decode(value));
        }
        Self(values)
    }

    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(AsRef::as_ref)
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        let values = self.0.get(name).into_iter().flatten();
        values.map(ToString::to_string).collect()
    }

    pub(super) fn digest(&self, name: &str) -> Result<Option<OciDigest>, RegistryError> {
        let digest = self.one(name).map(str::parse).transpose();
        Ok(digest?)
    }

    pub(super) fn tags(&self) -> Result<Vec<Tag>, RegistryError> {
        let tags: Result<Vec<Tag>, _> = self.all("tag").iter().map(|tag| tag.parse()).collect();
        Ok(tags?)
    }
}

/// Undoes what URLs and forms do to their values.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let encoded = after.first_chunk::<2>().filter(|_| *first == b'%');
        let mut decoded = [0];
        match encoded.map(|hex| hex::decode_to_slice(hex, &mut decoded)) {
            Some(Ok(())) => {
                bytes.push(decoded[0]);
                rest = &after[2..];
                continue;
            }
            _ if *first == b'+' => bytes.push(b' '),
            _ => bytes.push(*first),
        }
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_encoded_and_bears_what_was_not() {
        let query = Query::of(Some("scope=repository%3Aa%3Apull&scope=b+c&n=%zz&x"));
        assert_eq!(query.all("scope"), ["repository:a:pull", "b c"]);
        assert_eq!(query.one("n"), Some("%zz"));
        assert_eq!((query.one("x"), query.one("y")), (Some(""), None));
    }
}
