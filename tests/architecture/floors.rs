//! Core's floors: what each folder of `core/src` may use, as data, and the check of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::bans::Ban;
use crate::paths::Crate;

/// One floor of core: modules that may use each other, and those of some other floors.
struct Floor {
    name: &'static str,
    /// What stands there, for the reader of the page.
    holds: &'static str,
    /// Modules of `core/src`; each of them is a file, a folder, or both.
    modules: &'static [&'static str],
    /// Floors that it may use besides itself.
    may_use: &'static [&'static str],
    /// What it must not name; tests may.
    bans: &'static [Ban],
}

const CLOCK: &str = "time is an argument: `clock::Now`";
const SOCKET: &str = "bytes are the drivers' business";
const TASK: &str = "only a driver has tasks: `Worker::spawn`";
const CHANCE: &str = "chance is an argument: `rng::Rng`";

/// From the bottom to the top.
const FLOORS: [Floor; 5] = [
    Floor {
        name: "vocabulary",
        holds: "words and ports: what everybody speaks of, and what others implement",
        modules: &[
            "boxed",
            "clock",
            "codec",
            "conformance",
            "discovery",
            "endpoint",
            "frame",
            "identity",
            "log_limit",
            "metric",
            "own_error",
            "record",
            "rejection",
            "rng",
            "stats",
            "tap",
            "text",
            "trace",
        ],
        may_use: &[],
        bans: &[
            Ban {
                named: "tokio",
                instead: "nothing here waits",
                except: &[(
                    "clock.rs",
                    "turns our time into the timers' time, and reads it",
                )],
            },
            Ban {
                named: "std::time::Instant",
                instead: CLOCK,
                except: &[],
            },
            Ban {
                named: "SystemTime::now",
                instead: CLOCK,
                except: &[("clock.rs", "it is the clock")],
            },
            Ban {
                named: "TcpStream",
                instead: SOCKET,
                except: &[],
            },
            Ban {
                named: "spawn",
                instead: TASK,
                except: &[],
            },
            Ban {
                named: "RandomState",
                instead: CHANCE,
                except: &[],
            },
        ],
    },
    Floor {
        name: "net",
        holds: "the transport kit: sockets, TLS, dialling, turns, timers, the lingering close",
        modules: &["net"],
        may_use: &["vocabulary"],
        bans: &[
            Ban {
                named: "spawn",
                instead: TASK,
                except: &[],
            },
            Ban {
                named: "spawn_local",
                instead: TASK,
                except: &[],
            },
            Ban {
                named: "SystemTime::now",
                instead: CLOCK,
                except: &[],
            },
        ],
    },
    Floor {
        name: "routing",
        holds: "which endpoint, how often, how long; endpoints of one snapshot; how health is asked for",
        modules: &[
            "balance",
            "budget",
            "cluster",
            "concurrency",
            "filter",
            "health",
            "outlier",
            "route",
            "subset",
            "traffic_rules",
        ],
        may_use: &["vocabulary", "net"],
        bans: &[
            Ban {
                named: "Instant::now",
                instead: CLOCK,
                except: &[],
            },
            Ban {
                named: "SystemTime::now",
                instead: CLOCK,
                except: &[],
            },
            Ban {
                named: "tokio::net",
                instead: SOCKET,
                except: &[],
            },
            Ban {
                named: "tokio::task",
                instead: TASK,
                except: &[],
            },
            Ban {
                named: "spawn",
                instead: TASK,
                except: &[],
            },
            Ban {
                named: "RandomState",
                instead: CHANCE,
                except: &[],
            },
        ],
    },
    Floor {
        name: "mesh",
        holds: "decisions: exchanges, attempts, the table of verdicts; a worker's share of all that",
        modules: &["mesh"],
        may_use: &["vocabulary", "routing"],
        bans: &[
            Ban {
                named: "Instant::now",
                instead: CLOCK,
                except: &[],
            },
            Ban {
                named: "SystemTime::now",
                instead: CLOCK,
                except: &[],
            },
            Ban {
                named: "tokio::net",
                instead: SOCKET,
                except: &[],
            },
            Ban {
                named: "tokio::io",
                instead: SOCKET,
                except: &[],
            },
            Ban {
                named: "Socket",
                instead: SOCKET,
                except: &[],
            },
            Ban {
                named: "tokio::task",
                instead: TASK,
                except: &[],
            },
            Ban {
                named: "spawn",
                instead: TASK,
                except: &[],
            },
            Ban {
                named: "spawn_local",
                instead: TASK,
                except: &[],
            },
        ],
    },
    Floor {
        name: "driver",
        holds: "threads, tasks and connections: they move bytes and decide nothing",
        modules: &["driver"],
        may_use: &["vocabulary", "net", "routing", "mesh"],
        bans: &[
            Ban {
                named: "std::time::Instant",
                instead: "`tokio::time::Instant`",
                except: &[],
            },
            Ban {
                named: "SystemTime::now",
                instead: CLOCK,
                except: &[],
            },
        ],
    },
];

