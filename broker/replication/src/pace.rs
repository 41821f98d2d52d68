//! When a broker tries what [`Core`] may: to ask, to stand for master, to let members in and out, to give up. Only here is time looked at. A clock that is wrong, or a wish
//! at the wrong moment, costs availability and never a record.
//!
//! | a broker | wishes to | when |
//! | --- | --- | --- |
//! | replica | ask the coordinator | its master is silent for a fifth of the lease; more often when the master's process is known to be gone |
//! | replica of the set | stand | its master has been silent and the lease not renewed for the time of the lease; at once when the process is known to be gone or to lead no more |
//! | replica | stand uncleanly | no life of the set's members is left, all of them have told so, and none has more of a log |
//! | master | renew the lease | each fifth of the lease, as long as its disk takes writes |
//! | master | let a replica go | its process is known to be gone, it is disconnected for a fifth of the lease, silent for two fifths, or was never where the log ended within `lag_max` |
//! | master | let a replica in | it has caught up and keeps up; later each time it was let go before |
//! | master | give up | neither was the lease renewed nor has every other member promised not to stand within three quarters of the lease; or its disk hangs |

use crate::{Candidacy, Core, Epoch, GroupState, InSync, Member, MemberId};
use sluice_env::broken;
use sluice_types::CommitLogOffset;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// How patient a group is. All its brokers have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time without a sign of life after which a master is taken for lost.
    pub lease: Duration,
    /// Time within which a member of the set has to have been where the log ended.
    pub lag_max: Duration,
    /// Two changes of master within this let the next one wait, longer with each. Zero: never.
    pub flapping: Duration,
}

impl Timing {
    /// With that lease.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self { lease, lag_max: lease * 2, flapping: Duration::from_secs(300) }
    }

    /// Between two beats of a master.
    #[must_use]
    pub fn beat(self) -> Duration {
        self.lease / 20
    }

    /// Between two renewals, and between two looks at the coordinator; the longest time for its answer.
    #[must_use]
    pub fn renewal(self) -> Duration {
        self.lease / 5
    }

    /// The longest time for which a disk may take no write before its broker counts as hung.
    #[must_use]
    pub fn disk(self) -> Duration {
        self.lease * 2 / 5
    }

    /// The longest silence of a replica that lives. It answers a beat when its disk has taken what came before, so it may be silent for as long as a disk may.
    fn silence_max(self) -> Duration {
        self.disk()
    }

    fn fence(self) -> Duration {
        self.lease * 3 / 4
    }
}

/// Whether the log can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogHealth {
    /// A write has gone through lately.
    Good,
    /// None has for the time of [`Timing::disk`].
    Hung,
    /// One has failed: nothing is written any more until the store is opened again. Or there is no store now.
    Failed,
}

/// What is seen from outside, beside what [`Core`] knows.
#[derive(Clone, Copy, Debug)]
pub struct Signs {
    /// Time since any fixed moment, on a clock that never goes back.
    pub now: Duration,
    /// When the master that is followed was heard last.
    pub heard: Duration,
    /// The own log.
    pub log: LogHealth,
    /// Whether every other member has told that it knows of no epoch, and none has more of a log.
    pub is_founder: bool,
    /// Whether every member of the set has told that its life is another one by now, and none has more of a log.
    pub is_last_resort: bool,
}

/// What should be tried now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Ask the coordinator for object and lease.
    Look,
    /// Say that this master lives.
    Renew {
        /// The master's epoch.
        epoch: Epoch,
        /// The number of the renewal.
        renewal: u64,
    },
    /// [`crate::Event::Stand`].
    Stand,
    /// [`crate::Event::StandUnclean`].
    StandUnclean,
    /// [`crate::Event::Admit`].
    Admit(Member),
    /// [`crate::Event::Dismiss`].
    Dismiss(Member),
    /// [`crate::Event::Retire`].
    Retire(Retired),
}

/// Why a master gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Retired {
    /// Somebody else may have been elected by now.
    #[error("neither could the lease be renewed nor did every other member of the in-sync set answer; another one may be master by now")]
    Fenced,
    /// Its disk takes no writes.
    #[error("its disk takes no writes")]
    Hung,
    /// Its log takes no writes.
    #[error("its log takes no writes after a failed one")]
    Failed,
}

