//! `updraft deploy --plan --comment`: the plan, on the pull request.

use std::fmt::Write as _;

use updraft_api::deploy::{ComparisonOutcome, FileChanges};
use updraft_api::preview::PreviewView;
use updraft_ci::comment::{Comment, CommentError, Forge, Posted, post};
use updraft_model::{CheckFinding, CheckStage, CiRun, DeployState, GitState};

use super::compare::Planned;
use super::dags;
use super::report::{MOST_NAMES, Outcome, is_empty, summary};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::names::state_of;
use crate::output::size::things;
use crate::output::tame::tame_line;

/// What stands in it beside the plan.
pub(super) struct Told<'a> {
    pub(super) project: String,
    pub(super) outcome: &'a Outcome,
    pub(super) planned: &'a Planned,
    pub(super) git: Option<&'a GitState>,
    pub(super) run: Option<&'a CiRun>,
    /// The Preview that the pull request has by now.
    pub(super) preview: Option<&'a PreviewView>,
}

/// Where it goes. Asked before the plan is made, which takes longer.
pub(super) fn forge(cx: &Context, git: Option<&GitState>) -> Result<Forge> {
    let remote = git.and_then(|git| git.remote.as_deref());
    let ca = cx.connect(None)?.ca_certificates;
    let variable = |name: &str| std::env::var(name).ok();
    Ok(Forge::of(cx.ci(), remote, &variable, ca.as_deref())?)
}

pub(super) async fn write(forge: &Forge, told: &Told<'_>) -> Result<Posted> {
    let name = &told.outcome.deployment;
    let text = text(told);
    let comment = Comment {
        about: format!("plan of {} for {name}", told.project),
        is_news: told.planned.comparison.outcome == ComparisonOutcome::Changes
            || told.outcome.checks.values().any(|stage| !stage.passed())
            || told.preview.is_some(),
        text,
    };
    Ok(post(forge, &comment).await?)
}

impl From<CommentError> for Failure {
    fn from(error: CommentError) -> Self {
        let exit = match &error {
            CommentError::NoPullRequest
            | CommentError::NoForge(_)
            | CommentError::Address { .. } => Exit::Refused,
            CommentError::NoToken(_) => Exit::NotSignedIn,
            CommentError::Setup(..) | CommentError::Answer(_) => Exit::Internal,
            CommentError::Unreachable { .. } => Exit::Unreachable,
            CommentError::Refused { status, .. } => match status.as_u16() {
                401 => Exit::NotSignedIn,
                403 | 404 => Exit::NotAllowed,
                _ => Exit::Unreachable,
            },
        };
        Self::from_error(exit, &error)
            .code("comment_not_written")
            .help(error.help())
    }
}

fn text(told: &Told<'_>) -> String {
    let outcome = told.outcome;
    let name = code(outcome.deployment.as_str());
    let mut text = format!("### Updraft: what this changes on {name}\n\n");
    let _ = match told.planned.comparison.outcome {
        ComparisonOutcome::Changes => writeln!(text, "**{}**", headline(outcome)),
        ComparisonOutcome::NothingToDo => writeln!(text, "Nothing: {name} runs exactly this."),
        ComparisonOutcome::RollingOut => {
            writeln!(text, "Nothing: {name} is rolling out exactly this.")
        }
        ComparisonOutcome::ProvingAgain => writeln!(
            text,
            "Nothing, but {name} should run exactly this and it is not proven: a deploy proves it again."
        ),
    };
    write_preview(told, &mut text);
    write_dags(told, &mut text);
    write_image(outcome, &mut text);
    write_checks(outcome, &mut text);
    write_footer(told, &mut text);
    text
}

