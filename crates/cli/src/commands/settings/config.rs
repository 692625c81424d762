use std::io::Write;

use serde_json::json;

use crate::cli::OutputArgs;
use crate::config::{Setting, Source};
use crate::console::Console;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::table::Table;

/// Show each setting and where it comes from
///
/// Flags win over `UPDRAFT_*` variables, those over updraft.toml, that over your own settings file.
/// The token is never shown, only whether there is one.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(cx: &Context, out: &mut Console) -> Result<Exit> {
    let settings = cx.settings()?;
    let server = address(&cx.anonymous(None)?);
    let token = settings.token(&server)?;

    let mut rows: Vec<(&str, Option<String>, Option<String>)> = Vec::new();
    let mut add = |name, value: Option<String>, source: Option<&Source>| {
        rows.push((name, value, source.map(ToString::to_string)));
    };
    add(
        "server",
        Some(server.clone()),
        Some(&settings.server.source),
    );
    let deployment = settings.deployment.as_ref();
    add(
        "deployment",
        deployment.map(|it| it.value.to_string()),
        deployment.map(|it| &it.source),
    );
    add(
        "token",
        token.as_ref().map(|_| "set".to_owned()),
        token.as_ref().map(|it| &it.source),
    );
    add(
        "insecure-http",
        Some(settings.insecure_http.value.to_string()),
        Some(&settings.insecure_http.source),
    );
    let shown = |setting: &Setting<std::path::PathBuf>| setting.value.display().to_string();
    let ca_file = settings.ca_file.as_ref();
    add("ca-file", ca_file.map(shown), ca_file.map(|it| &it.source));
    let project = settings.project.as_ref();
    let root = project.map(|it| it.value.root().display().to_string());
    add("project", root, project.map(|it| &it.source));
    let user = settings.user_file.as_ref();
    add(
        "settings file",
        user.map(|path| path.display().to_string()),
        None,
    );

    if out.is_json() {
        let values: serde_json::Map<_, _> = rows
            .into_iter()
            .map(|(name, value, source)| {
                (
                    name.replace(' ', "-"),
                    json!({ "value": value, "source": source }),
                )
            })
            .collect();
        out.json(&values)?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new(["setting", "value", "from"]);
    for (name, value, source) in rows {
        table.row([
            name.into(),
            value.unwrap_or("not set".into()),
            source.unwrap_or_default(),
        ]);
    }
    table.print(out)?;
    if token.is_none() {
        writeln!(
            out.status(),
            "sign in with `updraft login {server}`, or set UPDRAFT_TOKEN"
        )?;
    }
    Ok(Exit::Success)
}
