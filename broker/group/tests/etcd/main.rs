//! The coordinator in etcd, against the real thing: killed, stopped, set back, and behind a wire that loses answers.
#![allow(clippy::disallowed_methods, reason = "tests watch the real thing from outside")]

#[path = "../contract/mod.rs"]
mod contract;
mod server;

use contract::{
    SOON, Ways, done, elect, first, made, touch,
    wire::{Loses, Wire, free_port},
};
use server::{Etcd, PATIENCE, coordinator};
use sluice_group::coordinator::{Coordinator, CoordinatorError, EtcdCoordinator, Lease, Swapped};
use sluice_replication::{Epoch, MemberId, Versioned};
use std::{
    net::TcpListener,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// What is waited for where it does not.
const SHORT: Duration = Duration::from_secs(1);
/// What a call may take beyond its deadline, on a machine that others use too.
const SLACK: Duration = Duration::from_secs(2);

contract::tests!(ways);

fn ways() -> Option<Ways> {
    let etcd = Etcd::start()?;
    Some(Ways([(); 2].map(|()| Arc::new(coordinator(&[etcd.port], "c", "g")) as Arc<dyn Coordinator>), Box::new(etcd)))
}

#[track_caller]
fn assert_away<T: std::fmt::Debug>(call: impl FnOnce() -> Result<T, CoordinatorError>) {
    let start = Instant::now();
    let answer = call();
    assert!(matches!(answer, Err(CoordinatorError::Away { .. })), "{answer:?}");
    assert!(start.elapsed() < SHORT + SLACK, "it took {:?}", start.elapsed());
}

#[test]
fn what_a_swap_has_told_stays_though_etcd_is_killed() {
    let Some(mut etcd) = Etcd::start() else { return };
    let coordinator = coordinator(&[etcd.port], "c", "g");
    let mut now = made(&coordinator);
    for round in 0..4 {
        let before = now.state.revision;
        let told = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut last = now.clone();
                while let Ok(swapped) = coordinator.swap(Some(&last.version), &touch(&last), SOON) {
                    last = done(Ok(swapped));
                }
                last
            });
            thread::sleep(Duration::from_millis(150 + 70 * round));
            etcd.kill();
            writer.join().expect("no panic")
        });
        assert!(told.state.revision > before, "nothing was written");
        etcd.start_again();
        now = coordinator.read(SOON).expect("it answers").expect("it is there");
        // The one that was not answered may be there too.
        assert!(now == told || now.state == touch(&told), "told {told:?}, there is {now:?}");
    }
}

#[test]
fn an_etcd_that_hangs_is_away_at_the_deadline_and_back_when_it_goes_on() {
    let Some(etcd) = Etcd::start() else { return };
    let coordinator = coordinator(&[etcd.port], "c", "g");
    let lease = Lease { epoch: Epoch(1), master: MemberId(0), renewal: 1 };
    let mut now = made(&coordinator);
    for _ in 0..2 {
        etcd.signal("STOP");
        assert_away(|| coordinator.swap(Some(&now.version), &touch(&now), SHORT));
        assert_away(|| coordinator.read(SHORT));
        assert_away(|| coordinator.renew(lease, SHORT));
        assert_away(|| coordinator.lease(SHORT));
        etcd.signal("CONT");
        let read = coordinator.read(SOON).expect("it answers").expect("it is there");
        assert!(read == now || read.state == touch(&now), "{read:?}");
        // The swap that was given up may arrive at last.
        now = match coordinator.swap(Some(&read.version), &touch(&read), SOON).expect("it answers") {
            Swapped::Done(now) => now,
            Swapped::Other(late) => late.expect("it is there"),
        };
    }
}

#[test]
fn an_etcd_that_is_not_there_is_away_at_once_and_the_error_says_where_it_was_looked_for() {
    let port = free_port();
    let coordinator = coordinator(&[port], "c", "g");
    let start = Instant::now();
    let error = coordinator.read(PATIENCE).unwrap_err();
    assert!(start.elapsed() < PATIENCE / 2, "it took {:?}", start.elapsed());
    let words = error.to_string();
    assert!(matches!(error, CoordinatorError::Away { .. }) && words.contains(&port.to_string()) && words.contains("refused"), "{words}");
    assert!(coordinator.describe().contains(&format!("http://127.0.0.1:{port}/sluice/c/g")), "{}", coordinator.describe());
}

