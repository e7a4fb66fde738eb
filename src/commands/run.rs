//! `finback run`: runs the proxy with a configuration file until it is told to stop.

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
use crate::orders::Reloaded;
use crate::running::{Readiness, Running};
use crate::{admin, config, mesh_registry, statsd};

/// While stopping, the last round of StatsD may take this long.
const FLUSH: Duration = Duration::from_secs(2);
/// How often the configuration file is looked at.
const WATCH: Duration = Duration::from_millis(500);
/// For how long it serves on after SIGTERM, unless the configuration says otherwise: load balancers ask
/// every few seconds who is ready. SIGINT comes from a person, who has none.
const DRAIN_DELAY: Duration = Duration::from_secs(5);

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
    log::configure(&config.log);
    warn(&config);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    let reopen = signal(SignalKind::user_defined1())?;
    tokio::spawn(ignore(signal(SignalKind::user_defined2())?, "SIGUSR2"));
    let admin = match config.admin.clone() {
        Some(settings) => Some(admin::Ports::bind(settings).await?),
        None => None,
    };
    let mesh_registry = bind_mesh_registry(&config).await?;
    let snapshots = config.snapshots.clone();
    let running = Arc::new(Running::start(config)?);
    announce(&running).await;
    if let Some(ports) = admin {
        ports.serve(&running)?;
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
    tokio::spawn(tell_ready(running.clone()));
    tokio::spawn(reopen_logs(reopen, running.clone()));
    let delay = tokio::select! {
        _ = terminate.recv() => running.drain_delay(DRAIN_DELAY),
        () = running.orders.drained() => running.drain_delay(DRAIN_DELAY),
        _ = interrupt.recv() => running.drain_delay(Duration::ZERO),
    };
    announce_stop(delay);
    let drained = tokio::select! {
        () = running.drain(delay) => true,
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

/// Binds the address of the mesh registry, if there is to be one.
async fn bind_mesh_registry(
    config: &Config,
) -> anyhow::Result<Option<(TcpListener, config::MeshRegistry)>> {
    let Some(own) = config.mesh_registry.clone() else {
        return Ok(None);
    };
    let address = own.address;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("the mesh registry cannot listen on {address}"))?;
    Ok(Some((listener, own)))
}

/// Says that it stops, and how.
fn announce_stop(delay: Duration) {
    if delay.is_zero() {
        tracing::info!(target: LIFECYCLE,
            "stopping: finishing what is in flight; a second signal ends it at once");
    } else {
        tracing::info!(target: LIFECYCLE,
            "stopping: not ready, but serving for {delay:?} more; then finishing what is in flight; \
             a second signal ends it at once");
    }
}

/// Says when clients may be sent here, and first what is waited for.
async fn tell_ready(running: Arc<Running>) {
    if let Readiness::Waiting(missing) = running.readiness() {
        let missing = missing.join(", ");
        tracing::info!(target: LIFECYCLE, "listening; waiting for {missing}");
    }
    if !running.until_ready().await {
        return;
    }
    match running.missing() {
        missing if missing.is_empty() => tracing::info!(target: LIFECYCLE, "ready"),
        missing => {
            let missing = missing.join(", ");
            tracing::warn!(target: LIFECYCLE, "ready, but nothing was heard of {missing}");
        }
    }
}

/// Opens access logs again, as those who moved the files away ask for.
async fn reopen_logs(mut asked: Signal, running: Arc<Running>) {
    while asked.recv().await.is_some() {
        running.access_logs.reopen();
        tracing::info!("SIGUSR1: access logs are opened again");
    }
}

/// Other daemons do something at this signal; without a handler it would end the process.
async fn ignore(mut asked: Signal, name: &'static str) {
    while asked.recv().await.is_some() {
        tracing::info!(
            "{name} means nothing here; SIGHUP reloads, SIGUSR1 opens access logs again, SIGTERM stops"
        );
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
    let Some(mut orders) = running.orders.reloads() else {
        return;
    };
    loop {
        let mut asker = None;
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            Some(own) = orders.recv() => {
                asker = Some(own);
                true
            }
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
            let reloaded = reload(&path, &running).await;
            // Who asked may have gone meanwhile.
            let _ = asker.map(|asker| asker.send(reloaded));
        }
    }
}

/// Says what is allowed, and probably not meant.
fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

async fn read(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}

async fn reload(path: &Path, running: &Running) -> Reloaded {
    let reloaded = match config::load(path) {
        Ok(config) => {
            warn(&config);
            running.reload(config).await
        }
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
            Ok(fixed)
        }
        Err(error) => {
            running.reloads.refuse();
            for line in format!("{error:#}").lines() {
                tracing::error!(target: LIFECYCLE, "{line}");
            }
            tracing::error!(target: LIFECYCLE, "not reloaded; the configuration before stays in force");
            Err(format!("{error:#}"))
        }
    }
}
