//! What each owner's snapshot becomes.

use super::Samples;
use crate::net::{CloseReason, Net};
use sluice_delivery::Delivery;
use sluice_group::runner::Status;
use sluice_store::StoreStatus;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The store's numbers.
pub fn store_samples(status: &StoreStatus, samples: &mut Samples) {
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    let mut gauge = |name, help: &str, value: f64| samples.gauge(name, help, &[], value);
    gauge("sluice_store_appended_offset_bytes", "End of the commit log.", status.appended.0 as f64);
    gauge("sluice_store_flushed_offset_bytes", "End of the part of the commit log that survives a power cut.", status.flushed.0 as f64);
    gauge("sluice_store_min_offset_bytes", "Begin of the part of the commit log that is still kept.", status.min.0 as f64);
    gauge("sluice_store_log_bytes", "Bytes of commit log kept.", status.log_bytes as f64);
    gauge("sluice_store_segments", "Files of the commit log.", status.segments as f64);
    gauge("sluice_store_queues", "Queues with messages or once used.", status.queues as f64);
    gauge("sluice_store_append_queue_bytes", "Bytes that wait for the log's writer.", status.queued_bytes as f64);
    gauge("sluice_store_disk_free_bytes", "Bytes left on the data directory's file system.", status.disk_free_bytes as f64);
    gauge("sluice_store_disk_size_bytes", "Size of the data directory's file system.", status.disk_total_bytes as f64);
    gauge("sluice_store_writable", "1 while the store takes writes.", flag(status.writable.is_ok()));
    gauge("sluice_store_poisoned", "1 after a failed write or sync: restart to recover.", flag(status.poisoned.is_some()));
    let mut counter = |name, help: &str, value: f64| samples.counter(name, help, &[], value);
    counter("sluice_store_appended_records_total", "Records appended.", status.appended_records as f64);
    counter("sluice_store_appended_bytes_total", "Bytes appended.", status.appended_bytes as f64);
    counter("sluice_store_writer_turns_total", "Turns of the log's writer; records per turn is the batching.", status.turns as f64);
    samples.histogram("sluice_store_append_seconds", "Time from a batch's hand-over to its being written into the log.", &[], &status.append_latency);
    samples.histogram("sluice_store_flush_seconds", "Time of a flush to stable storage.", &[], &status.flush_latency);
}

/// A member's part in its group.
pub fn member_samples(status: &Status, samples: &mut Samples) {
    let mut gauge = |name, help: &str, value: f64| samples.gauge(name, help, &[], value);
    gauge("sluice_replication_epoch", "Newest epoch that this member of the group has seen.", status.seen.epoch.0 as f64);
    gauge("sluice_replication_is_master", "1 while this member is master of its group.", f64::from(u8::from(status.master_of.is_some())));
    gauge(
        "sluice_replication_troubles",
        "Things about the group that a person should look at; `sluice broker status` names them.",
        status.troubles.len() as f64,
    );
    if let Some(marks) = status.marks {
        let confirmed = marks.confirmed.min(marks.appended).0 as f64;
        gauge("sluice_replication_confirmed_offset_bytes", "Up to where every member of the in-sync set holds the log.", confirmed);
    }
    if let Some(state) = &status.state {
        gauge("sluice_replication_in_sync_members", "Members of the in-sync set, the master included; told by the master.", state.in_sync.len() as f64);
        let help = "Masters that have begun without any member of the in-sync set before: acknowledged records may be missing; told by the master.";
        gauge("sluice_replication_unclean_elections", help, state.unclean as f64);
    }
    let help = "Messages that this member acknowledged as master before the others confirmed them, and that the next master lacked; at most so many.";
    samples.counter("sluice_replication_lost_messages_total", help, &[], status.lost.messages as f64);
    samples.counter("sluice_replication_lost_bytes_total", "Bytes of these messages' records.", &[], status.lost.bytes as f64);
    let help =
        "Times that this member's log was found shorter than what it had said it holds: an older copy of its volume, or a disk that lost what was flushed.";
    samples.counter("sluice_replication_shortened_logs_total", help, &[], status.shortened as f64);
    for replica in &status.replicas {
        let member = replica.member.id.to_string();
        let behind = status.marks.map_or(0, |marks| replica.held.received.distance_to(marks.appended));
        samples.gauge("sluice_replication_replica_lag_bytes", "Log that a replica lacks; told by the master.", &[("member", member.as_str())], behind as f64);
    }
}

