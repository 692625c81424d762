use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use updraft_api::token::Enroll;

use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::{Context, address};
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::files::write_private;
use crate::{files, prompt};

/// Trade a one-time code for this agent's token
///
/// The code of `updraft agent invite` is read from a file, from standard input, or asked for.
/// The token is kept in the agent's folder, together with the control plane's address.
#[derive(Debug, clap::Args)]
pub(crate) struct EnrollArgs {
    #[command(flatten)]
    root: RootArgs,

    /// Read the code from this file (`-`: standard input)
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RootArgs {
    /// The agent's folder: bundles, environments, Airflow's home
    #[arg(
        long,
        env = "UPDRAFT_AGENT_ROOT",
        value_name = "DIR",
        default_value = "updraft-agent"
    )]
    pub(crate) root: PathBuf,
}

/// What enrolment leaves in the agent's folder, beside the token: how the
/// control plane was reached.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) server: String,
    #[serde(default)]
    pub(crate) insecure_http: bool,
    #[serde(default)]
    pub(crate) ca_file: Option<PathBuf>,
}

pub(crate) fn token_file(root: &Path) -> PathBuf {
    root.join("token")
}

pub(crate) fn enrolled_file(root: &Path) -> PathBuf {
    root.join("enrolled.json")
}

pub(crate) async fn run(args: &EnrollArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let root = &args.root.root;
    let failed = |error| Failure::file("write to", root, &error);
    // The code is good once: what can go wrong here goes wrong before.
    prepare(root).map_err(failed)?;
    let client = cx.anonymous(None)?;
    let server = address(&client);
    let settings = cx.settings()?;
    let ca_file = settings.ca_file.as_ref().map(|it| &it.value);
    let enrolled = serde_json::to_string(&Enrolled {
        server: server.clone(),
        insecure_http: settings.insecure_http.value,
        // The agent may be started somewhere else.
        ca_file: ca_file.map(std::path::absolute).transpose()?,
    })?;
    let code = code(args.code_file.clone()).await?;
    let token = client.enroll(&Enroll { code, host: host() }).await?;
    write_private(&token_file(root), &token.secret).map_err(failed)?;
    write_private(&enrolled_file(root), &enrolled).map_err(failed)?;

    if out.is_json() {
        out.json(&json!({ "server": server, "root": root, "token": token.token }))?;
    } else {
        writeln!(
            out.status(),
            "Enrolled in {server}. Next: `updraft agent --root {}`",
            root.display()
        )?;
    }
    Ok(Exit::Success)
}

/// Makes the agent's folder, and finds out whether it can be written to.
fn prepare(root: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(root)?;
    // Passable and not listable, because Airflow's user goes through it.
    std::fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    tempfile::tempfile_in(root).map(drop)
}

async fn code(file: Option<PathBuf>) -> Result<String> {
    let code = match file {
        Some(file) => files::input(file).await?,
        None if prompt::is_possible() => prompt::secret("Code of `updraft agent invite`: ").await?,
        None => files::input("-".into()).await?,
    };
    let code = code.trim();
    if code.is_empty() {
        return Err(Failure::new(Exit::NotSignedIn, "there is no enrolment code")
            .code("enrollment_code_refused")
            .help("`updraft agent invite DEPLOYMENT` makes one; give it on standard input or with --code-file"));
    }
    Ok(code.to_owned())
}

/// This machine's name, as `status` shows it.
fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
