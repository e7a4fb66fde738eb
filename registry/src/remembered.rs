//! Metadata of applications, remembered: a revision is one state, so whoever was told once need not
//! ask again, not even after a restart.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::de::IgnoredAny;

use crate::disk::{Disk, Kind, Place};
use crate::metadata::{InstanceAsked, MetadataService};
use crate::store::Answer;

/// Asks the snapshots on disk first.
pub(crate) struct Remembered {
    /// Who is asked then; nobody, while the registry says nothing.
    pub(crate) service: Option<Arc<dyn MetadataService>>,
    pub(crate) disk: Disk,
    pub(crate) registry: String,
}

impl MetadataService for Remembered {
    fn ask<'a>(
        &'a self,
        address: SocketAddr,
        application: &'a str,
        revision: &'a str,
    ) -> InstanceAsked<'a> {
        let path = format!("{application}/{revision}");
        let place = Place::new(&self.registry, Kind::Metadata, &path);
        Box::pin(async move {
            let (disk, own) = (self.disk.clone(), place.clone());
            let loaded = tokio::task::spawn_blocking(move || disk.load(&own)).await;
            if let Ok(Some(Answer::Value(known))) = loaded {
                return Ok(known.to_vec());
            }
            let Some(service) = &self.service else {
                return Err("an earlier run did not know it".to_owned());
            };
            let answer = service.ask(address, application, revision).await?;
            // Damage is not remembered.
            if serde_json::from_slice::<IgnoredAny>(&answer).is_ok() {
                self.disk.save(place, Answer::Value(answer.clone().into()));
            }
            Ok(answer)
        })
    }
}
