//! Real third-party clients and servers, a real ZooKeeper and the real binary between them.
//!
//! `make peers` installs what these tests run; a missing part fails them and says so.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod access_log;
mod admin;
mod asking;
mod bearers;
mod bolt_java;
mod bolt_node;
mod bridges;
mod browsers;
mod checking;
mod client_certificates;
mod clients;
mod compose;
mod core;
mod dashboard;
mod dubbo_java;
mod dubbo_node;
mod errors;
mod faults;
mod filters;
mod floods;
mod grpc;
mod health;
mod host_names;
mod http;
mod kafka;
mod kafka_outages;
mod kafka_policy;
mod kafka_security;
mod lanes;
mod leftovers;
mod lifecycle;
mod logging;
mod mesh_registry;
mod messages;
mod metrics;
mod mqtt;
mod mqtt_brokers;
mod mqtt_cases;
mod mqtt_faults;
mod mqtt_filters;
mod mqtt_rules;
mod mqtt_websocket;
mod names;
mod proxies;
mod readiness;
mod registries;
mod registry_outages;
mod registry_reads;
mod registry_rules;
mod registry_triple;
mod reload;
mod revocation;
mod rocketmq;
mod rotating;
mod smuggling;
mod spellings;
mod stripping;
mod support;
mod tcp;
mod tls;
mod traces;
mod upstream_tls;
