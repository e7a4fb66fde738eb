//! What the code must not say, each with what to say instead, as data, and the check of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::paths::Crate;
use crate::{crate_source, root};

/// A name that must not be used.
pub(crate) struct Ban {
    /// A word (also of a method), or a path or the end or middle of one.
    pub(crate) named: &'static str,
    /// What to use instead.
    pub(crate) instead: &'static str,
    /// Files that may use it, and why.
    pub(crate) except: &'static [(&'static str, &'static str)],
}

impl Ban {
    /// Where modules of a crate name it, code of tests and excepted files left out.
    pub(crate) fn faults(
        &self,
        prefix: &str,
        who: &str,
        source: &Crate,
        stands: impl Fn(&[String]) -> bool,
    ) -> Vec<String> {
        let wanted: Vec<&str> = self.named.split("::").collect();
        let mut places = BTreeSet::new();
        for written in &source.written {
            if written.test || !stands(&written.module) {
                continue;
            }
            let names = |path: &[String]| {
                path.windows(wanted.len())
                    .any(|part| part.iter().eq(wanted.iter().copied()))
            };
            if names(&written.whole) || names(&written.segments) {
                places.insert((written.file.clone(), written.line));
            }
        }
        places.retain(|(file, _)| !self.except.iter().any(|(own, _)| own == file));
        places
            .into_iter()
            .map(|(file, line)| {
                let (named, instead) = (self.named, self.instead);
                format!("{prefix}{file}:{line}: {who} must not name `{named}`: {instead}")
            })
            .collect()
    }
}

/// A ban in several folders. Exceptions name files from the root; one that is needed no longer is a
/// fault too.
struct Rule {
    ban: Ban,
    /// Crates' sources, from the root.
    within: &'static [&'static str],
}

const CORE: &str = "core/src";
const BOLT: &str = "protocols/bolt/src";
const DUBBO: &str = "protocols/dubbo/src";
const HESSIAN: &str = "protocols/hessian/src";
const HTTP: &str = "protocols/http/src";
const GRPC: &str = "protocols/grpc/src";
const MQTT: &str = "protocols/mqtt/src";
const ROCKETMQ: &str = "protocols/rocketmq/src";
const TCP: &str = "protocols/tcp/src";
const DATA_PATH: &[&str] = &[CORE, BOLT, DUBBO, HESSIAN, HTTP, GRPC, MQTT, ROCKETMQ, TCP];
/// Crates that are nothing but codecs.
const CODECS: &[&str] = &[BOLT, DUBBO, HESSIAN, ROCKETMQ];
const PRODUCT: &[&str] = &[
    CORE,
    BOLT,
    DUBBO,
    HESSIAN,
    HTTP,
    GRPC,
    MQTT,
    ROCKETMQ,
    TCP,
    "bridges/src",
    "protocols/kafka/src",
    "registry/src",
    "observability/src",
    "src",
];

const RULES: [Rule; 11] = [
    Rule {
        ban: Ban {
            named: "wake_by_ref",
            instead: "to give way, `net::Turn` or `net::give_way`: a task that wakes itself is polled up \
                      to sixty times before a socket is looked at",
            except: &[
                (
                    "core/src/driver/worker.rs",
                    "wakes the flusher, another task",
                ),
                (
                    "core/src/driver/write_queue.rs",
                    "wakes the connection's own task from calls of others",
                ),
                (
                    "protocols/http/src/http2/connection/output.rs",
                    "wakes the driver from calls of others",
                ),
            ],
        },
        within: PRODUCT,
    },
    Rule {
        ban: Ban {
            named: "unbounded_channel",
            instead: "a bounded channel: what nobody takes must not pile up",
            except: &[
                (
                    "core/src/driver/threads.rs",
                    "commands of the control side, and connections that are bounded themselves",
                ),
                (
                    "registry/src/store/etcd.rs",
                    "changes of keys that we follow, as many as there are services",
                ),
                (
                    "registry/src/store/etcd/connect.rs",
                    "keys that we follow, as many as there are services",
                ),
                (
                    "src/subscriber.rs",
                    "acknowledgements, bounded by the window of what may be unacknowledged",
                ),
            ],
        },
        within: PRODUCT,
    },
    Rule {
        ban: Ban {
            named: "spawn_local",
            instead: "`Worker::spawn`, which counts a panic and closes what the task held",
            except: &[
                ("core/src/driver/task.rs", "`Worker::spawn` itself"),
                (
                    "core/src/driver/simulated.rs",
                    "workers of a simulation drain at once on one thread",
                ),
                (
                    "core/src/driver/worker.rs",
                    "the worker's own tasks, which begin again after a panic",
                ),
            ],
        },
        within: PRODUCT,
    },
    Rule {
        ban: Ban {
            named: "tokio::spawn",
            instead: "`Worker::spawn`: a worker's tasks stay on its thread",
            except: &[(
                "protocols/http/src/probe.rs",
                "probes run on the control runtime",
            )],
        },
        within: DATA_PATH,
    },
    Rule {
        ban: Ban {
            named: "TcpStream::connect",
            instead: "`Worker::connect` or `net::dial`, which count and tell whose failure it is",
            except: &[("core/src/net/dial.rs", "`net::dial` itself")],
        },
        within: DATA_PATH,
    },
    Rule {
        ban: Ban {
            named: "std::time::Instant",
            instead: "`tokio::time::Instant` or `clock::Now`, which a test can pause",
            except: &[],
        },
        within: DATA_PATH,
    },
    Rule {
        ban: Ban {
            named: "SystemTime::now",
            instead: "`clock::Now`, or the time of a record",
            except: &[
                ("core/src/clock.rs", "it is the clock"),
                (
                    "protocols/http/src/headers.rs",
                    "the header Date is the time of day",
                ),
            ],
        },
        within: DATA_PATH,
    },
    Rule {
        ban: Ban {
            named: "tokio",
            instead: "a codec is a pure function of bytes",
            except: &[],
        },
        within: CODECS,
    },
    Rule {
        ban: Ban {
            named: "Instant",
            instead: "a codec owns no clock",
            except: &[],
        },
        within: CODECS,
    },
    Rule {
        ban: Ban {
            named: "mem::forget",
            instead: "drop it: places, leases and records are given back by guards",
            except: &[],
        },
        within: PRODUCT,
    },
    Rule {
        ban: Ban {
            named: "process::exit",
            instead: "return an `ExitCode` from `main`, so that what is held is dropped",
            except: &[],
        },
        within: PRODUCT,
    },
];

