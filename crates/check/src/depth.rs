//! How deep a text nests, before a tree is made of it.
//!
//! `1+1+1+…` becomes a tree as deep as it is long, and whoever walks or drops
//! that tree needs stack for each level. The text tells it beforehand: every
//! operator and bracket since the last comma or line may be a level.

/// Far more than people write; `threads` has stack for it.
const MOST: usize = 5_000;

/// Words that may begin another level.
const WORDS: &[&[u8]] = &[
    b"and", b"await", b"else", b"for", b"if", b"in", b"is", b"lambda", b"not", b"or", b"yield",
];

/// Where nesting that is too deep begins, as an offset.
pub(crate) fn too_deep(text: &str) -> Option<usize> {
    let mut scan = Scan::new(text.as_bytes());
    scan.run();
    let deep = scan.depth > MOST;
    let begin = scan.open.iter().max_by_key(|open| open.levels);
    deep.then(|| begin.map_or(0, |open| open.at))
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    /// Brackets that are open; the first stands for the line itself.
    open: Vec<Open>,
    /// Of all that is open.
    depth: usize,
}

struct Open {
    at: usize,
    levels: usize,
}

impl<'a> Scan<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            open: vec![Open { at: 0, levels: 0 }],
            depth: 0,
        }
    }

    fn run(&mut self) {
        while self.depth <= MOST
            && let Some(byte) = self.text.get(self.at).copied()
        {
            match byte {
                b'#' => self.skip_to(|byte| byte == b'\n'),
                b'\'' | b'"' => self.string(false),
                b'\\' => self.at += 2,
                b'\n' if self.open.len() == 1 => {
                    self.back_to(0);
                    self.at += 1;
                }
                _ if byte == b'_' || byte.is_ascii_alphanumeric() => self.word(),
                _ => {
                    self.sign(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn sign(&mut self, byte: u8) {
        match byte {
            b'(' | b'[' | b'{' => {
                self.depth += 1;
                self.open.push(Open {
                    at: self.at,
                    levels: 1,
                });
            }
            // What is closed is one level of what it stands in: `f()()()`.
            b')' | b']' | b'}' if self.open.len() > 1 => {
                self.depth -= self.open.pop().map_or(0, |open| open.levels);
                self.deeper();
            }
            b',' => self.back_to(1),
            b';' => self.back_to(0),
            _ if b"+-*/%@&|^~<>=!.:".contains(&byte) => self.deeper(),
            _ => {}
        }
    }

    fn word(&mut self) {
        let begin = self.at;
        self.skip_to(|byte| byte != b'_' && !byte.is_ascii_alphanumeric());
        let word = &self.text[begin..self.at];
        if matches!(self.text.get(self.at), Some(b'\'' | b'"')) && word.len() <= 2 {
            let has = |letter: u8| word.iter().any(|byte| byte.eq_ignore_ascii_case(&letter));
            self.string(has(b'f') || has(b't'));
        } else if WORDS.contains(&word) {
            self.deeper();
        }
    }

    /// Passes over a string; what stands in braces of a formatted one counts.
    fn string(&mut self, is_formatted: bool) {
        let quote = self.text[self.at];
        let triple = [quote; 3];
        let is_triple = self.text[self.at..].starts_with(&triple);
        let end: &[u8] = if is_triple { &triple } else { &triple[..1] };
        self.at += end.len();
        while let Some(byte) = self.text.get(self.at).copied() {
            if self.text[self.at..].starts_with(end) {
                self.at += end.len();
                return;
            }
            match byte {
                b'\\' => self.at += 1,
                // It is not closed.
                b'\n' if !is_triple => return,
                b'{' if is_formatted && self.text.get(self.at + 1) == Some(&b'{') => self.at += 1,
                b'{' if is_formatted => {
                    self.braces();
                    if self.depth > MOST {
                        return;
                    }
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Passes over what is in braces, strings in it like the rest.
    fn braces(&mut self) {
        let outside = self.open.len();
        while let Some(byte) = self.text.get(self.at).copied() {
            self.sign(byte);
            self.at += 1;
            if self.open.len() <= outside || self.depth > MOST {
                return;
            }
        }
    }

    fn skip_to(&mut self, is_end: impl Fn(u8) -> bool) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| is_end(*byte));
        self.at += length.unwrap_or(rest.len());
    }

    fn deeper(&mut self) {
        if let Some(open) = self.open.last_mut() {
            if open.levels == 0 {
                open.at = self.at;
            }
            open.levels += 1;
            self.depth += 1;
        }
    }

    /// What comes next stands beside what came before.
    fn back_to(&mut self, levels: usize) {
        if let Some(open) = self.open.last_mut() {
            let levels = levels.min(open.levels);
            self.depth -= open.levels - levels;
            open.levels = levels;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_deep_and_long_lists_are_not() {
        for deep in [
            "1+".repeat(6_000) + "1",
            "f".to_owned() + &"()".repeat(6_000),
            "a".to_owned() + &".b".repeat(6_000),
            "[".repeat(6_000),
            "not ".repeat(6_000) + "x",
            "1 if x else ".repeat(6_000) + "1",
            "lambda:".repeat(6_000) + "x",
            format!("x = 1\ny = f({}1)\n", "-".repeat(6_000)),
            format!("x = f'{{{}1}}'", "1+".repeat(6_000)),
            format!("x = 'it\\'s' + {}1", "1+".repeat(6_000)),
            "x = \\\n  1 +".repeat(6_000),
        ] {
            assert!(too_deep(&deep).is_some(), "{}", &deep[..20]);
        }
        for flat in [
            "x = 1 + 1\n".repeat(6_000),
            format!("x = [{}]\n", "f(a.b + 1), ".repeat(6_000)),
            format!("x = {{{}}}\n", "'a': [1, -2],\n".repeat(6_000)),
            "if x: a(); b()\n".repeat(6_000),
            format!(
                "x = '{0}'\ny = \"\"\"{0}\n\"\"\"\nz = f'{0}{{a}}'  # {0}\n",
                "+-(".repeat(6_000)
            ),
            "x = 1+".repeat(1_000) + "1",
        ] {
            assert_eq!(too_deep(&flat), None, "{}", &flat[..20]);
        }
    }
}
