//! Certificates that are read again when their files change.

use std::sync::Arc;

use crate::config::Config;
use crate::config::units::Placed;
use crate::tls::{self, Ledger, Owner, Renewed};

/// Has certificates read again when their files change, as long as what they are for lives.
pub(super) fn keep_fresh(config: &Config, ledger: &Arc<Ledger>) {
    let files = &config.files;
    let owner = |role, name: &str| Owner {
        role,
        name: name.to_owned(),
    };
    for (listener, files) in config.listeners.iter().zip(&files.listeners) {
        let owner = owner("listener", &listener.name);
        watch(listener.tls.as_ref(), files.as_ref(), owner, ledger);
    }
    for (cluster, files) in config.routing.clusters.iter().zip(&files.clusters) {
        let owner = owner("cluster", &cluster.name);
        watch(cluster.policy.tls.as_ref(), files.as_ref(), owner, ledger);
    }
    let registry = &config.routing.registry_policy;
    let owner = owner("cluster", "registry_clusters");
    watch(
        registry.tls.as_ref(),
        files.registry_clusters.as_ref(),
        owner,
        ledger,
    );
}

fn watch<T: Renewed>(
    tls: Option<&Arc<T>>,
    files: Option<&Placed<T::Files>>,
    owner: Owner,
    ledger: &Arc<Ledger>,
) {
    if let (Some(tls), Some(files)) = (tls, files) {
        let (tls, files) = (Arc::downgrade(tls), files.value.clone());
        tokio::spawn(tls::keep_fresh(tls, files, owner, ledger.clone()));
    }
}
