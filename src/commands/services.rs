//! `finback services`: what registries say, for a person who wonders.

mod table;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use finback_core::text::Escaped;
use finback_registry::{LayoutKind, Offer, Offers, Registries, RegistryConfig};
use futures_util::future::{join_all, select_all};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use self::table::Table;
pub(crate) use self::table::terminal_width;
use crate::config;
use crate::log::complain;
use crate::metadata::DubboMetadata;

/// How long a registry may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection to one of its servers may take.
const PROBE: Duration = Duration::from_secs(2);

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
    layout: LayoutKind,
}

/// Lists services; exits 1 if a registry does not answer, or the service asked for is nowhere.
///
/// # Errors
/// If the configuration is bad or names no such registry or layout.
pub async fn services(options: Options) -> anyhow::Result<ExitCode> {
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(error) => {
            complain(format_args!("{error}"));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut places = places(&options, &config)?;
    let servers = servers(&config);
    let registries = Registries::start(
        Handle::current(),
        config.registries,
        None,
        Arc::new(DubboMetadata),
    );
    let silent = silent(&registries, &places, &servers).await;
    places.retain(|place| !silent.contains(&place.registry));
    let listed = match &options.name {
        Some(name) => one(&options, &registries, &places, name).await?,
        None => all(&options, &registries, &places).await,
    };
    Ok(if listed && silent.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Says of each registry that does not answer what is the matter, and returns their names.
async fn silent(
    registries: &Registries,
    places: &[Place],
    servers: &HashMap<String, Vec<String>>,
) -> BTreeSet<String> {
    let names: BTreeSet<&String> = places.iter().map(|place| &place.registry).collect();
    let asked = names.into_iter().map(|name| async move {
        let addresses = servers.get(name).map(Vec::as_slice).unwrap_or_default();
        let probes = join_all(addresses.iter().map(|address| probe(address)));
        let (answer, probes) = tokio::join!(registries.reach(name, PATIENCE), probes);
        answer.err().map(|why| (name.clone(), why, probes))
    });
    let mut silent = BTreeSet::new();
    for (name, why, probes) in join_all(asked).await.into_iter().flatten() {
        complain(format_args!(
            "registry {name} does not answer: {why}; {}",
            probes.join("; ")
        ));
        silent.insert(name);
    }
    silent
}

/// What becomes of a connection to a server.
async fn probe(address: &str) -> String {
    match tokio::time::timeout(PROBE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => format!("{address} takes connections"),
        Ok(Err(error)) => format!("{address}: {error}"),
        Err(_) => format!("{address}: no answer within {PROBE:?}"),
    }
}

/// The addresses of the servers of each registry that has any.
fn servers(config: &config::Config) -> HashMap<String, Vec<String>> {
    let registries = config.registries.iter();
    let servers = registries.filter_map(|(name, config)| match config {
        RegistryConfig::Servers(config) => Some((name.clone(), config.store.addresses())),
        _ => None,
    });
    servers.collect()
}

/// Lists everything. `false` if something could not be read, or there is nothing at all.
async fn all(options: &Options, registries: &Registries, places: &[Place]) -> bool {
    let mut table = Table::new(options.json);
    let mut complete = true;
    let mut empty: BTreeSet<&String> = places.iter().map(|place| &place.registry).collect();
    for place in places {
        let Place { registry, layout } = place;
        let names = registries.services(registry, *layout, PATIENCE).await;
        let Some(names) = names else {
            let layout = layout.name();
            complain(format_args!(
                "registry {registry} does not tell its services of layout {layout}"
            ));
            complete = false;
            continue;
        };
        for name in names {
            match first(registries, place, &name).await {
                Some(offer) if offer.providers.is_empty() => {}
                Some(offer) => {
                    empty.remove(registry);
                    table.add(place, &name, &offer);
                }
                None => complete = false,
            }
        }
    }
    table.print();
    let is_empty = places.iter().all(|place| empty.contains(&place.registry));
    for registry in empty {
        let layouts = places.iter().filter(|place| place.registry == *registry);
        let layouts: Vec<&str> = layouts.map(|place| place.layout.name()).collect();
        complain(format_args!(
            "registry {registry} answers, but has no providers of: {}; is its root or chroot right?",
            layouts.join(", ")
        ));
    }
    complete && !is_empty
}

fn places(options: &Options, config: &config::Config) -> anyhow::Result<Vec<Place>> {
    let layouts: Vec<LayoutKind> = match &options.layout {
        Some(name) => match LayoutKind::named(name) {
            Some(layout) => vec![layout],
            None => anyhow::bail!(
                "no layout is called `{name}`; write one of: {}",
                LayoutKind::names().join(", ")
            ),
        },
        None => LayoutKind::names()
            .into_iter()
            .filter_map(LayoutKind::named)
            // The application level is part of `dubbo`, and names of gRPC services cannot be
            // told from other keys unless they have a root.
            .filter(|layout| *layout != LayoutKind::DubboApp)
            .collect(),
    };
    let wanted = |name: &str| options.registry.as_deref().is_none_or(|own| own == name);
    let registries = config.registries.iter().filter(|(name, _)| wanted(name));
    let (servers, lists): (Vec<_>, Vec<_>) =
        registries.partition(|(_, config)| matches!(config, RegistryConfig::Servers(_)));
    if servers.is_empty() {
        match lists.first() {
            Some((name, _)) => anyhow::bail!("`{name}` has no servers to ask: it is a list or DNS"),
            None => anyhow::bail!("the configuration names no such registry"),
        }
    }
    let registries: Vec<&String> = servers.into_iter().map(|(name, _)| name).collect();
    Ok(registries
        .iter()
        .flat_map(|registry| {
            layouts.iter().map(|layout| Place {
                registry: (*registry).clone(),
                layout: *layout,
            })
        })
        .collect())
}

/// The first offer of a service; `None`, and a word about it, if there is none.
async fn first(registries: &Registries, place: &Place, name: &str) -> Option<Arc<Offer>> {
    let Place { registry, layout } = place;
    let mut offers = registries.offers(registry, *layout, name)?;
    let offer = async {
        loop {
            if let Some(offer) = offers.latest() {
                return offer;
            }
            offers.changed().await;
        }
    };
    let offer = tokio::time::timeout(PATIENCE, offer).await.ok();
    if offer.is_some() && !offers.is_refused() {
        return offer;
    }
    let why = match offer {
        Some(_) => "does not let us read",
        None => "does not tell",
    };
    let (layout, name) = (layout.name(), Escaped(name));
    complain(format_args!(
        "registry {registry} {why} who provides {name} ({layout})"
    ));
    None
}

/// Lists one service wherever it is. `false` if it is nowhere.
async fn one(
    options: &Options,
    registries: &Registries,
    places: &[Place],
    name: &str,
) -> anyhow::Result<bool> {
    let mut found = false;
    let mut is_told = true;
    let mut table = Table::new(options.json);
    let mut followed = Vec::new();
    for place in places {
        let Some(mut offers) = registries.offers(&place.registry, place.layout, name) else {
            continue;
        };
        let known = match first(registries, place, name).await {
            Some(offer) if offer.known => {
                table.add(place, name, &offer);
                true
            }
            Some(_) => false,
            None => {
                is_told = false;
                false
            }
        };
        found |= known;
        // Printed already.
        let _ = offers.latest();
        followed.push((place, offers, known));
    }
    table.print();
    if !options.watch {
        if !found && is_told && !places.is_empty() {
            complain(format_args!(
                "{name} is in none of the registries that answer"
            ));
        }
        return Ok(found && is_told);
    }
    anyhow::ensure!(!followed.is_empty(), "no registry answers");
    watch(name, &mut table, &mut followed).await?;
    Ok(true)
}

/// Lists a service again whenever it changes, until interrupted.
async fn watch(
    name: &str,
    table: &mut Table,
    followed: &mut [(&Place, Offers, bool)],
) -> anyhow::Result<()> {
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    loop {
        let changed = async {
            let waiting = followed
                .iter_mut()
                .map(|(_, offers, _)| Box::pin(offers.changed()));
            select_all(waiting).await.1
        };
        tokio::select! {
            which = changed => {
                let (place, offers, known) = &mut followed[which];
                let Some(offer) = offers.latest() else { continue };
                // A layout in which it never was is none of its.
                if offer.known || *known {
                    *known = true;
                    table.add(place, name, &offer);
                    table.print();
                }
            }
            _ = interrupt.recv() => return Ok(()),
        }
    }
}