/// What a member gives to read while it is a replica: pulls that it answered with messages, and those that it sent to the master.
pub fn read_samples((given, sent_on): (u64, u64), samples: &mut Samples) {
    let help = "Pulls at this member's own address, by who was to answer them.";
    samples.counter("sluice_replication_reads_total", help, &[("by", "replica")], given as f64);
    samples.counter("sluice_replication_reads_total", help, &[("by", "master")], sent_on as f64);
}

/// Delivery's numbers: what came in and went out, and how far each group is behind.
pub fn delivery_samples(delivery: &Delivery, samples: &mut Samples) {
    for counted in delivery.counters().read() {
        let name = match counted.name.strip_prefix("bytes_") {
            Some(of) => format!("sluice_delivery_messages_{of}_bytes_total"),
            None => format!("sluice_delivery_{}_total", counted.name),
        };
        samples.counter(&name, counted.meaning, &[], counted.value as f64);
    }
    samples.gauge("sluice_held_pulls", "Pulls that wait for a message.", &[], delivery.held_pulls() as f64);
    samples.gauge("sluice_open_transactions", "Half messages whose transaction has not ended.", &[], delivery.open_transactions() as f64);
    let oldest = delivery.oldest_transaction_age().map_or(0.0, |age| age.as_secs_f64());
    samples.gauge("sluice_oldest_open_transaction_seconds", "Age of the oldest half message whose transaction has not ended; 0 without one.", &[], oldest);
    let lag = delivery.lag();
    let left_out = "Groups' topics whose age, or lag too, is not in this scrape, for it would have taken too many reads; they come first in the next.";
    samples.gauge("sluice_group_lag_left_out", left_out, &[], lag.left_out as f64);
    for behind in lag.rows {
        let labels = [("group", behind.group.as_str()), ("topic", behind.topic.as_str())];
        samples.gauge("sluice_group_lag_messages", "Messages between where a group goes on and the ends of the queues.", &labels, behind.lag as f64);
        if let Some(age) = behind.oldest_age_ms {
            samples.gauge("sluice_group_lag_seconds", "Age of the oldest message that a group has not consumed.", &labels, age as f64 / 1e3);
        }
    }
}

/// The connections' numbers.
pub fn net_samples(net: &Net, samples: &mut Samples) {
    let stats = net.stats();
    let read = |counter: &AtomicU64| counter.load(Relaxed) as f64;
    samples.gauge("sluice_connections", "Connections on the client ports.", &[], net.connections() as f64);
    samples.gauge("sluice_in_flight_bytes", "Bytes of requests in work.", &[], net.in_flight_bytes() as f64);
    samples.gauge("sluice_outbox_bytes", "Bytes of answers that wait for their sockets.", &[], read(&stats.outbox_bytes));
    let mut counter = |name, help: &str, value: f64| samples.counter(name, help, &[], value);
    counter("sluice_connections_accepted_total", "Connections taken.", read(&stats.accepted));
    counter("sluice_connections_refused_total", "Connections refused because there were too many.", read(&stats.refused));
    counter("sluice_accept_errors_total", "Failures to take a connection, such as too few file descriptors.", read(&stats.accept_errors));
    counter("sluice_received_bytes_total", "Bytes received on the client ports.", read(&stats.bytes_in));
    counter("sluice_sent_bytes_total", "Bytes sent on the client ports.", read(&stats.bytes_out));
    counter("sluice_frames_received_total", "Frames received on the client ports.", read(&stats.frames_in));
    for reason in CloseReason::ALL {
        let ended = net.stats().closed_for(reason) as f64;
        samples.counter("sluice_connections_closed_total", "Connections ended, by reason.", &[("reason", reason.label())], ended);
    }
}
