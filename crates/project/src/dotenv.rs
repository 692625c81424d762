//! `.env`: variables for local runs, a line each.
//!
//! ```text
//! # a comment
//! export REGION=eu            # as shells write it
//! GREETING="one\\ntwo"         # escapes count between double quotes
//! PATTERN='$as it stands'
//! ```
//!
//! Nothing is expanded: a value with `$` is that value.

use std::collections::BTreeMap;

/// Values are secrets, so an error names the line and quotes nothing of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct DotenvError {
    pub line: usize,
    pub problem: &'static str,
}

/// Reads the text of such a file. Of a name that is there twice the last counts.
pub fn parse_dotenv(text: &str) -> Result<BTreeMap<String, String>, DotenvError> {
    let mut variables = BTreeMap::new();
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let wrong = |problem| DotenvError {
            line: at + 1,
            problem,
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| wrong("it is no `NAME=value`"))?;
        let name = name.trim();
        if !is_name(name) {
            return Err(wrong(
                "the name may have letters, digits and `_`, and begins with no digit",
            ));
        }
        let value = unquoted(value.trim()).map_err(wrong)?;
        if value.contains('\0') {
            return Err(wrong("a value cannot have a zero byte"));
        }
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn unquoted(value: &str) -> Result<String, &'static str> {
    let Some(quote @ ('"' | '\'')) = value.chars().next() else {
        // A `#` within a word is part of it: passwords have them.
        let end = value.find(" #").or_else(|| value.find("\t#"));
        let end = if value.starts_with('#') { Some(0) } else { end };
        return Ok(value[..end.unwrap_or(value.len())].trim_end().to_owned());
    };
    let mut unquoted = String::new();
    let mut rest = value[1..].chars();
    loop {
        match rest.next() {
            None => return Err("the quote is not closed"),
            Some(end) if end == quote => break,
            Some('\\') if quote == '"' => match rest.next() {
                Some('n') => unquoted.push('\n'),
                Some('t') => unquoted.push('\t'),
                Some(it @ ('"' | '\\' | '$')) => unquoted.push(it),
                Some(it) => unquoted.extend(['\\', it]),
                None => return Err("the quote is not closed"),
            },
            Some(it) => unquoted.push(it),
        }
    }
    let after = rest.as_str().trim_start();
    if after.is_empty() || after.starts_with('#') {
        Ok(unquoted)
    } else {
        Err("something follows the closing quote")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_as_people_write_them() {
        let text = "\u{feff}# comment\n\nPLAIN=a b # said\nexport SHELL_LIKE=1\nHASH=p#ss\nEMPTY=\nNOTHING= # none\nDOUBLE=\"a \\\"b\\\" \\n\\d\" # c\nSINGLE='$x \\n'\nURL=a=b&c\nPLAIN=last\r\n";
        let read = parse_dotenv(text).unwrap();
        let shown: Vec<_> = read
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(
            shown,
            [
                ("DOUBLE", "a \"b\" \n\\d"),
                ("EMPTY", ""),
                ("HASH", "p#ss"),
                ("NOTHING", ""),
                ("PLAIN", "last"),
                ("SHELL_LIKE", "1"),
                ("SINGLE", "$x \\n"),
                ("URL", "a=b&c"),
            ]
        );
    }

    #[test]
    fn names_the_line_and_no_value() {
        let problem = |text: &str| parse_dotenv(text).unwrap_err().to_string();
        assert_eq!(problem("A=1\nsecret"), "line 2: it is no `NAME=value`");
        assert!(problem("1A=secret").starts_with("line 1: the name may"));
        assert_eq!(problem("A='secret"), "line 1: the quote is not closed");
        let after = problem("A=\"secret\"more");
        assert_eq!(after, "line 1: something follows the closing quote");
    }
}
