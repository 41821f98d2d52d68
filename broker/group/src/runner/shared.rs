//! What a member's threads share, and how what happens reaches the state machine and comes out as deeds.
//! The state's lock is held as long as it takes to think, and never while a disk or a connection is waited for: a member whose disk hangs goes on beating, answering what it
//! knows, refusing, telling how it is, and giving up. Who brings news of a state waits for the disk, in `learn`, before the state machine hears of it: so nothing is said
//! or done by a state that is not remembered. That goes in this order:
//! 1. It takes the `memory`; locks are taken in the order memory, state, gate.
//! 2. Of a newer epoch: a master ceases (which needs no disk), the gate is shut for the epochs before, and what is being taken in of them is waited for.
//! 3. The state is written to the disk, without the state's lock; then the state machine is told.

mod people;

use super::{
    GroupOptions, Service, StartError,
    state::{Desk, State},
    tenure::Command,
};
use crate::{
    Kept,
    coordinator::{Coordinator, Lease},
    life,
    master::{Lead, promised_at},
    yielding::{Tail, TailMeter},
};
use sluice_env::{
    Env, Monotonic, broken,
    sync::{Condvar, Mutex, MutexGuard},
};
use sluice_replication::{
    Action, Core, Epoch, Event, GroupState, Held, LogHealth, Member, MemberId, Pace, Seen, Signs, Wish,
    wire::{Ack, Answer},
};
use sluice_store::{FlushMode, Marks, RecoveryProgress, Store, StoreOptions};
use sluice_types::CommitLogOffset;
use std::{
    cmp::Reverse,
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The file in which the newest state seen is remembered.
const SEEN: &str = "seen";

pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) options: GroupOptions,
    pub(super) coordinator: Arc<dyn Coordinator>,
    pub(super) service: Arc<dyn Service>,
    state: Mutex<State>,
    changed: Condvar,
    /// The state's store, for those who must not wait for what the disk does under the state's lock.
    opened: Mutex<Option<Arc<Store>>>,
    /// Where the newest state seen is remembered. Held while it is, and while the log is ordered to be cut for an epoch that must not be over by then.
    memory: Mutex<Kept<Seen>>,
    gate: Mutex<Gate>,
    taken: Condvar,
    /// How the log's end fares, while this broker is master.
    tail: Mutex<TailMeter>,
    /// By which state this broker is master, and the newest one that it knows of.
    word: Mutex<Word>,
    /// Nanoseconds by the clock: when the followed master was heard, when the disk last took a write, and until when a master may serve.
    heard: AtomicU64,
    written: AtomicU64,
    serves_until: AtomicU64,
    /// The epoch that clients are served in; 0: none.
    serving: AtomicU64,
    /// As the state's `is_stopping`, for those who wait elsewhere.
    has_stopped: AtomicBool,
}

/// By which a replica takes in the log of no epoch that is over.
struct Gate {
    /// The epoch whose master may be followed.
    follows: Option<Epoch>,
    /// Whether some of its log is being taken in at this moment.
    is_taking: bool,
}

/// What other members are told.
#[derive(Default)]
struct Word {
    lead: Option<GroupState>,
    newest: Option<GroupState>,
}

/// A confirmation to be carried out without the lock.
type Confirmed = Option<(Arc<Store>, CommitLogOffset)>;