/// What a master knows of one replica.
#[derive(Clone, Copy, Debug)]
struct Follower {
    /// How many it has: a new one may come before the old one's end was seen.
    connections: u32,
    /// When it was connected, or lost.
    since: Duration,
    acked: Duration,
    /// From when on it does not stand for the time of a lease.
    promised: Option<Duration>,
    /// When it last was where the log ended.
    caught_up: Option<Duration>,
    /// Where the log ended at its last word.
    end: CommitLogOffset,
    /// How often it was to be let go, and when last.
    dismissed: (u32, Duration),
}

/// The log's end before the first word of a replica: nobody has been there.
const NOWHERE: CommitLogOffset = CommitLogOffset(u64::MAX);

/// The lease as last seen, and since when.
type SeenLease = (Option<(Epoch, u64)>, Duration);

/// One broker's sense of time.
#[derive(Clone, Debug)]
pub struct Pace {
    timing: Timing,
    looked: Option<Duration>,
    stood: Option<Duration>,
    /// Who is followed, and since when.
    following: Option<(MemberId, Epoch)>,
    since: Duration,
    /// When the followed master's process was found gone.
    gone: Option<Duration>,
    lease: SeenLease,
    /// When the coordinator was asked last that has told of the lease.
    lease_asked: Option<Duration>,
    /// When others became master.
    failovers: VecDeque<Duration>,
    /// As master: since when, the last renewal asked for and the last that went through.
    begun: Duration,
    renewal: u64,
    renew_asked: Option<Duration>,
    renewed: Duration,
    followers: BTreeMap<Member, Follower>,
    /// Members whose brokers listened no more when they were asked last.
    absent: BTreeSet<MemberId>,
}

impl Pace {
    /// A broker that starts now, which has heard of nobody.
    #[must_use]
    pub fn new(timing: Timing, now: Duration) -> Self {
        Self {
            timing,
            looked: None,
            stood: None,
            following: None,
            since: now,
            gone: None,
            lease: (None, now),
            lease_asked: None,
            failovers: VecDeque::new(),
            begun: now,
            renewal: 0,
            renew_asked: None,
            renewed: now,
            followers: BTreeMap::new(),
            absent: BTreeSet::new(),
        }
    }

    /// It follows that master from now on.
    pub fn follows(&mut self, now: Duration, master: MemberId, epoch: Epoch) {
        if self.following == Some((master, epoch)) {
            return;
        }
        if self.following.is_some_and(|(before, _)| before != master) {
            self.note_failover(now);
        }
        (self.following, self.since, self.gone) = (Some((master, epoch)), now, None);
    }

    fn note_failover(&mut self, now: Duration) {
        self.failovers.push_back(now);
        while self.failovers.front().is_some_and(|at| now.saturating_sub(*at) > self.timing.flapping) {
            self.failovers.pop_front();
        }
    }

    /// The followed master, heard last at `heard`, does not listen any more, or says that it leads no more. One that was not heard in this epoch may be on its way to it.
    pub fn gone(&mut self, now: Duration, heard: Duration) {
        if heard > self.since || now.saturating_sub(self.since) >= self.timing.renewal() {
            self.gone.get_or_insert(now);
        }
    }

    /// The coordinator's lease, as an answer said that was asked for at `asked`.
    pub fn saw_lease(&mut self, asked: Duration, lease: Option<(Epoch, u64)>) {
        if self.lease.0 != lease {
            self.lease = (lease, asked);
        }
        self.lease_asked = self.lease_asked.max(Some(asked));
    }

    /// It is master from now on.
    pub fn begins(&mut self, now: Duration) {
        (self.following, self.gone) = (None, None);
        (self.begun, self.renewed, self.renewal, self.renew_asked) = (now, now, 0, None);
        self.followers.clear();
        self.absent.clear();
    }

    /// A renewal has gone through that was asked for at `asked`.
    pub fn renewed(&mut self, asked: Duration) {
        self.renewed = self.renewed.max(asked);
    }

    /// A replica has connected.
    pub fn connected(&mut self, now: Duration, member: Member) {
        self.absent.remove(&member.id);
        let follower = self.follower(now, member);
        follower.connections += 1;
        (follower.since, follower.acked, follower.caught_up, follower.end) = (now, now, None, NOWHERE);
    }

    /// Its connection has ended.
    pub fn disconnected(&mut self, now: Duration, member: Member) {
        let follower = self.follower(now, member);
        follower.connections = follower.connections.saturating_sub(1);
        follower.since = now;
    }

    /// Whether that member's broker, asked at `asked`, listened. One that does not has no process any more: if it does not follow either, nobody waits for it to come back
    /// before it is let go. Who has connected since then was not asked in vain.
    pub fn listens(&mut self, asked: Duration, id: MemberId, does: bool) {
        let has_come_since = self.followers.iter().any(|(member, follower)| member.id == id && follower.connections > 0 && follower.since >= asked);
        if does || has_come_since {
            self.absent.remove(&id);
        } else {
            self.absent.insert(id);
        }
    }

