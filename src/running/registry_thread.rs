//! The thread of registries.

use tokio::runtime::{Handle, Runtime};

/// The runtime of registries, with a thread of its own: thousands of services that are listed at
/// once hold up no health check, no reload and nobody who looks at the admin port.
pub(super) struct RegistryThread {
    pub(super) handle: Handle,
    runtime: Option<Runtime>,
}

impl RegistryThread {
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("registries")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }
}

impl Drop for RegistryThread {
    fn drop(&mut self) {
        // Within another runtime it must not be waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