impl Shared {
    pub(super) fn open(
        env: Env,
        mut options: GroupOptions,
        coordinator: Arc<dyn Coordinator>,
        service: Arc<dyn Service>,
        progress: &RecoveryProgress,
    ) -> Result<Self, StartError> {
        options.store.replicated = true;
        options.store.unconfirmed_age_max = options.timing.lease;
        let store = Store::open_watched(env.clone(), options.store.clone(), progress)?;
        let incarnation = life::begin(&env, store.identity(), store.flush_mode(), false)?;
        let shortened = life::shortened(&env)?;
        let kept = Kept::<Seen>::new(env.disk.clone(), SEEN);
        let seen = kept.load()?.unwrap_or_default();
        // What an earlier process had written may not have been durable, and it must not be taken back.
        kept.store(&seen)?;
        let now = env.clock.monotonic().0;
        let me = Member { id: options.id, store: incarnation };
        let core = Core::new(me, options.min_in_sync, seen, held(store.marks()));
        let state = State {
            pace: Pace::new(options.timing, now),
            core,
            lost: store.lost(),
            store: Some(store),
            desk: Desk::default(),
            commands: Default::default(),
            target: None,
            followed: None,
            master: None,
            answers: Default::default(),
            doubted: BTreeSet::new(),
            renewal: 0,
            is_learning: false,
            forgetting: None,
            alarm: None,
            wrong: None,
            refused: None,
            resyncs: 0,
            shorter: None,
            shortened,
            coordinator_away: None,
            filling: None,
            is_stopping: false,
        };
        Ok(Self {
            written: AtomicU64::new(nanos(now)),
            heard: AtomicU64::new(0),
            serves_until: AtomicU64::new(0),
            serving: AtomicU64::new(0),
            has_stopped: AtomicBool::new(false),
            env,
            options,
            coordinator,
            service,
            opened: Mutex::new(state.store.clone()),
            state: Mutex::new(state),
            changed: Condvar::default(),
            memory: Mutex::new(kept),
            gate: Mutex::new(Gate { follows: Some(seen.epoch), is_taking: false }),
            taken: Condvar::default(),
            tail: Mutex::default(),
            word: Mutex::default(),
        })
    }

    pub(super) fn store_options(&self) -> StoreOptions {
        self.options.store.clone()
    }

    pub(super) fn now(&self) -> Duration {
        self.env.clock.monotonic().0
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until `find` has found something or the member stops (`None`), at most that long (`Some(None)`).
    pub(super) fn wait<T>(&self, at_most: Duration, mut find: impl FnMut(&mut State) -> Option<T>) -> Option<Option<T>> {
        let until = self.now() + at_most;
        let mut state = self.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            if let Some(found) = find(&mut state) {
                return Some(Some(found));
            }
            let left = until.saturating_sub(self.now());
            if left.is_zero() {
                return Some(None);
            }
            self.changed.wait_for(&mut state, left);
        }
    }

