//! RocketMQ's own clients and servers: what they do with each other, directly.

mod clients;
mod groups;
mod messages;
mod outages;
mod stage;
mod styles;
