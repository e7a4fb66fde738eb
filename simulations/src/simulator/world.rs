//! A world: the mesh with real workers, its clients, servers and registry, and what befalls them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use finback_core::driver::{Crew, ListenerSpec};
use finback_core::mesh::Mesh;
use finback_core::net::{Network as Dialler, Socket};
use finback_core::record::{Observer, Record, Series, SeriesKey};

use super::chance::Chance;
use super::client::Client;
use super::ledger::Ledger;
use super::network::{Door, Event, MeshEnd, Network, Pace, Peer, Time};
use super::passing::{Passing, Stopping};
use super::plan::{LONGEST_HALF_CLOSED, Plan, REGISTRY, address};
use super::registry::{Known, Registry};
use super::report::Report;
use super::server::Server;
use super::tongue::ReadLog;

/// The world looks at its mesh this often.
const LOOK: Time = 200;

/// What the mesh recorded.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) endings: BTreeMap<&'static str, usize>,
    pub(super) records: usize,
    /// Of calls that could not be read.
    pub(super) unreadable: usize,
}

type Tallied = Arc<Mutex<Tally>>;

struct Seen(Tallied, bool);

impl Series for Seen {
    fn record(&self, record: &Record) {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.endings.entry(record.ending.name()).or_default() += 1;
        if self.1 {
            tally.unreadable += 1;
        } else {
            tally.records += 1;
        }
    }
}

struct Watcher(Tallied);

impl Observer for Watcher {
    fn series(&self, _: usize, key: &SeriesKey) -> Arc<dyn Series> {
        Arc::new(Seen(self.0.clone(), key.service.is_empty()))
    }
}

/// The world.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) chance: Chance,
    pub(super) plan: Plan,
    pub(super) network: Network,
    pub(super) mesh: Arc<Mesh>,
    pub(super) crew: Crew,
    pub(super) clients: Vec<Client>,
    pub(super) servers: Vec<Server>,
    pub(super) registry: Arc<Registry>,
    pub(super) ledger: Ledger,
    pub(super) log: ReadLog,
    pub(super) tally: Tallied,
    pub(super) listener: u64,
    /// Nothing goes wrong any more.
    pub(super) healed: bool,
    /// The process is to stop at the end.
    pub(super) stops: bool,
    /// When the process last stood still.
    pub(super) paused_at: Time,
    /// The largest `queue_hard` that was ever in force.
    pub(super) most_queued: usize,
}

