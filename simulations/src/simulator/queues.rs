//! A world of RocketMQ: real workers between producers and consumers, name servers and brokers. Clients find brokers by
//! what name servers say, hold a connection to each, send, wait for messages and are asked in turn, in both encodings.
//!
//! What must hold: a request has one answer, of its own; a message that was acknowledged is there, once, and every
//! consumer that asks for it gets it, of a transaction only one that was committed, by POP nobody while another has it,
//! and nobody once it is acknowledged; brokers and clients are asked for
//! nothing that is not theirs, and what they are asked comes, as do their answers; they learn at once when the other
//! end of a session is gone; no address but ours is told; in the end every place is given back.

mod book;
mod broker;
mod check;
mod client;
mod frame;
mod popped;
mod transactions;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use finback_core::cluster::{ClusterPolicy, ClusterSpec, Source};
use finback_core::discovery::Instance;
use finback_core::driver::{Crew, ListenerSpec};
use finback_core::endpoint::{Endpoint, Health};
use finback_core::mesh::{Limits, Mesh, Pinned, RoutingSpec};
use finback_core::net::{Network as Dialler, Socket};
use finback_core::record::{Observer, Record, Series, SeriesKey};
use finback_core::route::{Destination, Match, Retry, Route, RouteTable, Weighted};
use finback_rocketmq::{Broker as Told, Brokers, Config, RocketMq};

use super::chance::Chance;
use super::network::{Door, Event, MeshEnd, Network, Pace, Peer, Time};
use super::passing::{Passing, Stopping, in_virtual_time};
use super::plan::address;
use super::registry::{Known, Registry};
use super::report::Report;

use book::{Book, Line};
use broker::Broker;
use client::Client;

/// Name servers, which come first among the servers; then brokers.
const NAMES: usize = 2;
const BROKERS: usize = 3;
/// Queues of the first topic at each broker.
const QUEUES: usize = 2;
const TOPIC: &str = "orders";
/// The topic whose messages are given by POP; it has one queue, which comes after those of the other.
const TASKS: usize = QUEUES;
const TASKS_TOPIC: &str = "tasks";
/// Groups of producers.
const GROUPS: usize = 2;
/// The first port that clients are told for a broker.
const PORT: u16 = 20_000;
/// A request waits no longer for messages.
const LONGEST_POLL: Time = 5000;
/// Nothing takes longer than this: a long poll, and what brokers may be late by.
const LONGEST: Time = LONGEST_POLL + 10_000 + 3000;
/// The mesh waits so long for a broker to read what a client said that is gone.
const LINGER: Time = 1000;
/// Whoever is at the other end of a session that has ended has learned of it by then.
const LEARNED: Time = 3000;

/// The port that clients are told for each broker.
struct Ports;

impl Brokers for Ports {
    fn port(&self, broker: &Told<'_>) -> Option<u16> {
        let number: u16 = broker.name.strip_prefix("broker-")?.parse().ok()?;
        Some(PORT + number)
    }
}

type Endings = Arc<Mutex<BTreeMap<&'static str, usize>>>;

struct Seen(Endings);

impl Series for Seen {
    fn record(&self, record: &Record) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *own.entry(record.ending.name()).or_default() += 1;
    }
}

impl Observer for Seen {
    fn series(&self, _: usize, _: &SeriesKey) -> Arc<dyn Series> {
        Arc::new(Self(self.0.clone()))
    }
}

/// The world.
struct World {
    seed: u64,
    chance: Chance,
    network: Network,
    mesh: Arc<Mesh>,
    crew: Crew,
    workers: usize,
    clients: Vec<Client>,
    brokers: Vec<Broker>,
    /// What has come of a request to a name server, by connection.
    names: BTreeMap<usize, Vec<u8>>,
    book: Book,
    endings: Endings,
    is_stopped: bool,
    /// So few requests may be under way that some are refused.
    has_few_places: bool,
}

