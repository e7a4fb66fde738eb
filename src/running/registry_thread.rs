//! Registry thread: registries have a runtime and a thread of their own.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Notify;

/// The runtime of registries, with a thread of its own: thousands of services that are listed at
/// once hold up no health check, no reload and nobody who looks at the admin port.
///
/// It is one of a single thread: nearly all of what it does begins with a message of a few hundred
/// bytes after a rest, and a scheduler for several would be woken for each.
pub(super) struct RegistryThread {
    pub(super) handle: Handle,
    end: Arc<Notify>,
}

impl RegistryThread {
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .thread_name("registries")
            .enable_all()
            .build()?;
        let own = Self {
            handle: runtime.handle().clone(),
            end: Arc::default(),
        };
        let end = own.end.clone();
        std::thread::Builder::new()
            .name("registries".to_owned())
            .spawn(move || {
                runtime.block_on(end.notified());
                // What blocks is not waited for.
                runtime.shutdown_background();
            })?;
        Ok(own)
    }
}

impl Drop for RegistryThread {
    fn drop(&mut self) {
        // Whoever ends it may be in another runtime, and must not wait.
        self.end.notify_one();
    }
}
