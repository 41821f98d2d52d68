//! The master's end of a connection with a replica: from the replica's hello to the connection's end.

use crate::{
    epochs_of,
    link::{LinkError, Receiver, Sender},
};
use sluice_env::{Connection, Env};
use sluice_replication::{
    Epoch, GroupState, Held, Member,
    meeting::{self, Refused},
    wire::{Beat, Data, Follow, Message, Refusal, Welcome},
};
use sluice_store::{Marks, ReadError, Store};
use sluice_types::CommitLogOffset;
use std::{sync::Arc, time::Duration};

/// Log in one message, unless a record is larger.
const RANGE_BYTES_MAX: usize = 1 << 20;

/// Whom it lets follow, and how patiently.
#[derive(Clone, Debug)]
pub struct Master {
    /// Its cluster.
    pub cluster: String,
    /// Its group.
    pub group: String,
    /// The longest time without a word to a replica; a part of what replicas have patience for.
    pub beat: Duration,
    /// The longest silence of a replica that lives, and the longest time that it may take to take a message.
    pub patience: Duration,
}

/// What the connections ask of who leads.
pub trait Lead: Send + Sync {
    /// By which state this broker is master; `None`: it is not, or not any more.
    fn state(&self) -> Option<GroupState>;

    /// A replica holds so much of that epoch's log. An error ends the connection: it cannot be true.
    fn acked(&self, from: Member, epoch: Epoch, held: Held) -> Result<(), String>;
}

/// How serving a replica came to its end.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The connection did.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The replica was refused.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// This broker leads no more, or another epoch.
    #[error("this broker is not master of epoch {0} any more")]
    OtherEpoch(Epoch),
    /// The replica does not want to follow.
    #[error("the replica refuses: {0}")]
    Refuses(String),
    /// The replica said what does not belong there.
    #[error("the replica said what does not belong there")]
    OutOfPlace,
    /// What it said cannot be true.
    #[error("{0}")]
    Untrue(String),
    /// The own log could not be read.
    #[error("the log can't be given: {0}")]
    Read(#[from] ReadError),
    /// No thread for it.
    #[error("starting a thread for a replica failed: {0}")]
    Thread(std::io::Error),
}

