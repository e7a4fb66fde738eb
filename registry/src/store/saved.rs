//! Snapshot store: answers with what an earlier run knew, until the servers answer.

use super::{Answer, Out, Query};
use crate::disk::{Disk, Place};

/// The snapshots of one registry.
#[derive(Clone)]
pub(super) struct Saved {
    pub(super) disk: Disk,
    pub(super) registry: String,
}

impl Saved {
    /// Answers once.
    pub(super) async fn follow(self, query: Query, out: Out) {
        let place = Place::of(&self.registry, &query);
        let loading = tokio::task::spawn_blocking(move || self.disk.load(&place));
        let answer = loading.await.ok().flatten();
        out.publish(answer.unwrap_or(Answer::Missing));
        // Ended with the last one that follows it.
        std::future::pending().await
    }
}
