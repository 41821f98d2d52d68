//! Topics: their configuration, made on demand or by an administrator, kept in the log.

use crate::{
    durability::{Durability, TopicRule},
    meta::{DataVersion, MetaDone, MetaWriter, in_log},
    transaction::{GIVEN_UP_TOPIC, HALF_TOPIC, OP_TOPIC},
};
use ahash::AHashMap;
use serde::{Deserialize, Serialize};
use sluice_env::{Clock, Env, sync::RwLock};
use sluice_store::{AppendError, MetaChange, MetaTable, Store, Wait, queue_index::QueueRef};
use sluice_types::{Group, NameError, QueueId, Topic};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};
use thiserror::Error;

/// Bits of a topic's permission.
pub mod perm {
    /// May be read.
    pub const READ: u32 = 4;
    /// May be written.
    pub const WRITE: u32 = 2;
    /// May serve as the pattern for topics made on demand.
    pub const INHERIT: u32 = 1;
}

/// The topic whose settings topics made on demand take.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Where delayed messages wait.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Most queues a topic may have.
pub const QUEUES_MAX: u32 = 4096;
/// Most topics of one broker.
const TOPICS_MAX: usize = 100_000;

/// Settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicConfig {
    /// Its name.
    pub name: Topic,
    /// Queues that consumers read.
    pub read_queues: u32,
    /// Queues that producers write.
    pub write_queues: u32,
    /// See [`perm`].
    pub perm: u32,
    /// Bits for unit mode.
    #[serde(default)]
    pub sys_flag: i32,
    /// Whether the topic is ordered across brokers.
    #[serde(default)]
    pub order: bool,
    /// Further attributes, such as `message.type`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

impl TopicConfig {
    /// A topic that may be read and written.
    #[must_use]
    pub fn new(name: Topic, queues: u32) -> Self {
        Self { name, read_queues: queues, write_queues: queues, perm: perm::READ | perm::WRITE, sys_flag: 0, order: false, attributes: BTreeMap::new() }
    }

    /// Whether producers may write.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.perm & perm::WRITE != 0
    }

    /// Whether consumers may read.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.perm & perm::READ != 0
    }

    /// How many queues the topic has, whoever may use them.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.read_queues.max(self.write_queues)
    }
}

/// Why a topic was not made, changed or found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// There is none, and it may not be made on demand.
    #[error("the topic {0} does not exist; create it, or switch on the automatic creation of topics")]
    NotFound(String),
    /// The name is illegal.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The broker's own.
    #[error("the topic {0} belongs to the broker; choose another name")]
    Reserved(String),
    /// Queue numbers out of range.
    #[error("the topic {topic} cannot have {queues} queues; 1 to {QUEUES_MAX} are possible")]
    Queues {
        /// The topic.
        topic: String,
        /// What was asked for.
        queues: u32,
    },
    /// Attributes that ask for a durability that this broker does not have.
    #[error("topic {topic}: {why}")]
    Durability {
        /// The topic.
        topic: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Permission bits that mean nothing.
    #[error("the permission {perm} of topic {topic} is none; 2 is write, 4 is read, 6 is both")]
    Perm {
        /// The topic.
        topic: String,
        /// What was asked for.
        perm: u32,
    },
    /// The broker has as many topics as it may have.
    #[error("the broker has {0} topics, more are not allowed; delete some that nobody uses")]
    TooMany(usize),
    /// The change is not durable; it has been taken back, unless it only was not flushed in time.
    #[error("the change of topic {topic} was not stored: {error}")]
    Store {
        /// The topic.
        topic: String,
        /// What the store said.
        error: AppendError,
    },
}

/// What happened to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicChange {
    /// Made or changed.
    Put(Arc<TopicConfig>),
    /// Gone.
    Deleted(Topic),
}

/// Called after each change, with the version that it led to.
pub type TopicListener = Arc<dyn Fn(&TopicChange, DataVersion) + Send + Sync>;
/// Called once with what became of a change of a topic.
pub type TopicDone = Box<dyn FnOnce(Result<(), TopicError>) + Send>;

