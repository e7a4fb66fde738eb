//! The watch stream: one carries the watches of all followers.

use std::collections::HashMap;
use std::sync::Arc;

use etcd_client::{Client, Error, Event, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::mpsc;

use super::gathered::{Change, What};
use super::tree::Tree;
use super::{AT_ONCE, MAX_MESSAGE, within};

/// What is asked of the stream.
pub(super) enum Command {
    Watch {
        number: i64,
        key: String,
        prefix: bool,
        revision: i64,
        teller: Teller,
    },
    Cancel(i64),
}

/// Who is told of changes.
pub(super) struct Teller {
    /// A tree, which takes them at once: nothing is sent then.
    pub(super) tree: Option<Arc<Tree>>,
    /// One that closes means that changes may have been missed.
    pub(super) changes: mpsc::UnboundedSender<Vec<Change>>,
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
    let mut watches: HashMap<i64, Teller> = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => {
                let done = match order {
                    // We keep a sender ourselves as long as the connection is offered.
                    None => return Error::Internal("nobody uses it".to_owned()),
                    Some(Command::Watch { number, key, prefix, revision, teller }) => {
                        watches.insert(number, teller);
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
                    if let Err(error) = hand_out(&response, &mut watches).await {
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

async fn hand_out(
    response: &WatchResponse,
    watches: &mut HashMap<i64, Teller>,
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
    let mut changes = response.events().iter().filter_map(change).peekable();
    match watches.get(&number) {
        // One that has just been dropped is cancelled by its own command.
        None => {}
        Some(Teller {
            tree: Some(tree), ..
        }) => {
            while changes.peek().is_some() {
                tree.apply(changes.by_ref().take(AT_ONCE));
                if changes.peek().is_some() {
                    tokio::task::yield_now().await;
                }
            }
        }
        Some(teller) if changes.peek().is_some() => {
            let _ = teller.changes.send(changes.collect());
        }
        Some(_) => {}
    }
    Ok(())
}

fn change(event: &Event) -> Option<Change> {
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
}
