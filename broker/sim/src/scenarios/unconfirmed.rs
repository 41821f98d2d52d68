//! Acknowledged before it is confirmed: what a change of master may take, and that it is counted.

use super::*;
use crate::{
    node::{Settings, UNCONFIRMED_BYTES_MAX},
    run::Outcome,
};
use sluice_store::Lost;
use std::cell::Cell;

/// Plays a scene in a group whose master acknowledges by itself.
fn play_unconfirmed(seed: u64, scene: impl Fn(&Scene<'_>) -> Result<(), Halt>) -> Outcome {
    play_with(seed, Settings { confirm: false, ..settings(seed) }, &[&work::ALL[0]], scene)
}

fn lost(scene: &Scene<'_>, index: usize) -> Lost {
    scene.node(index).and_then(|node| node.member()).map(|member| member.status().lost).unwrap_or_default()
}

/// Cuts a master off from the others and from the coordinator, not from its clients.
fn isolate(scene: &Scene<'_>, index: usize, is_cut: bool) {
    scene.links(index, is_cut);
    scene.coordinator_away(&[index], is_cut);
}

#[test]
fn acknowledged_unconfirmed_no_more_is_lost_than_may_be_and_it_is_counted_to_the_message() {
    for seed in [1, 2, 7] {
        let counted = Cell::new(Lost::default());
        let outcome = play_unconfirmed(seed, |scene| {
            let (old, epoch, since) = (scene.the_master(), scene.state().epoch, scene.now());
            scene.fault("isolation", true);
            isolate(scene, old, true);
            scene.another_serves(old, Duration::from_secs(10))?;
            let (elected, by_old) = (scene.now(), |(_, by): &(u64, sluice_history::By)| by.epoch == epoch.0);
            assert!(scene.history.acknowledged(since).iter().filter(|ack| by_old(ack)).count() > 0, "it goes on alone for a while");
            scene.pass(Duration::from_secs(5))?;
            let late = scene.history.acknowledged(since).into_iter().filter(by_old).filter(|(done, _)| *done > elected);
            assert_eq!(late.count(), 0, "acknowledged by the old master when there was another one");
            isolate(scene, old, false);
            scene.fault("isolation", false);
            scene.await_whole()?;
            counted.set(lost(scene, old));
            Ok(())
        });
        let Lost { messages, bytes, at_most } = counted.get();
        assert_eq!((outcome.report.counts.lost, at_most), (messages, false), "seed {seed}");
        assert!(messages > 0 && bytes <= UNCONFIRMED_BYTES_MAX, "seed {seed}: {messages} messages, {bytes} bytes");
    }
}

#[test]
fn what_a_killed_master_had_acknowledged_unconfirmed_is_counted_when_it_is_back_as_at_most_so_much() {
    let counted = Cell::new(Lost::default());
    let outcome = play_unconfirmed(2, |scene| {
        let old = scene.the_master();
        scene.fault("isolation", true);
        isolate(scene, old, true);
        scene.pass(SECOND)?;
        scene.kill(old);
        scene.another_serves(old, Duration::from_secs(10))?;
        isolate(scene, old, false);
        scene.start_again(old);
        scene.fault("isolation", false);
        scene.await_whole()?;
        counted.set(lost(scene, old));
        Ok(())
    });
    let Lost { messages, at_most, .. } = counted.get();
    let really = outcome.report.counts.lost;
    assert!(really > 0 && messages >= really && at_most, "{messages} counted, {really} lost");
}

#[test]
fn a_master_that_is_replaced_in_order_has_lost_nothing_that_it_acknowledged_unconfirmed() {
    let outcome = play_unconfirmed(2, |scene| {
        let old = scene.the_master();
        let member = scene.node(old).and_then(|node| node.member()).expect("it runs");
        scene.sim.block_on(&scene.brokers[old], "switchover", move || member.hand_over(None, Duration::from_secs(3)))?.expect("handed over");
        scene.writes_again(SECOND)?;
        scene.await_whole()?;
        assert_eq!(lost(scene, old), Lost::default());
        Ok(())
    });
    assert_eq!(outcome.report.counts.lost, 0);
}
