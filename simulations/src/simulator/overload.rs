//! Overload: real workers between callers that come whatever becomes of their calls, and servers that serve so many at a
//! time. What counts is goodput: answers that come while their callers still wait.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use finback_core::cluster::{ClusterPolicy, ClusterSpec, Source};
use finback_core::concurrency::{AdaptiveConcurrency, Priority};
use finback_core::discovery::Instance;
use finback_core::driver::{Crew, ListenerSpec};
use finback_core::frame::Kind;
use finback_core::mesh::{ConcurrencyStatus, Limits, Mesh, RoutingSpec};
use finback_core::net::{Network as Dialler, Socket};
use finback_core::outlier::Outlier;
use finback_core::record::{Observer, Record, Series, SeriesKey};
use finback_core::route::{Destination, Match, Retry, Route, RouteTable, Text, Weighted};

use super::chance::Chance;
use super::network::{Door, Event, MeshEnd, Network, Pace, Peer, Time};
use super::passing::{Passing, in_virtual_time};
use super::plan::address;
use super::registry::{Known, Registry};
use super::tongue::{self, Call, ReadLog, Tongue};
use super::toy;

/// Servers.
const SERVERS: usize = 2;
/// Connections of callers.
const CLIENTS: usize = 4;
const WORKERS: usize = 2;
const LISTENER: u64 = 1;
const SERVICES: [(&str, Priority); 3] = [
    ("critical", Priority::Critical),
    ("default", Priority::Default),
    ("sheddable", Priority::Sheddable),
];

/// How callers come, and how they are served; times in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// Calls that each of two servers serves at a time.
    pub slots: usize,
    /// Calls a second, at a second.
    pub rate: fn(u64) -> u64,
    /// How long one is served, at a second, by a lot between 0 and 1.
    pub service: fn(u64, f64) -> u64,
    /// Callers wait no longer.
    pub patience: u64,
    /// The seconds in which answers count.
    pub counted: (u64, u64),
    /// How the calls are shared out to the priorities: critical, default, sheddable.
    pub shares: [u64; 3],
}

/// What bounds the calls in flight.
#[derive(Clone, Copy, Debug)]
pub enum Limiter {
    /// So many.
    Fixed(u32),
    /// As many as are found out.
    Adaptive(AdaptiveConcurrency),
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Calls of each priority that were made in the time that counts.
    pub calls: [u64; 3],
    /// Those that were answered in time.
    pub good: [u64; 3],
    /// What was found out in the end.
    pub found: Option<ConcurrencyStatus>,
}

impl Outcome {
    /// All answers in time.
    #[must_use]
    pub fn goodput(&self) -> u64 {
        self.good.iter().sum()
    }
}

/// Nobody wants records.
struct Nobody;

impl Series for Nobody {
    fn record(&self, _: &Record) {}
}

impl Observer for Nobody {
    fn series(&self, _: usize, _: &SeriesKey) -> Arc<dyn Series> {
        Arc::new(Self)
    }
}

/// Runs a story to its end. The same seed gives the same run.
///
/// # Errors
/// If there can be no runtime.
pub fn overload(story: &Story, limiter: Limiter, seed: u64) -> std::io::Result<Outcome> {
    let story = *story;
    in_virtual_time(async move { Scene::new(story, limiter, seed).play().await })
}

/// A server with its queue.
#[derive(Default)]
struct Server {
    inboxes: BTreeMap<usize, Vec<u8>>,
    queue: VecDeque<(usize, u64)>,
    busy: usize,
    /// What is served, by when it is done.
    due: BTreeMap<(Time, u64), (usize, u64)>,
    served: u64,
}

/// The scene.
struct Scene {
    story: Story,
    network: Network,
    mesh: Arc<Mesh>,
    _crew: Crew,
    chance: Chance,
    servers: Vec<Server>,
    /// The connections of callers, with what they have read of the next frame.
    clients: Vec<(usize, Vec<u8>)>,
    /// Each call's time and priority, by its id.
    calls: Vec<(Time, usize)>,
    /// When the next call comes, in microseconds.
    next: f64,
    outcome: Outcome,
}

const PACE: Pace = Pace {
    delay: 1,
    room: 1 << 20,
    parts: false,
};

impl Passing for Scene {
    fn network(&self) -> &Network {
        &self.network
    }

    fn gives_turn(&mut self) -> bool {
        false
    }

    /// Nothing stands still here.
    async fn pause_after(&mut self, _: Event) {}

