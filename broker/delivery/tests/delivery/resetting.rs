use crate::bench::{Bench, PATIENCE, group, message, messages, pull_of, topic};
use sluice_delivery::{ConnectionId, OffsetReset, PullRequest, PullStatus, ResetError, ResetTo, Subscription};
use sluice_types::{QueueId, QueueOffset};
use std::{collections::BTreeMap, sync::mpsc, time::Duration};

const HOLD: Option<Duration> = Some(Duration::from_secs(15));

fn back(to: ResetTo) -> OffsetReset {
    OffsetReset { group: group("readers"), topic: topic("orders"), queue_id: None, to, forward: true }
}

fn reset(bench: &Bench, order: &OffsetReset) -> Result<BTreeMap<QueueId, QueueOffset>, ResetError> {
    let (sender, receiver) = mpsc::channel();
    bench.delivery.reset_offsets(order, Box::new(move |result| sender.send(result).expect("somebody waits")));
    receiver.recv_timeout(PATIENCE).expect("a reset is answered")
}

/// Three messages in queue 0, all of them read and committed by the member on connection 1.
fn read_to_the_end() -> Bench {
    let bench = Bench::new();
    for body in ["one", "two", "three"] {
        bench.send(message("orders", body)).expect("stored");
    }
    assert_eq!(bench.pull(pull_of("orders", 0)).expect("answered").messages, 3);
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 3).expect("taken");
    bench
}

fn moved_pulls(bench: &Bench) -> u64 {
    bench.delivery.counters().read().into_iter().find(|counted| counted.name == "offsets_moved").expect("counted").value
}

fn committed(bench: &Bench) -> Option<QueueOffset> {
    bench.committed("readers")
}

#[test]
fn a_reset_holds_against_the_commits_of_a_member_that_has_not_followed() {
    let bench = read_to_the_end();
    let moved = reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    assert_eq!((moved.len(), moved[&QueueId(0)]), (4, QueueOffset(0)));
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 3).expect("taken, as far as the member is told");
    assert_eq!(committed(&bench), Some(QueueOffset(0)));
    let sent = bench.pull(PullRequest { commit_offset: Some(3), ..pull_of("orders", 3) }).expect("answered");
    assert_eq!((sent.status, sent.next, sent.remark), (PullStatus::OffsetMoved, QueueOffset(0), "OFFSET_RESET"));
    assert_eq!(committed(&bench), Some(QueueOffset(0)));
    let again = bench.pull(pull_of("orders", 0)).expect("answered");
    assert_eq!(messages(&again.slices).len(), 3);
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 2).expect("taken");
    assert_eq!(committed(&bench), Some(QueueOffset(2)), "a member that has followed goes on as ever");
}

#[test]
fn a_held_pull_is_sent_to_the_new_place_at_once_and_other_groups_sleep_on() {
    let bench = read_to_the_end();
    let waiting = bench.pull_later(PullRequest { suspend: HOLD, ..pull_of("orders", 3) });
    let other = bench.pull_later(PullRequest { group: group("others"), suspend: HOLD, ..pull_of("orders", 3) });
    assert_eq!(bench.delivery.held_pulls(), 2);
    reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    let sent = waiting.recv_timeout(PATIENCE).expect("woken").expect("answered");
    assert_eq!((sent.status, sent.next), (PullStatus::OffsetMoved, QueueOffset(0)));
    assert!(other.try_recv().is_err());
    assert_eq!(bench.delivery.held_pulls(), 1);
}

/// A group that has read all three messages and committed the first is reset to the end, where its member pulls already; the answer to that pull.
fn reset_to_where_it_pulls(bench: &Bench, held: bool) -> (PullStatus, QueueOffset) {
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    let held = held.then(|| bench.pull_later(PullRequest { suspend: HOLD, ..pull_of("orders", 3) }));
    reset(bench, &back(ResetTo::End)).expect("moved");
    let sent = match held {
        Some(held) => held.recv_timeout(PATIENCE).expect("woken").expect("answered"),
        None => bench.pull(PullRequest { suspend: HOLD, ..pull_of("orders", 3) }).expect("answered"),
    };
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken, as far as the member is told");
    (sent.status, sent.next)
}

#[test]
fn a_reset_to_where_a_member_already_pulls_is_not_undone_by_its_next_commit() {
    for held in [true, false] {
        let bench = read_to_the_end();
        assert_eq!(reset_to_where_it_pulls(&bench, held), (PullStatus::OffsetMoved, QueueOffset(3)), "held: {held}");
        assert_eq!(committed(&bench), Some(QueueOffset(3)), "held: {held}");
        assert_eq!(bench.pull(pull_of("orders", 3)).expect("answered").status, PullStatus::NoNewMessage, "it is told once");
        bench.send(message("orders", "four")).expect("stored");
        bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 4).expect("taken");
        assert_eq!(committed(&bench), Some(QueueOffset(4)), "a member that has followed goes on as ever");
    }
}

