//! Logs of the long-running commands, on standard error.

use std::io::IsTerminal;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use tracing_subscriber::EnvFilter;

use crate::console::Console;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogArgs {
    /// How to write logs (default: text on a terminal, otherwise json)
    #[arg(long, env = "UPDRAFT_LOG_FORMAT", value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,

    /// What to log, such as `info` or `updraft_server=debug`
    #[arg(
        long,
        env = "UPDRAFT_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub(crate) log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

/// Begins to log, and hushes the console where a line of its own would stand
/// between JSON objects.
pub(crate) fn start(args: &LogArgs, out: &mut Console) {
    let terminal = std::io::stderr().is_terminal();
    let format = args.log_format.unwrap_or(if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    if format == LogFormat::Json {
        out.hush();
    }
    let filter = EnvFilter::try_new(&args.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start keeps the first: quickstart runs several servers in one process.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(terminal).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Logs into a file, for a command that shows its own progress.
pub(crate) fn to_file(path: &std::path::Path) -> std::io::Result<()> {
    // It may quote what the project's code says.
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    let filter = std::env::var("UPDRAFT_LOG").unwrap_or_default();
    let filter = EnvFilter::try_new(filter.as_str())
        .ok()
        .filter(|_| !filter.is_empty())
        .unwrap_or_else(|| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(file))
        .try_init();
    Ok(())
}
