//! The replica's end of a connection with its master: from the hello to its end.

use crate::{
    epochs_of,
    link::{LinkError, Receiver, Sender},
};
use sluice_env::{Connection, broken};
use sluice_replication::{
    Epoch, Held, Member, Seen,
    meeting::{Next, OwnLog, Shorter, Why, Wrong},
    wire::{Ack, Beat, Data, Follow, Hello, Message, Refusal, VERSION, Welcome},
};
use sluice_store::{AppendError, FlushMode, FollowError, Store};
use sluice_types::CommitLogOffset;
use std::{convert::Infallible, sync::Arc, time::Duration};

/// Log that is taken in before it is flushed and acknowledged, while more is there already.
const UNFLUSHED_BYTES_MAX: usize = 8 << 20;

/// Who follows whom, and how patiently.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Its cluster.
    pub cluster: String,
    /// Its group.
    pub group: String,
    /// Itself.
    pub member: Member,
    /// The longest silence of a master that lives: several beats.
    pub patience: Duration,
}

/// Whether a master may be followed; asked again for each part of its log.
pub trait Loyalty {
    /// The newest state seen.
    fn seen(&self) -> Seen;

    /// A master lets it in: whether its epoch is the one to follow now.
    fn welcomed(&self, welcome: &Welcome) -> bool;

    /// The master lives: whether its epoch is still the one to follow.
    fn heard(&self, beat: &Beat) -> bool;

    /// Runs `what` if that epoch is still the one to follow, and says whether it did. Nobody begins to follow another one, or to lead, meanwhile.
    fn while_following(&self, epoch: Epoch, what: &mut dyn FnMut()) -> bool;
}

