//! Keys under an etcd lease, which live as long as it: a key is ours alone, or belongs to whoever wrote it first.
//!
//! A shared key changes hands while it stands: those who wait look after the holder's lease, and put
//! the key under their own when that is not renewed any more.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, Error, PutOptions, Txn, TxnOp};
use finback_core::text::Escaped;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::gathered::{Change, What};
use super::lease::{LEASE, Term, is_not_found};
use super::{Connection, Etcd, within};
use crate::layout::application::Content;
use crate::lock;
use crate::store::Claim;
use crate::store::pause::Losses;

/// A lease of another that has no more left, in seconds, was not renewed twice: its holder is gone.
const ENDING: i64 = LEASE / 3;
/// How often leases of others are looked at.
const LOOK: Duration = Duration::from_secs(1);

impl Etcd {
    pub(in crate::store) async fn hold(
        &self,
        path: &str,
        value: &[u8],
        claim: Claim,
        held: &watch::Sender<bool>,
    ) {
        let mut own = self.clone();
        let mut losses = Losses::default();
        while let Some(connection) = own.connection().await {
            losses.begin();
            let ended = connection.hold(path, value, claim, held).await;
            held.send_replace(false);
            if let Err(error) = ended {
                tracing::warn!(path = %Escaped(path), %error, "cannot register; trying again");
                if is_not_found(&error) {
                    connection.lease.wishes.doubted.notify_one();
                }
            }
            losses.wait().await;
        }
    }

