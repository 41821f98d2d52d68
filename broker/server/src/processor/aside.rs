//! Work that may keep a processor busy for milliseconds, off the connections' threads: each of those carries many connections.

use super::{Failure, Outcome, Reply};
use sluice_protocol::ResponseCode;
use std::{cell::Cell, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};

/// After this a request has waited for its turn longer than any client waits for an answer.
const TURN: Duration = Duration::from_secs(10);

/// Added to the nice value of threads that do such work.
const NICE: i32 = 10;

/// Makes the calling thread one that a connection's thread need not wait for: without that it keeps its processor for some 3 ms, while what others have sent waits.
/// For good, since only a privileged process could take it back.
fn give_way() {
    thread_local! {
        static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
    }
    if !GIVES_WAY.replace(true) {
        // Linux gives each thread a priority of its own. Refused, it stays as it is.
        let _ = rustix::process::nice(NICE);
    }
}

/// Does a bounded number of such works at once; the others wait, in their order. What they hold is counted as bytes in work.
pub(super) struct Aside {
    turns: Arc<Semaphore>,
}

impl Aside {
    pub(super) fn new(at_once: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(at_once)) }
    }

    /// Answers with what `work` comes to.
    pub(super) fn run(&self, reply: Reply, work: impl FnOnce() -> Outcome + Send + 'static) {
        let turns = Arc::clone(&self.turns);
        tokio::spawn(async move {
            // The semaphore is never closed: no turn means that the time is over.
            let Ok(Ok(_turn)) = timeout(TURN, turns.acquire()).await else {
                let remark =
                    format!("the broker has more requests of this kind than it can do; this one has waited for {} s. Send it again later", TURN.as_secs());
                return reply.outcome(Err(Failure::new(ResponseCode::SystemBusy, remark)));
            };
            // Fails when the runtime stops, or by a defect in the work: then the reply says so itself.
            let work = move || {
                give_way();
                reply.outcome(work());
            };
            let _ = tokio::task::spawn_blocking(work).await;
        });
    }
}
