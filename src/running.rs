//! The running proxy: what `run`, `demo` and tests start, reload and stop.

mod certificates;
mod listeners;
mod readiness;
mod registry_thread;
mod reloads;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use finback_core::driver::{Bound, ListenerSpec, Workers, keep_checking};
use finback_core::mesh::Mesh;
use finback_observability::{Metrics, Watched, Watchers};
use finback_registry::{Registration, Registries};
use tokio::sync::Mutex;

use crate::access_log::AccessLogs;
use crate::bridges::Outlets;
use crate::config::{Config, Lifecycle};
use crate::groups::{GroupStatus, Groups};
use crate::log;
use crate::metadata::DubboMetadata;
use crate::orders::Orders;
use crate::protocols;
use crate::rocketmq::{BrokerListeners, BrokerStatus};
use crate::statsd::Statsd;
use crate::subscriber::Subscribers;
use crate::tls::Ledger;
use crate::traces::TraceExporter;
use crate::turns::Turns;

use certificates::keep_fresh;
pub use listeners::ListenerStatus;
use listeners::{Listener, bind, listen};
use readiness::Awaited;
pub use readiness::Readiness;
use registry_thread::RegistryThread;
use reloads::Fixed;
pub use reloads::{Reloads, Shown};

/// While stopping, messages for Kafka have this long to be written.
const FLUSH: Duration = Duration::from_secs(5);

