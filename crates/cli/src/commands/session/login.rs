use std::io::Write;

use serde_json::json;

use crate::cli::OutputArgs;
use crate::config::{Credentials, Source, clean_token};
use crate::console::Console;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::Result;
use crate::{files, prompt};

/// Store a token for a control plane
///
/// The token is asked for, or read from --token-file or from standard input when that is no terminal, and stored only
/// after the control plane has said whose it is. `updraft token create` makes one.
#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// Address of the control plane (default: the configured one)
    url: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &LoginArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let anonymous = cx.anonymous(args.url.as_deref())?;
    let server = address(&anonymous);
    let secret = match &cx.settings()?.token_file {
        Some(file) => clean_token(&files::input(file.value.clone()).await?, &file.source)?,
        None => ask(&server).await?,
    };
    let who = anonymous.with_token(secret.clone()).whoami().await?;

    let path = cx.settings()?.credentials_file()?;
    let mut credentials = Credentials::load(&path)?;
    credentials.insert(server.clone(), secret);
    credentials.save(&path)?;

    if out.is_json() {
        out.json(&json!({ "server": server, "token": who.token, "stored": path }))?;
        return Ok(Exit::Success);
    }
    let (name, role) = (&who.token.name, who.token.role);
    writeln!(
        out.status(),
        "Signed in to {server} as `{name}` ({role}); stored in {}",
        path.display()
    )?;
    Ok(Exit::Success)
}

/// Asks without echo on a terminal; reads standard input otherwise.
async fn ask(server: &str) -> Result<String> {
    if prompt::is_possible() {
        let secret = prompt::secret(&format!("Token for {server}: ")).await?;
        return clean_token(&secret, &Source::Flag("the prompt"));
    }
    let secret = files::input("-".into()).await?;
    clean_token(&secret, &Source::Flag("standard input"))
}
