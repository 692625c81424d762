use std::process::ExitCode;

fn main() -> ExitCode {
    updraft_cli::main()
}