/// A running mesh.
pub struct Running {
    /// What the workers share.
    pub mesh: Arc<Mesh>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Who looks at single exchanges.
    pub watchers: Arc<Watchers>,
    /// The access logs of listeners.
    pub access_logs: AccessLogs,
    /// Who writes down spans.
    pub tracer: TraceExporter,
    /// When certificates end.
    pub certificates: Arc<Ledger>,
    /// Reloads that were put in force, and that were refused.
    pub reloads: Reloads,
    /// What the admin port asks of the process.
    pub orders: Orders,
    /// When it started.
    pub started: SystemTime,
    /// The configuration in force, without secrets.
    shown: std::sync::Mutex<Shown>,
    /// How long those wait for each other who share the control thread, or that of registries.
    pub turns: [(&'static str, Arc<Turns>); 2],
    /// Who tells a StatsD server.
    pub statsd: Statsd,
    /// Where services are looked up.
    pub registries: Arc<Registries>,
    /// The worker threads.
    pub workers: Arc<Workers>,
    /// Who has listeners stand for RocketMQ's brokers, by the names of their parents.
    brokers: Mutex<Vec<(Arc<str>, Arc<BrokerListeners>)>>,
    listeners: Mutex<Vec<Listener>>,
    /// Those of the configuration.
    registrations: Mutex<Vec<Registration>>,
    draining: AtomicBool,
    awaited: Awaited,
    lifecycle: std::sync::Mutex<Lifecycle>,
    subscribers: Mutex<Subscribers>,
    groups: std::sync::Mutex<Groups>,
    /// Where messages leave, as the configuration in force has it.
    outlets: std::sync::Mutex<Outlets>,
    fixed: Fixed,
    _registry_thread: RegistryThread,
}

impl Running {
    /// Starts everything that `config` asks for but the admin port. Must be called within a
    /// tokio runtime, which registries then use.
    ///
    /// # Errors
    /// If a thread cannot be started or an address not be bound.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        let fixed = Fixed::of(&config);
        let awaited = Awaited::of(&config.routing, config.lifecycle.registry_wait);
        let certificates = Arc::default();
        keep_fresh(&config, &certificates);
        let registry_thread = RegistryThread::start().context("cannot start a thread")?;
        let registries = Registries::start(
            registry_thread.handle.clone(),
            config.registries,
            config.snapshots.as_deref(),
            Arc::new(DubboMetadata),
        );
        let registries = Arc::new(registries);
        let metrics = Arc::new(Metrics::new(protocols::status_label));
        let watchers = Arc::<Watchers>::default();
        let observer = Arc::new(Watched {
            counts: metrics.clone(),
            watchers: watchers.clone(),
        });
        let mesh = Mesh::new(
            config.routing,
            protocols::layouts(),
            registries.clone(),
            observer,
        );
        let tracer = TraceExporter::default();
        mesh.trace(tracer.configure(config.tracing.as_ref(), mesh.clock)?);
        config.outlets.start(&Outlets::default())?;
        config.background.iter().for_each(|own| own.clone().start());
        tokio::spawn(keep_checking(Arc::downgrade(&mesh)));
        let turns = ["control", "registries"].map(|thread| (thread, Arc::<Turns>::default()));
        tokio::spawn(turns[0].1.clone().keep_looking());
        let looking = turns[1].1.clone().keep_looking();
        registry_thread.handle.spawn(looking);
        let workers = Workers::start(&mesh, config.workers).context("cannot start the workers")?;
        let workers = Arc::new(workers);
        if config.take_over {
            workers.share_addresses();
        }
        let bound = bind(&workers, config.listeners, &config.places)?;
        let access_logs = AccessLogs::new(watchers.clone());
        access_logs
            .replace(&config.access_logs)
            .context("cannot start a thread")?;
        // Before their listeners are served: the first answer of a name server may tell of brokers.
        for (name, brokers) in &config.brokers {
            if let Some(parent) = bound.iter().find(|own| own.spec().name == *name) {
                brokers.attach(&workers, parent.spec(), config.snapshots.as_deref(), None);
            }
        }
        let listeners: Vec<Listener> = bound
            .into_iter()
            .map(|bound| listen(&workers, bound))
            .collect();
        // Only what listens already is offered to others.
        for registration in &config.registrations {
            registries.register(registration);
        }
        registries.set_bridges(config.bridges);
        let mut subscribers = Subscribers::default();
        subscribers.replace(config.subscriptions)?;
        Ok(Self {
            subscribers: Mutex::new(subscribers),
            groups: std::sync::Mutex::new(Groups::of(config.groups)),
            registrations: Mutex::new(config.registrations),
            mesh,
            metrics,
            watchers,
            access_logs,
            tracer,
            certificates,
            reloads: Reloads::begin(),
            statsd: Statsd::new(config.statsd),
            orders: Orders::default(),
            started: SystemTime::now(),
            shown: std::sync::Mutex::new(Shown {
                value: config.shown,
                since: SystemTime::now(),
            }),
            turns,
            _registry_thread: registry_thread,
            registries,
            workers,
            brokers: Mutex::new(config.brokers),
            listeners: Mutex::new(listeners),
            draining: AtomicBool::new(false),
            awaited,
            lifecycle: std::sync::Mutex::new(config.lifecycle),
            outlets: std::sync::Mutex::new(config.outlets),
            fixed,
        })
    }

    /// Puts a new configuration in force, or nothing of it. Returns the keys whose change only a
    /// restart puts in force: those stay as they are.
    ///
    /// # Errors
    /// If it is going to stop, a new address cannot be bound, or a producer not be started; then everything
    /// stays as it is.
    pub async fn reload(&self, config: Config) -> anyhow::Result<Vec<&'static str>> {
        anyhow::ensure!(!self.is_draining(), "it is going to stop");
        let changed = self.fixed.changed(&Fixed::of(&config));
        let mut listeners = self.listeners.lock().await;
        let mut brokers = self.brokers.lock().await;
        let is_new = |spec: &ListenerSpec| !listeners.iter().any(|own| own.spec == *spec);
        let wanted = config.listeners.clone();
        keep_fresh(&config, &self.certificates);
        let fresh = config.listeners.into_iter().filter(is_new).collect();
        config.outlets.start(&self.outlets())?;
        // Those of filters that go on as they are end unasked.
        config.background.iter().for_each(|own| own.clone().start());
        // Last of what may fail: clients that connect meanwhile are in the kernel's queue, and would be
        // reset.
        let bound = bind(&self.workers, fresh, &config.places)?;
        self.access_logs
            .replace(&config.access_logs)
            .context("cannot start a thread")?;
        self.subscribers
            .lock()
            .await
            .replace(config.subscriptions)?;
        self.lock_groups().replace(config.groups);
        let tracing = self
            .tracer
            .configure(config.tracing.as_ref(), self.mesh.clock)?;
        self.mesh.trace(tracing);
        *self.lock_outlets() = config.outlets;
        *self.lock_lifecycle() = config.lifecycle;
        log::configure(&config.log);
        self.registries.replace(config.registries);
        self.statsd.replace(config.statsd);
        self.mesh.apply(config.routing);
        listeners.retain(|listener| {
            let kept = wanted.contains(&listener.spec);
            if !kept {
                tracing::info!(listener = %listener.spec.name, "listener removed");
                self.workers.unlisten(listener.id);
            }
            kept
        });
        let fresh: Vec<&ListenerSpec> = bound.iter().map(Bound::spec).collect();
        self.replace_brokers(&mut brokers, config.brokers, &fresh);
        listeners.extend(bound.into_iter().map(|bound| listen(&self.workers, bound)));
        let mut registrations = self.registrations.lock().await;
        self.registries
            .change_registrations(&registrations, &config.registrations);
        *registrations = config.registrations;
        self.registries.set_bridges(config.bridges);
        self.lock_shown().replace(config.shown, &changed);
        Ok(changed)
    }

