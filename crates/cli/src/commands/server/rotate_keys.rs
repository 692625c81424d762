use std::io::Write;

use serde_json::json;

use super::DataArgs;
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Result;

/// Sign new tokens and encrypt environment variables with new keys
///
/// Tokens that were signed before stay good, unless --forget-old says otherwise; variables that were set before stay
/// readable. A running control plane uses the new keys after a restart.
#[derive(Debug, clap::Args)]
pub(crate) struct RotateKeysArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Refuse all tokens that were signed before, agents' included; also makes keys that are gone
    #[arg(long)]
    forget_old: bool,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(args: &RotateKeysArgs, out: &mut Console) -> Result<Exit> {
    updraft_server::rotate_keys(&args.data.data_dir, args.forget_old)?;
    if out.is_json() {
        out.json(&json!({ "rotated": true, "forgot_old": args.forget_old }))?;
    } else {
        writeln!(
            out.status(),
            "New tokens are signed with a new key once the control plane has restarted"
        )?;
        if args.forget_old {
            writeln!(
                out.status(),
                "All tokens until now are refused then; `updraft server init --again` makes one"
            )?;
        }
    }
    Ok(Exit::Success)
}
