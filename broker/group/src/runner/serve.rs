//! The threads that listen to other members: replicas get the log, all of them answers.

use super::shared::Shared;
use crate::{
    link::{Link, LinkError},
    master::{Lead, Master},
};
use bytes::Bytes;
use sluice_env::{Connection, Listener};
use sluice_replication::{
    Member,
    wire::{Ask, Data, Hello, Message, Piece, Refusal, Seed, Take, VERSION},
};
use sluice_store::ReadError;
use sluice_types::CommitLogOffset;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Connections served at once: a few of each other member, and what may hang meanwhile.
const CONNECTIONS_MAX: usize = 64;

pub(super) fn run(shared: &Arc<Shared>, listener: &dyn Listener) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.accept(shared.options.timing.beat());
        if shared.lock().is_stopping {
            return;
        }
        let Ok(connection) = accepted else { continue };
        if open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::SeqCst);
            connection.close();
            continue;
        }
        let (inside, counted) = (shared.clone(), open.clone());
        let body = move || {
            serve(&inside, connection);
            counted.fetch_sub(1, Ordering::SeqCst);
        };
        if let Err(error) = shared.env.spawn.thread("group-serve", Box::new(body)) {
            tracing::error!(%error, "another member can't be served");
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(shared: &Arc<Shared>, connection: Arc<dyn Connection>) {
    let (peer, mut link) = (connection.peer(), Link::new(connection.clone()));
    match link.receiver.receive(shared.options.timing.lease) {
        Ok(Message::Hello(hello)) => lead(shared, link, &hello),
        Ok(Message::Take(take)) => {
            if let Err(error) = give_whole(shared, &mut link, &take) {
                tracing::warn!(member = %take.id, %error, "the log could not be given whole");
            }
        }
        Ok(Message::Ask(ask)) => drop(answer(shared, &mut link, ask)),
        Ok(_) => tracing::warn!(peer, "a connection that begins with neither a hello nor a question is closed"),
        Err(error) => tracing::debug!(peer, %error, "a connection ended before it had begun"),
    }
    connection.close();
}

fn lead(shared: &Arc<Shared>, mut link: Link, hello: &Hello) {
    let Some(store) = shared.lock().store.clone() else {
        let why = "its store is being opened".to_owned();
        let _ = link.sender.send(&Message::Refusal(Refusal { state: None, why }), shared.options.timing.lease);
        return;
    };
    let options = &shared.options;
    let master = Master {
        cluster: options.cluster.clone(),
        group: options.group.clone(),
        place: options.place.clone(),
        beat: options.timing.beat(),
        patience: options.timing.lease,
    };
    let ended = master.serve(&shared.env, link, hello, &store, &(shared.clone() as Arc<dyn Lead>));
    tracing::info!(member = %hello.member.id, reason = %ended, "a replica does not follow any more");
}

/// Log in one message, unless a record is larger; and of a seed.
const PIECE_BYTES: usize = 1 << 20;

/// Gives a replica all that it needs to have this log from where it begins now.
fn give_whole(shared: &Arc<Shared>, link: &mut Link, take: &Take) -> Result<(), GiveError> {
    let patience = shared.options.timing.lease;
    let mut refuse = |why: String| Ok(link.sender.send(&Message::Refusal(Refusal { state: None, why }), patience)?);
    if let Some(why) = is_elsewhere(shared, take.version, &take.cluster, &take.group) {
        return refuse(why);
    }
    let Some((state, store)) = shared.state().zip(shared.lock().store.clone()) else {
        return refuse("this broker is not master".to_owned());
    };
    if take.store.is_some_and(|store| state.has(Member { id: take.id, store })) {
        return refuse("that replica is in the in-sync set: its copy may be one that is needed".to_owned());
    }
    tracing::info!(member = %take.id, "a replica takes the log whole");
    let (epoch, segment_bytes) = (state.epoch, store.segment_bytes());
    if store.marks().min == CommitLogOffset::ZERO {
        return Ok(link.sender.send(&Message::Seed(Seed { epoch, segment_bytes, bytes: 0 }), patience)?);
    }
    let seed = store.seed()?;
    link.sender.send(&Message::Seed(Seed { epoch, segment_bytes, bytes: seed.bytes.len() as u64 }), patience)?;
    let bytes = Bytes::from(seed.bytes);
    for at in (0..bytes.len()).step_by(PIECE_BYTES) {
        if !shared.leads(epoch) {
            return Ok(());
        }
        let piece = bytes.slice(at..bytes.len().min(at + PIECE_BYTES));
        link.sender.send(&Message::Piece(Piece(piece)), patience)?;
    }
    let (mut from, confirmed) = (seed.min, seed.end);
    while from < seed.end && shared.leads(epoch) {
        let log = store.range(from, PIECE_BYTES)?;
        let next = from.plus(log.len() as u64);
        link.sender.send(&Message::Data(Data { epoch, from, confirmed, log }), patience)?;
        from = next;
    }
    // The replica closes when it has everything; so what is on its way is not cut off.
    drop(link.receiver.receive(patience));
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the checkpoint can't be had: {0}")]
    Seed(#[from] std::io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What to tell one who means another group, or speaks another version.
fn is_elsewhere(shared: &Shared, version: u16, cluster: &str, group: &str) -> Option<String> {
    let own = &shared.options;
    let is_here = (version, cluster, group) == (VERSION, own.cluster.as_str(), own.group.as_str());
    (!is_here).then(|| format!("this is group {} of cluster {}, version {VERSION}", own.group, own.cluster))
}

/// Answers one member's questions until it asks no more.
fn answer(shared: &Shared, link: &mut Link, mut ask: Ask) -> Result<(), LinkError> {
    let patience = shared.options.timing.lease;
    loop {
        if let Some(why) = is_elsewhere(shared, ask.version, &ask.cluster, &ask.group) {
            return link.sender.send(&Message::Refusal(Refusal { state: None, why }), patience);
        }
        link.sender.send(&Message::Answer(shared.answer()), patience)?;
        ask = match link.receiver.receive(patience)? {
            Message::Ask(ask) => ask,
            _ => return Ok(()),
        };
        if shared.lock().is_stopping {
            return Ok(());
        }
    }
}
