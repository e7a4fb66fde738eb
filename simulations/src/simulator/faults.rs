//! What goes wrong in a world, and what its operator changes, while calls are under way.

use super::network::{Door, Event, Pace, Peer, Time};
use super::plan::address;
use super::world::World;

impl World {
    /// Something happens, and something else will.
    pub(super) fn befall(&mut self) {
        if self.healed {
            return;
        }
        match self.chance.between(0, 9) {
            0 => self.cut_one(),
            1 | 2 => self.stall_one(),
            3 => self.change_door(),
            4 => self.change_endpoints(),
            5 => self.change_limits(),
            6 => self.rename_table(),
            7 => {
                let worker = self.chance.index(self.plan.workers);
                self.crew.hand_over(worker);
            }
            8 => self.arrive(),
            _ => self.pause_soon(),
        }
        let later = self.chance.pick(&[10, 100, 1000, 3000]);
        self.network.lock().schedule(later, Event::Fault);
    }

    /// The process will stand still in a moment, with calls under way.
    fn pause_soon(&mut self) {
        let network = self.network.clone();
        for client in &mut self.clients {
            client.write_some(&network, &self.plan, &mut self.ledger);
        }
        let period = self.chance.pick(&[30, 70, 400, 2500, 8000]);
        let later = self.chance.between(0, 40);
        network.lock().schedule(later, Event::Pause(period));
    }

    /// How long the process does not run, if that is what happens.
    pub(super) fn wants_pause(&self, event: Event) -> Option<Time> {
        match event {
            Event::Pause(period) if !self.healed => Some(period),
            _ => None,
        }
    }

    fn harm(&mut self, conn: usize, period: Time) {
        let (peer, until) = {
            let mut net = self.network.lock();
            (net.peer(conn), net.now() + period)
        };
        match peer {
            Peer::Client(client) => self.clients[client].harmed = true,
            Peer::Server(server) => {
                if let Some(server) = self.servers.get_mut(server) {
                    server.harmed = true;
                    server.note_trouble(until);
                }
            }
        }
    }

    /// One of the connections that live. Most often not one that is checked most strictly.
    fn victim(&mut self) -> Option<usize> {
        let clients = self.chance.one_in(2);
        let alive = self.network.lock().alive(clients);
        (!alive.is_empty()).then(|| alive[self.chance.index(alive.len())])
    }

    fn cut_one(&mut self) {
        if let Some(conn) = self.victim() {
            self.harm(conn, 0);
            self.network.lock().cut(conn);
        }
    }

    fn stall_one(&mut self) {
        let period = self.chance.pick(&[100, 1000, 5000, 20_000]);
        if let Some(conn) = self.victim() {
            self.harm(conn, period);
            self.network.lock().stall(conn, period);
        }
    }

    fn change_door(&mut self) {
        let server = self.chance.index(self.servers.len());
        let door = self.chance.pick(&[
            Door::Open,
            Door::Open,
            Door::Shut,
            Door::Hole,
            Door::OwnWant,
        ]);
        let pace = Pace {
            delay: 3,
            room: 64 * 1024,
            parts: false,
        };
        // What we lack ourselves is nobody's fault.
        if matches!(door, Door::Shut | Door::Hole) {
            self.servers[server].harmed = true;
        }
        let now = self.network.lock().now();
        let own = &mut self.servers[server];
        if door == Door::Open {
            own.trouble_until = own.trouble_until.min(now);
            own.note_trouble(now);
        } else {
            own.note_trouble(Time::MAX);
        }
        self.network
            .lock()
            .set_door(address(server), server, door, pace);
    }

    fn reload(&mut self) {
        self.most_queued = self.most_queued.max(self.plan.limits.queue_hard);
        self.mesh.apply(self.plan.routing());
    }

    /// An endpoint comes or goes, in the configuration or in the registry.
    fn change_endpoints(&mut self) {
        let group = self.chance.index(self.plan.groups.len());
        let count = self.plan.groups[group].servers.len();
        let chosen = self.chance.index(count);
        let group = &mut self.plan.groups[group];
        group.servers[chosen].1 ^= true;
        if group.registered {
            self.registry.tell_all(&self.plan);
        } else {
            self.reload();
        }
    }

    fn change_limits(&mut self) {
        self.plan.change_limit(&mut self.chance);
        self.reload();
    }

    /// The route table has another name, and its listener begins anew: its clients are dismissed.
    fn rename_table(&mut self) {
        self.plan.table.push('+');
        let former = self.listener;
        self.reload();
        self.listen();
        self.crew.unlisten(former);
        for client in &mut self.clients {
            client.dismissed |= client.listener == former;
        }
        self.arrive();
    }
}