/// Where to look at it, and what became of it there.
fn write_preview(told: &Told<'_>, text: &mut String) {
    let Some(preview) = told.preview else { return };
    let until = preview.expires_at.format("%Y-%m-%d %H:%M UTC");
    let name = code(preview.name.as_str());
    let at = match preview.url.as_deref().filter(is_plain_address) {
        Some(url) => format!("[{}]({url})", preview.name),
        None => name,
    };
    let state = match &preview.wanted_deploy {
        Some(deploy) => match &deploy.state {
            DeployState::Live { .. } => "is live".to_owned(),
            DeployState::Failed { .. } => "**failed**: Airflow refuses it".to_owned(),
            _ => format!("is not live: {}", state_of(deploy)),
        },
        None => "is empty".to_owned(),
    };
    let _ = writeln!(
        text,
        "\n**Preview** {at} {state}; it is kept until {until}."
    );
}

/// Nothing in it ends a link of Markdown.
fn is_plain_address(url: &&str) -> bool {
    url.starts_with("http") && !url.contains(['(', ')', '<', '>', ' '])
}

/// `2 DAGs added, 1 changed; the image changes`
fn headline(outcome: &Outcome) -> String {
    let counted = |lists: [usize; 3], what: &str| -> Option<String> {
        let words = ["added", "changed", "removed"];
        let some = lists.into_iter().zip(words).filter(|(count, _)| *count > 0);
        let parts: Vec<String> = some
            .enumerate()
            .map(|(at, (count, word))| match at {
                0 => format!("{} {word}", things(count as u64, what)),
                _ => format!("{count} {word}"),
            })
            .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    };
    let dags = outcome.planned_dags.as_ref().and_then(|dags| {
        let lists = [dags.added.len(), dags.changed.len(), dags.removed.len()];
        counted(lists, "DAG")
    });
    let files = || (!is_empty(&outcome.files)).then(|| summary(&outcome.files));
    let image = (outcome.environment == "made").then(|| "the image changes".to_owned());
    let parts: Vec<String> = [dags.or_else(files), image].into_iter().flatten().collect();
    if parts.is_empty() {
        return "No DAG changes".to_owned();
    }
    parts.join("; ")
}

fn write_dags(told: &Told<'_>, text: &mut String) {
    let outcome = told.outcome;
    if let Some(dags) = outcome
        .planned_dags
        .as_ref()
        .filter(|dags| !dags.is_empty())
    {
        let _ = writeln!(text, "\n**DAGs**\n");
        write_items("added", dags.added.iter().map(dags::described), text);
        write_items("changed", dags.changed.iter().map(dags::changes), text);
        write_items(
            "removed",
            dags.removed.iter().map(|dag| dag.dag.dag_id.clone()),
            text,
        );
        let unknown = dags.unknown.iter().cloned();
        write_items(
            "not known, since it cannot be imported here:",
            unknown,
            text,
        );
    } else {
        let FileChanges {
            added,
            changed,
            removed,
        } = &outcome.files;
        if !is_empty(&outcome.files) {
            let _ = writeln!(text, "\n**Files**\n");
        }
        for (word, files) in [("added", added), ("changed", changed), ("removed", removed)] {
            write_items(word, files.iter().cloned(), text);
        }
    }
    if let Some(runs) = outcome.runs.as_ref().filter(|runs| runs.total > 0) {
        let named = runs.dags.iter().take(MOST_NAMES);
        let named: Vec<String> = named
            .map(|(dag, count)| format!("{} ({count})", code(&dag.to_string())))
            .collect();
        let _ = writeln!(
            text,
            "\n**{} under way**: {}. {}.",
            things(runs.total, "DAG run"),
            named.join(", "),
            sentence(&dags::what_runs_keep(told.planned))
        );
    }
}

fn write_image(outcome: &Outcome, text: &mut String) {
    let lists = [
        (&outcome.image_changes, "**The image changes**, because of"),
        (
            &outcome.image_differs,
            "**The image stays**, although this differs from it:",
        ),
    ];
    for (list, title) in lists {
        if !list.is_empty() {
            let _ = writeln!(text, "\n{title}\n");
            write_items("", list.iter().cloned(), text);
        }
    }
    if outcome.image_changes.is_empty() && outcome.environment == "made" {
        let _ = writeln!(text, "\n**The image** is the first of this Deployment.");
    }
}

