use std::io::Write;
use std::path::PathBuf;

use serde_json::json;
use updraft_api::Client;

use crate::config::Setting;
use crate::console::Console;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::output::table::Table;

/// One line of the answer.
struct Row {
    name: &'static str,
    value: Option<String>,
    source: Option<String>,
    /// Why a command that needs it would fail.
    problem: Option<String>,
}

impl Row {
    fn new<T>(
        name: &'static str,
        setting: Option<&Setting<T>>,
        show: impl Fn(&T) -> String,
    ) -> Self {
        Self {
            name,
            value: setting.map(|it| show(&it.value)),
            source: setting.map(|it| it.source.to_string()),
            problem: None,
        }
    }

    fn problem(mut self, failure: Option<&Failure>) -> Self {
        self.problem = failure.map(|failure| failure.message.clone());
        self
    }
}

pub(crate) fn run(cx: &Context, out: &mut Console) -> Result<Exit> {
    let settings = cx.settings()?;
    let client = cx.anonymous(None);
    // With the authorities left out it is the address that is not good.
    let bad_server = match &client {
        Err(_) => Client::new(&cx.connect_without_ca(None)?, None).err(),
        Ok(_) => None,
    };
    let bad_server = bad_server.map(Failure::from);
    let bad_ca = client.as_ref().err().filter(|_| bad_server.is_none());
    let server = match &client {
        Ok(client) => address(client),
        Err(_) => settings.server.value.clone(),
    };
    let token = settings.token(&server);
    let kept = settings.kept_token(&server).unwrap_or_default();
    let path = |path: &PathBuf| path.display().to_string();

    let rows = [
        Row::new("server", Some(&settings.server), |_| server.clone()).problem(bad_server.as_ref()),
        Row::new(
            "deployment",
            settings.deployment.as_ref(),
            ToString::to_string,
        ),
        Row::new("token", kept.as_ref(), |_| "set".to_owned()).problem(token.as_ref().err()),
        Row::new(
            "insecure-http",
            Some(&settings.insecure_http),
            ToString::to_string,
        ),
        Row::new("ca-file", settings.ca_file.as_ref(), path).problem(bad_ca),
        Row::new("project", settings.project.as_ref(), |it| {
            it.root().display().to_string()
        }),
        Row {
            name: "settings file",
            value: settings.user_file.as_ref().map(path),
            source: None,
            problem: None,
        },
    ];

    if out.is_json() {
        let values: serde_json::Map<_, _> = rows
            .into_iter()
            .map(|row| {
                let value =
                    json!({ "value": row.value, "source": row.source, "problem": row.problem });
                (row.name.replace(' ', "-"), value)
            })
            .collect();
        out.json(&values)?;
        return Ok(Exit::Success);
    }
    let header = ["setting", "value", "from", "problem"];
    let all_good = rows.iter().all(|row| row.problem.is_none());
    let columns = if all_good { 3 } else { 4 };
    let mut table = Table::new(header.into_iter().take(columns));
    if !all_good {
        table = table.flexible(3);
    }
    for row in rows {
        let cells = [
            row.name.to_owned(),
            row.value.unwrap_or("not set".into()),
            row.source.unwrap_or_default(),
            row.problem.unwrap_or_default(),
        ];
        table.row(cells.into_iter().take(columns));
    }
    table.print(out)?;
    if matches!(token, Ok(None)) {
        writeln!(
            out.status(),
            "sign in with `updraft login {server}`, or set UPDRAFT_TOKEN"
        )?;
    }
    Ok(Exit::Success)
}
