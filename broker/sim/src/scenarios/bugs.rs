//! What RocketMQ's groups of brokers have lost or mixed up; docs/testing.md has the list.

use super::{Client, FlushMode, LAZY, Reply, SECOND, Scene, play, play_with, settings};
use crate::{
    load::{Sending, send},
    node::Settings,
    talk::{Answer, Request},
    work::{self, Work},
};
use sluice_env::sim::threads::Halt;
use sluice_history::Check;
use std::time::Duration;

impl Scene<'_> {
    /// Kills a broker and starts it again when another one is master.
    fn replace(&self, master: usize) -> Result<(), Halt> {
        self.kill(master);
        self.another_serves(master, Duration::from_secs(8))?;
        self.start_again(master);
        self.await_whole()
    }
}

#[test]
fn delayed_messages_that_are_due_while_there_is_no_master_come_from_the_next_one() {
    let works: Vec<&Work> = ["plain", "delayed"].map(|name| work::named(name).expect("there is one")).into();
    let calm = Settings { calendars_jump: false, ..settings(1) };
    let outcome = play_with(1, calm, &works, |scene| {
        for _ in 0..4 {
            scene.replace(scene.the_master())?;
            // Now there is none for five seconds, in which those of the first two levels are due.
            let paused = scene.the_master();
            scene.brokers[paused].pause(Duration::from_secs(15));
            scene.another_serves(paused, Duration::from_secs(8))?;
            scene.pass(Duration::from_secs(15))?;
            scene.await_whole()?;
        }
        Ok(())
    });
    assert!(outcome.report.judged(Check::C8) > 0, "no delayed message has come");
}

#[test]
fn when_all_members_are_killed_at_once_and_write_again_at_once_no_queue_offset_gets_two_contents() {
    for flush in [FlushMode::Sync, LAZY] {
        play(flush, 1, |scene| {
            for round in 0..6 {
                // Its last records are nowhere else when it dies.
                let master = scene.the_master();
                scene.links(master, true);
                scene.pass(Duration::from_millis(300))?;
                (0..3).for_each(|index| scene.kill(index));
                scene.links(master, false);
                // Either it goes on, or the others do without what only it had.
                let goes_on = round % 2 == 0;
                if goes_on {
                    scene.start_again(master);
                }
                scene.others(master).into_iter().for_each(|index| scene.start_again(index));
                if !goes_on {
                    scene.another_serves(master, Duration::from_secs(15))?;
                    scene.start_again(master);
                }
                scene.writes_again(Duration::from_secs(15))?;
                scene.pass(SECOND)?;
            }
            scene.await_whole()
        });
    }
}

#[test]
fn a_topic_that_was_made_right_before_the_master_died_is_there_on_the_next_one() {
    play(FlushMode::Sync, 1, |scene| {
        let client = |number: u32| Client::new(scene.clients.env(), 900 + number, 3, &scene.history);
        for (number, topic) in (0..).zip(["made-first", "made-second", "made-third"]) {
            let mut maker = client(number);
            let made = scene.sim.block_on(&scene.clients, "maker", move || send(&mut maker, &Sending::plain(topic, 0, 1)))?;
            assert!(matches!(made, Some(Answer::Sent { .. })), "{made:?}");
            let old = scene.the_master();
            scene.kill(old);
            scene.another_serves(old, SECOND)?;
            let (mut asker, next) = (client(number + 10), scene.the_master() as u32);
            let end = Request::End { topic: topic.to_owned(), queue: 0 };
            let end = scene.sim.block_on(&scene.clients, "asker", move || asker.ask_of(next, &end, Duration::from_secs(3)))?;
            assert!(matches!(end, Reply::Answered(_, Answer::Offset(Some(1)))), "{topic}: {end:?}");
            scene.start_again(old);
            scene.await_whole()?;
        }
        Ok(())
    });
}