impl Master {
    /// Serves the replica at the other end until something ends it.
    pub fn serve(&self, env: &Env, connection: &Arc<dyn Connection>, store: &Arc<Store>, lead: &Arc<dyn Lead>) -> Ended {
        let ended = self.try_serve(env, connection, store, lead);
        connection.close();
        match ended {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    fn try_serve(&self, env: &Env, connection: &Arc<dyn Connection>, store: &Arc<Store>, lead: &Arc<dyn Lead>) -> Result<std::convert::Infallible, Ended> {
        let (mut sender, mut receiver) = (Sender::new(connection.clone()), Receiver::new(connection.clone()));
        let (member, state, from) = self.greet(&mut sender, &mut receiver, store, &**lead)?;
        let epoch = state.epoch;
        let giving = Giving { master: self.clone(), sender, store: store.clone(), lead: lead.clone(), epoch, next: from };
        let closing = connection.clone();
        let body = Box::new(move || {
            let ended = giving.run();
            tracing::debug!(member = %member.id, reason = %ended, "no more log is given to a replica");
            // So that the acknowledgements' thread ends too.
            closing.close();
        });
        let thread = env.spawn.thread("replica-log", body).map_err(Ended::Thread)?;
        let ended = self.take_acks(&mut receiver, member, epoch, &**lead);
        connection.close();
        if let Err(what) = thread.join() {
            tracing::error!(what, "the thread that gives a replica the log had failed");
        }
        ended
    }

    /// Lets a replica in: who it is, by which state it follows, and from where on.
    fn greet(&self, sender: &mut Sender, receiver: &mut Receiver, store: &Store, lead: &dyn Lead) -> Result<(Member, GroupState, CommitLogOffset), Ended> {
        let hello = match receiver.receive(self.patience)? {
            Message::Hello(hello) => hello,
            _ => return Err(Ended::OutOfPlace),
        };
        let Some(state) = lead.state() else {
            self.refuse(sender, None, "this broker is not master".to_owned())?;
            return Err(Ended::OtherEpoch(hello.seen.epoch));
        };
        if let Err(why) = meeting::check_hello(&self.cluster, &self.group, &state, &hello) {
            self.refuse(sender, Some(state), why.to_string())?;
            return Err(why.into());
        }
        let marks = store.marks();
        let epochs = epochs_of(store).map_err(|error| Ended::Untrue(format!("this log's own epochs: {error}")))?;
        let welcome = Welcome { state: state.clone(), epochs, min: marks.min, end: marks.appended, segment_bytes: store.segment_bytes() };
        sender.send(&Message::Welcome(welcome), self.patience)?;
        let follow = match receiver.receive(self.patience)? {
            Message::Follow(follow) => follow,
            Message::Refusal(refusal) => return Err(Ended::Refuses(refusal.why)),
            _ => return Err(Ended::OutOfPlace),
        };
        self.check_follow(sender, store, &state, follow)?;
        Ok((hello.member, state, follow.from))
    }

    fn check_follow(&self, sender: &mut Sender, store: &Store, state: &GroupState, follow: Follow) -> Result<(), Ended> {
        let marks = store.marks();
        meeting::check_follow(state, marks.min, marks.appended, follow).or_else(|why| {
            self.refuse(sender, Some(state.clone()), why.to_string())?;
            Err(why.into())
        })
    }

    fn refuse(&self, sender: &mut Sender, state: Option<GroupState>, why: String) -> Result<(), LinkError> {
        sender.send(&Message::Refusal(Refusal { state, why }), self.patience)
    }

    fn take_acks(&self, receiver: &mut Receiver, member: Member, epoch: Epoch, lead: &dyn Lead) -> Result<std::convert::Infallible, Ended> {
        loop {
            match receiver.receive(self.patience)? {
                Message::Ack(ack) if ack.epoch == epoch => lead.acked(member, epoch, ack.held).map_err(Ended::Untrue)?,
                Message::Refusal(refusal) => return Err(Ended::Refuses(refusal.why)),
                _ => return Err(Ended::OutOfPlace),
            }
        }
    }
}

/// The thread that gives a replica the log.
struct Giving {
    master: Master,
    sender: Sender,
    store: Arc<Store>,
    lead: Arc<dyn Lead>,
    epoch: Epoch,
    next: CommitLogOffset,
}

impl Giving {
    fn run(mut self) -> Ended {
        let mut told = CommitLogOffset::ZERO;
        loop {
            // Marks first: what comes after them wakes the wait below.
            let marks = self.store.marks();
            if let Err(ended) = self.step(marks, &mut told) {
                return ended;
            }
        }
    }

    /// Sends what there is, or waits for it.
    fn step(&mut self, marks: Marks, told: &mut CommitLogOffset) -> Result<(), Ended> {
        let Some(state) = self.lead.state().filter(|state| state.epoch == self.epoch) else {
            return Err(Ended::OtherEpoch(self.epoch));
        };
        // What a member holds it is told to be confirmed as far as that reaches; all ones would be a promise about what is still to come.
        let confirmed = marks.confirmed.min(marks.appended);
        if self.next < marks.appended || *told < confirmed {
            let from = self.next;
            let log = self.store.range(from, RANGE_BYTES_MAX)?;
            self.next = from.plus(log.len() as u64);
            *told = confirmed;
            return Ok(self.sender.send(&Message::Data(Data { epoch: self.epoch, from, confirmed, log }), self.master.patience)?);
        }
        if self.store.await_progress(marks, self.master.beat) == marks {
            self.sender.send(&Message::Beat(Beat { state }), self.master.patience)?;
        }
        Ok(())
    }
}