fn write_checks(outcome: &Outcome, text: &mut String) {
    if outcome.checks.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n**Checks**\n");
    for (stage, result) in &outcome.checks {
        let mark = if result.passed() {
            "passed"
        } else {
            "**failed**"
        };
        let what = match stage {
            CheckStage::Pytest => "test",
            CheckStage::Static | CheckStage::Parse => "DAG file",
        };
        let _ = writeln!(
            text,
            "- {} {mark}: {}, {}, {}",
            stage_name(*stage),
            things(result.checked, what),
            things(result.errors, "error"),
            things(result.warnings, "warning"),
        );
        for note in &result.notes {
            let _ = writeln!(text, "  - {}", code(note));
        }
    }
    let findings: Vec<&CheckFinding> = outcome
        .checks
        .values()
        .flat_map(|it| &it.findings)
        .collect();
    if findings.is_empty() {
        return;
    }
    let _ = writeln!(text);
    for finding in findings.iter().take(MOST_NAMES) {
        let level = if finding.is_error { "error" } else { "warning" };
        let place = format!("{}:{}:{}", finding.file, finding.line, finding.column);
        let _ = writeln!(
            text,
            "- {level} {} at {}: {}",
            code(&finding.code),
            code(&place),
            code(&finding.message)
        );
    }
    let all: u64 = outcome
        .checks
        .values()
        .map(|it| it.errors + it.warnings)
        .sum();
    write_more(
        all.saturating_sub(findings.len().min(MOST_NAMES) as u64),
        text,
    );
}

fn stage_name(stage: CheckStage) -> &'static str {
    match stage {
        CheckStage::Static => "static check",
        CheckStage::Parse => "parse",
        CheckStage::Pytest => "pytest",
    }
}

fn write_footer(told: &Told<'_>, text: &mut String) {
    let mut parts = Vec::new();
    let commit = told.git.and_then(|git| git.commit.as_deref());
    let commit = commit.or(told.run.and_then(|run| run.commit.as_deref()));
    if let Some(commit) = commit {
        parts.push(code(&commit.chars().take(12).collect::<String>()));
    }
    let url = told.run.and_then(|run| run.run_url.as_deref());
    if let Some(url) = url.filter(is_plain_address) {
        parts.push(format!("[run]({url})"));
    }
    parts.push(format!("updraft {}", updraft_api::VERSION));
    let _ = writeln!(text, "\n{}", parts.join(" · "));
}

fn write_items(word: &str, items: impl ExactSizeIterator<Item = String>, text: &mut String) {
    let count = items.len();
    let word = match word {
        "" => String::new(),
        word => format!("{word} "),
    };
    for item in items.take(MOST_NAMES) {
        let _ = writeln!(text, "- {word}{}", code(&item));
    }
    write_more(count.saturating_sub(MOST_NAMES) as u64, text);
}

fn write_more(count: u64, text: &mut String) {
    if count > 0 {
        let _ = writeln!(text, "- … and {count} more");
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

/// The most that one of them says.
const MOST_TEXT: usize = 300;

/// Somebody else's text: as code nothing of it is a link, a mention or markup.
pub(crate) fn code(text: &str) -> String {
    let line = tame_line(text);
    let mut line: String = line.chars().take(MOST_TEXT).collect();
    if line.trim().is_empty() {
        line = "(empty)".into();
    }
    let mut longest = 0;
    let mut ticks = 0;
    for c in line.chars() {
        ticks = if c == '`' { ticks + 1 } else { 0 };
        longest = longest.max(ticks);
    }
    let fence = "`".repeat(longest + 1);
    let space = if line.starts_with('`') || line.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{fence}{space}{line}{space}{fence}")
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn what_others_wrote_is_no_markup() {
        assert_eq!(code("a_b"), "`a_b`");
        assert_eq!(code("`x` @all"), "`` `x` @all ``");
        assert_eq!(
            code("a\nb"),
            format!("`{}`", crate::output::tame::tame_line("a\nb"))
        );
        assert_eq!(code("a``b"), "```a``b```");
        assert_eq!(code(" "), "`(empty)`");
    }
}
