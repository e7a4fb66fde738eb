//! What a world is made of: its services, endpoints, policies and limits, drawn from the seed.

use std::net::SocketAddr;
use std::time::Duration;

use finback_core::balance::{HashOn, Policy};
use finback_core::cluster::{ClusterPolicy, ClusterSpec, Source};
use finback_core::discovery::{Instance, Snapshot};
use finback_core::mesh::{Limits, RoutingSpec};
use finback_core::outlier::Outlier;
use finback_core::route::{Destination, Match, Retry, Route, RouteTable, Text, Weighted};

use super::chance::Chance;
use super::tongue::Tongue;

/// The registry's name, and its layout's.
pub(super) const REGISTRY: &str = "simulated";

/// Endpoints of one service or more.
pub(super) struct Group {
    pub(super) name: String,
    /// They are looked up by calls, and not listed in the configuration.
    pub(super) registered: bool,
    pub(super) policy: ClusterPolicy,
    /// The numbers of its servers, and whether routing (or the registry) has them now.
    pub(super) servers: Vec<(usize, bool)>,
}

/// What calls ask for.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) group: usize,
    pub(super) retry: Retry,
    pub(super) timeout: Option<Duration>,
}

/// A world's configuration; reloads change it.
pub(super) struct Plan {
    pub(super) tongue: Tongue,
    /// What endpoints speak.
    pub(super) served: Tongue,
    pub(super) workers: usize,
    pub(super) groups: Vec<Group>,
    pub(super) services: Vec<Service>,
    pub(super) limits: Limits,
    pub(super) table: String,
    /// Connections are closed after a short silence.
    pub(super) short_idle: bool,
    /// All answers are long.
    pub(super) large_answers: bool,
    /// The shortest time that the limits ever gave to a call.
    pub(super) least_timeout: u64,
}

fn millis(chance: &mut Chance, least: u64, most: u64) -> Duration {
    Duration::from_millis(chance.between(least, most))
}

/// Where the server of this number listens.
pub(super) fn address(server: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + server as u8], 1000))
}

fn instance(server: usize) -> Instance {
    Instance {
        address: address(server),
        weight: 100,
        labels: Default::default(),
        warm_up: None,
        terms: None,
    }
}

