use std::io::Write;

use updraft_model::DeploymentName;

use super::{date, of, state};
use crate::cli::OutputArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::output::tame::tame_line;

/// Show a Preview
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Its name, as `updraft preview list` shows it
    preview: DeploymentName,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) async fn run(args: &ShowArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    let preview = cx.client().await?.preview(&args.preview).await?;
    if out.is_json() {
        out.json(&preview)?;
        return Ok(Exit::Success);
    }
    let mut data = out.data();
    writeln!(data, "{} is {}", preview.name, state(&preview))?;
    writeln!(data, "made from     {}", preview.from)?;
    writeln!(data, "pull request  {}", tame_line(&of(&preview.of)))?;
    if let Some(branch) = &preview.branch {
        writeln!(data, "branch        {}", tame_line(branch))?;
    }
    if let Some(url) = &preview.url {
        writeln!(data, "address       {}", tame_line(url))?;
    }
    writeln!(data, "values        {}", preview.values)?;
    writeln!(data, "made          {}", date(preview.created_at))?;
    writeln!(data, "until         {}", date(preview.expires_at))?;
    Ok(Exit::Success)
}