/// System topics: name, queues, permission. They are always there and not kept in the log.
const SYSTEM_TOPICS: [(&str, u32, u32); 9] = [
    (SCHEDULE_TOPIC, 18, perm::READ | perm::WRITE),
    (HALF_TOPIC, 1, perm::READ | perm::WRITE),
    (OP_TOPIC, 1, perm::READ | perm::WRITE),
    (GIVEN_UP_TOPIC, 1, perm::READ | perm::WRITE),
    ("RMQ_SYS_TRACE_TOPIC", 1, perm::READ | perm::WRITE),
    ("SELF_TEST_TOPIC", 1, perm::READ | perm::WRITE),
    ("BenchmarkTest", 1024, perm::READ | perm::WRITE),
    ("OFFSET_MOVED_EVENT", 1, perm::READ | perm::WRITE),
    (AUTO_CREATE_TOPIC, 8, perm::READ | perm::WRITE | perm::INHERIT),
];

/// System topics that clients may not write.
const NOT_FOR_CLIENTS: [&str; 6] = [SCHEDULE_TOPIC, HALF_TOPIC, OP_TOPIC, GIVEN_UP_TOPIC, "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT"];

/// Whether a topic is the broker's own.
#[must_use]
pub fn is_system(name: &str) -> bool {
    name.starts_with("rmq_sys_") || SYSTEM_TOPICS.iter().any(|(system, ..)| *system == name)
}

/// A topic at work: its settings and its queues, looked up once.
pub(crate) struct TopicState {
    pub(crate) config: Arc<TopicConfig>,
    pub(crate) rule: TopicRule,
    /// Whether its queues are shown flushed only.
    flushes_first: bool,
    queues: Vec<OnceLock<QueueRef>>,
    turn: AtomicU32,
}

impl TopicState {
    fn new(config: TopicConfig, durability: Durability) -> Arc<Self> {
        let queues = (0..config.queues()).map(|_| OnceLock::new()).collect();
        let rule = durability.rule(&config.attributes);
        let flushes_first = durability.flushes_first(&rule);
        Arc::new(Self { config: Arc::new(config), rule, flushes_first, queues, turn: AtomicU32::new(0) })
    }

    /// The queue with that number, if the topic has one.
    pub(crate) fn queue(&self, store: &Store, id: u32) -> Option<&QueueRef> {
        let slot = self.queues.get(id as usize)?;
        if slot.get().is_none() {
            // Not within the cell's own lock: this may wait. Whoever comes first, it is the same queue.
            let _ = slot.set(store.queue(&self.config.name, QueueId(id)));
        }
        slot.get().inspect(|queue| queue.show_flushed_only(self.flushes_first))
    }

    /// The broker's choice of a queue to write: each in turn.
    pub(crate) fn next_queue(&self) -> u32 {
        self.turn.fetch_add(1, Ordering::Relaxed) % self.config.write_queues.max(1)
    }
}

/// How topics are made on demand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AutoCreate {
    pub(crate) enabled: bool,
    pub(crate) queues: u32,
}

/// All topics of the broker.
pub struct Topics {
    map: Arc<RwLock<AHashMap<Topic, Arc<TopicState>>>>,
    version: Arc<RwLock<DataVersion>>,
    listener: Arc<RwLock<Option<TopicListener>>>,
    meta: Arc<MetaWriter>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    auto: AutoCreate,
    pub(crate) durability: Durability,
}

impl Topics {
    /// Reads what the log holds. The error names a topic whose settings cannot be read.
    pub(crate) fn load(store: &Arc<Store>, meta: &Arc<MetaWriter>, env: &Env, auto: AutoCreate, durability: Durability) -> Result<Self, String> {
        let mut map = AHashMap::new();
        for (name, queues, perm) in SYSTEM_TOPICS {
            let topic = Topic::new(name).map_err(|e| e.to_string())?;
            let queues = if name == AUTO_CREATE_TOPIC { auto.queues.clamp(1, QUEUES_MAX) } else { queues };
            if name != AUTO_CREATE_TOPIC || auto.enabled {
                map.insert(topic.clone(), TopicState::new(TopicConfig { perm, ..TopicConfig::new(topic, queues) }, durability));
            }
        }
        let stored = store.meta(MetaTable::Topics);
        let version = DataVersion { state_version: 0, timestamp: env.clock.wall().0, counter: stored.len() as i64 };
        for (name, value) in stored {
            let config: TopicConfig = serde_json::from_slice(&value).map_err(|e| format!("topic {name}: {e}"))?;
            let state = TopicState::new(config, durability);
            if let Some(why) = &state.rule.wrong {
                let is_taken = if state.rule.rule.is_some() { "the broker's own rule holds for it" } else { "its messages are refused" };
                tracing::warn!(topic = name, "the durability that this topic asks for is not what this broker does: {why}; {is_taken}");
            }
            map.insert(state.config.name.clone(), state);
        }
        Ok(Self {
            map: Arc::new(RwLock::new(map)),
            version: Arc::new(RwLock::new(version)),
            listener: Arc::default(),
            meta: meta.clone(),
            store: store.clone(),
            clock: env.clock.clone(),
            auto,
            durability,
        })
    }

