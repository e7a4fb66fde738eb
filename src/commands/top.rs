//! `finback top`: what is called, how often, how fast and with how many errors.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// What to show.
#[derive(Args)]
pub struct Options {
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub async fn top(_: Options) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