impl World {
    /// Makes it. Must be called within a runtime whose clock is paused, and a `LocalSet`.
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let plan = Plan::draw(&mut chance);
        let network = Network::new(chance.fork());
        let registry = Registry::new(&network, chance.fork());
        let tally = Tallied::default();
        let layouts = HashMap::from([(plan.tongue.name(), Arc::from(REGISTRY))]);
        let mesh = Mesh::new(
            plan.routing(),
            layouts,
            Arc::new(Known(registry.clone())),
            Arc::new(Watcher(tally.clone())),
        );
        let dialler: Arc<dyn Dialler> = Arc::new(network.clone());
        let crew = Crew::new(plan.workers, &mesh, chance.draw(), &dialler);
        let most_queued = plan.limits.queue_hard;
        let mut world = Self {
            seed,
            plan,
            network,
            mesh,
            crew,
            clients: Vec::new(),
            servers: Vec::new(),
            registry,
            ledger: Ledger::default(),
            log: ReadLog::default(),
            tally,
            listener: 0,
            healed: false,
            stops: false,
            paused_at: 0,
            most_queued,
            chance,
        };
        world.listen();
        world.people();
        world
    }

    /// Begins to listen anew.
    pub(super) fn listen(&mut self) {
        self.listener += 1;
        let protocol = self.plan.tongue.protocol(self.log.clone());
        let spec = ListenerSpec {
            pinned: None,
            stats: Arc::default(),
            name: "front".into(),
            address: SocketAddr::from(([10, 1, 0, 1], 2000)),
            protocols: vec![protocol],
            routes: self.plan.table.as_str().into(),
            tls: None,
            proxies: Arc::default(),
            reveal_endpoints: false,
            settings: "".into(),
        };
        self.crew.listen(self.listener, &spec);
    }

    fn people(&mut self) {
        for number in 0..self.plan.servers() {
            let server = Server::new(number, &self.plan, self.chance.fork());
            let pace = if server.sound {
                // Quick enough that whatever it says is said in time.
                Pace {
                    delay: 3,
                    room: 256 * 1024,
                    parts: false,
                }
            } else {
                self.pace()
            };
            let mut net = self.network.lock();
            net.set_door(address(number), number, Door::Open, pace);
            drop(net);
            self.servers.push(server);
        }
        for _ in 0..self.chance.between(1, 6) {
            self.arrive();
        }
        let mut net = self.network.lock();
        net.schedule(LOOK, Event::Look);
        net.schedule(20, Event::Fault);
    }

    fn pace(&mut self) -> Pace {
        if self.healed {
            return Pace {
                delay: 3,
                room: 64 * 1024,
                parts: false,
            };
        }
        Pace {
            delay: self.chance.pick(&[0, 2, 20, 100]),
            room: self.chance.pick(&[100, 2000, 16_000, 64_000]),
            parts: self.chance.one_in(3),
        }
    }

    /// Another client connects.
    pub(super) fn arrive(&mut self) {
        let pace = self.pace();
        let number = self.clients.len();
        let conn = self.network.lock().open(number, pace);
        let chance = self.chance.fork();
        let mut client = Client::new((number, conn, self.listener), &self.plan, chance);
        // What comes back at once may be more than may wait for anybody.
        client.slow =
            self.plan.large_answers || pace.delay >= 20 && (pace.room <= 2000 || pace.parts);
        self.clients.push(client);
        let socket = Socket::memory(MeshEnd::new(&self.network, conn));
        let peer = SocketAddr::from(([10, 2, 0, 1 + (number % 5) as u8], 3000));
        let worker = self.chance.index(self.plan.workers);
        if !self.crew.accept(self.listener, worker, socket, peer) {
            self.ledger.fault("nobody listens".to_owned());
        }
        let most = if self.healed { 20 } else { 500 };
        let later = self.chance.between(0, most);
        self.network.lock().schedule(later, Event::Client(number));
    }

    // === Running ===

    /// The process does not run for a while; everybody else does.
    async fn pause(&mut self, period: Time) {
        let until = self.network.lock().now() + period;
        loop {
            let event = self.network.lock().next_event(until);
            let Some((at, event)) = event else { break };
            let own = matches!(event, Event::Fault | Event::Look | Event::Registry(_));
            if own || matches!(event, Event::Pause(_)) {
                // These are of the process that stands still.
                self.network.lock().schedule(until - at, event);
                if at == until {
                    break;
                }
                continue;
            }
            self.take(event);
        }
        let wakers = self.network.lock().take_wakers();
        let late = self.chance.one_in(2);
        if !late {
            for waker in &wakers {
                waker.wake_by_ref();
            }
        }
        // Time passes, and timers ring, before or after the sockets are looked at.
        tokio::time::advance(Duration::from_millis(period)).await;
        self.paused_at = until;
        if late {
            tokio::task::yield_now().await;
        }
        for waker in wakers {
            waker.wake();
        }
    }

    // === The whole life ===

    /// Lives, heals, ends, and tells what it found.
    pub(super) async fn live(mut self) -> Report {
        let busy = self.chance.between(2000, 40_000);
        self.pass(busy).await;
        self.heal();
        self.pass(3 * super::plan::LONGEST + 5000).await;
        // Where answers come in order, each may take as long as one.
        let most = if self.plan.tongue.answers_in_order() {
            100
        } else {
            0
        };
        for _ in 0..most {
            if !self.is_waited() {
                break;
            }
            self.pass(super::plan::LONGEST).await;
        }
        self.check_open();
        self.stops = self.chance.one_in(2);
        if self.stops && self.chance.one_in(2) {
            self.outlast();
        }
        self.write_more();
        let early = self.chance.between(0, 200);
        self.pass(early).await;
        let stops = self.stops;
        if stops {
            self.stop().await;
        }
        self.check_answers(stops);
        let resets = self.chance.one_in(2);
        for client in &mut self.clients {
            client.close(&self.network, resets);
        }
        // Of one that hangs up it cannot be told at once that it does not only wait for its answers.
        let patience = if resets { 0 } else { LONGEST_HALF_CLOSED };
        self.pass(patience + 1000).await;
        self.check_left();
        let servers = self.network.lock().alive(false);
        for conn in servers {
            self.network.lock().cut(conn);
        }
        // Idle connections of HTTP/1.1 are looked after every ten seconds.
        self.pass(12_000).await;
        self.check_calls();
        self.check_places();
        self.report()
    }

    /// Nothing goes wrong any more, and clients write nothing new.
    fn heal(&mut self) {
        self.healed = true;
        self.network.lock().heal();
        self.registry.heal();
        self.registry.tell_all(&self.plan);
        for number in 0..self.clients.len() {
            self.clients[number].rest();
            self.network.lock().schedule(0, Event::ClientReads(number));
        }
    }

    /// What is called from now on outlasts the process, which is to stop: nobody answers, and others call.
    fn outlast(&mut self) {
        for server in &mut self.servers {
            server.fall_silent();
        }
        for _ in 0..3 {
            self.arrive();
            if let Some(client) = self.clients.last_mut() {
                client.behave();
            }
        }
    }

    /// Calls are under way once more, so that the end does not find all at rest.
    fn write_more(&mut self) {
        for number in 0..self.clients.len() {
            self.clients[number].dismissed = true;
            if self.clients[number].listener == self.listener {
                self.clients[number].more(20);
                let later = self.chance.between(0, 100);
                self.network.lock().schedule(later, Event::Client(number));
            }
        }
    }

    fn report(self) -> Report {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = self.ledger.entries.iter().map(|entry| entry.answers.len());
        let read = self.log.lock().map_or(0, |log| log.len());
        Report {
            seed: self.seed,
            tongue: self.plan.spoken(),
            trace: self.network.lock().trace.hash(),
            calls: self.ledger.entries.len(),
            read,
            answers: answers.sum(),
            endings: tally.endings.clone(),
            ejections: ejections(&self.mesh),
            faults: self.ledger.faults.clone(),
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
        if let Some(pause) = self.wants_pause(event) {
            self.pause(pause).await;
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
                    Peer::Client(client) => self.clients[client].hear(&network, &mut self.ledger),
                    Peer::Server(server) => {
                        if let Some(server) = self.servers.get_mut(server) {
                            server.hear(&network, conn, &mut self.ledger);
                        }
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
                if let Some(server) = accepted {
                    self.servers[server].accept(conn);
                }
            }
            Event::Client(client) => {
                self.clients[client].act(&network, &self.plan, &mut self.ledger);
            }
            Event::ClientReads(client) => self.clients[client].hear(&network, &mut self.ledger),
            Event::Server(server) => self.servers[server].act(&network),
            Event::Registry(number) => self.registry.tell(number, &self.plan),
            Event::Fault => self.befall(),
            // Stood out by whoever takes the events.
            Event::Pause(_) => {}
            Event::Look => {
                self.look();
                network.lock().schedule(LOOK, Event::Look);
            }
        }
    }
}

impl Stopping for World {
    fn crew(&self) -> &Crew {
        &self.crew
    }

    fn fault(&mut self, what: String) {
        self.ledger.fault(what);
    }
}

/// How often endpoints were ejected.
fn ejections(mesh: &Mesh) -> u64 {
    let each = mesh.status().into_iter();
    each.map(|own| own.stats.ejections.all()).sum()
}