    /// Sleeps; false when the member stops.
    pub(super) fn pause(&self, time: Duration) -> bool {
        self.wait(time, |_| None::<()>).is_some()
    }

    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.is_stopping = true;
        self.has_stopped.store(true, Ordering::SeqCst);
        if let Some(followed) = state.followed.take() {
            followed.close();
        }
        drop(state);
        self.word.lock().lead = None;
        self.gate.lock().follows = None;
        self.taken.notify_all();
        self.notify();
    }

    /// Gives the store out, or takes it away.
    pub(super) fn set_store(&self, state: &mut State, store: Option<Arc<Store>>) -> Option<Arc<Store>> {
        self.opened.lock().clone_from(&store);
        std::mem::replace(&mut state.store, store)
    }

    pub(super) fn store(&self) -> Option<Arc<Store>> {
        self.opened.lock().clone()
    }

    /// Flushes and closes the store, and notes that nothing is missing.
    pub(super) fn close_store(&self) {
        let Some(store) = self.set_store(&mut self.lock(), None) else { return };
        if store.is_poisoned() {
            life::note_failure(&self.env);
        }
        store.close();
        let marks = store.marks();
        if !store.is_poisoned()
            && marks.flushed == marks.appended
            && let Err(error) = life::close(&self.env)
        {
            tracing::warn!(%error, "that the store was closed could not be noted");
        }
    }

    // ---- what happens

    /// Tells the state machine, and does what it says.
    pub(super) fn tell(&self, event: Event) {
        let mut state = self.lock();
        let confirmed = if state.core.news(&event).is_some() {
            drop(state);
            self.learn(event)
        } else {
            let confirmed = self.tell_locked(&mut state, event);
            drop(state);
            confirmed
        };
        confirm(confirmed);
    }

    /// Remembers the state that an event brings news of, and tells the state machine then.
    fn learn(&self, event: Event) -> Confirmed {
        let memory = self.memory.lock();
        let mut state = self.lock();
        let is_able = state.forgetting.is_none() && !state.is_stopping;
        let Some(said) = state.core.news(&event).filter(|_| is_able) else { return self.tell_locked(&mut state, event) };
        if said.epoch > state.core.seen().epoch {
            self.leave_epoch(&mut state, &event);
            drop(state);
            self.await_taken();
        } else {
            drop(state);
        }
        let written = if broken("what was seen is not remembered") { Ok(()) } else { memory.store(&said) };
        let mut state = self.lock();
        if let Err(error) = written {
            self.forget(&mut state, said, error.to_string());
            return None;
        }
        state.is_learning = false;
        self.tell_locked(&mut state, event)
    }

    /// A newer epoch has begun: it is never wrong to cease, and nothing that hangs or fails may keep a master from it.
    fn leave_epoch(&self, state: &mut State, event: &Event) {
        if let Event::Read { now: Some(now), .. } = event {
            // Told to those who are refused from now on: who is master now the coordinator says, and this broker promises nothing by it.
            self.word.lock().newest = Some(now.state.clone());
        }
        state.is_learning = true;
        // It confirms nothing.
        drop(self.tell_locked(state, Event::Retire));
    }

    /// Waits until what is being taken in of a log is in; or the member stops.
    fn await_taken(&self) {
        let mut gate = self.gate.lock();
        while gate.is_taking && !self.has_stopped.load(Ordering::SeqCst) {
            self.taken.wait_for(&mut gate, self.options.timing.beat());
        }
    }

    /// A state could not be remembered: this broker is as one that was killed, and as one that starts once it can be.
    fn forget(&self, state: &mut State, said: Seen, why: String) {
        tracing::error!(why, "this broker takes no part in its group until it can remember what it has seen");
        drop(self.tell_locked(state, Event::Retire));
        Self::follow(state, None);
        (state.forgetting, state.is_learning) = (Some((said, why)), false);
        self.gate.lock().follows = None;
        self.publish(state, false);
        self.notify();
    }

    pub(super) fn tell_locked(&self, state: &mut State, event: Event) -> Confirmed {
        if state.forgetting.is_some() || state.is_stopping {
            return None;
        }
        let is_read = matches!(event, Event::Read { now: Some(_), .. });
        let mut actions = Vec::new();
        if let Some(store) = &state.store {
            actions = state.core.on(Event::Own(held(store.marks())));
        }
        actions.extend(state.core.on(event));
        // It is never wrong to cease, and nothing that fails may keep a master from it.
        actions.sort_by_key(|action| !matches!(action, Action::Cease(_)));
        let mut confirmed = None;
        if is_read && !actions.iter().any(|action| matches!(action, Action::Alarm(_))) {
            state.alarm = None;
        }
        for action in actions {
            self.carry_out(state, action, &mut confirmed);
        }
        self.gate.lock().follows = (!state.is_learning && state.core.master_of().is_none()).then(|| state.core.seen().epoch);
        self.publish(state, true);
        let store = state.store.clone()?;
        let to = counted(&store, confirmed?);
        Some((store, to))
    }

    /// What those see who do not take the lock.
    fn publish(&self, state: &State, is_able: bool) {
        let recorded = state.core.in_sync().filter(|_| is_able).map(|set| &set.recorded().state);
        {
            let mut word = self.word.lock();
            if state.core.known().is_some_and(|known| word.newest.as_ref() != Some(known)) {
                word.newest = state.core.known().cloned();
            }
            if word.lead.as_ref() != recorded {
                word.lead = recorded.cloned();
                self.lead_changed(state, recorded);
            }
        }
        if recorded.is_none() {
            self.serving.store(0, Ordering::SeqCst);
        }
        self.measure_service(state);
    }

    /// Those who give the log look around, and appends learn whether enough hold it.
    fn lead_changed(&self, state: &State, recorded: Option<&GroupState>) {
        self.notify();
        if let Some(store) = &state.store {
            store.set_too_few(recorded.is_some_and(|recorded| recorded.in_sync.len() < self.options.min_in_sync));
            store.nudge();
        }
    }

    fn measure_service(&self, state: &State) {
        let until = state.pace.serves_until(&state.core).unwrap_or(Duration::MAX);
        self.serves_until.store(nanos(until), Ordering::SeqCst);
        if let Some(store) = &state.store {
            // What is acknowledged unconfirmed is not fenced by its confirmation.
            let leads = state.core.master_of().is_some() && state.forgetting.is_none();
            store.lead_until(Monotonic(if leads { until } else { Duration::ZERO }));
        }
    }

    fn carry_out(&self, state: &mut State, action: Action, confirmed: &mut Option<Held>) {
        let now = self.now();
        match action {
            // It is, before the event was told.
            Action::Remember(_) => {}
            Action::Read => state.desk.look = true,
            Action::Swap { from, to } => state.desk.swap = Some((from, to)),
            Action::Begin(epoch) => {
                tracing::info!(%epoch, "this broker is master");
                state.pace.begins(now);
                *self.tail.lock() = TailMeter::default();
                // Who does not live any more is let go before the first confirmation waits for it.
                state.doubted = self.options.members.keys().copied().filter(|id| *id != self.options.id).collect();
                state.renewal = 0;
                Self::follow(state, None);
                state.commands.push_back(Command::Begin(epoch));
            }
            Action::Cease(epoch) => {
                tracing::info!(%epoch, "this broker is not master any more");
                self.serving.store(0, Ordering::SeqCst);
                state.commands.push_back(Command::Cease(epoch));
            }
            Action::Follow(master, epoch) => {
                state.pace.follows(now, master, epoch);
                Self::follow(state, Some((master, epoch)));
            }
            Action::Confirm(held) => {
                *confirmed = Some(held);
                // Thousands of times a second; nobody waits here for how far the log is confirmed.
                return;
            }
            Action::Alarm(set_back) => {
                if state.alarm.replace(set_back) != Some(set_back) {
                    tracing::error!(%set_back, "this broker stands still as far as its group goes");
                }
            }
        }
        self.notify();
    }

    fn follow(state: &mut State, target: Option<(MemberId, Epoch)>) {
        if state.target == target {
            return;
        }
        state.target = target;
        (state.wrong, state.refused) = (None, None);
        if let Some(followed) = state.followed.take() {
            followed.close();
        }
    }

    /// Whether that member's broker listened when it was asked at that time. A replica whose process is gone is let go at once.
    pub(super) fn listens(&self, asked: Duration, id: MemberId, does: bool) {
        let mut state = self.lock();
        state.pace.listens(asked, id, does);
        let is_master = state.core.master_of().is_some();
        drop(state);
        if is_master && !does {
            self.make_wishes();
        }
    }

    // ---- what is wished

    /// Lets what is due be tried.
    pub(super) fn make_wishes(&self) {
        let mut state = self.lock();
        if let Some((said, _)) = state.forgetting {
            drop(state);
            return self.try_to_remember(said);
        }
        let signs = self.signs(&state);
        let inner = &mut *state;
        let wishes = inner.pace.wishes(signs, &inner.core);
        let mut confirmed = Vec::new();
        for wish in wishes {
            confirmed.push(self.grant(&mut state, wish));
        }
        self.measure_service(&state);
        drop(state);
        confirmed.into_iter().for_each(confirm);
    }

    fn grant(&self, state: &mut State, wish: Wish) -> Confirmed {
        match wish {
            Wish::Look => state.desk.look = true,
            Wish::Renew { epoch, renewal } => state.desk.renew = Some(Lease { epoch, master: self.options.id, renewal }),
            Wish::Stand => {
                let heard = state.answers.values().map(|(answer, _)| answer.seen).max().unwrap_or_default();
                tracing::info!(seen = ?state.core.seen(), "standing for master");
                return self.tell_locked(state, Event::Stand { heard });
            }
            Wish::StandUnclean => {
                tracing::error!(
                    "no member of the in-sync set has kept what it held: this one, which has most of the log, stands for master; acknowledged records may be lost"
                );
                return self.tell_locked(state, Event::StandUnclean);
            }
            Wish::Admit(member) => return self.tell_locked(state, Event::Admit(member)),
            Wish::Dismiss(member) => {
                tracing::warn!(%member.id, "a replica does not keep up: it is to leave the in-sync set");
                return self.tell_locked(state, Event::Dismiss(member));
            }
            Wish::Retire(why) => {
                tracing::error!(%why, "this master gives up its role");
                return self.tell_locked(state, Event::Retire);
            }
        }
        self.notify();
        None
    }

    fn signs(&self, state: &State) -> Signs {
        let now = self.now();
        let written = Duration::from_nanos(self.written.load(Ordering::SeqCst));
        let log = match &state.store {
            None => LogHealth::Failed,
            Some(store) if store.is_poisoned() => LogHealth::Failed,
            Some(_) if now.saturating_sub(written) > self.options.timing.disk() => LogHealth::Hung,
            Some(_) => LogHealth::Good,
        };
        let heard = Duration::from_nanos(self.heard.load(Ordering::SeqCst));
        Signs { now, heard, log, is_founder: self.is_founder(state, now), is_last_resort: self.is_last_resort(state, now) }
    }

    /// What another member has answered lately.
    fn lately<'a>(&self, state: &'a State, id: MemberId, now: Duration) -> Option<&'a Answer> {
        state.answers.get(&id).filter(|(_, at)| now.saturating_sub(*at) <= self.options.timing.lease).map(|(answer, _)| answer)
    }

    /// Whether the lives of all members of the set have ended, and this one has most of the log, or the lowest number among equals. (They all lost power at once, under
    /// asynchronous flush; or their disks.)
    fn is_last_resort(&self, state: &State, now: Duration) -> bool {
        let (Some(known), Some(store)) = (state.core.known(), &state.store) else { return false };
        let me = state.core.me();
        if state.core.master_of().is_some() || !known.in_sync.iter().any(|member| member.id == me.id) || known.has(me) {
            return false;
        }
        let last = store.epochs().last().map(|(epoch, _)| Epoch(*epoch));
        let own = (last, store.marks().appended, Reverse(me.id));
        known.in_sync.iter().filter(|member| member.id != me.id).all(|member| {
            self.lately(state, member.id, now).is_some_and(|answer| {
                let theirs = (answer.last_epoch, answer.end, Reverse(member.id));
                answer.member.id == member.id && !known.has(answer.member) && answer.master_of.is_none() && answer.seen <= state.core.seen() && theirs < own
            })
        })
    }

    /// Whether every other member has answered lately that it knows of no epoch, and this one has the longest log, or the lowest number among equals.
    fn is_founder(&self, state: &State, now: Duration) -> bool {
        let Some(store) = &state.store else { return false };
        let own = (store.marks().appended, Reverse(self.options.id));
        self.options
            .members
            .keys()
            .filter(|id| **id != self.options.id)
            .all(|id| self.lately(state, *id, now).is_some_and(|answer| answer.seen == Seen::default() && (answer.end, Reverse(*id)) < own))
    }

    /// After a failed write of what was seen.
    fn try_to_remember(&self, said: Seen) {
        let memory = self.memory.lock();
        if memory.store(&said).is_err() {
            return;
        }
        let mut state = self.lock();
        tracing::info!("what was seen of the group is remembered: this broker takes part again");
        state.core = Core::new(state.core.me(), self.options.min_in_sync, said, Held::default());
        state.forgetting = None;
        self.gate.lock().follows = Some(said.epoch);
        drop(state);
        self.notify();
    }

    // ---- small things

    /// The store is given up: who follows holds it.
    pub(super) fn end_following(&self) {
        if let Some(followed) = self.lock().followed.take() {
            followed.close();
        }
    }

    /// Whether a master gives its log whole, or why not.
    pub(super) fn settle_resync(&self, refused: Option<String>) {
        let mut state = self.lock();
        state.resyncs += 1;
        state.refused = refused;
        drop(state);
        self.notify();
    }

    pub(super) fn saw_tail(&self, marks: Marks) {
        self.tail.lock().saw(self.now(), marks.appended, marks.confirmed.min(marks.appended));
    }

    pub(super) fn heard_master(&self) {
        self.heard.store(nanos(self.now()), Ordering::SeqCst);
    }

    pub(super) fn heard_at(&self) -> Duration {
        Duration::from_nanos(self.heard.load(Ordering::SeqCst))
    }

    pub(super) fn disk_took_a_write(&self, at: Duration) {
        self.written.fetch_max(nanos(at), Ordering::SeqCst);
    }

    pub(super) fn begin_to_serve(&self, epoch: Epoch) -> bool {
        let word = self.word.lock();
        let is_still = word.lead.as_ref().is_some_and(|state| state.epoch == epoch);
        if is_still {
            // Under the lock: who ends the epoch comes after it, and takes it back.
            self.serving.store(epoch.0, Ordering::SeqCst);
        }
        is_still
    }

    pub(super) fn end_to_serve(&self) {
        self.serving.store(0, Ordering::SeqCst);
    }

    pub(super) fn serves(&self) -> Option<Epoch> {
        let epoch = self.serving.load(Ordering::SeqCst);
        (epoch != 0 && nanos(self.now()) < self.serves_until.load(Ordering::SeqCst)).then_some(Epoch(epoch))
    }

    pub(super) fn leads(&self, epoch: Epoch) -> bool {
        self.word.lock().lead.as_ref().is_some_and(|state| state.epoch == epoch)
    }

    /// Runs `what` if that epoch is the one to follow.
    pub(super) fn while_following(&self, epoch: Epoch, what: &mut dyn FnMut()) -> bool {
        {
            let mut gate = self.gate.lock();
            if gate.follows != Some(epoch) {
                return false;
            }
            gate.is_taking = true;
        }
        what();
        self.gate.lock().is_taking = false;
        self.taken.notify_all();
        true
    }

    /// Runs `what`, which may take the time of a disk, if that epoch is the one to follow. Nobody begins to follow another one, or to lead, meanwhile.
    pub(super) fn while_nothing_is_learnt<T>(&self, epoch: Epoch, what: impl FnOnce(&Store) -> T) -> Option<T> {
        let _memory = self.memory.lock();
        let store = {
            let state = self.lock();
            state.store.clone().filter(|_| state.forgetting.is_none() && state.core.follows(epoch))?
        };
        Some(what(&store))
    }
}

