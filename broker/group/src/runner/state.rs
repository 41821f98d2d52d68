//! What the threads of a member share under one lock.

use super::tenure::Command;
use crate::coordinator::Lease;
use sluice_env::Connection;
use sluice_replication::{Core, Epoch, GroupState, Held, Member, MemberId, Pace, Seen, SetBack, Version, wire::Answer};
use sluice_store::{Lost, Marks, Store, resync::Filled};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

pub(super) struct State {
    pub(super) core: Core,
    pub(super) pace: Pace,
    /// `None` while it is opened again.
    pub(super) store: Option<Arc<Store>>,
    /// What the coordinator is to be asked.
    pub(super) desk: Desk,
    /// What the tenure's thread has to do.
    pub(super) commands: VecDeque<Command>,
    /// Who is to be followed, in which epoch.
    pub(super) target: Option<(MemberId, Epoch)>,
    /// The connection to the one that is followed.
    pub(super) followed: Option<Arc<dyn Connection>>,
    /// Where the followed master serves clients.
    pub(super) master: Option<(MemberId, String)>,
    /// What the other members told last, and when.
    pub(super) answers: BTreeMap<MemberId, (Answer, Duration)>,
    /// Members that are to be asked at once: a replica's connection has ended, and it matters whether its process has.
    pub(super) doubted: BTreeSet<MemberId>,
    /// The last renewal that went through.
    pub(super) renewal: u64,
    /// A newer epoch is being remembered: no older one is followed any more, and nobody is master of one.
    pub(super) is_learning: bool,
    /// The newest state that could not be remembered, and why: nothing is done until it is.
    pub(super) forgetting: Option<(Seen, String)>,
    pub(super) alarm: Option<SetBack>,
    /// What keeps it from following, if a person has to look.
    pub(super) wrong: Option<String>,
    /// Why no master gives its log whole, if one was asked to; and how many times that was settled, either way.
    pub(super) refused: Option<String>,
    pub(super) resyncs: u64,
    /// That the log was found shorter than what was said to be held of it, since this process has run; and how often that was so ever.
    pub(super) shorter: Option<String>,
    pub(super) shortened: u64,
    pub(super) coordinator_away: Option<String>,
    /// How much of the master's log is taken, while it is taken whole.
    pub(super) filling: Option<Filled>,
    /// What was cut since the start of what this broker had acknowledged unconfirmed.
    pub(super) lost: Lost,
    pub(super) is_stopping: bool,
}

/// What is to be asked of the coordinator: the newest of each kind.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) swap: Option<(Option<Version>, GroupState)>,
    pub(super) renew: Option<Lease>,
    pub(super) look: bool,
}

/// A replica as its master sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Who it is.
    pub member: Member,
    /// Whether records wait for it.
    pub is_in_sync: bool,
    /// Whether it is connected.
    pub is_connected: bool,
    /// What it is known to hold.
    pub held: Held,
}

/// How a member is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who it is.
    pub me: Member,
    /// The epoch that it is master of.
    pub master_of: Option<Epoch>,
    /// The master that it follows, with where that one serves clients.
    pub master: Option<(MemberId, String)>,
    /// The newest state that it has seen.
    pub seen: Seen,
    /// As master: the group's state.
    pub state: Option<GroupState>,
    /// As master: the other members that have spoken to it or are in the set.
    pub replicas: Vec<ReplicaStatus>,
    /// How far its log has come; `None` while its store is opened again.
    pub marks: Option<Marks>,
    /// How often its log was found to be shorter than what it had said it holds.
    pub shortened: u64,
    /// While the master's log is taken whole: bytes of it that are there, and that are needed.
    pub resync: Option<(u64, u64)>,
    /// What it has cut of its log since its start that it had acknowledged as master without waiting for the others.
    pub lost: Lost,
    /// What a person should know, each in a sentence.
    pub troubles: Vec<String>,
}