#[test]
fn a_swap_whose_answer_is_lost_is_unknown_and_never_sent_twice() {
    let Some(etcd) = Etcd::start() else { return };
    let wire = Wire::to(etcd.port);
    let mut now = made(&coordinator(&[etcd.port], "c", "g"));
    for (loses, arrives) in [(Loses::Answers, true), (Loses::AnswersAndItself, true), (Loses::Requests, false)] {
        // The first endpoint is the one that is asked first. Asked once more, the second would say that the object is another one.
        let coordinator = coordinator(&[wire.port, etcd.port], "c", "g");
        assert_eq!(coordinator.read(SOON), Ok(Some(now.clone())));
        wire.loses(loses);
        assert_away(|| coordinator.swap(Some(&now.version), &touch(&now), SHORT));
        let after = coordinator.read(SHORT).expect("the other one answers").expect("it is there");
        assert_eq!(after.state, if arrives { touch(&now) } else { now.state }, "{loses:?}");
        now = done(coordinator.swap(Some(&after.version), &touch(&after), SOON));
        wire.loses(Loses::Nothing);
    }
}

#[test]
fn a_renewal_whose_answer_is_lost_is_sent_again_and_written() {
    let Some(etcd) = Etcd::start() else { return };
    let wire = Wire::to(etcd.port);
    let coordinator = coordinator(&[wire.port, etcd.port], "c", "g");
    let made = made(&coordinator);
    wire.loses(Loses::Answers);
    let lease = Lease { epoch: Epoch(1), master: MemberId(0), renewal: 7 };
    assert_eq!(coordinator.renew(lease, SHORT), Ok(Some(made)));
    assert_eq!(coordinator.lease(SHORT), Ok(Some(lease)));
}

#[test]
fn members_that_are_dead_or_hang_are_passed_over_within_the_deadline() {
    let Some(etcd) = Etcd::start() else { return };
    let hangs = TcpListener::bind("127.0.0.1:0").expect("a port");
    let hangs = hangs.local_addr().expect("bound").port();
    let passes_over = coordinator(&[free_port(), hangs, etcd.port], "c", "g");
    assert_eq!(passes_over.read(SHORT), Ok(None));
    // Where nobody listens nothing was sent, so even a swap goes on to the next one; it ends where it may have been taken.
    let made = made(&coordinator(&[free_port(), etcd.port], "c", "g"));
    let gives_up = coordinator(&[free_port(), hangs, etcd.port], "c", "g");
    assert_away(|| gives_up.swap(Some(&made.version), &touch(&made), SHORT));
    assert_eq!(gives_up.read(SHORT), Ok(Some(made)));
}

#[test]
fn what_can_not_be_read_is_damaged_and_never_taken_for_none() {
    let Some(etcd) = Etcd::start() else { return };
    let coordinator = coordinator(&[etcd.port], "c", "g");
    let made = made(&coordinator);
    let lease = Lease { epoch: Epoch(1), master: MemberId(0), renewal: 1 };
    for bytes in [&b""[..], b"{}", b"null", b"\xff", b"{\"epoch\":1"] {
        etcd.put("/sluice/c/g/state", bytes);
        etcd.put("/sluice/c/g/lease", bytes);
        let words = coordinator.read(SOON).unwrap_err().to_string();
        assert!(words.contains("the state can't be read") && words.contains("/sluice/c/g"), "{words}");
        let answers = [
            coordinator.read(SOON).map(drop),
            coordinator.swap(None, &first(), SOON).map(drop),
            coordinator.swap(Some(&made.version), &touch(&made), SOON).map(drop),
            coordinator.renew(lease, SOON).map(drop),
            coordinator.lease(SOON).map(drop),
        ];
        assert!(answers.iter().all(|answer| matches!(answer, Err(CoordinatorError::Damaged { .. }))), "{bytes:?}: {answers:?}");
    }
    // By hand, in other words than the broker's own: it is taken as it is, and can be changed.
    etcd.put("/sluice/c/g/state", serde_json::to_string_pretty(&made.state).expect("encoded").as_bytes());
    let repaired = coordinator.read(SOON).expect("it answers").expect("it is there");
    assert_eq!(repaired.state, made.state);
    done(coordinator.swap(Some(&repaired.version), &touch(&repaired), SOON));
}

