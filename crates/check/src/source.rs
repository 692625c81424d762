//! A file's bytes as text, as Python reads them.
//!
//! Encodings: <https://docs.python.org/3/reference/lexical_analysis.html#encoding-declarations>.

use regex::bytes::Regex;
use std::sync::LazyLock;

/// Nobody writes so much by hand, and parsing it costs memory.
pub(crate) const MOST_BYTES: u64 = 4_000_000;

static DECLARATION: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?-u)^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)").ok());

/// Why it is no text, and in which line.
#[derive(Debug)]
pub(crate) struct NoText {
    pub(crate) line: u32,
    pub(crate) why: String,
}

fn no_text(before: &[u8], why: impl Into<String>) -> NoText {
    let lines = before.split(|byte| *byte == b'\n').count();
    NoText {
        line: u32::try_from(lines).unwrap_or(u32::MAX),
        why: why.into(),
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<String, NoText> {
    let (bytes, has_mark) = match bytes.strip_prefix(b"\xEF\xBB\xBF") {
        Some(rest) => (rest, true),
        None => (bytes, false),
    };
    let declared = declared(bytes);
    let text = match declared.as_deref() {
        Some("latin-1") if !has_mark => bytes.iter().copied().map(char::from).collect(),
        None | Some("utf-8") => String::from_utf8(bytes.to_vec()).map_err(|error| {
            let before = &bytes[..error.utf8_error().valid_up_to()];
            no_text(
                before,
                "this is not UTF-8, and the file declares no other encoding",
            )
        })?,
        Some(other) if has_mark => {
            let why = format!("it begins as UTF-8 and declares the encoding `{other}`");
            return Err(no_text(&[], why));
        }
        Some(other) => {
            let why = format!("it declares the encoding `{other}`, which is not read here");
            return Err(no_text(&[], why));
        }
    };
    if let Some((before, _)) = text.split_once('\0') {
        let why = "there is a null byte, which Python refuses";
        return Err(no_text(before.as_bytes(), why));
    }
    Ok(text)
}

/// The encoding that one of the first two lines declares, under one name.
fn declared(bytes: &[u8]) -> Option<String> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let pattern = DECLARATION.as_ref()?;
    let mut second = || {
        let is_blank = first
            .iter()
            .find(|byte| !byte.is_ascii_whitespace())
            .is_none_or(|byte| *byte == b'#');
        is_blank.then(|| lines.next()).flatten()
    };
    let name = pattern
        .captures(first)
        .or_else(|| pattern.captures(second()?))?;
    let name = String::from_utf8_lossy(name.get(1)?.as_bytes()).to_ascii_lowercase();
    let name = name.replace('_', "-");
    Some(match name.as_str() {
        "utf8" | "utf-8-sig" | "ascii" | "us-ascii" => "utf-8".into(),
        "latin1" | "iso-8859-1" | "iso8859-1" | "l1" => "latin-1".into(),
        _ => name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_python_reads() {
        assert_eq!(decode("\u{feff}a = 1".as_bytes()).unwrap(), "a = 1");
        assert_eq!(decode(b"").unwrap(), "");
        for line in [
            "# coding: latin-1\n",
            "#!/usr/bin/python\n# -*- coding: ISO_8859-1 -*-\n",
        ] {
            let mut bytes = line.as_bytes().to_vec();
            bytes.extend(b"'caf\xe9'");
            assert_eq!(decode(&bytes).unwrap(), format!("{line}'café'"));
        }
        // Only a comment declares, and only above the code.
        for text in ["x = 'coding: latin-1'\n", "x = 1\n# coding: latin-1\n"] {
            let mut bytes = text.as_bytes().to_vec();
            bytes.push(0xe9);
            assert!(
                decode(&bytes).unwrap_err().why.contains("not UTF-8"),
                "{text}"
            );
        }
    }

    #[test]
    fn says_what_it_cannot_read() {
        for (bytes, line, why) in [
            (&b"a\n\xff"[..], 2, "not UTF-8"),
            (b"# coding: koi8-r\n", 1, "`koi8-r`"),
            (b"\xEF\xBB\xBF# coding: latin-1\n", 1, "begins as UTF-8"),
            (b"\n\na\0b", 3, "null byte"),
        ] {
            let error = decode(bytes).unwrap_err();
            assert!(error.why.contains(why) && error.line == line, "{error:?}");
        }
    }
}