    fn take(&mut self, event: Event) {
        match event {
            Event::ToMesh(conn) => self.network.lock().deliver(conn, true),
            Event::ToPeer(conn) => {
                let mut net = self.network.lock();
                net.deliver(conn, false);
                let peer = net.peer(conn);
                drop(net);
                match peer {
                    Peer::Client(client) => self.hear_answers(client),
                    Peer::Server(server) => self.hear_calls(server, conn),
                }
            }
            Event::Dialled(conn) => {
                let mut net = self.network.lock();
                if let Peer::Server(server) = net.peer(conn) {
                    net.decide(conn, Some(address(server)));
                }
            }
            Event::Client(_) => self.arrive(),
            Event::Server(server) => self.finish(server),
            Event::ClientReads(_)
            | Event::Registry(_)
            | Event::Fault
            | Event::Pause(_)
            | Event::Look => {}
        }
    }
}

impl Scene {
    fn new(story: Story, limiter: Limiter, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let network = Network::new(chance.fork());
        let registry = Registry::new(&network, chance.fork());
        let mesh = Mesh::new(
            routing(&story, limiter),
            Default::default(),
            Arc::new(Known(registry)),
            Arc::new(Nobody),
        );
        let dialler: Arc<dyn Dialler> = Arc::new(network.clone());
        let crew = Crew::new(WORKERS, &mesh, chance.draw(), &dialler);
        let spec = ListenerSpec {
            pinned: None,
            stats: Arc::default(),
            name: "front".into(),
            address: SocketAddr::from(([10, 1, 0, 1], 2000)),
            protocols: vec![Tongue::Toy.protocol(ReadLog::default())],
            routes: "main".into(),
            tls: None,
            proxies: Arc::default(),
            reveal_endpoints: false,
            settings: "".into(),
        };
        crew.listen(LISTENER, &spec);
        for number in 0..SERVERS {
            let mut net = network.lock();
            net.set_door(address(number), number, Door::Open, PACE);
        }
        let clients = (0..CLIENTS).map(|number| {
            let conn = network.lock().open(number, PACE);
            let socket = Socket::memory(MeshEnd::new(&network, conn));
            let peer = SocketAddr::from(([10, 2, 0, 1 + number as u8], 3000));
            crew.accept(LISTENER, number % WORKERS, socket, peer);
            (conn, Vec::new())
        });
        let clients = clients.collect();
        network.lock().schedule(0, Event::Client(0));
        Self {
            story,
            network,
            mesh,
            _crew: crew,
            chance,
            servers: (0..SERVERS).map(|_| Server::default()).collect(),
            clients,
            calls: Vec::new(),
            next: 0.0,
            outcome: Outcome {
                calls: [0; 3],
                good: [0; 3],
                found: None,
            },
        }
    }

    async fn play(mut self) -> Outcome {
        self.pass(self.story.counted.1 * 1000).await;
        let status = self.mesh.status();
        self.outcome.found = status.first().and_then(|own| own.concurrency);
        self.outcome
    }

