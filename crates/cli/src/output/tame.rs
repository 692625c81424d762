//! What others wrote, on its way to a terminal.

use std::borrow::Cow;

/// Escapes what can move a terminal's cursor, name its window or turn its text
/// around: descriptions, file names, tracebacks and reports are not ours. Line
/// ends, tabs and colours stay.
pub(crate) fn tame(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_wild) {
        return Cow::Borrowed(text);
    }
    let mut tamed = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find(is_wild) {
        let (before, from) = rest.split_at(at);
        tamed.push_str(before);
        let taken = colour(from).unwrap_or_else(|| {
            let wild = from.chars().next().map_or(0, char::len_utf8);
            tamed.extend(from[..wild].escape_default());
            wild
        });
        if taken > 1 && from.starts_with('\u{1b}') {
            tamed.push_str(&from[..taken]);
        }
        rest = &from[taken..];
    }
    tamed.push_str(rest);
    Cow::Owned(tamed)
}

/// The same for what has to stay on one line, as a name does.
pub(crate) fn tame_line(text: &str) -> String {
    let line = tame(text);
    line.replace('\n', "\\n").replace('\t', "\\t")
}

fn is_wild(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// How long the colour is that a text begins with.
fn colour(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\u{1b}[")?;
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    numbers[end..].starts_with('m').then_some(2 + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_get_through() {
        for (wild, tamed) in [
            ("plain ✓ ünï\n\tindented\n", "plain ✓ ünï\n\tindented\n"),
            ("\u{1b}[1;31mred\u{1b}[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{1b}[2J\u{1b}[m", "\\u{1b}[2J\u{1b}[m"),
            ("\u{1b}", "\\u{1b}"),
            ("a\rb\u{9b}2J", "a\\rb\\u{9b}2J"),
            ("abc\u{202e}fed", "abc\\u{202e}fed"),
        ] {
            assert_eq!(tame(wild), tamed);
        }
        assert_eq!(tame_line("a\nb\tc"), "a\\nb\\tc");
    }
}
