//! What a member of a group is asked about itself, whatever its role.

use super::{Answer, Failure, Outcome, reply::Reply};
use bytes::Bytes;
use sluice_group::runner::{Member, Status};
use sluice_protocol::{
    Frame, RequestCode as Code, ResponseCode,
    body::{EpochCache, EpochEntry, GroupStatus, HaClient, HaConnection, HaRuntimeInfo, ReplicaStatus, to_json},
};
use sluice_replication::MemberId;
use std::{sync::Arc, time::Duration};

/// The new master, by its number; without it the replica that has most of the log.
const SWITCHOVER_TO: &str = "to";
/// Longest time of a switchover: what a client's request waits for a master.
const SWITCHOVER_MAX: Duration = Duration::from_millis(2500);

/// Whether a request is for this very member, and not for whoever is master.
pub(super) const fn is_of_member(code: Code) -> bool {
    matches!(
        code,
        Code::GetBrokerHaStatus | Code::GetBrokerEpochCache | Code::SluiceGroupStatus | Code::SluiceSwitchover | Code::SluiceElectUnclean | Code::SluiceResync
    )
}

/// Answers on a thread of its own: a member whose disk hangs may take its time, and connections have to go on.
pub(super) fn handle(member: &Arc<Member>, code: Code, frame: &Frame, reply: Reply) {
    let (member, to) = (Arc::clone(member), frame.header.ext.get(SWITCHOVER_TO).map(str::to_owned));
    let body = move || match code {
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