    /// It holds the log up to `received`; the beat that it has heard last was sent at `promised`; the log ends at `end`.
    pub fn acked(&mut self, now: Duration, member: Member, promised: Option<Duration>, received: CommitLogOffset, end: CommitLogOffset) {
        let follower = self.follower(now, member);
        if received >= end {
            follower.caught_up = Some(now);
        } else if received >= follower.end {
            // It has what there was at its last word.
            follower.caught_up = Some(follower.acked);
        }
        follower.promised = follower.promised.max(promised);
        (follower.acked, follower.end) = (now, end);
    }

    /// The replicas that a master has heard of in its epoch, and whether each is connected.
    pub fn replicas(&self) -> impl Iterator<Item = (Member, bool)> {
        self.followers.iter().map(|(member, follower)| (*member, follower.connections > 0))
    }

    fn follower(&mut self, now: Duration, member: Member) -> &mut Follower {
        self.followers.entry(member).or_insert(Follower {
            connections: 0,
            since: now,
            acked: now,
            promised: None,
            caught_up: None,
            end: NOWHERE,
            dismissed: (0, Duration::ZERO),
        })
    }

    /// Until when a master may answer clients as such without another word from coordinator or replicas; `None`: for ever, or it is none.
    #[must_use]
    pub fn serves_until(&self, core: &Core) -> Option<Duration> {
        if broken("a master never fences itself") {
            return None;
        }
        let set = core.in_sync()?.effective();
        let promises: Vec<_> = set.iter().filter(|member| **member != core.me()).map(|member| self.followers.get(member).and_then(|f| f.promised)).collect();
        // Nobody else could be elected.
        let promised = promises.into_iter().min()?;
        Some(self.renewed.max(promised.unwrap_or_default()) + self.timing.fence())
    }

    /// How many times the master has changed lately, when that makes this broker wait longer.
    #[must_use]
    pub fn is_flapping(&self, now: Duration) -> bool {
        self.recent_failovers(now) >= 2
    }

    fn recent_failovers(&self, now: Duration) -> u32 {
        self.failovers.iter().filter(|at| now.saturating_sub(**at) <= self.timing.flapping).count() as u32
    }

    /// What should be tried now. It counts as tried.
    pub fn wishes(&mut self, signs: Signs, core: &Core) -> Vec<Wish> {
        match core.in_sync() {
            Some(set) => self.masters_wishes(signs, core, set),
            None => self.replicas_wishes(signs, core),
        }
    }

    fn replicas_wishes(&mut self, signs: Signs, core: &Core) -> Vec<Wish> {
        let Signs { now, .. } = signs;
        let heard = signs.heard.max(self.since);
        self.gone = self.gone.filter(|gone| *gone >= signs.heard);
        let wants = self.gone.is_some() || !core.has_asked() || self.following.is_none() || now.saturating_sub(heard) >= self.timing.renewal();
        // Of a lease that seems to be over it has to be sure soon.
        let is_over = now >= heard.max(self.lease.1) + self.timing.lease;
        let every = if self.gone.is_some() || is_over { self.timing.lease / 25 } else { self.timing.renewal() };
        let mut wishes = Vec::new();
        if wants && is_due(self.looked, every, now) {
            self.looked = Some(now);
            wishes.push(Wish::Look);
        }
        let stands = match core.candidacy() {
            Candidacy::No => None,
            Candidacy::Founder => signs.is_founder.then_some(now),
            Candidacy::Member(state) => self.stands_at(state, core.me(), heard, now),
        };
        if signs.log == LogHealth::Good && signs.is_last_resort && is_due(self.stood, self.timing.renewal(), now) {
            self.stood = Some(now);
            wishes.push(Wish::StandUnclean);
        }
        if signs.log == LogHealth::Good && stands.is_some_and(|at| at <= now) && is_due(self.stood, self.timing.lease / 10, now) {
            self.stood = Some(now);
            wishes.push(Wish::Stand);
        }
        wishes
    }

