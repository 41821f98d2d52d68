//! A small group, its coordinator and its network as one value.

use crate::{Action, Core, Epoch, EpochMap, Event, GroupState, Held, Incarnation, Member, MemberId, Seen, Version, Versioned};
use sluice_env::broken;
use sluice_types::CommitLogOffset;
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

const NODES: usize = 3;

/// How much may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Limits {
    /// Members of the set at first; the others are there, with empty stores.
    pub(super) set: usize,
    /// Elections and hand-overs beyond the first master.
    pub(super) epochs: u64,
    /// Records that clients send.
    pub(super) records: u8,
    /// Changes of the coordinator's object.
    pub(super) revisions: u64,
    /// Processes that end and start again.
    pub(super) kills: u8,
    /// Machines that lose what was not flushed.
    pub(super) power_cuts: u8,
    /// Stores that are replaced by empty ones.
    pub(super) wipes: u8,
    /// Planned changes of the master.
    pub(super) hand_overs: u8,
    /// Answers of the coordinator that do not come.
    pub(super) lost_answers: u8,
    /// Whether a record is promised once every member has received it, flushed or not.
    pub(super) promise_received: bool,
    /// Whether flushing is a step of its own.
    pub(super) lazy_flush: bool,
    /// Whether the answer to a read takes its time.
    pub(super) slow_reads: bool,
    /// Whether acknowledgements take their time; else they arrive at once or never.
    pub(super) slow_acks: bool,
}

/// A record: the epoch it was written in and a number; 0 is the epoch's first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Record(Epoch, u8);

/// What a broker has asked the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Call {
    Swap(Seen, Option<Version>, GroupState),
    Answer(Seen, Option<Versioned>, bool),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    /// What is on its disk.
    seen: Seen,
    store: Incarnation,
    log: Vec<Record>,
    flushed: usize,
    /// What is in its memory; none while it is down.
    core: Option<Core>,
    /// The epoch in whose log it has cut its own.
    joined: Option<Epoch>,
    call: Option<Call>,
}

/// One state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    left: Limits,
    coordinator: Rc<Versioned>,
    /// Shared between the states in which they are the same.
    nodes: Vec<Rc<Node>>,
    /// Requests to change the object whose senders have given up; they may still arrive.
    late: Vec<(Option<Version>, GroupState)>,
    /// The latest acknowledgement on its way from one to another.
    acks: BTreeMap<(usize, usize), (Member, Epoch, Held)>,
    /// What clients were told is stored, by its place.
    promised: BTreeMap<usize, Record>,
    /// Epochs that were begun.
    begun: BTreeSet<Epoch>,
    next: u8,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read(usize),
    Arrives(usize),
    ArrivesLate(usize),
    Answered(usize),
    AnswerLost(usize),
    Stand(usize),
    Append(usize),
    Flush(usize),
    Pull { from: usize, to: usize, ack_lost: bool },
    AckArrives { from: usize, to: usize },
    Admit { master: usize, other: usize },
    Dismiss { master: usize, other: usize },
    HandOver { master: usize, other: usize },
    Kill(usize),
    PowerCut(usize),
    Wipe(usize),
    Start(usize),
}

fn version(state: &GroupState) -> Version {
    Version(state.revision.to_string())
}

fn offset(length: usize) -> CommitLogOffset {
    CommitLogOffset(length as u64)
}

impl Node {
    fn member(&self, index: usize) -> Member {
        Member { id: MemberId(index as u32), store: self.store }
    }

    fn held(&self) -> Held {
        Held { received: offset(self.log.len()), flushed: offset(self.flushed) }
    }

    fn epochs(&self) -> EpochMap {
        let mut map = EpochMap::default();
        for (at, record) in self.log.iter().enumerate() {
            if map.last() != Some(record.0) {
                map.begin(record.0, offset(at)).expect("a master begins where its log ends");
            }
        }
        map
    }

    fn master_of(&self) -> Option<Epoch> {
        self.core.as_ref().and_then(Core::master_of)
    }
}