#[test]
fn an_answer_that_lacks_what_it_has_to_have_is_away_and_never_taken_for_none() {
    let coordinator = coordinator(&[server::that_answers_nothing()], "c", "g");
    let lease = Lease { epoch: Epoch(1), master: MemberId(0), renewal: 1 };
    let answers = [
        coordinator.read(SOON).map(drop),
        coordinator.swap(None, &first(), SOON).map(drop),
        coordinator.renew(lease, SOON).map(drop),
        coordinator.lease(SOON).map(drop),
    ];
    let lacks = |error: &CoordinatorError| matches!(error, CoordinatorError::Away { why, .. } if why.starts_with("its answer"));
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(lacks)), "{answers:?}");
}

#[test]
fn groups_do_not_see_each_other() {
    let Some(etcd) = Etcd::start() else { return };
    let names = [("c", "g"), ("c", "h"), ("d", "g"), ("c/g", "h"), ("c", "g/h"), ("c", "g/state")];
    let all = names.map(|(cluster, group)| coordinator(&[etcd.port], cluster, group));
    for (i, one) in all.iter().enumerate() {
        let lease = Lease { epoch: Epoch(1), master: MemberId(0), renewal: i as u64 };
        assert_eq!((one.read(SOON), one.lease(SOON)), (Ok(None), Ok(None)), "{:?}", names[i]);
        made(one);
        one.renew(lease, SOON).expect("it answers");
        for (j, earlier) in all[..=i].iter().enumerate() {
            assert_eq!(earlier.lease(SOON).expect("it answers").map(|lease| lease.renewal), Some(j as u64));
        }
    }
}

#[test]
fn a_swap_that_rests_on_what_a_set_back_etcd_has_lost_is_refused() {
    let Some(mut etcd) = Etcd::start() else { return };
    let coordinator = coordinator(&[etcd.port], "c", "g");
    let old = made(&coordinator);
    etcd.kill();
    etcd.save();
    etcd.start_again();
    let lost = done(coordinator.swap(Some(&old.version), &elect(&old, 1), SOON));
    etcd.kill();
    etcd.restore();
    etcd.start_again();
    assert_eq!(coordinator.swap(Some(&lost.version), &elect(&lost, 2), SOON), Ok(Swapped::Other(Some(old.clone()))));
    // It counts on from there, and comes to the very revision of what was lost.
    let branch = done(coordinator.swap(Some(&old.version), &elect(&old, 3), SOON));
    let revision = |of: &Versioned| of.version.0.split(' ').next().map(str::to_owned);
    assert_eq!(revision(&branch), revision(&lost), "or this test shows nothing");
    assert_ne!(branch.version, lost.version);
    assert_eq!(coordinator.swap(Some(&lost.version), &elect(&lost, 2), SOON), Ok(Swapped::Other(Some(branch.clone()))));
    let lease = Lease { epoch: lost.state.epoch, master: MemberId(1), renewal: 1 };
    assert_eq!(coordinator.renew(lease, SOON), Ok(Some(branch)));
}

#[test]
fn one_of_three_members_may_die_and_without_a_majority_the_last_says_so_at_once() {
    let Some(mut members) = Etcd::cluster(3) else { return };
    let ports: Vec<_> = members.iter().map(|member| member.port).collect();
    let coordinator = coordinator(&ports, "c", "g");
    let mut now = made(&coordinator);
    let lease = |renewal| Lease { epoch: Epoch(1), master: MemberId(0), renewal };
    // The one that is asked.
    members[0].kill();
    let start = Instant::now();
    // They elect another leader meanwhile, if it was that one.
    while let Err(error) = coordinator.renew(lease(1), SHORT) {
        assert!(start.elapsed() < PATIENCE, "{error}");
    }
    for _ in 0..5 {
        now = done(coordinator.swap(Some(&now.version), &touch(&now), SOON));
    }
    members[0].start_again();
    assert_eq!(server::coordinator(&ports[..1], "c", "g").read(SOON), Ok(Some(now.clone())), "it has caught up");
    members[1].kill();
    members[2].kill();
    let last = server::coordinator(&ports[..1], "c", "g");
    // Until it has noticed.
    let start = Instant::now();
    while last.swap(Some(&now.version), &touch(&now), SHORT).is_ok() || !no_leader(&last) {
        assert!(start.elapsed() < PATIENCE, "it does not notice");
    }
    let start = Instant::now();
    assert!(no_leader(&last) && matches!(last.swap(Some(&now.version), &touch(&now), SOON), Err(CoordinatorError::Away { .. })));
    assert!(start.elapsed() < Duration::from_secs(4), "etcd itself waits for seven seconds: {:?}", start.elapsed());
}

fn no_leader(coordinator: &EtcdCoordinator) -> bool {
    coordinator.read(SOON).is_err_and(|error| error.to_string().contains("no leader"))
}
