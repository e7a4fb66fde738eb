//! Trees: a store's places below one root, of which one reading or watch tells all who follow them.

use std::sync::{Arc, OnceLock};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{Out, Query};

/// Keeps a tree up to date until dropped.
pub(crate) struct Gathering {
    task: AbortHandle,
    end: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Gathering {
    /// `task` keeps it up to date; once that is over, `end` has everybody follow their places alone.
    pub(super) fn new(task: AbortHandle, end: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self {
            task,
            end: Some(Box::new(end)),
        }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(end) = self.end.take() {
            end();
        }
    }
}

/// One who follows a place of a tree.
pub(super) struct Follower {
    pub(super) query: Query,
    pub(super) out: Out,
    /// Follows the place alone, since the tree is not kept up to date any more.
    alone: OnceLock<AbortHandle>,
}

impl Follower {
    pub(super) fn new(query: Query, out: Out) -> Arc<Self> {
        Arc::new(Self {
            query,
            out,
            alone: OnceLock::new(),
        })
    }

    /// Has its place followed by `follow` from now on, until it is dropped.
    pub(super) fn go_alone<F>(
        self: Arc<Self>,
        handle: &Handle,
        follow: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send,
    {
        let own = Arc::downgrade(&self);
        let alone = async move {
            let Some(own) = own.upgrade() else { return };
            follow(own).await;
        };
        // Set once: nobody is among the followers of a tree that has ended.
        let _ = self.alone.set(handle.spawn(alone).abort_handle());
    }

    #[cfg(test)]
    pub(super) fn alone(&self) -> Option<&AbortHandle> {
        self.alone.get()
    }
}

/// A tree as a listener sees it.
pub(super) trait Forget: Send + Sync {
    /// Tells a follower nothing more.
    fn forget(&self, follower: &Arc<Follower>);
}

/// Follows a place of a tree, or alone if that is not kept up to date any more, until dropped.
pub(super) struct Listener {
    tree: Arc<dyn Forget>,
    pub(super) follower: Arc<Follower>,
}

impl Listener {
    pub(super) fn new(tree: Arc<dyn Forget>, follower: Arc<Follower>) -> Self {
        Self { tree, follower }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tree.forget(&self.follower);
        if let Some(alone) = self.follower.alone.get() {
            alone.abort();
        }
    }
}
