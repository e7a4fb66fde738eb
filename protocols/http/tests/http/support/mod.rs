//! What tests of HTTP need: a mesh, scripted endpoints and a client, and frames of HTTP/2.

pub(crate) mod frames;
mod mess;
// Core's own tests move connections under TLS, too.
#[path = "../../../../../core/tests/calls/tls.rs"]
pub(crate) mod tls;

use std::time::Duration;

use tokio::time::Instant;

pub(crate) use frames::{Http2, OK};
pub(crate) use mess::*;

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Server {
    /// Whether nobody connects for a while.
    pub(crate) async fn stays_alone(&self, period: Duration) -> bool {
        tokio::time::timeout(period, self.listener.accept())
            .await
            .is_err()
    }
}

/// A response of HTTP/1.1 with this body.
pub(crate) fn response(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
