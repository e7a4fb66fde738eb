//! What must hold in every world, whatever befell it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use finback_core::rejection::Rejection;

use super::client::Client;
use super::network::Time;
use super::plan::address;
use super::server::TRAVELLED;
use super::toy::MAX_FRAME;
use super::world::World;

/// Rejections, heartbeats and goodbyes of one turn, at most.
const SMALL_CHANGE: usize = 64 * 1024;

/// A call goes on so often from servers that refuse it unseen, and no attempt is counted for that.
const MOVES: usize = 8;

/// A body of so many bytes is kept until its call is answered, however it comes.
const SHORT: usize = 60;

/// The longest that a client which hung up is waited for, and some more.
const GONE: Time = 8000;

impl World {
    /// Looks, in the middle of it all, at what must never be.
    pub(super) fn look(&mut self) {
        let held = self.crew.held();
        let most = 2 * self.most_queued + MAX_FRAME + SMALL_CHANGE;
        if held.for_client > most || held.for_endpoint > most {
            self.ledger
                .fault(format!("more is queued than {most} bytes: {held:?}"));
        }
        let stats = &self.mesh.stats;
        let unfinished = stats.unfinished_bytes.load(Relaxed) as usize;
        let connections = self.clients.len() + stats.upstream_connections.load(Relaxed) as usize;
        if unfinished > connections * (MAX_FRAME + SMALL_CHANGE) {
            self.ledger
                .fault(format!("{unfinished} bytes are unfinished"));
        }
        self.check_gone();
        self.check_unseen();
        for cluster in self.mesh.status() {
            for endpoint in cluster.endpoints {
                let mut servers = self.servers.iter();
                let server = servers.find(|own| address(own.number) == endpoint.address);
                let innocent = server.is_some_and(|own| own.sound && !own.harmed);
                if innocent && !endpoint.available {
                    self.ledger.fault(format!(
                        "{} of {} is out, and did no wrong: {}",
                        endpoint.address, cluster.name, endpoint.why
                    ));
                }
            }
        }
    }

    /// Whoever is gone holds no places.
    fn check_gone(&mut self) {
        let now = self.network.lock().now();
        if now < self.paused_at + GONE {
            return;
        }
        let mut most = 0;
        let read = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        for client in &self.clients {
            let long_gone = client.gone && self.is_long_gone(client, now);
            if !long_gone || client.harmed || client.slow || client.guilty {
                let calls = client.waiting.values().filter(|call| read.contains(call));
                let entries = calls.map(|call| &self.ledger.entries[*call]);
                let entries = entries.filter(|entry| entry.answers.is_empty());
                most += entries
                    .map(|own| self.plan.places_of(own.service))
                    .sum::<usize>();
            }
        }
        // Of one that was taken back the mesh may not know yet.
        let net = self.network.lock();
        let taken_back = self.ledger.entries.iter().enumerate();
        most += taken_back
            .filter(|(call, own)| own.given_up && own.answers.is_empty() && read.contains(call))
            .filter(|(_, own)| net.is_on_its_way(self.clients[own.client].conn))
            .map(|(_, own)| self.plan.places_of(own.service))
            .sum::<usize>();
        drop((read, net));
        let status = self.mesh.status();
        let places: u32 = status.iter().map(|cluster| cluster.in_flight).sum();
        if places as usize > most {
            self.ledger.fault(format!(
                "{places} places are taken at {now}, and calls that somebody waits for take {most} at most"
            ));
        }
    }

    fn is_long_gone(&self, client: &Client, now: Time) -> bool {
        if self.plan.tongue.is_http() {
            // The end comes after all that was said before, and then is looked for every second.
            let arrived = self.network.lock().ended_at(client.conn);
            return arrived.is_some_and(|at| now > at + 2500);
        }
        // A reset is noticed at once.
        let grace = if client.breaks() { GONE / 8 } else { GONE };
        now > client.gone_at + grace
    }

    /// Whether somebody who is connected waits for an answer.
    pub(super) fn is_waited(&self) -> bool {
        let connected = self
            .clients
            .iter()
            .filter(|own| own.is_innocent() && !own.ended);
        let mut calls = connected.flat_map(|own| own.waiting.values());
        calls.any(|call| self.ledger.is_open(*call))
    }

