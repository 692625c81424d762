//! From nothing to a project that runs in a real Airflow.

use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;

/// Start a control plane, an agent and a real Airflow here, and deploy a project to it
#[derive(Debug, clap::Args)]
pub(crate) struct QuickstartArgs {}

pub(crate) async fn run(args: &QuickstartArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    todo!()
}