impl World {
    /// The first master has begun, and the set's members hold its first record.
    pub(super) fn new(left: Limits) -> Self {
        let first = Record(Epoch(1), 0);
        let members: BTreeSet<Member> = (0..left.set).map(|id| Member { id: MemberId(id as u32), store: Incarnation(id as u128) }).collect();
        let state = GroupState { epoch: Epoch(1), master: MemberId(0), in_sync: members, revision: 1, unclean: 0, since: 1 };
        let start = Versioned { version: version(&state), state };
        let nodes = (0..NODES).map(|id| Node {
            seen: Seen::default(),
            store: Incarnation(id as u128),
            log: if id > 0 && id < left.set { vec![first] } else { Vec::new() },
            flushed: usize::from(id > 0 && id < left.set),
            core: None,
            joined: None,
            call: None,
        });
        let mut world = Self {
            left,
            coordinator: Rc::new(start.clone()),
            nodes: nodes.map(Rc::new).collect(),
            late: Vec::new(),
            acks: BTreeMap::new(),
            promised: BTreeMap::new(),
            begun: BTreeSet::new(),
            next: 1,
        };
        for id in 0..NODES {
            world.start(id);
            world.on(id, Event::Read { asked: Seen::default(), now: Some(start.clone()) }).expect("the first master begins");
        }
        world
    }

    fn start(&mut self, id: usize) {
        let node = self.node_mut(id);
        node.core = Some(Core::new(node.member(id), 1, node.seen, node.held()));
    }