    /// All is healed and time has passed: whoever is still connected has all its answers.
    pub(super) fn check_open(&mut self) {
        for client in &self.clients {
            let number = client.number;
            let innocent = client.is_innocent();
            if innocent && (client.ended || client.broken) && !self.plan.short_idle {
                self.ledger.fault(format!(
                    "client {number} did no wrong, and its connection was closed"
                ));
            }
            if !innocent || client.ended || client.broken {
                continue;
            }
            let calls = client.waiting.values().copied();
            let open: Vec<_> = calls.filter(|call| self.ledger.is_open(*call)).collect();
            if let Some(first) = open.first() {
                self.ledger.fault(format!(
                    "client {number} is connected, and {} of its calls have no answer, such as {first}",
                    open.len()
                ));
            }
        }
    }

    /// Before clients hang up: each call that was read has its answer, and no second one, if its connection
    /// ended or the process stopped. Others may still wait.
    pub(super) fn check_answers(&mut self, stopped: bool) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut faults = Vec::new();
        for (number, entry) in self.ledger.entries.iter().enumerate() {
            let client = &self.clients[entry.client];
            let owed = log.contains(&number) && !entry.one_way
                || entry.unreadable && !entry.answers.is_empty();
            let over = stopped || client.ended;
            // A slow one may be disconnected for what waits for it, where answers need not wait for each other.
            let slow = client.slow && !self.plan.tongue.is_http();
            let excused = slow || entry.given_up;
            if owed && !excused && over && client.hears() && entry.answers.len() != 1 {
                faults.push(format!(
                    "call {number} of client {} was read, and has {} answers ({} arrivals)",
                    entry.client,
                    entry.answers.len(),
                    entry.arrivals.len()
                ));
            }
        }
        drop(log);
        for fault in faults {
            self.ledger.fault(fault);
        }
    }

    /// All clients hung up, of whom nobody is owed time: no call holds a place, also where its server
    /// never answers.
    pub(super) fn check_left(&mut self) {
        for cluster in self.mesh.status() {
            if cluster.in_flight > 0 {
                self.ledger.fault(format!(
                    "all clients are gone, and {} calls to {} hold places",
                    cluster.in_flight, cluster.name
                ));
            }
        }
    }

    /// An answer breaks off only by the fault of somebody.
    fn check_whole(&self, number: usize, faults: &mut Vec<String>) {
        let entry = &self.ledger.entries[number];
        let client = &self.clients[entry.client];
        let mut servers = entry
            .arrivals
            .iter()
            .filter_map(|(own, _)| self.servers.get(*own));
        let served_well = servers.all(|own| own.sound && !own.harmed);
        if entry.broken_off && served_well && !client.harmed && !entry.confused {
            faults.push(format!(
                "the answer of call {number} broke off, and everybody did well"
            ));
        }
    }

    /// A call whose answer the mesh could read in time is not told that there was none, even if the
    /// mesh itself stood still meanwhile.
    fn check_time(&self, number: usize, faults: &mut Vec<String>) {
        let entry = &self.ledger.entries[number];
        let [(server, _)] = entry.arrivals[..] else {
            return;
        };
        let harmed = self.servers.get(server).is_none_or(|own| own.harmed);
        let client = &self.clients[entry.client];
        if harmed || client.finished || entry.refused != Some(Rejection::DeadlineExceeded) {
            return;
        }
        let over = entry.written + self.plan.time_of(entry.service, entry.timeout);
        if let Some(in_hand) = entry.in_hand.filter(|at| *at < over) {
            faults.push(format!(
                "call {number} was answered at {in_hand} by server {server}, and told at {over} or \
                 later that it was not"
            ));
        }
    }

    /// All is over: what became of each call.
    pub(super) fn check_calls(&mut self) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut faults = Vec::new();
        let mut unreadable = 0;
        for (number, entry) in self.ledger.entries.iter().enumerate() {
            let read = log.contains(&number);
            if !read && !entry.arrivals.is_empty() {
                faults.push(format!("call {number} was not read, and arrived"));
            }
            if entry.unreadable && !entry.answers.is_empty() {
                unreadable += 1;
            }
            let confused = |other: &usize| self.ledger.entries[*other].confused;
            if let Some(other) = entry.crossed.filter(|other| !confused(other)) {
                faults.push(format!(
                    "client {} got the answer of call {other} for call {number}",
                    entry.client
                ));
            }
            self.check_arrivals(number, &mut faults);
            self.check_whole(number, &mut faults);
            self.check_time(number, &mut faults);
        }
        let read = log.len();
        drop(log);
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        if tally.records != read {
            faults.push(format!(
                "{read} calls were read, and {} recorded",
                tally.records
            ));
        }
        if tally.unreadable < unreadable {
            faults.push(format!(
                "{unreadable} unreadable calls were answered, and {} recorded",
                tally.unreadable
            ));
        }
        drop(tally);
        for fault in faults {
            self.ledger.fault(fault);
        }
    }

    /// A call that nobody looked at, and that may be attempted again, is not given up where nothing has happened to
    /// those who could serve it.
    fn check_unseen(&mut self) {
        for number in std::mem::take(&mut self.ledger.unseen) {
            if self.ledger.is_open(number) {
                self.ledger.unseen.insert(number);
            } else if !self.stops && self.is_given_up_unseen(number) {
                let back = &self.ledger.entries[number].sent_back;
                let text = format!("call {number} was refused unseen {back:?}, and given up");
                self.ledger.fault(text);
            }
        }
    }

    fn is_given_up_unseen(&self, number: usize) -> bool {
        let entry = &self.ledger.entries[number];
        let service = &self.plan.services[entry.service];
        let Some((_, refused_at)) = entry.sent_back.last() else {
            return false;
        };
        let group = &self.plan.groups[service.group];
        let mut servers = group
            .servers
            .iter()
            .filter_map(|(own, _)| self.servers.get(*own));
        let all_well = servers.all(|own| own.trouble_until < *refused_at)
            && (self.paused_at == 0 || self.paused_at + TRAVELLED < *refused_at);
        let unseen = entry.arrivals.is_empty();
        let told = entry.refused == Some(Rejection::ConnectionLost);
        let may_go_on = service.retry.attempts > 1 && entry.sent_back.len() < MOVES;
        unseen && told && may_go_on && all_well && entry.length <= SHORT
    }

    /// A call arrives no more often than its route allows.
    fn check_arrivals(&self, number: usize, faults: &mut Vec<String>) {
        let entry = &self.ledger.entries[number];
        let retry = &self.plan.services[entry.service].retry;
        let attempts = retry.attempts as usize;
        // Where a call may be attempted again, it may go on from those that did not look at it.
        let moves = if attempts > 1 { MOVES } else { 0 };
        let all = entry.arrivals.len() + entry.sent_back.len();
        if all > attempts + moves.min(entry.sent_back.len()) {
            faults.push(format!(
                "call {number} was sent {all} times, of {attempts} attempts and {moves} moves"
            ));
        }
        if entry.arrivals.len() > retry.attempts as usize {
            faults.push(format!(
                "call {number} arrived {} times of {} attempts",
                entry.arrivals.len(),
                retry.attempts
            ));
        }
        let ran = entry
            .arrivals
            .iter()
            .filter(|(_, refused)| !refused || !retry.refused);
        let most = if entry.is_safe { 2 } else { 1 };
        if !retry.idempotent && ran.count() > most {
            faults.push(format!(
                "call {number} is not idempotent, and ran more than {most} times: {:?}",
                entry.arrivals
            ));
        }
    }

    /// All is over: nothing is counted any more.
    pub(super) fn check_places(&mut self) {
        let stats = &self.mesh.stats;
        let mut left = Vec::new();
        for (name, gauge) in [
            ("connections", &stats.connections),
            ("upstream connections", &stats.upstream_connections),
            ("unfinished bytes", &stats.unfinished_bytes),
            ("panics", &stats.panics),
        ] {
            left.push((name.to_owned(), gauge.load(Relaxed)));
        }
        let held = self.crew.held();
        left.push((
            "bytes that wait for a registry".to_owned(),
            held.pending as u64,
        ));
        left.push(("calls in tables".to_owned(), held.calls as u64));
        left.push(("residents".to_owned(), held.residents as u64));
        left.push(("bytes for clients".to_owned(), held.for_client as u64));
        for cluster in self.mesh.status() {
            let name = &cluster.name;
            left.push((format!("in flight to {name}"), u64::from(cluster.in_flight)));
            for endpoint in &cluster.endpoints {
                let address = endpoint.address;
                left.push((
                    format!("in flight to {address}"),
                    u64::from(endpoint.in_flight),
                ));
            }
            if let Some(own) = self.mesh.routing().cluster(name) {
                left.push((format!("retries of {name}"), u64::from(own.budget.used())));
            }
        }
        for (name, count) in left {
            if count > 0 {
                self.ledger.fault(format!("at the end: {count} {name}"));
            }
        }
    }
}
