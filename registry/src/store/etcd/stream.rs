//! The watch stream: one carries the watches of all followers.

use std::collections::HashMap;

use etcd_client::{Client, Error, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;

use super::gathered::{Change, What};
use super::{MAX_MESSAGE, within};

/// What is asked of the stream.
pub(super) enum Command {
    Watch {
        number: i64,
        key: String,
        prefix: bool,
        revision: i64,
        /// One that closes means that changes may have been missed.
        changes: mpsc::UnboundedSender<Vec<Change>>,
    },
    Cancel(i64),
}

/// Ends a watch when dropped.
pub(super) struct Watching {
    pub(super) number: i64,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) changes: mpsc::UnboundedReceiver<Vec<Change>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        // If the connection has ended, so has the watch.
        let _ = self.commands.send(Command::Cancel(self.number));
    }
}

/// Carries all watches over one stream; ends with it.
pub(super) async fn serve(client: &Client, mut orders: mpsc::UnboundedReceiver<Command>) -> Error {
    let mut stream: Option<WatchStream> = None;
    let mut watches: HashMap<i64, mpsc::UnboundedSender<Vec<Change>>> = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let done = match order {
                    // We keep a sender ourselves as long as the connection is offered.
                    None => return Error::Internal("nobody uses it".to_owned()),
                    Some(Command::Watch { number, key, prefix, revision, changes }) => {
                        watches.insert(number, changes);
                        let mut options = WatchOptions::new()
                            .with_start_revision(revision)
                            .with_watch_id(number);
                        if prefix {
                            options = options.with_prefix();
                        }
                        begin(client, &mut stream, key, options).await
                    }
                    Some(Command::Cancel(number)) => match (watches.remove(&number), &mut stream) {
                        (Some(_), Some(stream)) => stream.cancel(number).await,
                        _ => Ok(()),
                    },
                };
                if let Err(error) = done {
                    return error;
                }
            }
            message = next(&mut stream) => match message {
                Ok(Some(response)) => {
                    if let Err(error) = hand_out(&response, &mut watches) {
                        return error;
                    }
                }
                Ok(None) => return Error::WatchError("the stream has ended".to_owned()),
                Err(error) => return error,
            },
        }
    }
}

async fn begin(
    client: &Client,
    stream: &mut Option<WatchStream>,
    key: String,
    options: WatchOptions,
) -> Result<(), Error> {
    match stream {
        Some(stream) => stream.watch(key, Some(options)).await,
        None => {
            let mut watches = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
            *stream = Some(within(watches.watch(key, Some(options))).await?);
            Ok(())
        }
    }
}

async fn next(stream: &mut Option<WatchStream>) -> Result<Option<WatchResponse>, Error> {
    match stream {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
    }
}

fn hand_out(
    response: &WatchResponse,
    watches: &mut HashMap<i64, mpsc::UnboundedSender<Vec<Change>>>,
) -> Result<(), Error> {
    let number = response.watch_id();
    if response.canceled() {
        let ended = watches.remove(&number);
        let why = response.cancel_reason();
        if ended.is_some() {
            // Compacted, or refused: dropping the sender has the follower list again.
            let compacted = response.compact_revision();
            tracing::info!(why, compacted, "watch ended by the servers; listing again");
        }
        if why.contains("auth") {
            // The stream's token is no longer good; a new connection gets another.
            return Err(Error::WatchError(why.to_owned()));
        }
        return Ok(());
    }
    let changes: Vec<Change> = response
        .events()
        .iter()
        .filter_map(|event| {
            let entry = event.kv()?;
            let key = entry.key_str().ok()?.to_owned();
            let what = match event.event_type() {
                EventType::Put if entry.create_revision() == entry.mod_revision() => {
                    What::Made(entry.value().to_vec())
                }
                EventType::Put => What::Written(entry.value().to_vec()),
                EventType::Delete => What::Removed,
            };
            Some(Change { key, what })
        })
        .collect();
    if let Some(watch) = watches.get(&number)
        && !changes.is_empty()
    {
        // One that has just been dropped is cancelled by its own command.
        let _ = watch.send(changes);
    }
    Ok(())
}