    /// When a member of the set stands.
    fn stands_at(&self, state: &GroupState, me: Member, heard: Duration, now: Duration) -> Option<Duration> {
        if state.master == me.id {
            // Its own epoch, from before it was restarted or gave up.
            return Some(now);
        }
        let lost = match self.gone {
            Some(gone) => gone,
            None => {
                let over = heard.max(self.lease.1) + self.timing.lease;
                // It may have been renewed while the coordinator could not be asked.
                self.lease_asked.filter(|asked| *asked >= over)?;
                over
            }
        };
        // So that not all stand at once.
        let rank = state.in_sync.iter().filter(|member| member.id != state.master).position(|member| *member == me).unwrap_or_default();
        Some(lost + self.timing.beat() * rank as u32 + self.flapping_delay(now))
    }

    fn flapping_delay(&self, now: Duration) -> Duration {
        const DELAY_MAX: Duration = Duration::from_secs(60);
        match self.recent_failovers(now) {
            0 | 1 => Duration::ZERO,
            more => self.timing.lease.saturating_mul(1 << (more - 2).min(16)).min(DELAY_MAX),
        }
    }

    fn masters_wishes(&mut self, signs: Signs, core: &Core, set: &InSync) -> Vec<Wish> {
        let Signs { now, .. } = signs;
        let others = set.effective().iter().any(|member| *member != core.me());
        let retired = match signs.log {
            LogHealth::Failed => Some(Retired::Failed),
            // Alone in the set there is nobody to make room for.
            LogHealth::Hung if others => Some(Retired::Hung),
            _ if self.serves_until(core).is_some_and(|until| until <= now) => Some(Retired::Fenced),
            _ => None,
        };
        if let Some(why) = retired {
            return vec![Wish::Retire(why)];
        }
        let mut wishes = Vec::new();
        if signs.log == LogHealth::Good && is_due(self.renew_asked, self.timing.renewal(), now) {
            self.renew_asked = Some(now);
            self.renewal += 1;
            wishes.push(Wish::Renew { epoch: set.recorded().state.epoch, renewal: self.renewal });
        }
        // One change at a time; what is left is looked at again soon.
        match set.joining() {
            Some(member) => wishes.extend(self.is_lost(now, member).then_some(Wish::Dismiss(member))),
            None if set.proposal().is_none() => wishes.extend(self.change(now, core, &set.recorded().state)),
            None => {}
        }
        wishes
    }

    fn change(&mut self, now: Duration, core: &Core, state: &GroupState) -> Option<Wish> {
        let lost = state.in_sync.iter().find(|member| **member != core.me() && self.is_lost(now, **member));
        if let Some(member) = lost.filter(|_| state.in_sync.len() > core.min_in_sync()) {
            let follower = self.follower(now, *member);
            follower.dismissed = (follower.dismissed.0 + 1, now);
            return Some(Wish::Dismiss(*member));
        }
        let admitted = self.followers.iter().find(|(member, follower)| !state.has(**member) && self.keeps_up(now, follower))?;
        Some(Wish::Admit(*admitted.0))
    }

    fn is_lost(&self, now: Duration, member: Member) -> bool {
        let past = |at: Duration| now.saturating_sub(at);
        let follower = self.followers.get(&member);
        if follower.is_none_or(|follower| follower.connections == 0) && (self.absent.contains(&member.id) || self.has_another_life(member)) {
            return true;
        }
        let Some(follower) = follower else { return past(self.begun) >= self.timing.silence_max() };
        if follower.connections == 0 {
            return past(follower.since) >= self.timing.renewal();
        }
        past(follower.acked) >= self.timing.silence_max() || past(follower.caught_up.unwrap_or(follower.since)) >= self.timing.lag_max
    }

    /// Whether that broker follows with another life of its store: then the one of before comes back no more.
    fn has_another_life(&self, member: Member) -> bool {
        self.followers.iter().any(|(other, follower)| other.id == member.id && other.store != member.store && follower.connections > 0)
    }

    fn keeps_up(&self, now: Duration, follower: &Follower) -> bool {
        if broken("growth without catching up") || broken("growth without the inherited log") {
            return follower.connections > 0;
        }
        let (times, last) = follower.dismissed;
        // The first time at once; then it has to prove itself, for longer with each time that it was let go.
        let proof = if times == 0 { Duration::ZERO } else { self.timing.renewal().saturating_mul(1 << times.min(8)) };
        let is_current = follower.caught_up.is_some_and(|at| now.saturating_sub(at) < self.timing.silence_max());
        follower.connections > 0 && is_current && now.saturating_sub(follower.since.max(last)) >= proof
    }
}

fn is_due(last: Option<Duration>, every: Duration, now: Duration) -> bool {
    last.is_none_or(|last| now.saturating_sub(last) >= every)
}

#[cfg(test)]
mod tests;
