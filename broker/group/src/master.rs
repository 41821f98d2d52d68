//! The master's end of a connection with a replica: from the replica's hello to the connection's end.

use crate::{
    epochs_of,
    link::{Link, LinkError, Receiver, Sender},
    yielding::{self, CatchUp, Tail},
};
use sluice_env::{
    Clock, Connection, Env, Monotonic,
    sync::{Condvar, Mutex},
};
use sluice_replication::{
    Epoch, GroupState, Member,
    meeting::{self, Refused},
    wire::{Ack, Beat, Data, Follow, Hello, Message, Refusal, Welcome},
};
use sluice_store::{Mark, Marks, ReadError, Store};
use sluice_types::CommitLogOffset;
use std::{convert::Infallible, sync::Arc, time::Duration};

/// Log in one message, unless a record is larger.
const RANGE_BYTES_MAX: usize = 1 << 20;

/// What is confirmed is told with the log that comes next. When none has come for so long it is told alone.
const CONFIRMED_ALONE: Duration = Duration::from_millis(5);

/// Log of less than that waits while some is on its way: a replica flushes what it has before it looks at what comes, so that this would lie there until then, and it goes
/// in fewer and larger pieces so. More goes at once: whoever catches up is not to wait for each piece.
const TOGETHER_BYTES: u64 = 64 << 10;
/// And for no longer than that without a look around.
const TOGETHER: Duration = Duration::from_millis(10);

/// Whom it lets follow, and how patiently.
#[derive(Clone, Debug)]
pub struct Master {
    /// Its cluster.
    pub cluster: String,
    /// Its group.
    pub group: String,
    /// Where it serves clients.
    pub place: String,
    /// Between two beats; a part of what replicas have patience for.
    pub beat: Duration,
    /// The longest silence of a replica that lives, and the longest time that it may take to take a message.
    pub patience: Duration,
}

/// What the connections ask of who leads.
pub trait Lead: Send + Sync {
    /// By which state this broker is master; `None`: it is not, or not any more.
    fn state(&self) -> Option<GroupState>;

    /// The newest state that it knows of, whoever is master by it.
    fn newest(&self) -> Option<GroupState>;

    /// The last renewal of its lease that has gone through.
    fn renewal(&self) -> u64;

    /// How the log's end fares; `None`: nobody writes.
    fn tail(&self) -> Option<Tail>;

    /// A replica follows from now on.
    fn joined(&self, member: Member);

    /// A replica that had joined does not follow on this connection any more.
    fn left(&self, member: Member);

    /// Up to where that life of a store must have the log, because it has said so or because that is confirmed; `None`: it is not in the in-sync set, and nothing rests on it.
    fn must_hold(&self, member: Member) -> Option<CommitLogOffset>;