/// Folders and files of codecs in crates that are more than a codec, and what they must not name.
const CODEC_PARTS: [(&str, &[&str]); 2] = [
    (MQTT, &["codec"]),
    (HTTP, &["http2::hpack", "http2::huffman", "http1::head"]),
];
const NOT_IN_CODECS: [(&str, &str); 5] = [
    ("Instant", "a codec owns no clock"),
    ("SystemTime", "a codec owns no clock"),
    ("tokio", "a codec is a pure function of bytes"),
    ("TcpStream", "a codec is a pure function of bytes"),
    ("RandomState", "a codec owns no chance"),
];

#[test]
fn nothing_says_what_is_banned() {
    let mut faults = Vec::new();
    let read = |folder: &&'static str| (*folder, crate_source(folder));
    let sources: BTreeMap<&str, Crate> = PRODUCT.iter().map(read).collect();
    for Rule { ban, within } in &RULES {
        let open = Ban {
            except: &[],
            ..*ban
        };
        let mut found = Vec::new();
        for folder in *within {
            let source = &sources[folder];
            found.extend(open.faults(&format!("{folder}/"), folder, source, |_| true));
        }
        let excepted = |fault: &str, file: &str| fault.starts_with(&format!("{file}:"));
        for (file, _) in ban.except {
            if !found.iter().any(|fault| excepted(fault, file)) {
                faults.push(format!(
                    "{file} no longer names `{}`: remove its exception",
                    ban.named
                ));
            }
        }
        found.retain(|fault| !ban.except.iter().any(|(file, _)| excepted(fault, file)));
        faults.extend(found);
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn codecs_own_no_clock_and_no_socket() {
    let mut faults = Vec::new();
    for (folder, parts) in CODEC_PARTS {
        let source = crate_source(folder);
        for part in parts {
            let stands = |module: &[String]| {
                let module = module.join("::");
                module == *part || module.starts_with(&format!("{part}::"))
            };
            assert!(
                source.written.iter().any(|written| stands(&written.module)),
                "no {part}"
            );
            for (named, instead) in NOT_IN_CODECS {
                let ban = Ban {
                    named,
                    instead,
                    except: &[],
                };
                faults.extend(ban.faults(&format!("{folder}/"), "a codec", &source, stands));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// What clippy finds better than we, because it knows the types: a method, and what to use instead.
const EVERYWHERE: [(&str, &str); 2] = [
    (
        "std::mem::forget",
        "drop it: places, leases and records are given back by guards",
    ),
    (
        "std::boxed::Box::leak",
        "own it: what is leaked grows with every reload",
    ),
];
/// The same for core and protocols.
const ON_THE_DATA_PATH: [(&str, &str); 2] = [
    (
        "std::time::Instant::now",
        "use `tokio::time::Instant` or `clock::Now`, which a test can pause",
    ),
    (
        "std::thread::sleep",
        "a worker's thread must not block: `tokio::time::sleep`",
    ),
];

#[test]
fn clippy_knows_the_bans() {
    for (file, more) in [
        ("clippy.toml", &[][..]),
        ("core/clippy.toml", &ON_THE_DATA_PATH),
        ("protocols/clippy.toml", &ON_THE_DATA_PATH),
    ] {
        let mut text = String::from(
            "# Written from the data in tests/architecture/bans.rs.\ndisallowed-methods = [\n",
        );
        for (path, reason) in EVERYWHERE.iter().chain(more) {
            text.push_str(&format!(
                "    {{ path = \"{path}\", reason = \"{reason}\" }},\n"
            ));
        }
        text.push_str("]\n");
        let found = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(found == text, "{file} must say:\n{text}");
    }
}
