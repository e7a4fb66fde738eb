//! `finback health`: does the process live? For probes of containers that have no curl.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::admin::client::{AdminIdentity, Client, Part};
use crate::log::{complain, say};

/// What to ask.
#[derive(Args)]
pub struct Options {
    /// The configuration file, which names the admin port; nothing else of it is looked at.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Ask whether it takes new clients, not only whether it lives.
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    identity: AdminIdentity,
}

/// Exits 0 if the process is healthy, else 1.
///
/// # Errors
/// If it cannot be asked.
pub async fn health(options: Options) -> anyhow::Result<ExitCode> {
    let client = Client::of(&options.config, Part::Health, &options.identity)?;
    let path = if options.ready { "/readyz" } else { "/livez" };
    let (status, text) = client.text(path).await?;
    let text = text.trim();
    if status == 200 {
        say(format_args!("{text}"));
        return Ok(ExitCode::SUCCESS);
    }
    complain(format_args!(
        "{} answers {status}: {text}",
        client.address()
    ));
    Ok(ExitCode::FAILURE)
}