/// Runs the world of a seed to its end. The same seed gives the same run.
///
/// # Errors
/// If there can be no runtime.
pub fn run(seed: u64) -> std::io::Result<Report> {
    in_virtual_time(async { World::new(seed).live().await })
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let network = Network::new(chance.fork());
        let registry = Registry::new(&network, chance.fork());
        let endings = Endings::default();
        let routing = routing(&mut chance);
        let has_few_places = routing
            .clusters
            .iter()
            .any(|own| (1..1000).contains(&own.policy.max_in_flight));
        let mesh = Mesh::new(
            routing,
            Default::default(),
            Arc::new(Known(registry)),
            Arc::new(Seen(endings.clone())),
        );
        let dialler: Arc<dyn Dialler> = Arc::new(network.clone());
        let workers = chance.between(1, 3) as usize;
        let crew = Crew::new(workers, &mesh, chance.draw(), &dialler);
        listen(&crew);
        for number in 0..NAMES + BROKERS {
            let pace = pace(&mut chance, false);
            network
                .lock()
                .set_door(address(number), number, Door::Open, pace);
        }
        let mut world = Self {
            seed,
            brokers: (0..BROKERS)
                .map(|own| Broker::new(own, chance.fork()))
                .collect(),
            clients: Vec::new(),
            names: BTreeMap::new(),
            book: Book::default(),
            is_stopped: false,
            has_few_places,
            network,
            mesh,
            crew,
            workers,
            endings,
            chance,
        };
        for _ in 0..world.chance.between(2, 6) {
            world.arrive();
        }
        world.network.lock().schedule(20, Event::Fault);
        world.network.lock().schedule(200, Event::Look);
        world
    }

    /// Another client comes.
    fn arrive(&mut self) {
        let number = self.clients.len();
        let chance = self.chance.fork();
        self.clients.push(Client::new(number, chance));
        let later = self.chance.between(0, 500);
        self.network.lock().schedule(later, Event::Client(number));
    }

    /// The process does not run for a while; everybody else does.
    async fn stand_still(&mut self, period: Time) {
        let until = self.network.lock().now() + period;
        loop {
            let event = self.network.lock().next_event(until);
            let Some((at, event)) = event else { break };
            if matches!(event, Event::Fault | Event::Look | Event::Pause(_)) {
                self.network.lock().schedule(until - at + 1, event);
                continue;
            }
            self.take(event);
        }
        tokio::time::advance(Duration::from_millis(period)).await;
        self.wake();
    }

    /// A client does the next thing: connects where it is not connected, or asks.
    fn act(&mut self, number: usize) {
        let network = self.network.clone();
        if let Some(wanted) = self.clients[number].wants_line() {
            let pace = pace(&mut self.chance, self.book.is_healed);
            let listener = wanted.map_or(1, |broker| 10 + broker as u64);
            let conn = network.lock().open(number, pace);
            let socket = Socket::memory(MeshEnd::new(&network, conn));
            let peer = SocketAddr::from(([10, 2, 0, 1 + (number % 5) as u8], 3000));
            let worker = self.chance.index(self.workers);
            if !self.crew.accept(listener, worker, socket, peer) {
                self.book.fault("nobody listens".to_owned());
            }
            let line = Line {
                client: number,
                broker: wanted,
                opened: network.lock().now(),
                over: None,
                is_left: false,
                is_harmed: false,
            };
            self.book.lines.insert(conn, line);
            self.clients[number].connect(&network, conn, wanted, &mut self.book);
        } else {
            self.clients[number].act(&network, &mut self.book);
        }
        if let Some(later) = self.clients[number].next_act() {
            network.lock().schedule(later, Event::Client(number));
        }
    }

    /// Answers what a name server was asked.
    fn tell_routes(&mut self, server: usize, conn: usize) {
        let mut net = self.network.lock();
        let heard = net.hear(conn, usize::MAX);
        let inbox = self.names.entry(conn).or_default();
        inbox.extend_from_slice(&heard.bytes);
        for asked in frame::take(inbox) {
            let brokers: Vec<String> = (0..BROKERS).map(route_of).collect();
            let queues: Vec<String> = (0..BROKERS)
                .map(|own| format!(r#"{{"brokerName":"broker-{own}","perm":6,"readQueueNums":{QUEUES},"writeQueueNums":{QUEUES}}}"#))
                .collect();
            let body = format!(
                r#"{{"brokerDatas":[{}],"filterServerTable":{{}},"queueDatas":[{}]}}"#,
                brokers.join(","),
                queues.join(",")
            );
            let answer = asked.answer(0, server.is_multiple_of(2), body.as_bytes());
            net.send(conn, &answer);
        }
        if heard.ended {
            net.leave(conn);
        }
    }

    /// Something goes wrong.
    fn befall(&mut self) {
        if self.book.is_healed {
            return;
        }
        let network = self.network.clone();
        let mut net = network.lock();
        let later = self.chance.between(50, 1500);
        net.schedule(later, Event::Fault);
        match self.chance.between(0, 7) {
            0 | 1 => {
                let lines = net.alive(true);
                if !lines.is_empty() {
                    let conn = lines[self.chance.index(lines.len())];
                    self.harm(conn);
                    match self.chance.one_in(2) {
                        true => net.cut(conn),
                        false => net.stall(conn, self.chance.between(10, 3000)),
                    }
                }
            }
            2 => {
                let conns = net.alive(false);
                if !conns.is_empty() {
                    let conn = conns[self.chance.index(conns.len())];
                    if let Peer::Server(own) = net.peer(conn) {
                        match self.chance.one_in(3) {
                            true => net.finish(conn),
                            false => net.cut(conn),
                        }
                        drop(net);
                        if let Some(own) = own.checked_sub(NAMES) {
                            self.brokers[own].hurt(&network);
                        }
                    }
                }
            }
            3 | 4 => {
                let server = self.chance.index(NAMES + BROKERS);
                let door = self
                    .chance
                    .pick(&[Door::Open, Door::Open, Door::Shut, Door::Hole]);
                let pace = pace(&mut self.chance, false);
                net.set_door(address(server), server, door, pace);
                drop(net);
                if let Some(own) = server.checked_sub(NAMES) {
                    self.brokers[own].hurt(&network);
                    self.brokers[own].is_open = door == Door::Open;
                }
            }
            5 => net.schedule(0, Event::Pause(self.chance.between(10, 2500))),
            6 => {
                drop(net);
                let worker = self.chance.index(self.workers);
                self.crew.hand_over(worker);
            }
            _ => {
                drop(net);
                if self.clients.len() < 12 {
                    self.arrive();
                }
            }
        }
    }

    fn harm(&mut self, conn: usize) {
        if let Some(line) = self.book.lines.get_mut(&conn) {
            line.is_harmed = true;
        }
    }

    /// Lives, heals, ends, and tells what it found.
    async fn live(mut self) -> Report {
        let busy = self.chance.between(2000, 30_000);
        self.pass(busy).await;
        self.book.is_healed = true;
        self.network.lock().heal();
        for broker in self.brokers.iter_mut().filter(|own| !own.is_open) {
            broker.hurt(&self.network);
        }
        for client in &mut self.clients {
            client.rest();
        }
        self.pass(LONGEST).await;
        self.check_answers();
        self.check_pushes();
        self.consume_all().await;
        let stops = self.chance.one_in(2);
        for number in 0..self.clients.len() {
            self.clients[number].more(20);
            self.network.lock().schedule(0, Event::Client(number));
        }
        self.pass(100).await;
        if stops {
            self.is_stopped = true;
            self.stop().await;
            self.check_answers();
        }
        let resets = self.chance.one_in(2);
        for client in &mut self.clients {
            client.close(&self.network, resets, &mut self.book);
        }
        self.pass(LEARNED + 1000).await;
        self.check_left();
        for conn in self.network.lock().alive(false) {
            self.network.lock().cut(conn);
        }
        self.pass(2000).await;
        self.check_messages();
        self.check_transactions(false);
        self.check_places();
        self.report()
    }

    /// A client without faults fetches everything from the beginning.
    async fn consume_all(&mut self) {
        self.arrive();
        if let Some(reader) = self.clients.last_mut() {
            reader.read_all();
        }
        self.pass(LONGEST).await;
        self.check_read_all();
        self.check_pushes();
        self.check_transactions(true);
        self.check_tasks();
    }

    fn report(self) -> Report {
        let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        Report {
            seed: self.seed,
            tongue: "rocketmq",
            trace: self.network.lock().trace.hash(),
            calls: self.book.asked.len(),
            read: endings.values().sum(),
            answers: self.book.asked.iter().map(|own| own.answers).sum(),
            endings: endings.clone(),
            ejections: 0,
            faults: self.book.faults.clone(),
        }
    }
}

impl Passing for World {
    fn network(&self) -> &Network {
        &self.network
    }

    fn gives_turn(&mut self) -> bool {
        self.chance.one_in(3)
    }

    async fn pause_after(&mut self, event: Event) {
        if let Event::Pause(period) = event {
            self.stand_still(period).await;
        }
    }

    fn take(&mut self, event: Event) {
        let network = self.network.clone();
        match event {
            Event::ToMesh(conn) => network.lock().deliver(conn, true),
            Event::ToPeer(conn) => {
                let mut net = network.lock();
                net.deliver(conn, false);
                let peer = net.peer(conn);
                drop(net);
                match peer {
                    Peer::Client(own) => self.clients[own].hear(&network, conn, &mut self.book),
                    Peer::Server(own) if own < NAMES => self.tell_routes(own, conn),
                    Peer::Server(own) => {
                        self.brokers[own - NAMES].hear(&network, conn, &mut self.book);
                    }
                }
            }
            Event::Dialled(conn) => {
                let mut net = network.lock();
                let Peer::Server(server) = net.peer(conn) else {
                    return;
                };
                let accepted = net.decide(conn, Some(address(server)));
                drop(net);
                match accepted.and_then(|own| own.checked_sub(NAMES)) {
                    Some(broker) => self.brokers[broker].accept(conn),
                    None if server >= NAMES => self.brokers[server - NAMES].hurt(&network),
                    None => {}
                }
            }
            Event::Client(client) => self.act(client),
            Event::Server(server) => {
                if let Some(own) = server.checked_sub(NAMES) {
                    self.brokers[own].act(&network, &mut self.book);
                }
            }
            Event::Fault => self.befall(),
            Event::Look => {
                self.check_sessions();
                network.lock().schedule(200, Event::Look);
            }
            Event::ClientReads(_) | Event::Registry(_) | Event::Pause(_) => {}
        }
    }
}

impl Stopping for World {
    fn crew(&self) -> &Crew {
        &self.crew
    }

    fn fault(&mut self, what: String) {
        self.book.fault(what);
    }
}

/// A broker, as its name server tells of it; some write numbers that are keys without quotes.
fn route_of(number: usize) -> String {
    let key = if number == 0 { "0" } else { "\"0\"" };
    let at = address(NAMES + number);
    format!(r#"{{"brokerAddrs":{{{key}:"{at}"}},"brokerName":"broker-{number}","cluster":"c1"}}"#)
}

fn pace(chance: &mut Chance, is_healed: bool) -> Pace {
    if is_healed {
        return Pace {
            delay: 3,
            room: 64 * 1024,
            parts: false,
        };
    }
    Pace {
        delay: chance.pick(&[0, 2, 20, 60]),
        room: chance.pick(&[2000, 16_000, 64_000]),
        parts: chance.one_in(4),
    }
}

/// Listens for clients of name servers, and of each broker.
fn listen(crew: &Crew) {
    let spec = |port, protocol: RocketMq, pinned| ListenerSpec {
        pinned,
        stats: Arc::default(),
        name: "mq".into(),
        address: SocketAddr::from(([10, 1, 0, 1], port)),
        protocols: vec![Arc::new(protocol)],
        routes: "main".into(),
        tls: None,
        proxies: Arc::default(),
        reveal_endpoints: false,
        settings: "".into(),
    };
    let config = || Config {
        advertise: Some("mesh".into()),
        ..Config::default()
    };
    let names = RocketMq::of_name_servers(config(), Arc::new(Ports));
    crew.listen(1, &spec(9876, names, None));
    for number in 0..BROKERS {
        let pinned = Pinned {
            cluster: "names".into(),
            endpoint: Arc::new(Endpoint {
                address: address(NAMES + number),
                weight: 100,
                labels: Default::default(),
                warm_up: None,
                health: Arc::new(Health::default()),
                terms: None,
            }),
        };
        let own = RocketMq::of_broker(config());
        crew.listen(
            10 + number as u64,
            &spec(PORT + number as u16, own, Some(pinned)),
        );
    }
}

fn routing(chance: &mut Chance) -> RoutingSpec {
    let instance = |number| Instance {
        address: address(number),
        weight: 100,
        labels: Default::default(),
        warm_up: None,
        terms: None,
    };
    let route = Route {
        name: "all".into(),
        when: Match::default(),
        to: Destination::Clusters(vec![Weighted {
            cluster: "names".into(),
            weight: 1,
            subset: None,
            spill: true,
        }]),
        timeout: None,
        retry: Retry {
            attempts: chance.between(1, 3) as u32,
            ..Retry::default()
        },
        priority: Default::default(),
        long_poll: false,
        tracing: None,
        filters: Default::default(),
        shadow: None,
        tap: None,
        treatment: None,
    };
    let millis = Duration::from_millis;
    RoutingSpec {
        tables: vec![RouteTable {
            name: "main".into(),
            routes: vec![route.into()],
        }],
        clusters: vec![ClusterSpec {
            name: "names".into(),
            source: Source::Listed((0..NAMES).map(instance).collect()),
            policy: ClusterPolicy {
                connect_timeout: millis(chance.between(200, 1500)),
                max_in_flight: chance.pick(&[0, 0, 20, 10_000]),
                ..ClusterPolicy::default()
            },
        }],
        registry_policy: ClusterPolicy::default(),
        filters: Vec::new(),
        listener_filters: Default::default(),
        limits: Limits {
            idle: Duration::from_secs(3600),
            call_timeout: millis(chance.between(1000, 3000)),
            drain_grace: millis(chance.between(100, 2000)),
            drain: millis(chance.between(500, 5000)),
            in_flight_per_connection: chance.pick(&[4, 60]),
            ..Limits::default()
        },
    }
}
