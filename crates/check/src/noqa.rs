//! `# noqa` and `# noqa: UPD302, F401`: a line is excused.

use crate::rule::Rule;

pub(crate) fn excuses(line: &str, rule: Rule) -> bool {
    let lower = line.to_ascii_lowercase();
    let comments = lower.match_indices('#');
    comments
        .filter_map(|(at, _)| Some((at, lower[at + 1..].trim_start().strip_prefix("noqa")?)))
        .any(|(_, rest)| match rest.trim_start().strip_prefix(':') {
            Some(codes) => codes
                .split(|c: char| !c.is_ascii_alphanumeric())
                .filter(|code| !code.is_empty())
                .take_while(|code| is_code(code))
                .any(|code| code.eq_ignore_ascii_case(rule.code())),
            None => true,
        })
}

/// Letters and then digits; what follows the codes is a reason.
fn is_code(word: &str) -> bool {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    digits.len() < word.len() && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excuses_what_it_names_or_all() {
        for line in [
            "x = f()  # noqa",
            "x = f()  # NOQA: UPD302",
            "x = f()  # a reason  # noqa:F401,UPD302 because",
            "x = f()  #noqa : upd302",
        ] {
            assert!(excuses(line, Rule::Variable), "{line}");
        }
        for line in [
            "x = f()  # noqa: UPD303",
            "x = f()  # noqa: because of UPD302",
            "x = noqa()",
            "x = f()  # UPD302",
        ] {
            assert!(!excuses(line, Rule::Variable), "{line}");
        }
    }
}
