//! HTTP/1.1 (RFC 9112), both sides of it, made for passing messages on.
//!
//! A connection is a [`Line`](line::Line): its socket, what was read but not used, what waits to be
//! written, and where in a body it is. One task serves a client's connection, and the endpoint's
//! connection moves in the same task: there is no channel between them. An idle connection holds
//! no buffer.

mod body;
mod client;
mod head;
mod line;
mod server;

pub(crate) use client::{Connection, Failure, send};
pub(crate) use head::Fault;
pub(crate) use line::Received;
pub(crate) use server::{Next, Server};