    fn lot(&mut self) -> f64 {
        (self.chance.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn counts(&self, now: Time) -> bool {
        now >= self.story.counted.0 * 1000
    }

    // === Callers ===

    /// Calls come that are due, whatever became of those before.
    fn arrive(&mut self) {
        let now = self.network.lock().now();
        let rate = (self.story.rate)(now / 1000);
        while self.next < (now + 1) as f64 * 1000.0 {
            if rate == 0 {
                // An idle second, or what is left of it.
                self.next = (now / 1000 + 1) as f64 * 1e6;
                break;
            }
            self.call(now);
            self.next -= (1.0 - self.lot()).ln() * 1e6 / rate as f64;
        }
        let later = (self.next / 1000.0) as u64 - now;
        self.network.lock().schedule(later.max(1), Event::Client(0));
    }

    fn call(&mut self, now: Time) {
        let all: u64 = self.story.shares.iter().sum();
        let mut left = self.chance.between(0, all - 1);
        let mut priority = 0;
        while left >= self.story.shares[priority] {
            left -= self.story.shares[priority];
            priority += 1;
        }
        let number = self.calls.len();
        self.calls.push((now, priority));
        self.outcome.calls[priority] += u64::from(self.counts(now));
        let bytes = Tongue::Toy.call(&Call {
            number,
            id: number as u64,
            service: SERVICES[priority].0,
            timeout: Some(self.story.patience),
            padding: 10,
            one_way: false,
        });
        let (conn, _) = self.clients[number % CLIENTS];
        self.network.lock().send(conn, &bytes);
    }

    fn hear_answers(&mut self, client: usize) {
        let (conn, inbox) = &mut self.clients[client];
        let mut net = self.network.lock();
        let heard = net.hear(*conn, usize::MAX);
        let now = net.now();
        drop(net);
        inbox.extend_from_slice(&heard.bytes);
        let mut ids = Vec::new();
        each_frame(inbox, |kind, id, frame| {
            if kind == Kind::Response && toy::refusal(frame).is_none() {
                ids.push(id);
            }
        });
        for id in ids {
            let (made, priority) = self.calls[id as usize];
            let in_time = now - made <= self.story.patience;
            self.outcome.good[priority] += u64::from(in_time && self.counts(now));
        }
    }

    // === Servers ===

    fn hear_calls(&mut self, number: usize, conn: usize) {
        let server = &mut self.servers[number];
        let mut net = self.network.lock();
        let heard = net.hear(conn, usize::MAX);
        let inbox = server.inboxes.entry(conn).or_default();
        inbox.extend_from_slice(&heard.bytes);
        let queue = &mut server.queue;
        each_frame(inbox, |kind, id, frame| match kind {
            Kind::Request => queue.push_back((conn, id)),
            Kind::Ping => {
                let mut pong = frame.to_vec();
                pong[4] = toy::PONG;
                net.send(conn, &pong);
            }
            _ => {}
        });
        drop(net);
        self.serve(number);
    }

    /// Begins what there are slots for.
    fn serve(&mut self, number: usize) {
        let now = self.network.lock().now();
        while self.servers[number].busy < self.story.slots {
            let lot = self.lot();
            let server = &mut self.servers[number];
            let Some(call) = server.queue.pop_front() else {
                return;
            };
            let service = (self.story.service)(now / 1000, lot).max(1);
            server.busy += 1;
            server.served += 1;
            server.due.insert((now + service, server.served), call);
            self.network.lock().schedule(service, Event::Server(number));
        }
    }

    /// Answers what is done.
    fn finish(&mut self, number: usize) {
        let now = self.network.lock().now();
        let server = &mut self.servers[number];
        while let Some(first) = server.due.first_entry() {
            if first.key().0 > now {
                break;
            }
            let (conn, id) = first.remove();
            server.busy -= 1;
            let answer = Tongue::Toy.answer(id, 0, &tongue::token(0), 10);
            self.network.lock().send(conn, &answer);
        }
        self.serve(number);
    }
}

/// Takes whole frames out of what was read.
fn each_frame(inbox: &mut Vec<u8>, mut take: impl FnMut(Kind, u64, &[u8])) {
    for (head, frame) in Tongue::Toy.take(inbox) {
        take(head.kind, head.id, &frame);
    }
}

fn routing(story: &Story, limiter: Limiter) -> RoutingSpec {
    let mut policy = ClusterPolicy {
        max_in_flight: 0,
        // Nobody is to blame for being busy.
        outlier: Outlier {
            consecutive: 0,
            ..Outlier::default()
        },
        ..ClusterPolicy::default()
    };
    match limiter {
        Limiter::Fixed(most) => policy.max_in_flight = most,
        Limiter::Adaptive(settings) => policy.adaptive_concurrency = Some(settings),
    }
    let instance = |number| Instance {
        address: address(number),
        weight: 100,
        labels: Default::default(),
        warm_up: None,
        terms: None,
    };
    let route = |(name, priority): (&str, Priority)| Route {
        name: name.into(),
        when: Match {
            service: Text::Exact(name.into()),
            ..Match::default()
        },
        to: Destination::Clusters(vec![Weighted {
            cluster: "all".into(),
            weight: 1,
            subset: None,
            spill: true,
        }]),
        timeout: Some(Duration::from_millis(story.patience)),
        retry: Retry {
            attempts: 1,
            ..Retry::default()
        },
        priority,
        long_poll: false,
        tracing: None,
        filters: Default::default(),
        shadow: None,
        tap: None,
        treatment: None,
    };
    RoutingSpec {
        tables: vec![RouteTable {
            name: "main".into(),
            routes: SERVICES.map(route).map(Into::into).into(),
        }],
        clusters: vec![ClusterSpec {
            name: "all".into(),
            source: Source::Listed((0..SERVERS).map(instance).collect()),
            policy,
        }],
        registry_policy: ClusterPolicy::default(),
        filters: Vec::new(),
        listener_filters: Default::default(),
        limits: Limits {
            idle: Duration::from_secs(7200),
            ..Limits::default()
        },
    }
}
