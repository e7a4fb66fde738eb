//! RocketMQ's own clients and servers: what they do with each other through Finback is what they do directly.

mod addresses;
mod bridged;
mod clients;
mod filters;
mod gray;
mod grouped;
mod groups;
mod lanes;
pub(crate) mod mesh;
mod messages;
mod mirrored;
mod on_grpc;
mod operators;
mod outages;
mod renamed;
mod secured;
mod shadows;
pub(crate) mod stage;
mod stand_in;
mod styles;
mod through;