    /// Has the brokers of listeners that are `fresh` served anew, and those of listeners that are gone no more;
    /// the others stay.
    fn replace_brokers(
        &self,
        current: &mut Vec<(Arc<str>, Arc<BrokerListeners>)>,
        wanted: Vec<(Arc<str>, Arc<BrokerListeners>)>,
        fresh: &[&ListenerSpec],
    ) {
        let snapshots = self.fixed.snapshots.as_deref();
        let former = std::mem::take(current);
        for (name, brokers) in wanted {
            let known = former.iter().find(|(own, _)| *own == name);
            match (known, fresh.iter().find(|spec| spec.name == name)) {
                (Some((_, known)), None) => current.push((name, known.clone())),
                (known, Some(parent)) => {
                    let known = known.map(|(_, known)| &**known);
                    brokers.attach(&self.workers, parent, snapshots, known);
                    current.push((name, brokers));
                }
                (None, None) => {}
            }
        }
        for (name, known) in former {
            if !current.iter().any(|(_, own)| Arc::ptr_eq(own, &known)) {
                tracing::debug!(listener = %name, "the listeners of its brokers are closed");
                known.close();
            }
        }
    }

    /// The configuration in force, without secrets.
    pub fn shown(&self) -> Shown {
        self.lock_shown().clone()
    }

    fn lock_shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every listener.
    pub async fn listeners(&self) -> Vec<ListenerStatus> {
        let listeners = self.listeners.lock().await;
        let all = listeners.iter().map(|own| ListenerStatus {
            name: own.spec.name.to_string(),
            address: own.address,
            protocols: own.spec.protocols.iter().map(|own| own.name()).collect(),
            routes: own.spec.routes.to_string(),
            tls: own.spec.tls.is_some(),
            connections: own.spec.stats.connections.load(Ordering::Relaxed),
            accepted: own.spec.stats.accepted.load(Ordering::Relaxed),
        });
        all.collect()
    }

    /// RocketMQ's brokers that clients reach here.
    pub async fn brokers(&self) -> Vec<BrokerStatus> {
        let brokers = self.brokers.lock().await;
        brokers.iter().flat_map(|(_, own)| own.status()).collect()
    }

    /// Name, address and protocols of every listener.
    pub async fn listening(&self) -> Vec<(String, SocketAddr, String)> {
        let describe = |listener: &Listener| {
            let protocols: Vec<_> = listener.spec.protocols.iter().map(|p| p.name()).collect();
            let protocols = match &*protocols {
                [only] => (*only).to_owned(),
                _ => "auto".to_owned(),
            };
            (listener.spec.name.to_string(), listener.address, protocols)
        };
        self.listeners.lock().await.iter().map(describe).collect()
    }

    /// Where messages leave, as the configuration in force has it.
    pub fn outlets(&self) -> Outlets {
        self.lock_outlets().clone()
    }

    fn lock_outlets(&self) -> std::sync::MutexGuard<'_, Outlets> {
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has been told to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Says that it is going to stop: readiness fails from now on.
    pub fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// For how long it goes on serving when it is told to stop: as configured, or else this.
    pub fn drain_delay(&self, usual: Duration) -> Duration {
        self.lock_lifecycle().drain_delay.unwrap_or(usual)
    }

    /// Consumer groups of our own, and what became of their messages.
    pub fn groups(&self) -> Vec<GroupStatus> {
        self.lock_groups().status()
    }

    fn lock_groups(&self) -> std::sync::MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_lifecycle(&self) -> std::sync::MutexGuard<'_, Lifecycle> {
        self.lifecycle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back what is registered, goes on accepting and serving for `delay`, so that load balancers
    /// see that it is not ready any more; then accepts no more, tells clients to go away, finishes what is in
    /// flight, and ends the workers.
    pub async fn drain(&self, delay: Duration) {
        self.begin_draining();
        // Consumers that learn of it need the delay as much as load balancers do.
        tokio::join!(self.registries.withdraw(), tokio::time::sleep(delay));
        self.workers.drain().await;
        self.subscribers.lock().await.stop().await;
        let ended = self.lock_groups().stop();
        ended.await;
        let outlets = self.outlets();
        // What clients were not told of yet, they will send again; this is for the rest.
        let flushing = tokio::task::spawn_blocking(move || outlets.flush(FLUSH));
        let _ = tokio::join!(flushing, self.tracer.flush());
        self.access_logs.finish().await;
    }
}