    fn node_mut(&mut self, id: usize) -> &mut Node {
        Rc::make_mut(&mut self.nodes[id])
    }

    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for id in 0..NODES {
            self.steps_of(id, &mut steps);
            for other in (0..NODES).filter(|other| *other != id) {
                self.steps_between(id, other, &mut steps);
            }
        }
        steps.extend((0..self.late.len()).map(Step::ArrivesLate));
        steps
    }

    fn steps_of(&self, id: usize, steps: &mut Vec<Step>) {
        let (node, left) = (&self.nodes[id], &self.left);
        if node.core.is_none() {
            steps.push(Step::Start(id));
            return;
        }
        match &node.call {
            None => {
                steps.push(Step::Read(id));
                if node.master_of().is_none() && left.epochs > 0 {
                    steps.push(Step::Stand(id));
                }
            }
            Some(Call::Answer(..)) => steps.push(Step::Answered(id)),
            Some(Call::Swap(..)) => steps.push(Step::Arrives(id)),
        }
        if left.lost_answers > 0 && matches!(node.call, Some(Call::Swap(..) | Call::Answer(_, _, true))) {
            steps.push(Step::AnswerLost(id));
        }
        if node.master_of().is_some() && left.records > 0 {
            steps.push(Step::Append(id));
        }
        if left.lazy_flush && node.flushed < node.log.len() {
            steps.push(Step::Flush(id));
        }
        let faults = [(left.kills, Step::Kill(id)), (left.power_cuts, Step::PowerCut(id)), (left.wipes, Step::Wipe(id))];
        steps.extend(faults.iter().filter(|(left, _)| *left > 0).map(|(_, step)| *step));
    }

    fn steps_between(&self, id: usize, other: usize, steps: &mut Vec<Step>) {
        let node = &self.nodes[id];
        if node.core.is_none() {
            return;
        }
        if self.nodes[other].core.is_some() && node.master_of().is_some() {
            steps.push(Step::Pull { from: id, to: other, ack_lost: false });
            if !self.left.slow_acks {
                steps.push(Step::Pull { from: id, to: other, ack_lost: true });
            }
        }
        if self.acks.contains_key(&(other, id)) {
            steps.push(Step::AckArrives { from: other, to: id });
        }
        if node.master_of().is_some() && node.call.is_none() {
            if self.left.revisions > 0 {
                steps.extend([Step::Admit { master: id, other }, Step::Dismiss { master: id, other }]);
            }
            if self.left.hand_overs > 0 && self.left.epochs > 0 {
                steps.push(Step::HandOver { master: id, other });
            }
        }
    }

    /// Takes a step; what is broken by it, if anything is.
    pub(super) fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Read(id) => {
                let asked = self.nodes[id].core.as_ref().expect("up").seen();
                let now = Some(Versioned::clone(&self.coordinator));
                if !self.left.slow_reads {
                    return self.on(id, Event::Read { asked, now });
                }
                self.node_mut(id).call = Some(Call::Answer(asked, now, false));
            }
            Step::Arrives(id) => self.arrives(id),
            Step::ArrivesLate(index) => {
                let (from, to) = self.late.remove(index);
                self.swap(from.as_ref(), to);
            }
            Step::Answered(id) => {
                if let Some(Call::Answer(asked, now, _)) = self.node_mut(id).call.take() {
                    return self.on(id, Event::Read { asked, now });
                }
            }
            Step::AnswerLost(id) => {
                self.left.lost_answers -= 1;
                if let Some(Call::Swap(_, from, to)) = self.node_mut(id).call.take() {
                    self.late.push((from, to));
                }
                return self.on(id, Event::SwapUnknown);
            }
            Step::Stand(id) => return self.on(id, Event::Stand { heard: Seen::default() }),
            Step::Append(id) => {
                self.left.records -= 1;
                let epoch = self.nodes[id].master_of().expect("a master");
                let number = self.next;
                self.next += 1;
                return self.append(id, Record(epoch, number));
            }
            Step::Flush(id) => {
                let node = self.node_mut(id);
                node.flushed = node.log.len();
                return self.progressed(id);
            }
            Step::Pull { from, to, ack_lost } => {
                self.pull(from, to)?;
                if ack_lost {
                    self.acks.remove(&(to, from));
                } else if !self.left.slow_acks {
                    return self.ack_arrives(to, from);
                }
            }
            Step::AckArrives { from, to } => return self.ack_arrives(from, to),
            Step::Admit { master, other } => return self.on(master, Event::Admit(self.nodes[other].member(other))),
            Step::Dismiss { master, other } => {
                let set = &self.coordinator.state.in_sync;
                let Some(member) = set.iter().find(|member| member.id == MemberId(other as u32)).copied() else { return Ok(()) };
                return self.on(master, Event::Dismiss(member));
            }
            Step::HandOver { master, other } => {
                self.left.hand_overs -= 1;
                return self.on(master, Event::HandOver(MemberId(other as u32)));
            }
            Step::Kill(id) => {
                self.left.kills -= 1;
                self.stop(id);
            }
            Step::PowerCut(id) => {
                self.left.power_cuts -= 1;
                self.stop(id);
                self.lose_unflushed(id);
            }
            Step::Wipe(id) => {
                self.left.wipes -= 1;
                self.stop(id);
                self.wipe(id);
            }
            Step::Start(id) => self.start(id),
        }
        Ok(())
    }

    /// A process ends. A request to the coordinator may already be on its way.
    fn stop(&mut self, id: usize) {
        let node = self.node_mut(id);
        node.core = None;
        node.joined = None;
        if let Some(Call::Swap(_, from, to)) = node.call.take() {
            self.late.push((from, to));
        }
    }

    fn lose_unflushed(&mut self, id: usize) {
        let promised = self.left.promise_received;
        let node = self.node_mut(id);
        // It had said that it received what is lost now, and was believed: another life begins.
        if promised && node.flushed < node.log.len() && !broken("a store that lost bytes keeps its name") {
            node.store = Incarnation(node.store.0 + 10);
        }
        node.log.truncate(node.flushed);
    }

    fn wipe(&mut self, id: usize) {
        let node = self.node_mut(id);
        node.store = Incarnation(node.store.0 + 100);
        node.log.clear();
        node.flushed = 0;
        node.seen = Seen::default();
    }

    fn arrives(&mut self, id: usize) {
        match self.node_mut(id).call.take() {
            Some(Call::Swap(asked, from, to)) => {
                self.swap(from.as_ref(), to);
                self.node_mut(id).call = Some(Call::Answer(asked, Some(Versioned::clone(&self.coordinator)), true));
            }
            other => self.node_mut(id).call = other,
        }
    }

    fn swap(&mut self, from: Option<&Version>, to: GroupState) {
        if from == Some(&self.coordinator.version) && self.left.revisions > 0 {
            self.left.revisions -= 1;
            if to.epoch > self.coordinator.state.epoch {
                self.left.epochs = self.left.epochs.saturating_sub(1);
            }
            self.coordinator = Rc::new(Versioned { version: version(&to), state: to });
        }
    }

    fn append(&mut self, id: usize, record: Record) -> Result<(), String> {
        self.node_mut(id).log.push(record);
        self.progressed(id)
    }

    fn progressed(&mut self, id: usize) -> Result<(), String> {
        if !self.left.lazy_flush {
            let node = self.node_mut(id);
            node.flushed = node.log.len();
        }
        let held = self.nodes[id].held();
        self.on(id, Event::Own(held))
    }

    /// A replica gets the next record of the one who thinks it is master, after it has cut what that one does not have.
    fn pull(&mut self, from: usize, to: usize) -> Result<(), String> {
        let master = &self.nodes[from];
        let Some(crate::Role::Master(set)) = master.core.as_ref().map(Core::role) else { return Ok(()) };
        let state = set.recorded().state.clone();
        let (epoch, epochs, end, log) = (state.epoch, master.epochs(), offset(master.log.len()), master.log.clone());
        self.on(to, Event::Heard(state))?;
        if !self.nodes[to].core.as_ref().is_some_and(|core| core.follows(epoch)) {
            return self.on(from, Event::Refused);
        }
        let node = self.node_mut(to);
        if node.joined != Some(epoch) {
            let common = node.epochs().common_end(offset(node.log.len()), &epochs, end).unwrap_or_default().0 as usize;
            if !broken("a replica keeps what its master lacks") {
                node.log.truncate(common);
            }
            node.flushed = node.flushed.min(node.log.len());
            node.joined = Some(epoch);
        } else if let Some(next) = log.get(node.log.len()) {
            node.log.push(*next);
        }
        self.progressed(to)?;
        let node = &self.nodes[to];
        let mut held = node.held();
        if broken("a replica acknowledges what it has not flushed") {
            held.flushed = held.received;
        }
        self.acks.insert((to, from), (node.member(to), epoch, held));
        Ok(())
    }

    fn ack_arrives(&mut self, from: usize, to: usize) -> Result<(), String> {
        let Some((from, epoch, held)) = self.acks.remove(&(from, to)) else { return Ok(()) };
        self.on(to, Event::Ack { from, epoch, held })
    }

    fn on(&mut self, id: usize, event: Event) -> Result<(), String> {
        let Some(core) = self.node_mut(id).core.as_mut() else { return Ok(()) };
        for action in core.on(event) {
            self.act(id, action)?;
        }
        Ok(())
    }

    fn act(&mut self, id: usize, action: Action) -> Result<(), String> {
        match action {
            Action::Remember(seen) => {
                if !broken("what was seen is not remembered") {
                    self.node_mut(id).seen = seen;
                }
            }
            // Anybody may read at any time here.
            Action::Read | Action::Follow(..) | Action::Alarm(_) => {}
            Action::Cease(_) => self.node_mut(id).joined = None,
            Action::Swap { from, to } => {
                let node = self.node_mut(id);
                if node.call.is_none() {
                    let seen = node.core.as_ref().expect("it has just acted").seen();
                    node.call = Some(Call::Swap(seen, from, to));
                }
            }
            Action::Begin(epoch) => self.begin(id, epoch)?,
            Action::Confirm(held) => self.promise(id, held)?,
        }
        Ok(())
    }

    fn begin(&mut self, id: usize, epoch: Epoch) -> Result<(), String> {
        if !self.begun.insert(epoch) {
            return Err(format!("epoch {epoch} was begun twice, by member {id} this time"));
        }
        // One who hears late that it was elected begins an epoch that is over. It finds nobody to confirm anything.
        let newest = self.begun.last() == Some(&epoch);
        let log = &self.nodes[id].log;
        for (at, record) in &self.promised {
            if newest && log.get(*at) != Some(record) {
                return Err(format!("member {id} begins epoch {epoch} without {record:?} at {at}, which was confirmed; it has {log:?}"));
            }
        }
        self.append(id, Record(epoch, 0))
    }

    /// Everything so far is promised to clients.
    fn promise(&mut self, id: usize, held: Held) -> Result<(), String> {
        let end = if self.left.promise_received { held.received } else { held.flushed };
        for at in 0..end.0 as usize {
            let record = self.nodes[id].log[at];
            let before = *self.promised.entry(at).or_insert(record);
            if before != record {
                return Err(format!("member {id} confirms {record:?} at {at}, where {before:?} was confirmed before"));
            }
        }
        Ok(())
    }
}
