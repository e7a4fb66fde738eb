//! `finback run`: the mesh itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use finback_registry::Looks;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::log::{self, LIFECYCLE};
use crate::running::Running;
use crate::{admin, config, mesh_registry, statsd};

/// While stopping, the last round of StatsD may take this long.
const FLUSH: Duration = Duration::from_secs(2);
/// How often the configuration file is looked at.
const WATCH: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT; a second one ends it at once.
/// With `take_over` it listens beside the process that it replaces.
pub async fn run(path: PathBuf, take_over: bool) -> anyhow::Result<ExitCode> {
    // Read before it is loaded: a change in between is seen as one later, and loaded again.
    let known = read(&path).await;
    let config = match config::load(&path) {
        Ok(config) => Config {
            take_over,
            ..config
        },
        Err(error) => {
            log::complain(format_args!("{error}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    for (kind, name) in [
        (SignalKind::user_defined1(), "SIGUSR1"),
        (SignalKind::user_defined2(), "SIGUSR2"),
    ] {
        tokio::spawn(ignore(signal(kind)?, name));
    }
    let admin = match config.admin {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("the admin port cannot listen on {address}"))?,
        ),
        None => None,
    };
    let mesh_registry = match config.mesh_registry.clone() {
        Some(config) => {
            let address = config.address;
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("the mesh registry cannot listen on {address}"))?;
            Some((listener, config))
        }
        None => None,
    };
    let snapshots = config.snapshots.clone();
    let running = Arc::new(Running::start(config)?);
    announce(&running).await;
    if let Some(listener) = admin {
        tracing::info!(target: LIFECYCLE, "listening admin {} protocol=http", listener.local_addr()?);
        tokio::spawn(admin::serve(listener, running.clone()));
    }
    if let Some((listener, config)) = mesh_registry {
        tracing::info!(target: LIFECYCLE, "listening mesh-registry {} protocol=http",
            listener.local_addr()?
        );
        let registries = running.registries.clone();
        tokio::spawn(mesh_registry::serve(
            listener, config, registries, snapshots,
        ));
    }
    tokio::spawn(statsd::keep_sending(running.clone()));
    tokio::spawn(keep_up(path, known, hangup, running.clone()));
    tracing::info!(target: LIFECYCLE, "ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(target: LIFECYCLE, "stopping: finishing what is in flight; a second signal ends it at once");
    let drained = tokio::select! {
        () = running.drain() => true,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    // What the last calls added.
    let _ = tokio::time::timeout(FLUSH, statsd::flush(&running)).await;
    if !drained {
        // Calls were cut off: that shall not look like a clean end.
        tracing::warn!(target: LIFECYCLE, "ended at once");
        return Ok(ExitCode::FAILURE);
    }
    tracing::info!(target: LIFECYCLE, "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Other daemons do something at these signals; without a handler they would end the process.
async fn ignore(mut asked: Signal, name: &'static str) {
    while asked.recv().await.is_some() {
        tracing::info!("{name} means nothing here; SIGHUP reloads, SIGTERM stops");
    }
}

async fn announce(running: &Running) {
    for (name, address, protocol) in running.listening().await {
        tracing::info!(target: LIFECYCLE, "listening {name} {address} protocol={protocol}");
    }
}

/// Reloads the file when it has changed and is whole, and on SIGHUP.
async fn keep_up(path: PathBuf, known: Option<Vec<u8>>, mut hangup: Signal, running: Arc<Running>) {
    let mut looks = Looks::new(known);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(WATCH) => false,
        };
        // A file that is gone for a moment is being replaced: wait for the new one.
        let now = read(&path).await;
        let is_new = match &now {
            Some(now) if asked => {
                looks.take(now);
                true
            }
            Some(now) => looks.see(now, Instant::now(), |_| false),
            // Whoever asks is told that it cannot be read.
            None => asked,
        };
        if is_new {
            reload(&path, &running).await;
        }
    }
}

async fn read(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}

async fn reload(path: &Path, running: &Running) {
    let reloaded = match config::load(path) {
        Ok(config) => running.reload(config).await,
        Err(error) => Err(error.into()),
    };
    match reloaded {
        Ok(fixed) => {
            running.reloads.accept();
            announce(running).await;
            tracing::info!(target: LIFECYCLE, "reloaded {}", path.display());
            if !fixed.is_empty() {
                let keys = fixed.join("`, `");
                tracing::warn!(target: LIFECYCLE, "only a restart puts the change of `{keys}` in force");
            }
        }
        Err(error) => {
            running.reloads.refuse();
            tracing::error!(target: LIFECYCLE, "{error:#}\nnot reloaded; the configuration before stays in force");
        }
    }
}
