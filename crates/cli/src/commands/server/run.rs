use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use updraft_bundle::Limits as BundleLimits;
use updraft_server::{Limits, Server, TlsFiles};

use super::DataArgs;
use crate::console::Console;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Result;
use crate::interrupt::Interrupt;
use crate::logging::{self, LogArgs};

/// Run the control plane (what `updraft server` does by itself)
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    data: DataArgs,

    /// Address to listen on
    #[arg(
        long,
        env = "UPDRAFT_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8888"
    )]
    listen: SocketAddr,

    /// How others reach it, when that is not the address it listens on
    #[arg(long, env = "UPDRAFT_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,

    /// Certificate chain, PEM
    #[arg(
        long,
        env = "UPDRAFT_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,

    /// Private key, PEM
    #[arg(
        long,
        env = "UPDRAFT_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,

    /// Days that a deploy's content stays after it was made
    #[arg(
        long,
        env = "UPDRAFT_RETENTION_DAYS",
        value_name = "DAYS",
        default_value_t = 90
    )]
    retention_days: u32,

    /// Most bytes in the registry's repositories of one Deployment (default: no limit)
    #[arg(long, env = "UPDRAFT_REGISTRY_QUOTA", value_name = "BYTES")]
    registry_quota: Option<u64>,

    /// Most bytes in one deployed file (in updraft.toml: `max_file`)
    #[arg(
        long,
        env = "UPDRAFT_MAX_FILE_BYTES",
        value_name = "BYTES",
        default_value_t = BundleLimits::default().file_bytes
    )]
    max_file_bytes: u64,

    /// Most bytes in all files of a bundle (in updraft.toml: `max_bundle`)
    #[arg(
        long,
        env = "UPDRAFT_MAX_BUNDLE_BYTES",
        value_name = "BYTES",
        default_value_t = BundleLimits::default().total_bytes
    )]
    max_bundle_bytes: u64,

    /// Most files in a bundle (in updraft.toml: `max_files`)
    #[arg(
        long,
        env = "UPDRAFT_MAX_FILES",
        value_name = "COUNT",
        default_value_t = BundleLimits::default().files
    )]
    max_files: u64,

    #[command(flatten)]
    log: LogArgs,
}

pub(crate) async fn run(args: &RunArgs, cx: &Context, out: &mut Console) -> Result<Exit> {
    logging::start(&args.log, out);
    let interrupt = Interrupt::listen()?;
    let mut config = args.data.config()?;
    config.listen = args.listen;
    config.insecure_http = cx.allows_insecure_http()?;
    config.public_url.clone_from(&args.public_url);
    config.retention_days = args.retention_days;
    config.registry_quota = args.registry_quota;
    config.limits = Limits::of_bundles(BundleLimits {
        file_bytes: args.max_file_bytes,
        total_bytes: args.max_bundle_bytes,
        files: args.max_files,
    });
    config.tls = args
        .tls_cert
        .clone()
        .zip(args.tls_key.clone())
        .map(|(certificate, key)| TlsFiles { certificate, key });

    let server = Server::start(config).await?;
    writeln!(
        out.status(),
        "The control plane listens on {}",
        server.addr()
    )?;
    if server.has_no_token().await {
        out.warn(&format!(
            "nobody can sign in: stop it, and make the first token with `updraft server init --data-dir {}`",
            args.data.data_dir.display()
        ));
    }
    interrupt.came().await;
    server.stop().await;
    Ok(Exit::Success)
}