    /// A replica says what it holds. An error ends the connection: it cannot be true.
    fn acked(&self, from: Member, ack: Ack) -> Result<(), String>;
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
    /// Serves the replica at the other end, which has said hello, until something ends it.
    pub fn serve(&self, env: &Env, link: Link, hello: &Hello, store: &Arc<Store>, lead: &Arc<dyn Lead>) -> Ended {
        let connection = link.connection.clone();
        let ended = self.try_serve(env, link, hello, store, lead);
        connection.close();
        match ended {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    fn try_serve(&self, env: &Env, link: Link, hello: &Hello, store: &Arc<Store>, lead: &Arc<dyn Lead>) -> Result<Infallible, Ended> {
        let Link { connection, mut sender, mut receiver } = link;
        let (state, from) = self.greet(&mut sender, &mut receiver, hello, store, &**lead)?;
        let giving = Giving {
            master: self.clone(),
            clock: env.clock.clone(),
            sender,
            store: store.clone(),
            lead: lead.clone(),
            member: hello.member,
            epoch: state.epoch,
            catch_up: CatchUp::default(),
            next: from,
            taken: Arc::new(Taken::new(from)),
            told: CommitLogOffset::ZERO,
            given: Monotonic(Duration::ZERO),
            beaten: None,
        };
        lead.joined(hello.member);
        let ended = self.both_ways(env, &connection, giving, &mut receiver, hello.member);
        lead.left(hello.member);
        ended
    }

    /// Gives the log on a thread of its own, and takes the acknowledgements on this one.
    fn both_ways(&self, env: &Env, connection: &Arc<dyn Connection>, giving: Giving, receiver: &mut Receiver, member: Member) -> Result<Infallible, Ended> {
        let (lead, taken, epoch) = (giving.lead.clone(), giving.taken.clone(), giving.epoch);
        let closing = connection.clone();
        let body = Box::new(move || {
            let ended = giving.run();
            tracing::debug!(member = %member.id, reason = %ended, "no more log is given to a replica");
            // So that the acknowledgements' thread ends too.
            closing.close();
        });
        let thread = env.spawn.thread("replica-log", body).map_err(Ended::Thread)?;
        let ended = self.take_acks(receiver, member, epoch, &*lead, &taken);
        connection.close();
        if let Err(what) = thread.join() {
            tracing::error!(what, "the thread that gives a replica the log had failed");
        }
        ended
    }

    /// Lets a replica in: who it is, by which state it follows, and from where on.
    fn greet(
        &self,
        sender: &mut Sender,
        receiver: &mut Receiver,
        hello: &Hello,
        store: &Store,
        lead: &dyn Lead,
    ) -> Result<(GroupState, CommitLogOffset), Ended> {
        let Some(state) = lead.state() else {
            self.refuse(sender, lead.newest(), "this broker is not master".to_owned())?;
            return Err(Ended::OtherEpoch(hello.seen.epoch));
        };
        if let Err(why) = meeting::check_hello(&self.cluster, &self.group, &state, hello) {
            self.refuse(sender, Some(state), why.to_string())?;
            return Err(why.into());
        }
        let marks = store.marks();
        let epochs = epochs_of(store).map_err(|error| Ended::Untrue(format!("this log's own epochs: {error}")))?;
        let must_hold = lead.must_hold(hello.member);
        let welcome = Welcome {
            state: state.clone(),
            epochs,
            min: marks.min,
            end: marks.appended,
            segment_bytes: store.segment_bytes(),
            place: self.place.clone(),
            must_hold,
        };
        sender.send(&Message::Welcome(welcome), self.patience)?;
        let follow = match receiver.receive(self.patience)? {
            Message::Follow(follow) => follow,
            Message::Refusal(refusal) => return Err(Ended::Refuses(refusal.why)),
            _ => return Err(Ended::OutOfPlace),
        };
        self.check_follow(sender, store, &state, must_hold, follow)?;
        Ok((state, follow.from))
    }

    fn check_follow(&self, sender: &mut Sender, store: &Store, state: &GroupState, must_hold: Option<CommitLogOffset>, follow: Follow) -> Result<(), Ended> {
        let marks = store.marks();
        meeting::check_follow(state, marks.min, marks.appended, must_hold, follow).or_else(|why| {
            self.refuse(sender, Some(state.clone()), why.to_string())?;
            Err(why.into())
        })
    }

    fn refuse(&self, sender: &mut Sender, state: Option<GroupState>, why: String) -> Result<(), LinkError> {
        sender.send(&Message::Refusal(Refusal { state, why }), self.patience)
    }

    fn take_acks(&self, receiver: &mut Receiver, member: Member, epoch: Epoch, lead: &dyn Lead, taken: &Taken) -> Result<Infallible, Ended> {
        loop {
            match receiver.receive(self.patience)? {
                Message::Ack(ack) if ack.epoch == epoch => {
                    lead.acked(member, ack).map_err(Ended::Untrue)?;
                    taken.note(ack.held.received);
                }
                Message::Refusal(refusal) => return Err(Ended::Refuses(refusal.why)),
                _ => return Err(Ended::OutOfPlace),
            }
        }
    }
}

/// How much of what it was given a replica has said to hold.
struct Taken {
    to: Mutex<CommitLogOffset>,
    more: Condvar,
}

impl Taken {
    fn new(to: CommitLogOffset) -> Self {
        Self { to: Mutex::new(to), more: Condvar::new() }
    }

    fn note(&self, to: CommitLogOffset) {
        *self.to.lock() = to;
        self.more.notify_all();
    }

    /// Waits until all up to there is held, for at most that time; whether it was before.
    fn is_all(&self, to: CommitLogOffset, timeout: Duration) -> bool {
        let mut taken = self.to.lock();
        let is_all = *taken >= to;
        if !is_all {
            self.more.wait_for(&mut taken, timeout);
        }
        is_all
    }
}

/// The thread that gives a replica the log.
struct Giving {
    master: Master,
    clock: Arc<dyn Clock>,
    sender: Sender,
    store: Arc<Store>,
    lead: Arc<dyn Lead>,
    member: Member,
    epoch: Epoch,
    catch_up: CatchUp,
    next: CommitLogOffset,
    taken: Arc<Taken>,
    /// What the replica knows to be confirmed.
    told: CommitLogOffset,
    /// When it was last given something.
    given: Monotonic,
    /// When the last beat was sent.
    beaten: Option<Monotonic>,
}

impl Giving {
    fn run(mut self) -> Ended {
        loop {
            // Marks first: what comes after them wakes the wait below.
            let marks = self.store.marks();
            if let Err(ended) = self.step(marks) {
                return ended;
            }
        }
    }

    /// Sends what there is, or waits for it.
    fn step(&mut self, marks: Marks) -> Result<(), Ended> {
        let Some(state) = self.lead.state().filter(|state| state.epoch == self.epoch) else {
            // So that the replica need not ask around who is.
            let refusal = Refusal { state: self.lead.newest(), why: "this broker is not master any more".to_owned() };
            self.sender.send(&Message::Refusal(refusal), self.master.patience)?;
            return Err(Ended::OtherEpoch(self.epoch));
        };
        let now = self.clock.monotonic();
        let due = self.beaten.map(|last| last + self.master.beat);
        if due.is_none_or(|due| due <= now) {
            self.beaten = Some(now);
            let beat = Beat { state, sent: sent_at(now), renewal: self.lead.renewal() };
            return Ok(self.sender.send(&Message::Beat(beat), self.master.patience)?);
        }
        // What a member holds it is told to be confirmed as far as that reaches; all ones would be a promise about what is still to come.
        let confirmed = marks.confirmed.min(marks.appended);
        let until_beat = due.map_or(self.master.beat, |due| due.since(now));
        let more = self.next.distance_to(marks.appended);
        if (1..TOGETHER_BYTES).contains(&more) && !self.taken.is_all(self.next, until_beat.min(TOGETHER)) {
            // By now there may be more of it.
            return Ok(());
        }
        let is_due = self.told < confirmed && now.since(self.given) >= CONFIRMED_ALONE;
        if more > 0 || is_due {
            // Records wait for those who are in the set, and nobody for one that catches up.
            let catches_up = !state.has(self.member) && self.next.distance_to(marks.appended) > yielding::BEHIND_BYTES;
            let tail = if catches_up { self.lead.tail() } else { None };
            let from = self.next;
            let log = self.store.range(from, if tail.is_some() { yielding::PIECE_BYTES } else { RANGE_BYTES_MAX })?;
            let bytes = log.len();
            self.next = from.plus(bytes as u64);
            (self.told, self.given) = (confirmed, now);
            self.sender.send(&Message::Data(Data { epoch: self.epoch, from, confirmed, log }), self.master.patience)?;
            if catches_up {
                self.give_way(now, tail, bytes, due);
            }
            return Ok(());
        }
        let wait = if self.told < self.next { until_beat.min(CONFIRMED_ALONE) } else { until_beat };
        self.store.await_progress(Mark::Appended, marks, wait);
        Ok(())
    }

    /// Pauses for those who keep up, but not beyond the next beat.
    fn give_way(&mut self, begun: Monotonic, tail: Option<Tail>, bytes: usize, due: Option<Monotonic>) {
        let now = self.clock.monotonic();
        let pause = self.catch_up.pause(now.0, tail, bytes, now.since(begun));
        let pause = due.map_or(pause, |due| pause.min(due.since(now)));
        if !pause.is_zero() {
            Condvar::new().wait_for(&mut Mutex::new(()).lock(), pause);
        }
    }
}

/// A beat's time on its way: never 0.
fn sent_at(now: Monotonic) -> u64 {
    u64::try_from(now.0.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// When the beat was sent that a replica has heard, at the latest.
pub(crate) fn promised_at(beat: u64) -> Option<Duration> {
    (beat > 0).then(|| Duration::from_millis(beat))
}
