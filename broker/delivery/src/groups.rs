//! Consumer groups: their settings, made on demand or by an administrator, kept in the log.

use crate::meta::{DataVersion, MetaDone, MetaWriter, in_log};
use ahash::AHashMap;
use serde::{Deserialize, Serialize};
use sluice_env::{Clock, Env, sync::RwLock};
use sluice_store::{AppendError, MetaChange, MetaTable, Store, Wait};
use sluice_types::Group;
use std::{collections::BTreeMap, sync::Arc};
use thiserror::Error;

/// Most consumer groups of one broker.
const GROUPS_MAX: usize = 100_000;

/// Settings of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionGroupConfig {
    /// Its name.
    pub group_name: Group,
    /// Whether it may consume.
    #[serde(default = "yes")]
    pub consume_enable: bool,
    /// Whether it may start at the first message.
    #[serde(default = "yes")]
    pub consume_from_min_enable: bool,
    /// Whether it may consume by broadcast.
    #[serde(default = "yes")]
    pub consume_broadcast_enable: bool,
    /// Whether it consumes in order.
    #[serde(default)]
    pub consume_message_orderly: bool,
    /// Queues of its retry topic; 0 lets a message given back vanish.
    pub retry_queue_nums: u32,
    /// Attempts after which a message goes to the dead letters.
    pub retry_max_times: i32,
    /// The broker to read from; 0 is the master.
    #[serde(default)]
    pub broker_id: i64,
    /// The broker to read from when far behind.
    #[serde(default = "one")]
    pub which_broker_when_consume_slowly: i64,
    /// Whether members are told of each other's coming and going.
    #[serde(default = "yes")]
    pub notify_consumer_ids_changed_enable: bool,
    /// Bits for unit mode.
    #[serde(default)]
    pub group_sys_flag: i32,
    /// Minutes a push consumer may take for a message.
    #[serde(default = "fifteen")]
    pub consume_timeout_minute: i32,
    /// Further attributes.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

const fn yes() -> bool {
    true
}
const fn one() -> i64 {
    1
}
const fn fifteen() -> i32 {
    15
}

impl SubscriptionGroupConfig {
    /// The settings of a group made on demand.
    #[must_use]
    pub fn new(group_name: Group) -> Self {
        Self {
            group_name,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            consume_message_orderly: false,
            retry_queue_nums: 1,
            retry_max_times: 16,
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_consumer_ids_changed_enable: true,
            group_sys_flag: 0,
            consume_timeout_minute: 15,
            attributes: BTreeMap::new(),
        }
    }
}

/// Why a group was not made, changed or found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupError {
    /// There is none, and it may not be made on demand.
    #[error("the consumer group {0} does not exist; create it, or switch on the automatic creation of groups")]
    NotFound(Group),
    /// The broker has as many groups as it may have.
    #[error("the broker has {0} consumer groups, more are not allowed; delete some that nobody uses")]
    TooMany(usize),
    /// The change is not durable; it has been taken back, unless it only was not flushed in time.
    #[error("the change of group {group} was not stored: {error}")]
    Store {
        /// The group.
        group: Group,
        /// What the store said.
        error: AppendError,
    },
}

/// Called once with what became of a change of a group.
pub type GroupDone = Box<dyn FnOnce(Result<(), GroupError>) + Send>;

type GroupMap = AHashMap<Group, Arc<SubscriptionGroupConfig>>;

/// All consumer groups of the broker.
pub struct Groups {
    map: Arc<RwLock<GroupMap>>,
    version: RwLock<DataVersion>,
    meta: Arc<MetaWriter>,
    clock: Arc<dyn Clock>,
    auto_create: bool,
}

