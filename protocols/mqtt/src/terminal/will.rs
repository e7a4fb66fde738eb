//! A will (MQTT 5, section 3.1.2.5): what is published when a client goes away without a word.

use std::time::Duration;

use finback_core::log_limit::LogLimit;
use finback_core::text::Escaped;
use tokio::time::Instant;

use crate::codec;
use crate::codec::Properties;
use crate::codec::properties::id;
use crate::sink::{NotTaken, OutgoingMessage, Receipt};

use super::{AGAIN, AGAIN_MOST, Terminal};

/// A will waits this long for room.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be published when a client goes away without a word.
pub(super) struct Will {
    /// As the route names it.
    topic: String,
    payload: Vec<u8>,
    properties: Vec<u8>,
    qos: u8,
    retain: bool,
}

impl Will {
    /// That of a CONNECT.
    pub(super) fn of(will: &codec::Will<'_>) -> Self {
        Self {
            topic: will.topic.to_string(),
            payload: will.payload.to_vec(),
            properties: will.properties.to_vec(),
            qos: will.qos,
            retain: will.retain,
        }
    }

    pub(super) fn is_delayed(&self) -> bool {
        let delay = Properties::trusted(&self.properties).number(id::WILL_DELAY);
        delay.is_some_and(|delay| delay > 0)
    }
}

impl Terminal {
    /// Publishes a will, if there is room for it in time.
    pub(super) fn publish_will(&self, will: Will) {
        let sink = self.sink.clone();
        let (client_id, username) = (self.client_id.clone(), self.username.clone());
        let identity = self.identity.clone();
        let worker = self.caller.worker().clone();
        self.caller.worker().spawn("a will", async move {
            let deadline = Instant::now() + PATIENCE;
            let mut again = AGAIN;
            loop {
                let message = OutgoingMessage {
                    topic: &will.topic,
                    client_id: &client_id,
                    username: &username,
                    identity: &identity,
                    qos: will.qos,
                    retain: will.retain,
                    properties: Properties::trusted(&will.properties),
                    payload: &will.payload,
                };
                match sink.take(&message, Receipt::unheard()) {
                    Err(NotTaken::Full) if Instant::now() < deadline => {}
                    Ok(()) => return,
                    Err(why) => {
                        static LOST: LogLimit = LogLimit::usual();
                        if let Some(left_out) = LOST.admit(worker.now()) {
                            let client = Escaped(&client_id);
                            tracing::warn!(%client, ?why, left_out, "a will was not published");
                        }
                        return;
                    }
                }
                tokio::time::sleep(again).await;
                again = (again * 2).min(AGAIN_MOST);
            }
        });
    }
}