impl Lead for Shared {
    fn state(&self) -> Option<GroupState> {
        self.word.lock().lead.clone()
    }

    fn newest(&self) -> Option<GroupState> {
        self.word.lock().newest.clone()
    }

    fn renewal(&self) -> u64 {
        self.lock().renewal
    }

    fn tail(&self) -> Option<Tail> {
        self.tail.lock().tail(self.now())
    }

    fn joined(&self, member: Member) {
        let now = self.now();
        self.lock().pace.connected(now, member);
        tracing::info!(member = %member.id, "a replica follows");
    }

    fn left(&self, member: Member) {
        let now = self.now();
        let mut state = self.lock();
        state.pace.disconnected(now, member);
        state.doubted.insert(member.id);
        drop(state);
        self.notify();
    }

    fn must_hold(&self, member: Member) -> Option<CommitLogOffset> {
        let state = self.lock();
        let (set, store) = (state.core.in_sync()?, state.store.as_ref()?);
        if !set.recorded().state.has(member) {
            return None;
        }
        let said = set.held(member).map(|held| counted(store, held)).unwrap_or_default();
        // By this master or by those before: who is in the set has it.
        let marks = store.marks();
        Some(said.max(marks.confirmed.min(marks.appended)))
    }

    fn acked(&self, from: Member, ack: Ack) -> Result<(), String> {
        let mut state = self.lock();
        let Some(marks) = state.store.as_ref().map(|store| store.marks()) else { return Ok(()) };
        if ack.held.received > marks.appended || ack.held.flushed > ack.held.received {
            let Held { received, flushed } = ack.held;
            return Err(format!("the replica says it holds the log up to {received} (flushed {flushed}), but it ends at {}", marks.appended));
        }
        state.pace.acked(self.now(), from, promised_at(ack.beat), ack.held.received, marks.appended);
        let confirmed = self.tell_locked(&mut state, Event::Ack { from, epoch: ack.epoch, held: ack.held });
        drop(state);
        confirm(confirmed);
        Ok(())
    }
}

/// Answers those who wait for it, without the lock: their callbacks may take their time.
pub(super) fn confirm(confirmed: Confirmed) {
    if let Some((store, to)) = confirmed {
        store.confirm(to);
    }
}

/// What of it counts under the store's rule.
fn counted(store: &Store, held: Held) -> CommitLogOffset {
    match store.flush_mode() {
        FlushMode::Sync => held.flushed,
        FlushMode::Async { .. } => held.received,
    }
}

pub(super) fn held(marks: Marks) -> Held {
    Held { received: marks.appended, flushed: marks.flushed }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
