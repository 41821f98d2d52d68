//! What all checks share: names as numbers, what was sent, who must see it, and when something was broken on purpose.

use crate::{
    Config, Deliver, Event, HistoryError, Kind, Lease, Mode, Node, Outcome, Queue, SendKind, Sent, What,
    event::{Action, End},
    unseen::{Live, Unseen, Why},
    values::{Entry, Id, Map, Sort, Values, id},
};
use sluice_types::{Group, Topic};

/// No queue or no group.
pub(crate) const NONE: u32 = u32::MAX;

/// An event with its line and its names as numbers.
pub(crate) struct Seen<'a> {
    pub(crate) line: u32,
    pub(crate) event: &'a Event,
    pub(crate) queue: u32,
    pub(crate) group: u32,
}

/// What is kept of a delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) line: u32,
    pub(crate) invoke: u64,
    pub(crate) done: u64,
    pub(crate) process: u32,
    pub(crate) node: Option<Node>,
    pub(crate) group: u32,
    pub(crate) queue: u32,
    pub(crate) offset: u64,
    pub(crate) id: Id,
    pub(crate) body: u32,
    pub(crate) properties: u32,
    pub(crate) kind: Kind,
    pub(crate) lease: Option<Lease>,
    pub(crate) clock: u64,
}

impl Delivery {
    pub(crate) fn new(seen: &Seen<'_>, deliver: &Deliver) -> Self {
        let Event { invoke, done, process, by, .. } = *seen.event;
        Self {
            line: seen.line,
            invoke,
            done,
            process,
            node: by.map(|by| by.node),
            group: seen.group,
            queue: seen.queue,
            offset: deliver.offset.0,
            id: id(&deliver.value),
            body: deliver.value.body,
            properties: deliver.value.properties,
            kind: deliver.kind,
            lease: deliver.lease,
            clock: deliver.clock,
        }
    }
}

/// A delivery whose message is known to have been sent.
pub(crate) struct Match<'a> {
    pub(crate) delivery: &'a Delivery,
    /// The value as it is known by now.
    pub(crate) entry: Entry,
    /// When the message had not come to this group before: how it was on its way.
    pub(crate) first: Option<Live>,
}

/// A time in which something was broken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// A group that consumes a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) group: u32,
    pub(crate) started: u64,
    /// Time and line of its final drain.
    pub(crate) drained: Option<(u64, u32)>,
}

/// A name table.
pub(crate) struct Names<T> {
    numbers: Map<T, u32>,
    names: Vec<T>,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { numbers: Map::default(), names: Vec::new() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Names<T> {
    pub(crate) fn number(&mut self, name: &T) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }

    pub(crate) fn name(&self, number: u32) -> &T {
        &self.names[number as usize]
    }
}

/// Everything shared.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) config: Config,
    queues: Names<Queue>,
    groups: Names<Group>,
    topics: Names<Topic>,
    /// The topic of each queue.
    queue_topics: Vec<u32>,
    pub(crate) values: Values,
    pub(crate) unseen: Unseen,
    members: Map<u32, Vec<Member>>,
    /// Deliveries of messages whose send has not returned yet.
    waiting: Map<Id, Vec<Delivery>>,
    pub(crate) faults: Vec<Fault>,
    open_faults: u32,
    /// When everything was repaired last, and on which line.
    pub(crate) healed: Option<(u64, u32)>,
    /// The time of the last line.
    pub(crate) now: u64,
}

/// Which queue and group an event is about.
fn names_of(what: &What) -> (Option<&Queue>, Option<&Group>) {
    match what {
        What::Send(sent) => (Some(&sent.queue), None),
        What::Deliver(deliver) => (Some(&deliver.queue), Some(&deliver.group)),
        What::Consumed(consumed) => (Some(&consumed.queue), Some(&consumed.group)),
        What::Commit(place) | What::Reset(place) => (Some(&place.queue), Some(&place.group)),
        What::Assigned(fetched) | What::Fetched(fetched) => (Some(&fetched.queue), Some(&fetched.group)),
        What::Revoked(revoked) => (Some(&revoked.queue), Some(&revoked.group)),
        What::Lock(lock) => (Some(&lock.queue), Some(&lock.group)),
        What::Ack(ack) => (Some(&ack.queue), Some(&ack.group)),
        What::Change(change) => (Some(&change.queue), Some(&change.group)),
        What::Started(started) => (None, Some(&started.group)),
        What::Drained(drained) => (None, Some(&drained.group)),
        What::End(_) | What::Recall(_) | What::Stopped | What::Node { .. } | What::FaultBegin { .. } | What::FaultEnd { .. } => (None, None),
        What::Heal | What::Configure(_) | What::Digest(_) => (None, None),
    }
}