#[test]
fn a_question_for_the_offset_tells_only_who_asks() {
    let bench = read_to_the_end();
    let ask = |connection| bench.ask(0, true, connection);
    assert_eq!(ask(1), Ok(QueueOffset(3)), "this answer does not know of the reset");
    reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    assert_eq!(ask(2), Ok(QueueOffset(0)));
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 3).expect("taken, as far as the member is told");
    assert_eq!(committed(&bench), Some(QueueOffset(0)), "who asked has not followed yet");
    assert_eq!(bench.pull(pull_of("orders", 3)).expect("answered").status, PullStatus::OffsetMoved);
}

#[test]
fn a_second_pull_that_a_member_left_behind_does_not_count_as_following() {
    let bench = read_to_the_end();
    // A member that lost the queue and got it back has both.
    let held = [0; 2].map(|_| bench.pull_later(PullRequest { suspend: HOLD, ..pull_of("orders", 3) }));
    reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    for pull in held {
        let sent = pull.recv_timeout(PATIENCE).expect("woken").expect("answered");
        assert_eq!((sent.status, sent.next), (PullStatus::OffsetMoved, QueueOffset(0)));
    }
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 3).expect("taken, as far as the member is told");
    assert_eq!(committed(&bench), Some(QueueOffset(0)));
}

#[test]
fn every_pull_that_is_sent_elsewhere_is_counted() {
    let bench = read_to_the_end();
    let waiting = bench.pull_later(PullRequest { suspend: HOLD, ..pull_of("orders", 3) });
    reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    waiting.recv_timeout(PATIENCE).expect("woken").expect("answered");
    assert_eq!(moved_pulls(&bench), 1, "a held one");
    assert_eq!(bench.pull(PullRequest { connection: ConnectionId(2), ..pull_of("orders", 3) }).expect("answered").status, PullStatus::OffsetMoved);
    assert_eq!(moved_pulls(&bench), 2);
    assert_eq!(bench.pull(pull_of("orders", 0)).expect("answered").status, PullStatus::Found);
    assert_eq!(bench.pull(pull_of("orders", 9)).expect("answered").status, PullStatus::OffsetMoved);
    assert_eq!(moved_pulls(&bench), 3, "one behind the queue's end");
}

#[test]
fn every_member_is_told_until_one_has_followed() {
    let bench = read_to_the_end();
    reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    let from = |connection, offset| bench.pull(PullRequest { connection: ConnectionId(connection), ..pull_of("orders", offset) }).expect("answered").status;
    // A member that has just given the queue up is told first; the one that has it now still must hear of it.
    assert_eq!((from(1, 3), from(2, 2)), (PullStatus::OffsetMoved, PullStatus::OffsetMoved));
    assert_eq!(from(2, 0), PullStatus::Found);
    assert_eq!(from(3, 2), PullStatus::Found);
}

#[test]
fn a_member_that_starts_at_the_new_place_reads_there_at_once() {
    let bench = read_to_the_end();
    reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    assert_eq!(bench.ask(0, true, 1), Ok(QueueOffset(0)));
    let first = bench.pull(pull_of("orders", 0)).expect("answered");
    assert_eq!((first.status, first.messages), (PullStatus::Found, 3));
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 3).expect("taken");
    assert_eq!(committed(&bench), Some(QueueOffset(3)));
}

#[test]
fn a_member_that_was_told_and_reads_elsewhere_has_its_way() {
    let bench = read_to_the_end();
    reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    assert_eq!(bench.pull(pull_of("orders", 2)).expect("answered").status, PullStatus::OffsetMoved);
    assert_eq!(bench.pull(pull_of("orders", 2)).expect("answered").status, PullStatus::Found);
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 3).expect("taken");
    assert_eq!(committed(&bench), Some(QueueOffset(3)));
}

/// Whether a group's commits in queue 0 are left out, for a reset that nobody has followed.
fn pending(bench: &Bench, name: &str) -> bool {
    let place = || bench.committed(name);
    let before = place();
    bench.delivery.commit_offset(&group(name), &topic("orders"), 0, 2).expect("taken, as far as the member is told");
    let left_out = place() != Some(QueueOffset(2));
    assert!(!left_out || place() == before);
    left_out
}

#[test]
fn a_reset_that_nobody_can_follow_ends_after_ten_minutes() {
    let bench = Bench::with(|options| options.client_expiry = Duration::from_secs(3_600));
    bench.send(message("orders", "one")).expect("stored");
    let reset = |name| {
        bench.delivery.commit_offset(&group(name), &topic("orders"), 0, 1).expect("taken");
        reset(&bench, &OffsetReset { group: group(name), ..back(ResetTo::Time(0)) }).expect("moved")
    };
    bench.heartbeat("live", "c1", 1, vec![Subscription::all(topic("orders"))]);
    reset("live");
    reset("left");
    bench.clock.advance(Duration::from_secs(9 * 60));
    assert!(pending(&bench, "left"));
    reset("later");
    bench.clock.advance(Duration::from_secs(61));
    bench.until("the reset of a group without members has ended", || !pending(&bench, "left"));
    assert!(pending(&bench, "live") && pending(&bench, "later"));
    let moved = bench.pull(PullRequest { group: group("left"), ..pull_of("orders", 1) }).expect("answered");
    assert_eq!(moved.status, PullStatus::NoNewMessage, "a seek much later is not sent to the old place");

    bench.delivery.unregister("c1", None, Some(&group("live")));
    bench.clock.advance(Duration::from_secs(9 * 60));
    bench.until("the younger one has ended", || !pending(&bench, "later"));
    assert!(pending(&bench, "live"), "it counts from when its last member was seen");
    bench.clock.advance(Duration::from_secs(61));
    bench.until("the reset has ended when its members have been gone for long", || !pending(&bench, "live"));
}