    /// Who shall hear of every change from now on, on the writer's thread: be quick.
    pub fn set_listener(&self, listener: TopicListener) {
        *self.listener.write() = Some(listener);
    }

    /// The settings of a topic.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<TopicConfig>> {
        self.map.read().get(name).map(|state| state.config.clone())
    }

    /// All topics by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<TopicConfig>> {
        let mut all: Vec<_> = self.map.read().values().map(|state| state.config.clone()).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The version that the last change led to.
    #[must_use]
    pub fn version(&self) -> DataVersion {
        *self.version.read()
    }

    /// Makes or changes a topic. `done` comes when it is durable, and the listener has been called.
    pub fn put(&self, config: TopicConfig, done: TopicDone) {
        match self.check(&config) {
            Ok(()) => drop(self.store_put(config, done)),
            Err(error) => done(Err(error)),
        }
    }

    fn check(&self, config: &TopicConfig) -> Result<(), TopicError> {
        let topic = || config.name.to_string();
        if is_system(config.name.as_str()) {
            return Err(TopicError::Reserved(topic()));
        }
        for queues in [config.read_queues, config.write_queues] {
            if queues > QUEUES_MAX {
                return Err(TopicError::Queues { topic: topic(), queues });
            }
        }
        if config.queues() == 0 {
            return Err(TopicError::Queues { topic: topic(), queues: 0 });
        }
        if config.perm > perm::READ | perm::WRITE | perm::INHERIT {
            return Err(TopicError::Perm { topic: topic(), perm: config.perm });
        }
        if let Some(why) = self.durability.rule(&config.attributes).wrong {
            return Err(TopicError::Durability { topic: topic(), why });
        }
        let map = self.map.read();
        if map.len() >= TOPICS_MAX && !map.contains_key(&config.name) {
            return Err(TopicError::TooMany(map.len()));
        }
        Ok(())
    }

    fn store_put(&self, config: TopicConfig, done: TopicDone) -> Arc<TopicState> {
        let value = serde_json::to_vec(&config).expect("names, numbers and text serialize");
        let change = MetaChange { table: MetaTable::Topics, key: config.name.to_string(), value: Some(value) };
        let state = TopicState::new(config, self.durability);
        self.apply(state.config.name.clone(), Some(state.clone()), change, done);
        state
    }

    /// Takes a topic out of the set. Its queues are the caller's business.
    pub(crate) fn delete(&self, name: &Topic, done: TopicDone) {
        if is_system(name.as_str()) {
            return done(Err(TopicError::Reserved(name.to_string())));
        }
        if !self.map.read().contains_key(name) {
            return done(Err(TopicError::NotFound(name.to_string())));
        }
        let change = MetaChange { table: MetaTable::Topics, key: name.to_string(), value: None };
        self.apply(name.clone(), None, change, done);
    }

    /// Changes memory at once and the log in the same order. What the log refuses is taken back.
    fn apply(&self, name: Topic, new: Option<Arc<TopicState>>, change: MetaChange, done: TopicDone) {
        let before: Arc<RwLock<Option<Arc<TopicState>>>> = Arc::default();
        let (map, listener, version) = (self.map.clone(), self.listener.clone(), self.version.clone());
        let (kept, state, topic) = (before.clone(), new.clone(), name.clone());
        let stored: MetaDone = Box::new(move |result| {
            if in_log(&result) {
                let change = state.as_ref().map_or_else(|| TopicChange::Deleted(topic.clone()), |state| TopicChange::Put(state.config.clone()));
                let version = *version.read();
                let listener = listener.read().clone();
                if let Some(listener) = listener {
                    listener(&change, version);
                }
            } else {
                take_back(&mut map.write(), &topic, state.as_ref(), kept.write().take());
            }
            done(result.map_err(|error| TopicError::Store { topic: topic.to_string(), error }));
        });
        self.meta.change(
            Wait::Durable,
            || {
                let mut map = self.map.write();
                *before.write() = match new {
                    Some(state) => map.insert(name, state),
                    None => map.remove(&name),
                };
                self.version.write().next(self.clock.wall().0);
                vec![change]
            },
            stored,
        );
    }

    /// A topic at work.
    pub(crate) fn state(&self, name: &str) -> Option<Arc<TopicState>> {
        self.map.read().get(name).cloned()
    }

    /// The topic a client sends to, made when that is allowed.
    pub(crate) fn for_send(&self, name: &str, pattern: &str, queues: u32, unit_mode: bool) -> Result<Arc<TopicState>, TopicError> {
        if let Some(state) = self.state(name) {
            return if NOT_FOR_CLIENTS.contains(&name) { Err(TopicError::Reserved(name.to_owned())) } else { Ok(state) };
        }
        let topic = Topic::new(name)?;
        if topic.retry_group().is_some() {
            return self.internal(topic, 1, if unit_mode { UNIT_SUB } else { 0 });
        }
        let missing = || TopicError::NotFound(name.to_owned());
        if !self.auto.enabled {
            return Err(missing());
        }
        let pattern = self.state(pattern).or_else(|| self.state(AUTO_CREATE_TOPIC)).ok_or_else(missing)?;
        if pattern.config.perm & perm::INHERIT == 0 {
            return Err(missing());
        }
        let queues = queues.clamp(1, pattern.config.write_queues.max(1));
        let sys_flag = if unit_mode { UNIT } else { 0 };
        self.make(TopicConfig { perm: pattern.config.perm & !perm::INHERIT, sys_flag, ..TopicConfig::new(topic, queues) })
    }

    /// A retry or dead-letter topic, made when missing.
    pub(crate) fn internal(&self, topic: Topic, queues: u32, sys_flag: i32) -> Result<Arc<TopicState>, TopicError> {
        match self.state(topic.as_str()) {
            Some(state) => Ok(state),
            None => self.make(TopicConfig { sys_flag, ..TopicConfig::new(topic, queues.clamp(1, QUEUES_MAX)) }),
        }
    }

    /// Makes a topic without waiting: its record lies before any message of its own, so that whoever waits for the message has waited for the topic.
    fn make(&self, config: TopicConfig) -> Result<Arc<TopicState>, TopicError> {
        self.check(&config)?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let name = config.name.clone();
        let state = self.store_put(
            config,
            Box::new(move |result| {
                if let Err(error) = &result {
                    tracing::warn!(topic = %name, %error, "a topic made on demand was not stored");
                }
                // Nobody listens any more when the refusal comes later than this call's return.
                let _ = sender.send(result);
            }),
        );
        match receiver.try_recv() {
            Ok(Err(refused)) => Err(refused),
            _ => Ok(state),
        }
    }

    /// The retry topic's group, for those who have one.
    pub(crate) fn retry_topic(&self, group: &Group, queues: u32, unit_mode: bool) -> Result<Arc<TopicState>, TopicError> {
        self.internal(Topic::retry_of(group)?, queues, if unit_mode { UNIT_SUB } else { 0 })
    }

    /// The queue that a message waiting elsewhere goes to, also one that its topic does not have any more.
    pub(crate) fn queue_to_end_in(&self, topic: &Topic, id: QueueId) -> QueueRef {
        let queue = self.state(topic.as_str()).and_then(|state| state.queue(&self.store, id.0).cloned());
        queue.unwrap_or_else(|| self.store.queue(topic, id))
    }

    /// The queue of a topic that consumers read.
    pub(crate) fn queue_to_read(&self, topic: &str, queue_id: i32) -> Result<Option<QueueRef>, TopicError> {
        let state = self.state(topic).ok_or_else(|| TopicError::NotFound(topic.to_owned()))?;
        Ok(u32::try_from(queue_id).ok().and_then(|id| state.queue(&self.store, id).cloned()))
    }
}

/// Topic flag: producers in unit mode.
const UNIT: i32 = 1;
/// Topic flag: consumers in unit mode.
const UNIT_SUB: i32 = 2;

/// Puts the former state back, unless a later change has come on top.
fn take_back(map: &mut AHashMap<Topic, Arc<TopicState>>, name: &Topic, failed: Option<&Arc<TopicState>>, before: Option<Arc<TopicState>>) {
    let untouched = match (map.get(name), failed) {
        (Some(now), Some(failed)) => Arc::ptr_eq(now, failed),
        (None, None) => true,
        _ => false,
    };
    if !untouched {
        return;
    }
    match before {
        Some(before) => drop(map.insert(name.clone(), before)),
        None => drop(map.remove(name)),
    }
}
