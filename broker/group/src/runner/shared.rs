//! What a member's threads share, and how what happens reaches the state machine and comes out as deeds.

use super::{
    GroupOptions, Service, StartError,
    state::{Desk, State, Status},
    tenure::Command,
};
use crate::{
    Kept,
    coordinator::{Coordinator, Lease},
    life,
    master::{Lead, promised_at},
};
use sluice_env::{
    Env, broken,
    sync::{Condvar, Mutex, MutexGuard},
};
use sluice_replication::{
    Action, Core, Epoch, Event, GroupState, Held, LogHealth, Member, MemberId, Pace, Seen, Signs, Wish,
    wire::{Ack, Answer},
};
use sluice_store::{FlushMode, Marks, RecoveryProgress, Store, StoreOptions};
use sluice_types::CommitLogOffset;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
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
    /// The epoch whose master may be followed. Held while its log is taken in, and while that changes; taken after `state`.
    gate: Mutex<Option<Epoch>>,
    /// By which state this broker is master.
    lead: Mutex<Option<GroupState>>,
    /// Nanoseconds by the clock: when the followed master was heard, when the disk last took a write, and until when a master may serve.
    heard: AtomicU64,
    written: AtomicU64,
    serves_until: AtomicU64,
    /// The epoch that clients are served in; 0: none.
    serving: AtomicU64,
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
        let store = Store::open_watched(env.clone(), options.store.clone(), progress)?;
        let incarnation = life::begin(&env, store.identity(), store.flush_mode(), false)?;
        let kept = Arc::new(Kept::<Seen>::new(env.disk.clone(), SEEN));
        let seen = kept.load()?.unwrap_or_default();
        // What an earlier process had written may not have been durable, and it must not be taken back.
        kept.store(&seen)?;
        let now = env.clock.monotonic().0;
        let me = Member { id: options.id, store: incarnation };
        let core = Core::new(me, options.min_in_sync, seen, held(store.marks()));
        let state = State {
            pace: Pace::new(options.timing, now),
            core,
            kept,
            store: Some(store),
            desk: Desk::default(),
            commands: Default::default(),
            target: None,
            followed: None,
            master: None,
            answers: Default::default(),
            renewal: 0,
            forgetting: None,
            alarm: None,
            wrong: None,
            coordinator_away: None,
            is_stopping: false,
        };
        Ok(Self {
            written: AtomicU64::new(nanos(now)),
            heard: AtomicU64::new(0),
            serves_until: AtomicU64::new(0),
            serving: AtomicU64::new(0),
            env,
            options,
            coordinator,
            service,
            state: Mutex::new(state),
            changed: Condvar::default(),
            gate: Mutex::new(Some(seen.epoch)),
            lead: Mutex::default(),
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
        if let Some(followed) = state.followed.take() {
            followed.close();
        }
        drop(state);
        *self.lead.lock() = None;
        *self.gate.lock() = None;
        self.notify();
    }

    /// Flushes and closes the store, and notes that nothing is missing.
    pub(super) fn close_store(&self) {
        let Some(store) = self.lock().store.take() else { return };
        store.close();
        let marks = store.marks();
        if marks.flushed == marks.appended
            && let Err(error) = life::close(&self.env)
        {
            tracing::warn!(%error, "that the store was closed could not be noted");
        }
    }

    // ---- what happens

    /// Tells the state machine, and does what it says.
    pub(super) fn tell(&self, event: Event) {
        let mut state = self.lock();
        let confirmed = self.tell_locked(&mut state, event);
        drop(state);
        confirm(confirmed);
    }

    pub(super) fn tell_locked(&self, state: &mut State, event: Event) -> Confirmed {
        if state.forgetting.is_some() || state.is_stopping {
            return None;
        }
        let mut gate = self.gate.lock();
        let mut actions = Vec::new();
        if let Some(store) = &state.store {
            actions = state.core.on(Event::Own(held(store.marks())));
        }
        actions.extend(state.core.on(event));
        let mut confirmed = None;
        for action in actions {
            if let Err(why) = self.carry_out(state, action, &mut confirmed) {
                tracing::error!(why, "this broker takes no part in its group until it can remember what it has seen");
                state.forgetting = Some(why);
                break;
            }
        }
        let is_able = state.forgetting.is_none();
        *gate = (is_able && state.core.master_of().is_none()).then(|| state.core.seen().epoch);
        drop(gate);
        self.publish(state, is_able);
        let store = state.store.clone()?;
        let to = confirmed.map(|confirmed: Held| match store.flush_mode() {
            FlushMode::Sync => confirmed.flushed,
            FlushMode::Async { .. } => confirmed.received,
        })?;
        Some((store, to))
    }

    /// What those see who do not take the lock.
    fn publish(&self, state: &State, is_able: bool) {
        let recorded = state.core.in_sync().filter(|_| is_able).map(|set| &set.recorded().state);
        {
            let mut lead = self.lead.lock();
            if lead.as_ref() != recorded {
                *lead = recorded.cloned();
                self.notify();
            }
        }
        if recorded.is_none() {
            self.serving.store(0, Ordering::SeqCst);
        }
        self.measure_service(state);
    }

    fn measure_service(&self, state: &State) {
        let until = state.pace.serves_until(&state.core).map_or(u64::MAX, nanos);
        self.serves_until.store(until, Ordering::SeqCst);
    }

    fn carry_out(&self, state: &mut State, action: Action, confirmed: &mut Option<Held>) -> Result<(), String> {
        let now = self.now();
        match action {
            Action::Remember(_) if broken("what was seen is not remembered") => {}
            Action::Remember(seen) => state.kept.store(&seen).map_err(|error| error.to_string())?,
            Action::Read => state.desk.look = true,
            Action::Swap { from, to } => state.desk.swap = Some((from, to)),
            Action::Begin(epoch) => {
                tracing::info!(%epoch, "this broker is master");
                state.pace.begins(now);
                (state.renewal, state.alarm) = (0, None);
                Self::follow(state, None);
                state.commands.push_back(Command::Begin(epoch));
            }
            Action::Cease(epoch) => {
                tracing::info!(%epoch, "this broker is not master any more");
                self.serving.store(0, Ordering::SeqCst);
                state.commands.push_back(Command::Cease(epoch));
            }
            Action::Follow(master, epoch) => {
                state.alarm = None;
                state.pace.follows(now, master, epoch);
                Self::follow(state, Some((master, epoch)));
            }
            Action::Confirm(held) => *confirmed = Some(held),
            Action::Alarm(set_back) => {
                if state.alarm.replace(set_back) != Some(set_back) {
                    tracing::error!(%set_back, "this broker stands still as far as its group goes");
                }
            }
        }
        self.notify();
        Ok(())
    }

    fn follow(state: &mut State, target: Option<(MemberId, Epoch)>) {
        if state.target == target {
            return;
        }
        state.target = target;
        state.wrong = None;
        if let Some(followed) = state.followed.take() {
            followed.close();
        }
    }

    // ---- what is wished

    /// Lets what is due be tried.
    pub(super) fn make_wishes(&self) {
        let mut state = self.lock();
        if state.forgetting.is_some() {
            return self.try_to_remember(&mut state);
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
        Signs { now, heard, log, is_founder: self.is_founder(state, now) }
    }

    /// Whether every other member has answered lately that it knows of no epoch, and this one has the longest log, or the lowest number among equals.
    fn is_founder(&self, state: &State, now: Duration) -> bool {
        let Some(store) = &state.store else { return false };
        let own = (store.marks().appended, std::cmp::Reverse(self.options.id));
        self.options.members.keys().filter(|id| **id != self.options.id).all(|id| {
            let lately = state.answers.get(id).filter(|(_, at)| now.saturating_sub(*at) <= self.options.timing.lease);
            lately.is_some_and(|(answer, _)| answer.seen == Seen::default() && (answer.end, std::cmp::Reverse(*id)) < own)
        })
    }

    /// After a failed write of what was seen: this broker is as one that was killed, and as one that starts once it can be written again.
    fn try_to_remember(&self, state: &mut State) {
        let seen = state.core.seen();
        if let Some(epoch) = state.core.master_of() {
            state.commands.push_back(Command::Cease(epoch));
            let own = state.store.as_ref().map(|store| held(store.marks())).unwrap_or_default();
            state.core = Core::new(state.core.me(), self.options.min_in_sync, seen, own);
        }
        Self::follow(state, None);
        if state.kept.store(&seen).is_ok() {
            tracing::info!("what was seen of the group is remembered: this broker takes part again");
            state.core = Core::new(state.core.me(), self.options.min_in_sync, seen, Held::default());
            state.forgetting = None;
            *self.gate.lock() = Some(seen.epoch);
        }
        self.notify();
    }

    // ---- small things

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
        let is_still = self.lead.lock().as_ref().is_some_and(|state| state.epoch == epoch);
        if is_still {
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
        self.lead.lock().as_ref().is_some_and(|state| state.epoch == epoch)
    }

    /// Runs `what` if that epoch is the one to follow.
    pub(super) fn while_following(&self, epoch: Epoch, what: &mut dyn FnMut()) -> bool {
        let gate = self.gate.lock();
        let follows = *gate == Some(epoch);
        if follows {
            what();
        }
        follows
    }

    /// What this member tells another one.
    pub(super) fn answer(&self) -> Answer {
        let state = self.lock();
        let store = state.store.as_ref();
        Answer {
            member: state.core.me(),
            seen: state.core.seen(),
            master_of: state.core.master_of(),
            end: store.map(|store| store.marks().appended).unwrap_or_default(),
            last_epoch: store.and_then(|store| store.epochs().last().map(|(epoch, _)| Epoch(*epoch))),
        }
    }

    pub(super) fn status(&self) -> Status {
        let state = self.lock();
        let troubles = [
            state.alarm.map(|alarm| alarm.to_string()),
            state.wrong.clone(),
            state.forgetting.clone(),
            state.coordinator_away.clone(),
            state.pace.is_flapping(self.now()).then(|| "the master has changed several times within minutes: the next change waits longer".to_owned()),
        ];
        Status {
            master_of: state.core.master_of(),
            master: state.master.clone(),
            seen: state.core.seen(),
            state: state.core.in_sync().map(|set| set.recorded().state.clone()),
            marks: state.store.as_ref().map(|store| store.marks()),
            troubles: troubles.into_iter().flatten().collect(),
        }
    }
}

impl Lead for Shared {
    fn state(&self) -> Option<GroupState> {
        self.lead.lock().clone()
    }

    fn renewal(&self) -> u64 {
        self.lock().renewal
    }

    fn joined(&self, member: Member) {
        let now = self.now();
        self.lock().pace.connected(now, member);
    }

    fn left(&self, member: Member) {
        let now = self.now();
        self.lock().pace.disconnected(now, member);
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

pub(super) fn held(marks: Marks) -> Held {
    Held { received: marks.appended, flushed: marks.flushed }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
