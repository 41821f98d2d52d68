//! What a broker says of its part in its group.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What `getBrokerEpoch` shows (1007): RocketMQ's `EpochEntryCache`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EpochCache {
    /// Cluster.
    pub cluster_name: String,
    /// The group's name in routes.
    pub broker_name: String,
    /// The member's number; 0 of a master.
    pub broker_id: i64,
    /// Oldest first.
    pub epoch_list: Vec<EpochEntry>,
    /// Where the log ends.
    pub max_offset: i64,
}

/// One master's tenure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EpochEntry {
    /// Its number.
    pub epoch: i64,
    /// Its first byte in the log.
    pub start_offset: i64,
    /// Where the next one begins, or the log ends.
    pub end_offset: i64,
}

/// What `haStatus` shows (907): RocketMQ's `HARuntimeInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HaRuntimeInfo {
    /// Whether it is master.
    pub master: bool,
    /// Where its log ends.
    pub master_commit_log_max_offset: i64,
    /// Replicas in the in-sync set.
    pub in_sync_slave_nums: i32,
    /// Of a master: its replicas.
    pub ha_connection_info: Vec<HaConnection>,
    /// Of a replica: its way to the master.
    pub ha_client_runtime_info: HaClient,
}

/// A replica as its master sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HaConnection {
    /// Who and where it is.
    pub addr: String,
    /// Up to where it holds the log.
    pub slave_ack_offset: i64,
    /// Bytes that it lacks.
    pub diff: i64,
    /// Whether records wait for it.
    pub in_sync: bool,
    /// Not measured: 0.
    pub transferred_byte_in_second: i64,
    /// From where on it is given the log.
    pub transfer_from_where: i64,
}

/// A master as its replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HaClient {
    /// Where it is.
    pub master_addr: String,
    /// Not measured: 0.
    pub transferred_byte_in_second: i64,
    /// Up to where this one holds the log.
    pub max_offset: i64,
    /// When it was heard last, ms since 1970; 0: not measured.
    pub last_read_timestamp: i64,
    /// The same for what was said to it.
    pub last_write_timestamp: i64,
    /// Up to where the log is confirmed.
    pub master_flush_offset: i64,
    /// Whether it follows.
    pub is_activated: bool,
}

/// A member of a group and what it knows (Sluice's own, 1,000,001).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupStatus {
    /// The cluster.
    pub cluster: String,
    /// The group.
    pub group: String,
    /// Its number.
    pub member: u32,
    /// `master`, or `replica`.
    pub role: String,
    /// The newest epoch that it has seen.
    pub epoch: u64,
    /// The master's number, if it knows one.
    pub master: Option<u32>,
    /// Where the master serves clients, if it knows that.
    pub master_place: Option<String>,
    /// Where its log begins.
    pub min: u64,
    /// Where it ends.
    pub appended: u64,
    /// Up to where it is on stable storage.
    pub flushed: u64,
    /// Up to where every member of the in-sync set holds it.
    pub confirmed: u64,
    /// While the master's log is taken whole: bytes of it that are there,
    pub resync_taken: Option<u64>,
    /// and that are needed.
    pub resync_needed: Option<u64>,
    /// Of a master: how many masters of the group have begun without any member of the in-sync set before, so that acknowledged records may be missing.
    pub unclean_elections: Option<u64>,
    /// Messages that it had acknowledged as master before the others confirmed them, and has cut from its log since its start because the next master lacked them,
    pub lost_messages: u64,
    /// their bytes,
    pub lost_bytes: u64,
    /// and whether it may be fewer: a process that has ended does not say what it had acknowledged.
    pub lost_at_most: bool,
    /// Of a master: the other members that have spoken to it or are in the set.
    pub replicas: Vec<ReplicaStatus>,
    /// What a person should know, each in a sentence.
    pub troubles: Vec<String>,
}

/// A replica as its master sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaStatus {
    /// Its number.
    pub member: u32,
    /// Whether records wait for it.
    pub in_sync: bool,
    /// Whether it is connected.
    pub connected: bool,
    /// Up to where it has the log.
    pub received: u64,
    /// Up to where it has it on stable storage.
    pub flushed: u64,
}

/// What `getSyncStateSet` shows (1006): RocketMQ's `BrokerReplicasInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerReplicasInfo {
    /// By the group's name in routes.
    pub replicas_info_table: BTreeMap<String, ReplicasInfo>,
}

/// A group's master and in-sync set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicasInfo {
    /// The master's number among the members.
    pub master_broker_id: i64,
    /// Where clients reach it.
    pub master_address: String,
    /// Rises with each master.
    pub master_epoch: i32,
    /// Rises with each change of the group's state.
    pub sync_state_set_epoch: i32,
    /// Members of the set, the master included.
    pub in_sync_replicas: Vec<ReplicaIdentity>,
    /// The other members.
    pub not_in_sync_replicas: Vec<ReplicaIdentity>,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaIdentity {
    /// Whether the master has a connection with it.
    pub alive: bool,
    /// Where the other members reach it.
    pub broker_address: String,
    /// Its number.
    pub broker_id: i64,
    /// The group's name in routes.
    pub broker_name: String,
}
