//! Text that can stand anywhere in a pipeline.

use std::fmt;

/// Letters, digits and a few signs: between quotes it means itself in YAML, in
/// Groovy, in a shell and in the expressions of every tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {what} `{text}` cannot be written into a pipeline: it has {sign}")]
pub struct NotPlain {
    what: &'static str,
    text: String,
    sign: String,
}

impl Plain {
    pub fn new(what: &'static str, text: &str) -> Result<Self, NotPlain> {
        let refuse = |sign: String| NotPlain {
            what,
            text: text.escape_debug().to_string(),
            sign,
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._/:@+~=[]-".contains(c);
        if let Some(sign) = text.chars().find(|c| !is_plain(*c)) {
            return Err(refuse(format!("`{}`", sign.escape_debug())));
        }
        if text.is_empty() || text.starts_with('-') {
            return Err(refuse("no letter at its beginning".into()));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_could_mean_something_else_is_refused() {
        for good in [
            "main",
            "release/1.2",
            "https://[::1]:8888",
            "services/sales",
        ] {
            assert_eq!(Plain::new("branch", good).unwrap().as_str(), good);
        }
        for bad in [
            "", "-x", "a b", "a\nb", "$(x)", "`x`", "a'b", "a\"b", "a\\b", "${x}", "{{x}}", "a;b",
            "a#b", "é", "a*", "%x", "a|b", "a&b", "a>b",
        ] {
            assert!(Plain::new("branch", bad).is_err(), "{bad}");
        }
        let error = Plain::new("branch", "x$(touch y)").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the branch `x$(touch y)` cannot be written into a pipeline: it has `$`"
        );
    }
}
