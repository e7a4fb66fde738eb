//! RocketMQ's own clients and servers: what they do with each other through Finback is what they do directly.

mod addresses;
mod clients;
mod filters;
mod groups;
mod mesh;
mod messages;
mod on_grpc;
mod operators;
mod outages;
mod stage;
mod styles;
mod through;
