//! Readiness of registries: which of them have not answered since the start. A proxy that waits for them is not ready.

use std::time::Duration;

use crate::{Registries, RegistryConfig, Source, lock};

/// Servers that do not answer within this are taken to be away where a snapshot knows them.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

impl Registries {
    /// Those of `names` of which nothing is known yet: servers that never answered and of which there is
    /// no snapshot, files that could not be read. Of several as one, each counts by its own name.
    #[must_use]
    pub fn unheard(&self, names: &[String]) -> Vec<String> {
        let sources = lock(&self.sources);
        let mut asked: Vec<&String> = Vec::new();
        for name in names {
            match sources.get(name) {
                Some((RegistryConfig::Several(several), _)) => asked.extend(&several.registries),
                _ => asked.push(name),
            }
        }
        asked.sort();
        asked.dedup();
        let unheard = |name: &&String| match sources.get(*name) {
            Some((_, source)) => !source.is_heard(),
            None => false,
        };
        asked.into_iter().filter(unheard).cloned().collect()
    }
}

impl Source {
    fn is_heard(&self) -> bool {
        match self {
            Self::Servers(servers) => {
                let status = servers.feeds.store().status();
                let is_away = status.epoch > 0 || status.since.elapsed() >= FIRST_ANSWER;
                status.answered || servers.remembered && is_away
            }
            Self::Listed(listed) => listed.is_known(),
            Self::Http(polled) => polled.is_known(),
            // Names are asked for when they are needed.
            Self::Dns(_) | Self::Hosts(_) | Self::Several(_) => true,
        }
    }
}
