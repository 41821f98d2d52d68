//! What a member of a group is asked about itself, whatever its role.

use super::{Answer, Failure, Outcome, reply::Reply};
use bytes::Bytes;
use sluice_group::runner::{Member, Status};
use sluice_protocol::{
    ExtFields, Frame, RequestCode as Code, ResponseCode,
    body::{
        BrokerReplicasInfo, EpochCache, EpochEntry, GroupStatus, HaClient, HaConnection, HaRuntimeInfo, ReplicaIdentity, ReplicaStatus, ReplicasInfo,
        from_json, to_json,
    },
};
use sluice_replication::MemberId;
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

/// The new master, by its number; without it the replica that has most of the log.
const SWITCHOVER_TO: &str = "to";
/// Longest time of a switchover: what a client's request waits for a master.
const SWITCHOVER_MAX: Duration = Duration::from_millis(2500);

/// Whether a request is for this very member, and not for whoever is master.
pub(super) const fn is_of_member(code: Code) -> bool {
    matches!(
        code,
        Code::GetBrokerHaStatus
            | Code::GetBrokerEpochCache
            | Code::ControllerGetMetadataInfo
            | Code::SluiceGroupStatus
            | Code::SluiceSwitchover
            | Code::SluiceElectUnclean
            | Code::SluiceResync
    )
}

/// Whether a request is for the group's master, and about the group.
pub(super) const fn is_of_group(code: Code) -> bool {
    matches!(code, Code::ControllerGetSyncStateData)
}

/// Answers on a thread of its own: a member whose disk hangs may take its time, and connections have to go on. The group is at `address`.
pub(super) fn handle(member: &Arc<Member>, address: Option<SocketAddr>, code: Code, frame: &Frame, reply: Reply) {
    let (member, to) = (Arc::clone(member), frame.header.ext.get(SWITCHOVER_TO).map(str::to_owned));
    let (address, wanted) = (address.map(|address| address.to_string()).unwrap_or_default(), frame.body.clone());
    let body = move || match code {
        Code::ControllerGetMetadataInfo => reply.outcome(Ok(controller(&member, &address))),
        Code::ControllerGetSyncStateData => reply.outcome(sync_state(&member, &address, &wanted)),
        Code::GetBrokerHaStatus => reply.outcome(json(&ha_status(&member))),
        Code::GetBrokerEpochCache => reply.outcome(json(&epochs(&member))),
        Code::SluiceGroupStatus => reply.outcome(json(&group_status(&member))),
        Code::SluiceSwitchover => reply.outcome(switch_over(&member, to.as_deref())),
        Code::SluiceElectUnclean => reply.outcome(ordered(member.stand_unclean())),
        Code::SluiceResync => reply.outcome(ordered(member.resync())),
        _ => reply.not_supported(),
    };
    // Without a thread the reply says by itself that it was dropped.
    if let Err(error) = std::thread::Builder::new().name("group-request".to_owned()).spawn(body) {
        tracing::error!(%error, "no thread for a request to a member of a group");
    }
}

fn json(body: &impl serde::Serialize) -> Outcome {
    Ok(Answer { body: vec![Bytes::from(to_json(body))], ..Answer::success() })
}

fn ordered(order: Result<(), String>) -> Outcome {
    order.map(|()| Answer::success()).map_err(|why| Failure::new(ResponseCode::SystemError, why))
}

fn switch_over(member: &Member, to: Option<&str>) -> Outcome {
    let to = to.map(str::parse).transpose().map_err(|_| Failure::invalid("the field `to` is no member's number"))?;
    match member.hand_over(to.map(MemberId), SWITCHOVER_MAX) {
        Ok(now) => Ok(Answer { remark: Some(format!("member {now} is master")), ..Answer::success() }),
        Err(why) => Err(Failure::new(ResponseCode::SystemError, why)),
    }
}

/// RocketMQ's tools ask a controller for the in-sync set, and any controller for the one that leads. Here each member is one, and the group's address leads to the one that knows.
fn controller(member: &Member, address: &str) -> Answer {
    let status = member.status();
    let mut ext = ExtFields::new();
    ext.insert("group", member.options().group.as_str());
    ext.insert("controllerLeaderId", &status.master.as_ref().map(|(id, _)| id.to_string()).unwrap_or_default());
    ext.insert("controllerLeaderAddress", address);
    ext.insert("isLeader", if status.master_of.is_some() { "true" } else { "false" });
    ext.insert("peers", &member.options().members.values().cloned().collect::<Vec<_>>().join(";"));
    Answer { ext, ..Answer::success() }
}

