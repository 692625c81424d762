//! Runs a program to its end and keeps what it said.

use std::io;
use std::process::{Command, Stdio};

/// How a program ended, with its output as text.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(command: &mut Command) -> io::Result<Finished> {
    let output = command.stdin(Stdio::null()).output()?;
    Ok(Finished {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

impl Finished {
    /// The last lines of what it complained about, addresses without
    /// credentials.
    pub(crate) fn complaint(&self) -> String {
        let text = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let lines: Vec<&str> = text.trim().lines().collect();
        let last = &lines[lines.len().saturating_sub(30)..];
        without_credentials(&last.join("\n"))
    }

    /// Whether it failed because a package index cannot be reached.
    pub(crate) fn is_offline(&self) -> bool {
        const SIGNS: [&str; 10] = [
            "dns error",
            "error sending request",
            "client error (Connect)",
            "Failed to fetch",
            "Network is unreachable",
            "Temporary failure in name resolution",
            "Connection refused",
            "NewConnectionError",
            "network was disabled",
            "urlopen error",
        ];
        SIGNS.iter().any(|sign| self.stderr.contains(sign))
    }
}

/// Removes `user:password@` from every address in a text.
pub(crate) fn without_credentials(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"'`<>)".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        let skip = authority.rfind('@').map_or(0, |at| at + 1);
        rest = &after[skip..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn removes_credentials_from_text() {
        let text = "failed at https://me:pw@example.com/simple and `https://t@h:1`, not a@b";
        assert_eq!(
            super::without_credentials(text),
            "failed at https://example.com/simple and `https://h:1`, not a@b"
        );
    }
}
