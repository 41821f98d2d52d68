//! A log that can't be continued is given up, and the master's is taken whole: first what stands for all that the master has removed, then the log up to where that counts.
//! An ordinary follower does the rest.

use super::shared::Shared;
use crate::link::{Link, LinkError};
use bytes::Bytes;
use sluice_replication::{
    MemberId,
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

/// Orders the directory to be emptied and fills it. Comes back when the store can be opened; false when the member stops.
pub(super) fn run(shared: &Shared, segment_bytes: u64) -> bool {
    tracing::warn!("this replica's log is given up, and the master's is taken whole");
    loop {
        match resync::order(&shared.env, segment_bytes) {
            Ok(()) => break,
            Err(ResyncError::Directory(sluice_store::OpenError::Locked(_))) => {
                if !shared.pause(LOCKED_PAUSE) {
                    return false;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the store could not be given up; trying again");
                if !shared.pause(PAUSE) {
                    return false;
                }
            }
        }
    }
    let mut told = None;
    loop {
        match take(shared, segment_bytes) {
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
    }
}

fn take(shared: &Shared, segment_bytes: u64) -> Result<(), Failed> {
    let target = shared.lock().target.ok_or(Failed::NoMaster)?.0;
    let address = shared.options.members.get(&target).ok_or(Failed::NoMaster)?;
    let patience = shared.options.timing.lease;
    let connection = shared.env.net.connect(address, patience).map_err(|error| Failed::Connect(address.clone(), error))?;
    let mut link = Link::new(connection.clone());
    let taken = take_over(shared, &mut link, segment_bytes, patience);
    connection.close();
    taken
}

fn take_over(shared: &Shared, link: &mut Link, segment_bytes: u64, patience: Duration) -> Result<(), Failed> {
    let (options, id): (_, MemberId) = (&shared.options, shared.options.id);
    let take = Take { version: VERSION, cluster: options.cluster.clone(), group: options.group.clone(), id };
    link.sender.send(&Message::Take(take), patience)?;
    let seed = match link.receiver.receive(patience)? {
        Message::Seed(seed) => seed,
        Message::Refusal(refusal) => return Err(Failed::Refused(refusal.why)),
        _ => return Err(Failed::OutOfPlace),
    };
    if seed.segment_bytes != segment_bytes {
        return Err(Failed::Segments(seed.segment_bytes, segment_bytes));
    }
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