impl Groups {
    /// Reads what the log holds. The error names a group whose settings cannot be read.
    pub(crate) fn load(store: &Store, meta: &Arc<MetaWriter>, env: &Env, auto_create: bool) -> Result<Self, String> {
        let mut map = GroupMap::new();
        for (name, value) in store.meta(MetaTable::Groups) {
            let config: SubscriptionGroupConfig = serde_json::from_slice(&value).map_err(|e| format!("group {name}: {e}"))?;
            map.insert(config.group_name.clone(), Arc::new(config));
        }
        let version = DataVersion { state_version: 0, timestamp: env.clock.wall().0, counter: map.len() as i64 };
        Ok(Self { map: Arc::new(RwLock::new(map)), version: RwLock::new(version), meta: meta.clone(), clock: env.clock.clone(), auto_create })
    }

    /// The settings of a group.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        self.map.read().get(name).cloned()
    }

    /// All groups by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<SubscriptionGroupConfig>> {
        let mut all: Vec<_> = self.map.read().values().cloned().collect();
        all.sort_unstable_by(|a, b| a.group_name.cmp(&b.group_name));
        all
    }

    /// The version that the last change led to.
    #[must_use]
    pub fn version(&self) -> DataVersion {
        *self.version.read()
    }

    /// Makes or changes a group. `done` comes when it is durable.
    pub fn put(&self, config: SubscriptionGroupConfig, done: GroupDone) {
        let count = self.map.read().len();
        if count >= GROUPS_MAX && self.get(config.group_name.as_str()).is_none() {
            return done(Err(GroupError::TooMany(count)));
        }
        self.apply(config.group_name.clone(), Some(Arc::new(config)), done);
    }

    pub(crate) fn delete(&self, group: &Group, done: GroupDone) {
        match self.get(group.as_str()) {
            Some(_) => self.apply(group.clone(), None, done),
            None => done(Err(GroupError::NotFound(group.clone()))),
        }
    }

    /// The group, made on demand when that is allowed. Its record lies in the log before anything that is done in its name.
    pub(crate) fn ensure(&self, group: &Group) -> Result<Arc<SubscriptionGroupConfig>, GroupError> {
        if let Some(config) = self.get(group.as_str()) {
            return Ok(config);
        }
        if !self.auto_create {
            return Err(GroupError::NotFound(group.clone()));
        }
        let name = group.clone();
        self.put(
            SubscriptionGroupConfig::new(group.clone()),
            Box::new(move |result| {
                if let Err(error) = result {
                    tracing::warn!(group = %name, %error, "a consumer group made on demand was not stored");
                }
            }),
        );
        self.get(group.as_str()).ok_or_else(|| GroupError::NotFound(group.clone()))
    }

    /// Changes memory at once and the log in the same order. What the log refuses is taken back.
    fn apply(&self, group: Group, new: Option<Arc<SubscriptionGroupConfig>>, done: GroupDone) {
        let value = new.as_ref().map(|config| serde_json::to_vec(config.as_ref()).expect("names, numbers and text serialize"));
        let change = MetaChange { table: MetaTable::Groups, key: group.to_string(), value };
        let before: Arc<RwLock<Option<Arc<SubscriptionGroupConfig>>>> = Arc::default();
        let (map, kept, state, name) = (self.map.clone(), before.clone(), new.clone(), group.clone());
        let stored: MetaDone = Box::new(move |result| {
            if !in_log(&result) {
                take_back(&mut map.write(), &name, state.as_ref(), kept.write().take());
            }
            done(result.map_err(|error| GroupError::Store { group: name, error }));
        });
        self.meta.change(
            Wait::Durable,
            || {
                let mut map = self.map.write();
                *before.write() = match new {
                    Some(config) => map.insert(group, config),
                    None => map.remove(&group),
                };
                self.version.write().next(self.clock.wall().0);
                vec![change]
            },
            stored,
        );
    }
}

/// Puts the former settings back, unless a later change has come on top.
fn take_back(map: &mut GroupMap, name: &Group, failed: Option<&Arc<SubscriptionGroupConfig>>, before: Option<Arc<SubscriptionGroupConfig>>) {
    let untouched = match (map.get(name), failed) {
        (Some(now), Some(failed)) => Arc::ptr_eq(now, failed),
        (None, None) => true,
        _ => false,
    };
    match before {
        _ if !untouched => {}
        Some(before) => drop(map.insert(name.clone(), before)),
        None => drop(map.remove(name)),
    }
}