/// The in-sync set, if this group is among those asked for.
fn sync_state(member: &Member, address: &str, wanted: &[u8]) -> Outcome {
    let wanted: Vec<String> = from_json(wanted)?;
    let (options, status) = (member.options(), member.status());
    let mut table = BTreeMap::new();
    if wanted.contains(&options.group) {
        let state = status.state.as_ref().ok_or_else(|| Failure::new(ResponseCode::SystemBusy, "this broker may not be master any more; ask again"))?;
        let is_alive = |id: MemberId| id == options.id || status.replicas.iter().any(|replica| replica.member.id == id && replica.is_connected);
        let in_set = |id: MemberId| state.in_sync.iter().any(|member| member.id == id);
        let identity = |(id, place): (&MemberId, &String)| ReplicaIdentity {
            alive: is_alive(*id),
            broker_address: place.clone(),
            broker_id: id.0.into(),
            broker_name: options.group.clone(),
        };
        let (in_sync, others) = options.members.iter().partition::<Vec<_>, _>(|(id, _)| in_set(**id));
        let info = ReplicasInfo {
            master_broker_id: state.master.0.into(),
            master_address: address.to_owned(),
            master_epoch: i32::try_from(state.epoch.0).unwrap_or(i32::MAX),
            sync_state_set_epoch: i32::try_from(state.revision).unwrap_or(i32::MAX),
            in_sync_replicas: in_sync.into_iter().map(identity).collect(),
            not_in_sync_replicas: others.into_iter().map(identity).collect(),
        };
        table.insert(options.group.clone(), info);
    }
    json(&BrokerReplicasInfo { replicas_info_table: table })
}

fn epochs(member: &Member) -> EpochCache {
    let options = member.options();
    let status = member.status();
    let end = status.marks.map(|marks| marks.appended.to_wire()).unwrap_or_default();
    let starts = member.store().map(|store| store.epochs()).unwrap_or_default();
    let ends = starts.iter().skip(1).map(|(_, start)| start.to_wire()).chain([end]);
    let entry = |((epoch, start), end_offset): (&(u64, sluice_types::CommitLogOffset), i64)| EpochEntry {
        epoch: epoch.cast_signed(),
        start_offset: start.to_wire(),
        end_offset,
    };
    EpochCache {
        cluster_name: options.cluster.clone(),
        broker_name: options.group.clone(),
        broker_id: if status.master_of.is_some() { 0 } else { options.id.0.into() },
        epoch_list: starts.iter().zip(ends).map(entry).collect(),
        max_offset: end,
    }
}

fn ha_status(member: &Member) -> HaRuntimeInfo {
    let status = member.status();
    let end = status.marks.map(|marks| marks.appended).unwrap_or_default();
    let place = |id: MemberId| member.options().members.get(&id).cloned().unwrap_or_default();
    let connection = |replica: &sluice_group::runner::ReplicaStatus| HaConnection {
        addr: place(replica.member.id),
        slave_ack_offset: replica.held.received.to_wire(),
        diff: replica.held.received.distance_to(end).cast_signed(),
        in_sync: replica.is_in_sync,
        transferred_byte_in_second: 0,
        transfer_from_where: replica.held.received.to_wire(),
    };
    HaRuntimeInfo {
        master: status.master_of.is_some(),
        master_commit_log_max_offset: end.to_wire(),
        in_sync_slave_nums: status.replicas.iter().filter(|replica| replica.is_in_sync).count() as i32,
        ha_connection_info: status.replicas.iter().filter(|replica| replica.is_connected).map(connection).collect(),
        ha_client_runtime_info: if status.master_of.is_some() { HaClient::default() } else { ha_client(&status, &place) },
    }
}

fn ha_client(status: &Status, place: &impl Fn(MemberId) -> String) -> HaClient {
    HaClient {
        master_addr: status.master.as_ref().map(|(id, _)| place(*id)).unwrap_or_default(),
        max_offset: status.marks.map(|marks| marks.appended.to_wire()).unwrap_or_default(),
        master_flush_offset: status.marks.map(|marks| marks.confirmed.min(marks.appended).to_wire()).unwrap_or_default(),
        is_activated: status.master.is_some(),
        ..HaClient::default()
    }
}

/// What `sluice broker status` shows.
pub(super) fn group_status(member: &Member) -> GroupStatus {
    let (options, status) = (member.options(), member.status());
    let marks = status.marks;
    let replica = |replica: &sluice_group::runner::ReplicaStatus| ReplicaStatus {
        member: replica.member.id.0,
        in_sync: replica.is_in_sync,
        connected: replica.is_connected,
        received: replica.held.received.0,
        flushed: replica.held.flushed.0,
    };
    GroupStatus {
        cluster: options.cluster.clone(),
        group: options.group.clone(),
        member: options.id.0,
        role: if status.master_of.is_some() { "master" } else { "replica" }.to_owned(),
        epoch: status.seen.epoch.0,
        master: status.master.as_ref().map(|(id, _)| id.0),
        master_place: status.master.as_ref().map(|(_, place)| place.clone()),
        min: marks.map_or(0, |marks| marks.min.0),
        appended: marks.map_or(0, |marks| marks.appended.0),
        flushed: marks.map_or(0, |marks| marks.flushed.0),
        confirmed: marks.map_or(0, |marks| marks.confirmed.min(marks.appended).0),
        resync_taken: status.resync.map(|(taken, _)| taken),
        resync_needed: status.resync.map(|(_, needed)| needed),
        unclean_elections: status.state.as_ref().map(|state| state.unclean),
        lost_messages: status.lost.messages,
        lost_bytes: status.lost.bytes,
        lost_at_most: status.lost.at_most,
        replicas: status.replicas.iter().map(replica).collect(),
        troubles: status.troubles.clone(),
    }
}
