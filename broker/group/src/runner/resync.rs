//! A log that can't be continued is given up, and the master's is taken whole, once a master has agreed to give it: first what stands for all that the master has removed, then the log up to where that counts.
//! An ordinary follower does the rest.

use super::shared::Shared;
use crate::link::{Link, LinkError};
use bytes::Bytes;
use sluice_replication::{
    Epoch,
    wire::{Data, Message, Piece, Seed, Take, VERSION},
};
use sluice_store::resync::{self, Filling, ResyncError};
use std::{io, time::Duration};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two tries to have the directory, which requests that have not ended still use.
const LOCKED_PAUSE: Duration = Duration::from_millis(5);
/// The most that a seed may have: 100,000 queues and a million values of metadata take less.
const SEED_BYTES_MAX: u64 = 1 << 30;

/// Why it was not taken this time.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("connecting to the master at {0} failed: {1}")]
    Connect(String, io::Error),
    #[error("no master is known")]
    NoMaster,
    #[error("the master refuses: {0}")]
    Refused(String),
    #[error("the master said what does not belong there")]
    OutOfPlace,
    #[error("its segments have {0} bytes now, {1} were ordered")]
    Segments(u64, u64),
    #[error(transparent)]
    Store(#[from] ResyncError),
}

/// A master that gives its log: over which connection, and what it has announced.
pub(super) struct Agreed {
    link: Link,
    seed: Seed,
}

impl Drop for Agreed {
    fn drop(&mut self) {
        self.link.connection.close();
    }
}

/// Has a master agree before anything is given up. `None`: none does, and the log is kept.
pub(super) fn agree_first(shared: &Shared) -> Option<Agreed> {
    match agree(shared) {
        Ok(agreed) => {
            shared.settle_resync(None);
            shared.end_following();
            Some(agreed)
        }
        Err(error) => {
            let why = format!("this replica's log is kept though the master's is to be taken instead: {error}");
            tracing::warn!(why, "no master gives its log");
            shared.settle_resync(Some(why));
            shared.pause(PAUSE);
            None
        }
    }
}

/// Orders the directory to be emptied and fills it. Comes back when the store can be opened; false when the member stops.
pub(super) fn run(shared: &Shared, agreed: Agreed) -> bool {
    tracing::warn!("this replica's log is given up, and the master's is taken whole");
    let segment_bytes = agreed.seed.segment_bytes;
    if !give_up(shared, segment_bytes) {
        return false;
    }
    let (mut told, mut taken) = (None, fill(shared, agreed));
    loop {
        match taken {
            Ok(()) => {
                shared.lock().filling = None;
                return true;
            }
            Err(error) => {
                let why = error.to_string();
                if told.as_ref() != Some(&why) {
                    tracing::warn!(why, "the master's log could not be taken; trying again");
                }
                told = Some(why);
            }
        }
        if !shared.pause(PAUSE) {
            return false;
        }
        taken = agree(shared).and_then(|agreed| match agreed.seed.segment_bytes {
            same if same == segment_bytes => fill(shared, agreed),
            other => Err(Failed::Segments(other, segment_bytes)),
        });
    }
}

/// Orders the directory to be emptied; false when the member stops.
fn give_up(shared: &Shared, segment_bytes: u64) -> bool {
    loop {
        let pause = match resync::order(&shared.env, segment_bytes) {
            Ok(()) => return true,
            Err(ResyncError::Directory(sluice_store::OpenError::Locked(_))) => LOCKED_PAUSE,
            Err(error) => {
                tracing::error!(%error, "the store could not be given up; trying again");
                PAUSE
            }
        };
        if !shared.pause(pause) {
            return false;
        }
    }
}

/// Asks the master for its log.
fn agree(shared: &Shared) -> Result<Agreed, Failed> {
    let (target, store) = {
        let state = shared.lock();
        (state.target.ok_or(Failed::NoMaster)?.0, state.store.is_some().then(|| state.core.me().store))
    };
    let (options, timing) = (&shared.options, shared.options.timing);
    let address = options.members.get(&target).ok_or(Failed::NoMaster)?;
    let connection = shared.env.net.connect(address, timing.renewal()).map_err(|error| Failed::Connect(address.clone(), error))?;
    let mut agreed = Agreed { link: Link::new(connection), seed: Seed { epoch: Epoch(0), segment_bytes: 0, bytes: 0 } };
    let take = Take { version: VERSION, cluster: options.cluster.clone(), group: options.group.clone(), id: options.id, store };
    agreed.link.sender.send(&Message::Take(take), timing.lease)?;
    agreed.seed = match agreed.link.receiver.receive(timing.lease)? {
        Message::Seed(seed) => seed,
        Message::Refusal(refusal) => return Err(Failed::Refused(refusal.why)),
        _ => return Err(Failed::OutOfPlace),
    };
    Ok(agreed)
}

/// Fills the emptied directory with what comes.
fn fill(shared: &Shared, mut agreed: Agreed) -> Result<(), Failed> {
    let (patience, seed) = (shared.options.timing.lease, agreed.seed);
    let link = &mut agreed.link;
    if seed.bytes == 0 {
        // The log is there from its first record on: the emptied store follows it.
        return Ok(());
    }
    let bytes = receive_seed(link, seed, patience)?;
    let mut filling = Filling::begin(&shared.env, &bytes)?;
    while !filling.filled().is_complete() {
        let Data { from, log, .. } = match link.receiver.receive(patience)? {
            Message::Data(data) if data.epoch == seed.epoch => data,
            Message::Refusal(refusal) => return Err(Failed::Refused(refusal.why)),
            _ => return Err(Failed::OutOfPlace),
        };
        filling.take(from, &log)?;
        shared.lock().filling = Some(filling.filled());
    }
    Ok(filling.finish()?)
}

fn receive_seed(link: &mut Link, seed: Seed, patience: Duration) -> Result<Bytes, Failed> {
    if seed.bytes > SEED_BYTES_MAX {
        return Err(Failed::OutOfPlace);
    }
    // Grown as it comes: the number is a peer's word.
    let mut all = Vec::new();
    while (all.len() as u64) < seed.bytes {
        match link.receiver.receive(patience)? {
            Message::Piece(Piece(bytes)) if !bytes.is_empty() => all.extend_from_slice(&bytes),
            _ => return Err(Failed::OutOfPlace),
        }
    }
    Ok(all.into())
}