#[test]
fn offsets_copied_from_another_group_come_after_a_reset() {
    let bench = read_to_the_end();
    bench.delivery.commit_offset(&group("others"), &topic("orders"), 0, 1).expect("taken");
    reset(&bench, &back(ResetTo::Time(0))).expect("moved");
    let (sender, receiver) = mpsc::channel();
    bench.delivery.offsets().copy_group(
        &group("others"),
        &group("readers"),
        Some(&topic("orders")),
        Box::new(move |result| sender.send(result).expect("waits")),
    );
    receiver.recv_timeout(PATIENCE).expect("answered").expect("stored");
    assert_eq!(committed(&bench), Some(QueueOffset(1)));
    assert_eq!(bench.pull(pull_of("orders", 1)).expect("answered").status, PullStatus::Found);
    assert!(!pending(&bench, "readers"));
}

#[test]
fn a_deleted_group_is_not_sent_anywhere_when_it_comes_back() {
    for clean_offsets in [true, false] {
        let bench = read_to_the_end();
        reset(&bench, &back(ResetTo::Time(0))).expect("moved");
        let (sender, receiver) = mpsc::channel();
        bench.delivery.delete_group(&group("readers"), clean_offsets, Box::new(move |result| sender.send(result).expect("somebody waits")));
        receiver.recv_timeout(PATIENCE).expect("answered").expect("deleted");
        assert!(!pending(&bench, "readers"), "offsets removed: {clean_offsets}");
        assert_eq!(bench.pull(pull_of("orders", 3)).expect("answered").status, PullStatus::NoNewMessage);
    }
}

#[test]
fn a_reset_is_there_after_a_restart() {
    let bench = read_to_the_end();
    reset(&bench, &back(ResetTo::Offset(1)).clone()).expect_err("queues without messages do not reach there");
    reset(&bench, &OffsetReset { queue_id: Some(0), ..back(ResetTo::Offset(1)) }).expect("moved");
    assert_eq!(committed(&bench.restart()), Some(QueueOffset(1)));
}

#[test]
fn without_forward_a_group_only_goes_back() {
    let bench = read_to_the_end();
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    let moved = reset(&bench, &OffsetReset { forward: false, ..back(ResetTo::End) }).expect("answered");
    assert_eq!(moved[&QueueId(0)], QueueOffset(1));
    assert_eq!(reset(&bench, &back(ResetTo::End)).expect("moved")[&QueueId(0)], QueueOffset(3));
}

#[test]
fn a_group_that_stays_lets_its_members_read_on() {
    let bench = read_to_the_end();
    bench.delivery.commit_offset(&group("readers"), &topic("orders"), 0, 1).expect("taken");
    let ahead = bench.pull_later(PullRequest { suspend: HOLD, ..pull_of("orders", 3) });
    let stays = OffsetReset { forward: false, ..back(ResetTo::End) };
    assert_eq!(reset(&bench, &stays).expect("answered")[&QueueId(0)], QueueOffset(1));
    assert!(ahead.try_recv().is_err());
    assert_eq!(bench.delivery.held_pulls(), 1);
    assert_eq!(bench.pull(pull_of("orders", 2)).expect("answered").status, PullStatus::Found);
    assert!(!pending(&bench, "readers"));
}

#[test]
fn what_is_not_there_is_refused_and_not_made() {
    let bench = read_to_the_end();
    let unknown = OffsetReset { group: group("reeders"), ..back(ResetTo::End) };
    assert_eq!(reset(&bench, &unknown), Err(ResetError::GroupNotFound(group("reeders"))));
    assert!(bench.delivery.groups().get("reeders").is_none());
    let missing = OffsetReset { topic: topic("missing"), ..back(ResetTo::End) };
    assert_eq!(reset(&bench, &missing), Err(ResetError::TopicNotFound(topic("missing"))));
    for queue_id in [-1, 4, i32::MAX] {
        let refused = reset(&bench, &OffsetReset { queue_id: Some(queue_id), ..back(ResetTo::End) });
        assert_eq!(refused, Err(ResetError::QueueId { topic: topic("orders"), queues: 4, queue_id }));
    }
    for offset in [-1, 4, i64::MAX] {
        let refused = reset(&bench, &OffsetReset { queue_id: Some(0), ..back(ResetTo::Offset(offset)) });
        assert!(matches!(refused, Err(ResetError::Offset { .. })), "{offset}: {refused:?}");
    }
    assert_eq!(committed(&bench), Some(QueueOffset(3)));
}