    /// Removes a key that is bound to our lease.
    pub(in crate::store) async fn release(&self, path: &str) -> Result<(), String> {
        let connection = self.connection.borrow().clone();
        let connection = connection.ok_or("the registry does not answer")?;
        let Some(lease) = connection.lease.term.borrow().id() else {
            return Ok(());
        };
        let ours = Compare::lease(path, CompareOp::Equal, lease);
        let remove = Txn::new()
            .when([ours])
            .and_then([TxnOp::delete(path, None)]);
        match within(connection.kv().txn(remove)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Makes a key what it is to be, unless it is; it stays when we are gone.
    pub(in crate::store) async fn amend(
        &self,
        path: &str,
        content: &Content,
    ) -> Result<(), String> {
        let connection = self.clone().connection().await;
        let connection = connection.ok_or("the store has ended")?;
        let amended = connection.amend(path, content).await;
        amended.map_err(|error| error.to_string())
    }
}

impl Connection {
    async fn amend(&self, key: &str, content: &Content) -> Result<(), Error> {
        loop {
            let found = within(self.kv().get(key, None)).await?;
            let found = found.kvs().first();
            let Some(value) = content.amend(found.map(|own| own.value())) else {
                return Ok(());
            };
            let revision = found.map_or(0, |own| own.mod_revision());
            let same = Compare::mod_revision(key, CompareOp::Equal, revision);
            let put = TxnOp::put(key, value, None);
            let txn = Txn::new().when([same]).and_then([put]);
            // Otherwise another was faster: what it wrote is amended.
            if within(self.kv().txn(txn)).await?.succeeded() {
                return Ok(());
            }
        }
    }

    /// Holds a key until it, the lease or the connection is lost.
    async fn hold(
        &self,
        key: &str,
        value: &[u8],
        claim: Claim,
        held: &watch::Sender<bool>,
    ) -> Result<(), Error> {
        self.lease.wishes.wanted.notify_one();
        let mut now = self.lease.term.clone();
        let granted = now.wait_for(|term| matches!(term, Term::Granted(_)));
        let Ok(term) = granted.await.map(|term| *term) else {
            return Ok(());
        };
        let own = term.id().unwrap_or_default();
        let (holder, revision) = match claim {
            Claim::Own => (own, self.put(key, value, own, Vec::new()).await?.1),
            Claim::Shared => self.claim(key, value, own).await?,
        };
        held.send_replace(true);
        let mut watching = self.watch(key, false, revision + 1, None);
        let mut ending = pin!(async {
            // One that is bound to no lease was put by hand.
            if holder == own || holder == 0 {
                return std::future::pending().await;
            }
            self.ending(holder).await
        });
        loop {
            let changes = tokio::select! {
                changes = watching.changes.recv() => changes,
                changed = now.changed() => {
                    if changed.is_err() || *now.borrow() != term {
                        return Ok(());
                    }
                    continue;
                }
                ended = &mut ending => {
                    ended?;
                    // Taken over while it is still there: nobody sees that it changes hands.
                    let same = Compare::lease(key, CompareOp::Equal, holder);
                    self.put(key, value, own, vec![same]).await?;
                    return Ok(());
                }
            };
            let is_written = |change: &Change| !matches!(change.what, What::Removed);
            match changes {
                // Ours is ours whoever writes to it; of a shared one another may be the holder now.
                Some(changes) if claim == Claim::Own && changes.iter().all(is_written) => {}
                // Removed, by whatever hand, or a gap.
                _ => return Ok(()),
            }
        }
    }

    /// Puts a key if nobody holds it, or if we do. Who holds it then, and at which revision.
    async fn claim(&self, key: &str, value: &[u8], own: i64) -> Result<(i64, i64), Error> {
        let none = Compare::version(key, CompareOp::Equal, 0);
        let (made, revision) = self.put(key, value, own, vec![none]).await?;
        if made {
            return Ok((own, revision));
        }
        let found = within(self.kv().get(key, None)).await?;
        let revision = found.header().map_or(0, |header| header.revision());
        let Some(found) = found.kvs().first() else {
            // Gone in between: the watch from here on will not say so.
            return Box::pin(self.claim(key, value, own)).await;
        };
        if found.lease() == own && found.value() != value {
            let same = Compare::lease(key, CompareOp::Equal, own);
            let (_, revision) = self.put(key, value, own, vec![same]).await?;
            return Ok((own, revision));
        }
        Ok((found.lease(), revision))
    }

    /// Puts a key under these conditions. Whether they held, and the revision after it.
    async fn put(
        &self,
        key: &str,
        value: &[u8],
        lease: i64,
        when: Vec<Compare>,
    ) -> Result<(bool, i64), Error> {
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when(when).and_then([put]);
        let response = within(self.kv().txn(txn)).await?;
        let revision = response.header().map_or(0, |header| header.revision());
        Ok((response.succeeded(), revision))
    }

    /// Waits until the lease of another is about to end: it was not renewed for a while.
    async fn ending(&self, lease: i64) -> Result<(), Error> {
        let ending = {
            let mut wards = lock(&self.wards);
            wards.retain(|_, ward| ward.strong_count() > 0);
            match wards.get(&lease).and_then(Weak::upgrade) {
                Some(ward) => ward,
                None => {
                    let ward = Arc::new(Ward::begin(self.client.clone(), lease));
                    wards.insert(lease, Arc::downgrade(&ward));
                    ward
                }
            }
        };
        let mut ended = ending.ended.clone();
        // It is only closed with its task, which ends with the last who waits.
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(())
    }
}

/// Another's lease, looked at for all who wait for what is bound to it.
pub(super) struct Ward {
    ended: watch::Receiver<bool>,
    task: AbortHandle,
}

impl Drop for Ward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ward {
    fn begin(client: Client, lease: i64) -> Self {
        let (sender, ended) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut leases = client.lease_client();
            loop {
                match within(leases.time_to_live(lease, None)).await {
                    // One that is gone has none left.
                    Ok(answer) if answer.ttl() <= ENDING => break,
                    // What holds with the connection is told otherwise.
                    Ok(_) | Err(_) => tokio::time::sleep(LOOK).await,
                }
            }
            sender.send_replace(true);
            std::future::pending::<()>().await;
        });
        Self {
            ended,
            task: task.abort_handle(),
        }
    }
}