fn floor_of<'a>(floors: &'a [Floor], module: &str) -> Option<&'a Floor> {
    floors.iter().find(|floor| floor.modules.contains(&module))
}

/// Every use of a floor that is above, and everything named that a floor must not name.
fn faults(floors: &[Floor], source: &Crate) -> Vec<String> {
    let mut faults = Vec::new();
    for written in &source.written {
        // What stands in the root belongs to no floor: it only lists the others.
        let Some(own) = written.module.first().and_then(|own| floor_of(floors, own)) else {
            continue;
        };
        let place = format!("core/src/{}:{}", written.file, written.line);
        let path = written.segments.join("::");
        for touched in source.touched(written) {
            let Some(other) = touched.first().and_then(|name| floor_of(floors, name)) else {
                continue;
            };
            if other.name != own.name && !own.may_use.contains(&other.name) {
                let stands = touched.join("::");
                faults.push(format!(
                    "{place}: {} may not use {}, but `{path}` leads to `crate::{stands}`",
                    own.name, other.name
                ));
            }
        }
    }
    for floor in floors {
        for ban in floor.bans {
            let stands = |module: &[String]| {
                module
                    .first()
                    .is_some_and(|own| floor.modules.contains(&own.as_str()))
            };
            faults.extend(ban.faults("core/src/", floor.name, source, stands));
        }
    }
    faults
}

/// Modules of core in an order in which each uses only those before it, or those that stand in a
/// circle.
fn order(source: &Crate) -> Result<Vec<String>, Vec<String>> {
    let mut uses: BTreeMap<String, BTreeSet<String>> = source
        .top()
        .map(|module| (module.clone(), BTreeSet::new()))
        .collect();
    for written in source.written.iter().filter(|written| !written.test) {
        let Some(own) = written.module.first() else {
            continue;
        };
        let touched = source.touched(written);
        let others = touched
            .into_iter()
            .filter_map(|module| module.first().cloned());
        let known = uses.entry(own.clone()).or_default();
        known.extend(others.filter(|other| other != own));
    }
    let mut ordered: Vec<String> = Vec::new();
    while !uses.is_empty() {
        let free = |uses: &BTreeSet<String>| uses.iter().all(|other| ordered.contains(other));
        let next: Vec<String> = uses
            .iter()
            .filter(|(_, own)| free(own))
            .map(|(name, _)| name.clone())
            .collect();
        if next.is_empty() {
            return Err(circle(uses));
        }
        uses.retain(|name, _| !next.contains(name));
        ordered.extend(next);
    }
    Ok(ordered)
}

/// Of modules that cannot be ordered, those that stand in a circle themselves.
fn circle(mut uses: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let used: BTreeSet<String> = uses.values().flatten().cloned().collect();
        let before = uses.len();
        uses.retain(|name, _| used.contains(name));
        let left: BTreeSet<String> = uses.keys().cloned().collect();
        uses.values_mut()
            .for_each(|own| own.retain(|other| left.contains(other)));
        if uses.len() == before {
            return uses
                .into_iter()
                .map(|(name, own)| format!("{name} uses {own:?}"))
                .collect();
        }
    }
}

/// The table as the page shows it.
fn table() -> String {
    let code = |names: &[&str]| {
        let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        quoted.join(", ")
    };
    let mut text = String::from(
        "| floor | modules of `core/src` | what stands there | may use | must not name |\n|---|---|---|---|---|\n",
    );
    // As a building is drawn: the top first.
    for floor in FLOORS.iter().rev() {
        let may_use = if floor.may_use.is_empty() {
            "nothing of ours"
        } else {
            &floor.may_use.join(", ")
        };
        let bans: Vec<_> = floor
            .bans
            .iter()
            .map(|ban| {
                let except: Vec<_> = ban.except.iter().map(|(file, _)| *file).collect();
                let own = format!("`{}`", ban.named);
                if except.is_empty() {
                    own
                } else {
                    format!("{own} (but {})", code(&except))
                }
            })
            .collect();
        text.push_str(&format!(
            "| {} | {} | {} | {may_use} | {} |\n",
            floor.name,
            code(floor.modules),
            floor.holds,
            bans.join(", "),
        ));
    }
    text
}

#[path = "floors_tests.rs"]
mod tests;
