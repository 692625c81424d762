use clap::CommandFactory;

use crate::cli::Cli;
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Result;

/// Print completions for a shell
///
/// For bash: `updraft completions bash > ~/.local/share/bash-completion/completions/updraft`
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &CompletionsArgs, out: &mut Console) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "updraft", &mut script);
    std::io::Write::write_all(&mut out.data(), &script)?;
    Ok(Exit::Success)
}