impl Plan {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let tongue = match chance.between(0, 19) {
            0 | 1 => Tongue::Bolt,
            2 | 3 => Tongue::Dubbo,
            4..=8 => Tongue::Http,
            9..=11 => Tongue::Http2,
            _ => Tongue::Toy,
        };
        let served = match tongue {
            Tongue::Http | Tongue::Http2 if chance.one_in(4) => {
                chance.pick(&[Tongue::Http, Tongue::Http2])
            }
            same => same,
        };
        let mut plan = Self {
            tongue,
            served,
            workers: chance.between(1, 3) as usize,
            groups: Vec::new(),
            services: Vec::new(),
            limits: limits(chance),
            table: "main".to_owned(),
            short_idle: chance.one_in(6),
            large_answers: tongue == Tongue::Toy && chance.one_in(5),
            least_timeout: u64::MAX,
        };
        plan.note_timeouts();
        if plan.short_idle {
            plan.limits.idle = millis(chance, 1000, 5000);
        }
        let mut servers = 0;
        for number in 0..chance.between(1, 3) as usize {
            let count = chance.between(1, 5) as usize;
            let group = Group {
                name: format!("group{number}"),
                registered: chance.one_in(3),
                policy: ClusterPolicy {
                    version: served.is_http().then(|| served.version().into()),
                    ..policy(chance)
                },
                servers: (servers..servers + count).map(|own| (own, true)).collect(),
            };
            servers += count;
            plan.add_services(chance, number, group.registered);
            plan.groups.push(group);
        }
        plan
    }

    fn add_services(&mut self, chance: &mut Chance, group: usize, registered: bool) {
        let count = if registered { 1 } else { chance.between(1, 2) };
        for _ in 0..count {
            let only = self.tongue.service();
            if only.is_some() && !self.services.is_empty() {
                return;
            }
            let name = match only {
                Some(name) => name.to_owned(),
                None => format!("service{}", self.services.len()),
            };
            let mut retry = Retry {
                attempts: chance.between(1, 4) as u32,
                idempotent: chance.one_in(2),
                refused: chance.one_in(2),
                per_try_timeout: chance.one_in(3).then(|| millis(chance, 300, 3000)),
                hedging_delay: None,
            };
            // No draw of its own: worlds of known seeds are to stay what they are.
            if retry.attempts == 4 && retry.idempotent {
                retry.hedging_delay = Some(Duration::from_millis(40));
            }
            self.services.push(Service {
                name,
                group,
                retry,
                timeout: chance.one_in(2).then(|| millis(chance, 400, 15_000)),
            });
        }
    }

    /// What is spoken, for reports.
    pub(super) fn spoken(&self) -> &'static str {
        match (self.tongue, self.served) {
            (Tongue::Http, Tongue::Http2) => "http/1.1 to 2",
            (Tongue::Http2, Tongue::Http) => "http/2 to 1.1",
            (Tongue::Http2, _) => "http/2",
            (Tongue::Http, _) => "http/1.1",
            (other, _) => other.name(),
        }
    }

    pub(super) fn servers(&self) -> usize {
        self.groups.iter().map(|group| group.servers.len()).sum()
    }

    /// What the registry knows of a group now.
    pub(super) fn snapshot(&self, group: usize) -> Snapshot {
        Snapshot {
            known: true,
            instances: self.instances(group),
            ..Snapshot::default()
        }
    }

    fn instances(&self, group: usize) -> Vec<Instance> {
        let servers = self.groups[group].servers.iter();
        let present = servers.filter(|(_, present)| *present);
        present.map(|(server, _)| instance(*server)).collect()
    }

    /// The group whose services the registry has under this name.
    pub(super) fn registered(&self, service: &str) -> Option<usize> {
        let found = self.services.iter().find(|own| own.name == service)?;
        self.groups[found.group].registered.then_some(found.group)
    }

    /// The routing that it makes.
    pub(super) fn routing(&self) -> RoutingSpec {
        let routes = self.services.iter().map(|service| {
            let group = &self.groups[service.group];
            let to = if group.registered {
                Destination::Registry {
                    registry: REGISTRY.into(),
                    layout: Some(REGISTRY.into()),
                }
            } else {
                Destination::Clusters(vec![Weighted {
                    cluster: group.name.as_str().into(),
                    weight: 1,
                    subset: None,
                    spill: true,
                }])
            };
            Route {
                name: service.name.as_str().into(),
                when: Match {
                    service: Text::Exact(service.name.as_str().into()),
                    ..Match::default()
                },
                to,
                timeout: service.timeout,
                retry: service.retry.clone(),
                priority: Default::default(),
                long_poll: false,
                tracing: None,
                filters: Default::default(),
                shadow: None,
                tap: None,
                treatment: None,
            }
        });
        let listed = (0..self.groups.len()).filter(|group| !self.groups[*group].registered);
        RoutingSpec {
            tables: vec![RouteTable {
                name: self.table.as_str().into(),
                routes: routes.map(Into::into).collect(),
            }],
            clusters: listed
                .map(|group| ClusterSpec {
                    name: self.groups[group].name.as_str().into(),
                    source: Source::Listed(self.instances(group)),
                    policy: self.groups[group].policy.clone(),
                })
                .collect(),
            filters: Vec::new(),
            listener_filters: Default::default(),
            registry_policy: self.registry_policy(),
            limits: self.limits.clone(),
        }
    }

    fn registry_policy(&self) -> ClusterPolicy {
        let registered = self.groups.iter().find(|group| group.registered);
        registered.map_or_else(ClusterPolicy::default, |group| group.policy.clone())
    }

    fn note_timeouts(&mut self) {
        let own = self.limits.call_timeout.min(self.limits.call_timeout_max);
        self.least_timeout = self.least_timeout.min(own.as_millis() as u64);
    }

    /// The places that a call of this service may take at a time: those of two attempts where it is hedged.
    pub(super) fn places_of(&self, service: usize) -> usize {
        let delay = self.services[service].retry.hedging_delay;
        1 + usize::from(delay.is_some())
    }

    /// The least time that a call of this service ever had, whose caller gives it this much.
    pub(super) fn time_of(&self, service: usize, own: Option<u64>) -> u64 {
        let service = &self.services[service];
        let bounds = [service.timeout, service.retry.per_try_timeout];
        let bounds = bounds.into_iter().flatten();
        let bounds = bounds.map(|bound| bound.as_millis() as u64);
        let least = bounds.chain(own).min().unwrap_or(u64::MAX);
        least.min(self.least_timeout)
    }

    /// Changes a limit; the next routing has it.
    pub(super) fn change_limit(&mut self, chance: &mut Chance) {
        let fresh = limits(chance);
        let own = &mut self.limits;
        match chance.between(0, 6) {
            0 => own.in_flight_per_connection = fresh.in_flight_per_connection,
            1 => {
                own.queue_soft = fresh.queue_soft;
                own.queue_hard = fresh.queue_hard;
            }
            2 => own.call_timeout = fresh.call_timeout,
            3 => own.frame_rate = fresh.frame_rate,
            4 => own.upstream_connections = fresh.upstream_connections,
            5 => own.half_closed = fresh.half_closed,
            _ => {
                let group = chance.index(self.groups.len());
                self.groups[group].policy.max_in_flight = policy(chance).max_in_flight;
            }
        }
        self.note_timeouts();
    }
}

