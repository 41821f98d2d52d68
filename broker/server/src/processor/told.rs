//! What name servers in other processes have been told of this broker's topics, for those whose answer is to wait for it.

use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::watch, time::timeout};

/// Longest wait of an answer for name servers. One that takes longer hangs, or has more to do than anybody can wait for.
const TOLD_DEADLINE: Duration = Duration::from_secs(1);

/// How a name server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has not answered yet; an attempt is under way.
    Unknown,
    /// It has acknowledged all changes of topics up to this one.
    Told(u64),
    /// It could not be reached, or has refused: nobody waits for it until it answers again.
    Away,
}

/// Changes of topics, and which of them each name server elsewhere has acknowledged.
pub struct Told {
    /// Changes so far.
    changes: watch::Sender<u64>,
    /// One entry a name server.
    standing: watch::Sender<Vec<Standing>>,
    runtime: Handle,
}

impl Told {
    /// For so many name servers elsewhere, none of which has been told anything. What has to wait does so on `runtime`.
    #[must_use]
    pub fn new(name_servers: usize, runtime: Handle) -> Arc<Self> {
        let (changes, standing) = (watch::Sender::new(0), watch::Sender::new(vec![Standing::Unknown; name_servers]));
        Arc::new(Self { changes, standing, runtime })
    }

    /// Whether there is a name server elsewhere.
    pub(super) fn is_needed(&self) -> bool {
        !self.standing.borrow().is_empty()
    }

    /// A topic was made, changed or deleted.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The number of changes, for whoever tells a name server of them. Read it before the topics: so it is never ahead of them.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// This name server has acknowledged the topics as they were after so many changes.
    pub(crate) fn acknowledged(&self, name_server: usize, changes: u64) {
        self.set(name_server, Standing::Told(changes));
    }

    /// This name server can't be reached, or does not take what it is told.
    pub(crate) fn away(&self, name_server: usize) {
        self.set(name_server, Standing::Away);
    }

    fn set(&self, name_server: usize, to: Standing) {
        self.standing.send_if_modified(|all| match all.get_mut(name_server) {
            Some(standing) => std::mem::replace(standing, to) != to,
            None => false,
        });
    }

    /// Calls `then` once every name server that can be reached has acknowledged the changes so far: at once if they have, and after a second all the same.
    /// From any thread; never blocks.
    pub(super) fn when_told(&self, topic: String, then: impl FnOnce() + Send + 'static) {
        let changes = *self.changes.borrow();
        let knows = move |all: &Vec<Standing>| {
            all.iter().all(|standing| match standing {
                Standing::Told(upto) => *upto >= changes,
                Standing::Away => true,
                Standing::Unknown => false,
            })
        };
        if knows(&self.standing.borrow()) {
            return then();
        }
        let mut standing = self.standing.subscribe();
        self.runtime.spawn(async move {
            // The other error is that the broker is gone: then the answer, too, goes nowhere.
            if timeout(TOLD_DEADLINE, standing.wait_for(knows)).await.is_err() {
                let waited = TOLD_DEADLINE.as_secs();
                tracing::warn!(topic, "not every name server has acknowledged a change of this topic within {waited} s; it is answered all the same");
            }
            then();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::sync::oneshot;

    fn waiting(told: &Told) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        told.when_told("t".to_owned(), move || {
            // A test need not wait for it.
            let _ = sender.send(());
        });
        receiver
    }

    #[tokio::test]
    async fn an_answer_waits_until_the_last_name_server_knows_the_change_and_not_for_later_ones() {
        let told = Told::new(2, Handle::current());
        told.changed();
        let mut answer = waiting(&told);
        told.changed();
        told.acknowledged(0, 2);
        told.acknowledged(1, 0);
        tokio::task::yield_now().await;
        assert!(answer.try_recv().is_err(), "one of two name servers does not know the change");
        told.acknowledged(1, 1);
        answer.await.expect("answered");
        assert!(waiting(&told).try_recv().is_err(), "the second change is not known everywhere");
        told.acknowledged(1, 2);
        waiting(&told).try_recv().expect("all is known: answered at once");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_name_server_that_is_away() {
        let told = Told::new(1, Handle::current());
        told.changed();
        let answer = waiting(&told);
        told.away(0);
        answer.await.expect("answered");
        told.changed();
        waiting(&told).try_recv().expect("at once");
        Told::new(0, Handle::current()).changed();
        waiting(&Told::new(0, Handle::current())).try_recv().expect("there is none to wait for");
    }

    #[tokio::test]
    async fn an_answer_waits_a_second_at_most() {
        let told = Told::new(1, Handle::current());
        told.changed();
        let begun = Instant::now();
        waiting(&told).await.expect("answered");
        assert!((TOLD_DEADLINE..TOLD_DEADLINE * 3).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}
