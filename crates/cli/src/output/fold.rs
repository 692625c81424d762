//! Lines of `name  value` that fit: what is too long goes on below its value.

/// Breaks lines at spaces where they are wider than that. Colours take no room.
pub(crate) fn fold(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else {
        return text.to_owned();
    };
    let mut folded = String::new();
    for line in text.lines() {
        let indent = value_at(line).min(width / 2);
        let mut used = 0;
        for word in line.split_inclusive(' ') {
            let shown = visible(word.trim_end());
            if used > indent && used + shown > width {
                folded.truncate(folded.trim_end().len());
                folded.push('\n');
                folded.push_str(&" ".repeat(indent));
                used = indent;
            }
            folded.push_str(word);
            used += visible(word);
        }
        folded.push('\n');
    }
    folded
}

/// The column of the value: after the first gap behind the name.
fn value_at(line: &str) -> usize {
    let start = line.len() - line.trim_start().len();
    let gap = line[start..].find("  ").map(|at| start + at);
    let after = gap.map(|at| line[at..].len() - line[at..].trim_start().len() + at);
    after.map_or(start + 2, |at| visible(&line[..at]))
}

/// How many columns a text takes.
fn visible(text: &str) -> usize {
    let mut rest = text.chars();
    let mut columns = 0;
    while let Some(c) = rest.next() {
        if c == '\u{1b}' {
            // A colour: up to its `m`.
            rest.find(|c| *c == 'm');
        } else {
            columns += 1;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_below_the_value() {
        let text = "shop\n  state      live, 14 s ago (rollback dpl_01a2146681057574)\n  \u{1b}[32mok\u{1b}[0m  yes\n";
        assert_eq!(fold(text, None), text);
        assert_eq!(fold(text, Some(80)), text);
        insta::assert_snapshot!(fold(text, Some(40)).replace('\u{1b}', "^"), @r#"
        shop
          state      live, 14 s ago (rollback
                     dpl_01a2146681057574)
          ^[32mok^[0m  yes
        "#);
    }
}