impl World {
    /// Gives an event its numbers.
    pub(crate) fn see<'a>(&mut self, line: u32, event: &'a Event) -> Seen<'a> {
        let (queue, group) = names_of(&event.what);
        let group = group.map_or(NONE, |group| self.groups.number(group));
        let queue = queue.map_or(NONE, |queue| self.queue(queue));
        Seen { line, event, queue, group }
    }

    fn queue(&mut self, queue: &Queue) -> u32 {
        let number = self.queues.number(queue);
        if number as usize == self.queue_topics.len() {
            let topic = self.topics.number(&queue.topic);
            self.queue_topics.push(topic);
        }
        number
    }

    /// Takes in what all checks share.
    pub(crate) fn learn(&mut self, seen: &Seen<'_>) -> Result<(), HistoryError> {
        let (done, line) = (seen.event.done, seen.line);
        self.now = done;
        match &seen.event.what {
            What::Configure(config) => self.config = config.clone(),
            What::FaultBegin { .. } => self.break_(done),
            What::FaultEnd { .. } => self.repair(done, false),
            What::Heal => {
                self.repair(done, true);
                self.healed = Some((done, line));
            }
            What::Started(started) => {
                let topic = self.topics.number(&started.topic);
                let members = self.members.entry(topic).or_default();
                if members.len() == 64 {
                    return Err(HistoryError::Groups { line });
                }
                if !members.iter().any(|member| member.group == seen.group) {
                    members.push(Member { group: seen.group, started: done, drained: None });
                }
            }
            What::Drained(drained) => {
                let topic = self.topics.number(&drained.topic);
                let members = self.members.entry(topic).or_default();
                if let Some(member) = members.iter_mut().find(|member| member.group == seen.group) {
                    member.drained = Some((done, line));
                }
            }
            What::Send(sent) => self.learn_send(seen, sent),
            What::End(end) => self.learn_end(seen, end),
            What::Recall(recall) if recall.outcome != Outcome::Failed => self.unseen.release(id(&recall.value)),
            _ => {}
        }
        Ok(())
    }

    fn break_(&mut self, now: u64) {
        if self.open_faults == 0 {
            self.faults.push(Fault { begin: now, end: u64::MAX });
        }
        self.open_faults += 1;
    }

    fn repair(&mut self, now: u64, all: bool) {
        self.open_faults = if all { 0 } else { self.open_faults.saturating_sub(1) };
        if let Some(last) = self.faults.last_mut().filter(|last| self.open_faults == 0 && last.end == u64::MAX) {
            last.end = now;
        }
    }

    fn learn_send(&mut self, seen: &Seen<'_>, sent: &Sent) {
        let topic = self.queue_topics[seen.queue as usize];
        let entry = *self.values.sent(seen.line, topic, sent);
        let id = id(&sent.value);
        match (sent.outcome, sent.kind) {
            (Outcome::Ok, SendKind::Normal) => self.promise(id, topic, seen, Why::Acked),
            (Outcome::Ok, SendKind::Delayed { .. }) => self.promise(id, topic, seen, Why::Delayed),
            // Who sees it now counts when it is promised later.
            (Outcome::Ok, SendKind::Half) | (Outcome::Unknown, _) if !entry.settled => self.unseen.watch(id, seen.line),
            _ => {}
        }
    }

    fn learn_end(&mut self, seen: &Seen<'_>, end: &End) {
        let id = id(&end.value);
        if let Some(entry) = self.values.get(id).filter(|_| end.action == Action::Commit && end.outcome == Outcome::Ok) {
            self.promise(id, entry.topic, seen, Why::Committed);
        }
    }

    /// Each group that had started before the operation did must see the message.
    fn promise(&mut self, id: Id, topic: u32, seen: &Seen<'_>, why: Why) {
        let mut groups = 0;
        for (at, member) in self.members_of(topic).iter().enumerate() {
            if member.started <= seen.event.invoke && member.drained.is_none() {
                groups |= 1 << at;
            }
        }
        if self.values.get(id).is_some_and(|entry| !entry.settled) && self.unseen.require(id, groups, seen.line, seen.event.done, why) {
            self.settle(id);
        }
    }

    fn settle(&mut self, id: Id) {
        if let Some(entry) = self.values.get_mut(id) {
            entry.settled = true;
        }
    }

    /// Takes in a delivery. One whose message may have been sent is returned as known, any other waits for its send.
    pub(crate) fn deliver(&mut self, delivery: &Delivery) -> Option<(Entry, Option<Live>)> {
        let known = self.values.get(delivery.id).filter(|entry| entry.tries > 0).copied();
        let Some(entry) = known else {
            self.waiting.entry(delivery.id).or_default().push(*delivery);
            return None;
        };
        let first = if entry.settled { None } else { self.first(delivery, &entry) };
        Some((entry, first))
    }

    fn first(&mut self, delivery: &Delivery, entry: &Entry) -> Option<Live> {
        let at = self.members_of(entry.topic).iter().position(|member| member.group == delivery.group)?;
        let first = self.unseen.see(delivery.id, 1 << at)?;
        if self.unseen.forget_if_seen(delivery.id) {
            self.settle(delivery.id);
        }
        Some(first)
    }

    /// Deliveries that waited for this send. What came before it was begun is not its doing and waits on.
    pub(crate) fn awaited(&mut self, seen: &Seen<'_>, sent: &Sent) -> Vec<Delivery> {
        let id = id(&sent.value);
        if self.waiting.is_empty() || self.values.get(id).is_none_or(|entry| entry.tries == 0) {
            return Vec::new();
        }
        let waiting = self.waiting.remove(&id).unwrap_or_default();
        let (caused, before): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|delivery| delivery.done >= seen.event.invoke);
        if !before.is_empty() {
            self.waiting.insert(id, before);
        }
        caused
    }

    /// Deliveries whose message was never sent, or only refused, by line.
    pub(crate) fn never_sent(&self) -> Vec<Delivery> {
        let mut all: Vec<_> = self.waiting.values().flatten().copied().collect();
        all.sort_unstable_by_key(|delivery| delivery.line);
        all
    }

    /// Notes a further place of a value in its own topic.
    pub(crate) fn found_copy(&mut self, id: Id, queue: u32) -> Option<Entry> {
        let topic = self.queue_topics[queue as usize];
        let entry = self.values.get_mut(id).filter(|entry| entry.topic == topic)?;
        entry.copies = entry.copies.saturating_add(1);
        Some(*entry)
    }

    pub(crate) fn members_of(&self, topic: u32) -> &[Member] {
        self.members.get(&topic).map_or(&[], Vec::as_slice)
    }

    /// The groups of a topic by name.
    pub(crate) fn members_of_topic(&self, topic: &Topic) -> &[Member] {
        self.topics.numbers.get(topic).map_or(&[], |number| self.members_of(*number))
    }

    pub(crate) fn topic_of(&self, queue: u32) -> u32 {
        self.queue_topics[queue as usize]
    }

    pub(crate) fn topic_name(&self, topic: u32) -> &Topic {
        self.topics.name(topic)
    }

    pub(crate) fn queue_name(&self, queue: u32) -> &Queue {
        self.queues.name(queue)
    }

    pub(crate) fn group_name(&self, group: u32) -> &Group {
        self.groups.name(group)
    }

    /// The number of a group that was named.
    pub(crate) fn group_number(&self, name: &str) -> Option<u32> {
        self.groups.numbers.get(name).copied()
    }

    /// Whether the configuration lets acknowledged writes be lost.
    pub(crate) fn may_lose(&self) -> bool {
        self.config.flush == Mode::Async || self.config.replication == Mode::Async
    }

    /// The fault that may have taken what was acknowledged then, by its number.
    pub(crate) fn fault_for(&self, acked: u64) -> Option<usize> {
        if !self.may_lose() {
            return None;
        }
        let reach = self.config.loss_window;
        self.faults.iter().position(|fault| acked.saturating_add(reach) >= fault.begin && acked <= fault.end)
    }

    /// Whether nothing was broken in that time, nor so shortly before that the cluster may still be coming back.
    pub(crate) fn is_healthy(&self, from: u64, to: u64) -> bool {
        let settles = self.config.write_within;
        self.faults.iter().all(|fault| fault.begin > to || fault.end.saturating_add(settles) < from)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.open_faults > 0
    }

    /// Whether this value is a half message.
    pub(crate) fn is_half(&self, id: Id) -> bool {
        self.values.get(id).is_some_and(|entry| entry.sort == Sort::Half)
    }
}
