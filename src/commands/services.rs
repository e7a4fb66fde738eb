//! `finback services`: what registries say, for a person who wonders.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use finback_registry::{Layout, Offer, Registries};
use serde_json::json;
use tokio::runtime::Handle;

use crate::config;
use crate::metadata::DubboMetadata;

/// How long a registry may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to list.
#[derive(Args)]
pub struct Options {
    /// The configuration file that names the registries.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Only this registry.
    #[arg(long, value_name = "NAME")]
    registry: Option<String>,
    /// Only this layout: dubbo, dubbo-app, sofa, spring, grpc or native.
    #[arg(long, value_name = "LAYOUT")]
    layout: Option<String>,
    /// Only this service.
    name: Option<String>,
    /// Keep listing as it changes; needs a service.
    #[arg(long, requires = "name")]
    watch: bool,
    /// Print one JSON object per service.
    #[arg(long)]
    json: bool,
}

/// One place where services are.
struct Place {
    registry: String,
    layout: Layout,
}

/// Lists services; exits 1 if a registry does not answer, or the service asked for is nowhere.
///
/// # Errors
/// If the configuration is bad or names no such registry or layout.
pub async fn services(options: Options) -> anyhow::Result<ExitCode> {
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let places = places(&options, &config)?;
    let registries = Registries::start(
        Handle::current(),
        config.registries,
        None,
        Arc::new(DubboMetadata),
    )?;
    if let Some(name) = &options.name {
        return one(&options, &registries, &places, name).await;
    }
    let mut failed = false;
    let mut table = Table::new(options.json);
    for place in &places {
        let names = registries
            .services(&place.registry, place.layout, PATIENCE)
            .await;
        let Some(names) = names else {
            if !failed {
                eprintln!("registry {} does not answer", place.registry);
            }
            failed = true;
            continue;
        };
        for name in names {
            if let Some(offer) = first(&registries, place, &name).await
                && !offer.providers.is_empty()
            {
                table.print(place, &name, &offer);
            }
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn places(options: &Options, config: &config::Config) -> anyhow::Result<Vec<Place>> {
    let layouts: Vec<Layout> = match &options.layout {
        Some(name) => match Layout::named(name) {
            Some(layout) => vec![layout],
            None => anyhow::bail!(
                "no layout is called `{name}`; write one of: {}",
                Layout::names().join(", ")
            ),
        },
        None => Layout::names()
            .into_iter()
            .filter_map(Layout::named)
            // The application level is part of `dubbo`, and names of gRPC services cannot be
            // told from other keys unless they have a root.
            .filter(|layout| !matches!(layout, Layout::DubboApp))
            .collect(),
    };
    let registries: Vec<&str> = config
        .registries
        .iter()
        .filter(|(_, registry)| !registry.is_several())
        .map(|(name, _)| name.as_str())
        .filter(|name| options.registry.as_deref().is_none_or(|own| own == *name))
        .collect();
    anyhow::ensure!(
        !registries.is_empty(),
        "the configuration names no such registry"
    );
    Ok(registries
        .iter()
        .flat_map(|registry| {
            layouts.iter().map(|layout| Place {
                registry: (*registry).to_owned(),
                layout: *layout,
            })
        })
        .collect())
}

async fn first(registries: &Registries, place: &Place, name: &str) -> Option<Arc<Offer>> {
    let mut offers = registries.offers(&place.registry, place.layout, name)?;
    let offer = async {
        loop {
            if let Some(offer) = offers.latest() {
                return offer;
            }
            offers.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, offer).await.ok()
}

/// Lists one service wherever it is.
async fn one(
    options: &Options,
    registries: &Registries,
    places: &[Place],
    name: &str,
) -> anyhow::Result<ExitCode> {
    let mut found = false;
    let mut table = Table::new(options.json);
    let mut followed = Vec::new();
    for place in places {
        let offer = first(registries, place, name).await;
        if let Some(offer) = offer.filter(|offer| offer.known || options.watch) {
            found |= offer.known;
            if offer.known {
                table.print(place, name, &offer);
            }
            if let Some(offers) = registries.offers(&place.registry, place.layout, name) {
                followed.push((place, offers));
            }
        }
    }
    if !options.watch {
        if !found {
            eprintln!("{name} is in none of the registries");
        }
        return Ok(if found {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    for (_, offers) in &mut followed {
        // Printed already.
        let _ = offers.latest();
    }
    anyhow::ensure!(!followed.is_empty(), "no registry answers");
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    loop {
        let changed = async {
            let waiting = followed
                .iter_mut()
                .map(|(_, offers)| Box::pin(offers.changed()));
            futures_util::future::select_all(waiting).await.1
        };
        tokio::select! {
            which = changed => {
                let (place, offers) = &mut followed[which];
                if let Some(offer) = offers.latest() {
                    table.print(place, name, &offer);
                }
            }
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Rows for people, or objects for programs.
struct Table {
    json: bool,
    headed: bool,
}

impl Table {
    fn new(json: bool) -> Self {
        Self {
            json,
            headed: false,
        }
    }

    fn print(&mut self, place: &Place, name: &str, offer: &Offer) {
        if self.json {
            let object = json!({
                "registry": place.registry,
                "layout": place.layout.name(),
                "service": name,
                "known": offer.known,
                "providers": offer.providers,
            });
            println!("{object}");
            return;
        }
        if !self.headed {
            self.headed = true;
            println!(
                "{:<8} {:<9} {:<40} {:<21} {:<8} {:<8} {:<8} {:>6} {:>8}  LABELS",
                "REGISTRY",
                "LAYOUT",
                "SERVICE",
                "ENDPOINT",
                "SPEAKS",
                "VERSION",
                "GROUP",
                "WEIGHT",
                "AGE"
            );
        }
        let registry = &place.registry;
        if offer.providers.is_empty() {
            println!(
                "{registry:<8} {:<9} {name:<40} (no providers)",
                place.layout.name()
            );
        }
        for provider in &offer.providers {
            let labels: Vec<String> = provider
                .labels
                .iter()
                .filter(|(label, _)| !matches!(*label, "version" | "group"))
                .map(|(label, value)| format!("{label}={value}"))
                .chain(
                    provider
                        .origin
                        .iter()
                        .map(|origin| format!("(bridged from {origin})")),
                )
                .collect();
            println!(
                "{registry:<8} {:<9} {name:<40} {:<21} {:<8} {:<8} {:<8} {:>6} {:>8}  {}",
                provider.layout.name(),
                provider.address,
                provider.protocol,
                dash(&provider.version),
                dash(&provider.group),
                provider.weight,
                age(provider.since),
                labels.join(" ")
            );
        }
    }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Time since a moment, in its largest unit.
fn age(since: Option<u64>) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let Some(since) = since.filter(|since| *since > 0) else {
        return "-".to_owned();
    };
    let seconds = now.saturating_sub(Duration::from_millis(since)).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