/// The most that any deadline is away, and some more.
pub(super) const LONGEST: u64 = 20_000;

/// The most that a client which closed its sending side is waited for.
pub(super) const LONGEST_HALF_CLOSED: u64 = 5000;

fn limits(chance: &mut Chance) -> Limits {
    let soft = chance.between(4, 64) as usize * 1024;
    Limits {
        in_flight_per_connection: chance.between(2, 60) as u32,
        queue_soft: soft,
        queue_hard: soft.max(32 * 1024) + chance.between(0, 96) as usize * 1024,
        idle: Duration::from_secs(3600),
        call_timeout: millis(chance, 2000, LONGEST),
        call_timeout_max: millis(chance, 5000, LONGEST),
        half_closed: millis(chance, 500, LONGEST_HALF_CLOSED),
        frame_rate: chance.pick(&[0, 1024, 16 * 1024]),
        upstream_connections: chance.pick(&[3, 6, 1000, 1000]),
        drain_grace: millis(chance, 100, 2000),
        drain: millis(chance, 500, 5000),
        ..Limits::default()
    }
}

fn policy(chance: &mut Chance) -> ClusterPolicy {
    ClusterPolicy {
        balance: match chance.between(0, 4) {
            0 => Policy::Random,
            1 => Policy::LeastRequest,
            2 => Policy::PeakEwma,
            3 => Policy::ConsistentHash(HashOn::Source),
            _ => Policy::RoundRobin,
        },
        connect_timeout: millis(chance, 200, 1500),
        connections: chance.between(1, 4) as u32,
        heartbeat_interval: millis(chance, 500, 5000),
        heartbeat_misses: chance.between(1, 3) as u32,
        max_in_flight: chance.pick(&[0, 5, 30, 10_000]),
        per_endpoint: chance.pick(&[0, 0, 0, 4, 20]),
        outlier: Outlier {
            consecutive: chance.between(1, 5) as u32,
            max_percent: chance.pick(&[10, 50, 100]),
            ..Outlier::default()
        },
        panic_percent: chance.pick(&[0, 50, 50]),
        retry_budget: chance.pick(&[0, 20, 100]),
        ..ClusterPolicy::default()
    }
}