/// How following came to its end.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The connection did. Try again.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The master does not want it.
    #[error("the master refuses: {}", .0.why)]
    Refused(Refusal),
    /// Another epoch is to be followed.
    #[error("epoch {0} is not followed any more")]
    OtherEpoch(Epoch),
    /// The log ends with what the master's does not have: order the cut, if nobody else is master by now, and open the store again.
    #[error("the log is to be cut at {0}")]
    Cut(CommitLogOffset),
    /// The log can't be continued: take the master's whole.
    #[error("this log can't be continued by the master's: {0}")]
    Resync(Why),
    /// The log is shorter than what was said to be held of it: it counts as another one's from now on.
    #[error(transparent)]
    Shorter(Shorter),
    /// A person has to look.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// The master said what does not belong there.
    #[error("the master said {0}, which does not belong there")]
    OutOfPlace(&'static str),
    /// The own store did not take it.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The own store did not flush.
    #[error(transparent)]
    Store(#[from] AppendError),
}

impl Replica {
    /// Follows the master at the other end until something ends it.
    pub fn follow(&self, connection: &Arc<dyn Connection>, store: &Store, loyalty: &dyn Loyalty) -> Ended {
        let (sender, receiver) = (Sender::new(connection.clone()), Receiver::new(connection.clone()));
        let mut session = Session { replica: self, store, loyalty, sender, receiver, epoch: Epoch(0), beat: 0, acked: None };
        let ended = session.run();
        connection.close();
        match ended {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    fn own_log(&self, store: &Store) -> OwnLog {
        let marks = store.marks();
        // The log's own epochs rise; else nothing in it is to be trusted, and nothing in common is found.
        let epochs = epochs_of(store).unwrap_or_default();
        OwnLog { member: self.member, epochs, min: marks.min, end: marks.appended, confirmed: marks.confirmed, segment_bytes: store.segment_bytes() }
    }
}

struct Session<'a> {
    replica: &'a Replica,
    store: &'a Store,
    loyalty: &'a dyn Loyalty,
    sender: Sender,
    receiver: Receiver,
    epoch: Epoch,
    /// The last beat's time.
    beat: u64,
    /// What was said last.
    acked: Option<Ack>,
}

impl Session<'_> {
    fn run(&mut self) -> Result<Infallible, Ended> {
        let welcome = self.greet()?;
        self.epoch = welcome.state.epoch;
        if !self.loyalty.welcomed(&welcome) {
            self.send(Message::Refusal(Refusal { state: None, why: format!("epoch {} is over: {} was seen", self.epoch, self.loyalty.seen().epoch) }))?;
            return Err(Ended::OtherEpoch(self.epoch));
        }
        match self.replica.own_log(self.store).meet(&welcome)? {
            Next::Follow(from) => self.send(Message::Follow(Follow { epoch: self.epoch, from }))?,
            Next::Cut(to) => return Err(Ended::Cut(to)),
            Next::Resync(why) => return Err(Ended::Resync(why)),
            Next::BeginAnotherLife(shorter) => return Err(Ended::Shorter(shorter)),
        }
        self.tell_held()?;
        loop {
            let message = self.receive()?;
            self.take_all(message)?;
        }
    }

    fn greet(&mut self) -> Result<Welcome, Ended> {
        let Replica { cluster, group, member, .. } = self.replica.clone();
        self.send(Message::Hello(Hello { version: VERSION, cluster, group, member, seen: self.loyalty.seen() }))?;
        match self.receive()? {
            Message::Welcome(welcome) => Ok(welcome),
            other => Err(out_of_place(other)),
        }
    }

    /// Takes that message and what has come behind it; then it flushes and says so.
    fn take_all(&mut self, first: Message) -> Result<(), Ended> {
        let (mut next, mut bytes) = (Some(first), 0);
        while let Some(message) = next {
            match message {
                Message::Data(data) => {
                    bytes += data.log.len();
                    self.take(&data)?;
                }
                Message::Beat(beat) => {
                    if beat.state.epoch != self.epoch || !self.loyalty.heard(&beat) {
                        return Err(Ended::OtherEpoch(self.epoch));
                    }
                    self.beat = beat.sent;
                }
                other => return Err(out_of_place(other)),
            }
            next = if bytes < UNFLUSHED_BYTES_MAX { self.receiver.ready()? } else { None };
        }
        // Under asynchronous flush the log's own interval does.
        if bytes > 0 && self.store.flush_mode() == FlushMode::Sync && !broken("a replica acknowledges what it has not flushed") {
            self.store.flush()?;
        }
        self.tell_held()
    }

    fn take(&mut self, data: &Data) -> Result<(), Ended> {
        if data.epoch != self.epoch {
            return Err(Ended::OtherEpoch(self.epoch));
        }
        if !data.log.is_empty() {
            self.while_following(|store| store.follow(data.from, &data.log))??;
        }
        // No further than the own log goes: what is to come may be another one's.
        let confirmed = if broken("a replica shows what is not confirmed") { CommitLogOffset(u64::MAX) } else { data.confirmed };
        self.while_following(|store| store.confirm(confirmed.min(store.marks().appended)))
    }

    /// Says how much it holds of this epoch's log; of a log that has another master by now, nothing is said to this one.
    fn tell_held(&mut self) -> Result<(), Ended> {
        let marks = self.while_following(Store::marks)?;
        let flushed = if broken("a replica acknowledges what it has not flushed") { marks.appended } else { marks.flushed };
        let held = Held { received: marks.appended, flushed };
        let ack = Ack { epoch: self.epoch, held, beat: self.beat };
        // Of what was only confirmed there is nothing to say.
        if self.acked == Some(ack) {
            return Ok(());
        }
        self.acked = Some(ack);
        self.send(Message::Ack(ack))
    }

    fn while_following<T>(&self, what: impl Fn(&Store) -> T) -> Result<T, Ended> {
        let mut out = None;
        self.loyalty.while_following(self.epoch, &mut || out = Some(what(self.store)));
        out.ok_or(Ended::OtherEpoch(self.epoch))
    }

    fn send(&mut self, message: Message) -> Result<(), Ended> {
        Ok(self.sender.send(&message, self.replica.patience)?)
    }

    fn receive(&mut self) -> Result<Message, Ended> {
        Ok(self.receiver.receive(self.replica.patience)?)
    }
}

fn out_of_place(message: Message) -> Ended {
    match message {
        Message::Refusal(refusal) => Ended::Refused(refusal),
        Message::Hello(_) => Ended::OutOfPlace("hello"),
        Message::Welcome(_) => Ended::OutOfPlace("welcome"),
        Message::Follow(_) => Ended::OutOfPlace("follow"),
        Message::Data(_) => Ended::OutOfPlace("data"),
        Message::Ack(_) => Ended::OutOfPlace("an acknowledgement"),
        Message::Beat(_) => Ended::OutOfPlace("a beat"),
        Message::Ask(_) => Ended::OutOfPlace("a question"),
        Message::Answer(_) => Ended::OutOfPlace("an answer"),
        Message::Take(_) => Ended::OutOfPlace("a wish to take the log whole"),
        Message::Seed(_) => Ended::OutOfPlace("a seed"),
        Message::Piece(_) => Ended::OutOfPlace("a piece"),
    }
}
