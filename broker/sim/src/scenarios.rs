//! The cases of docs/replication.md, one by one: what is done to a group under load, and what has to come of it. In the end all is well again, everything is read, and
//! the history has to be without fault.

mod bugs;
mod unconfirmed;

use crate::{
    client::{Client, Reply},
    load::Crew,
    run::{Outcome, World, settings},
    talk::{Answer, Request},
    work::{self, Work},
};
use sluice_env::sim::{
    Fault, FaultKind, Op,
    threads::{Halt, Sim, Timing as SimTiming},
};
use sluice_group::{coordinator::Swapped, link::Link, runner::Status};
use sluice_history::{NodeEvent, What};
use sluice_replication::{
    Epoch, GroupState, Incarnation, Member, MemberId, Seen,
    wire::{Ask, Hello, Message, VERSION},
};
use sluice_store::FlushMode;
use std::{ops::Deref, time::Duration};

const LAZY: FlushMode = FlushMode::Async { interval: Duration::from_millis(500) };
const SEED: u64 = 2;
const SECOND: Duration = Duration::from_secs(1);

/// A group under load.
struct Scene<'a> {
    world: &'a World<'a>,
}

impl<'a> Deref for Scene<'a> {
    type Target = World<'a>;
    fn deref(&self) -> &World<'a> {
        self.world
    }
}

/// Plays a scene; the judge has the last word.
fn play(flush: FlushMode, min_in_sync: usize, scene: impl Fn(&Scene<'_>) -> Result<(), Halt>) {
    play_with(SEED, crate::node::Settings { flush, min_in_sync, ..settings(SEED) }, &[&work::ALL[0]], scene);
}

/// The same with another seed, other settings and other work, and how it went.
fn play_with(seed: u64, settings: crate::node::Settings, work: &[&Work], scene: impl Fn(&Scene<'_>) -> Result<(), Halt>) -> Outcome {
    let sim = Sim::with_timing(seed, SimTiming::default());
    let world = World::new(&sim, settings, seed);
    let run = || {
        let crew: Crew<'_> = world.begin(work)?;
        scene(&Scene { world: &world })?;
        world.finish(&crew, 0)
    };
    let outcome = run().unwrap_or_else(|halt| panic!("{halt}"));
    assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
    outcome
}

impl Scene<'_> {
    fn state(&self) -> GroupState {
        self.coordinator.state().expect("there is one")
    }

    fn the_master(&self) -> usize {
        self.master().expect("there is one")
    }

    fn others(&self, index: usize) -> Vec<usize> {
        (0..self.brokers.len()).filter(|other| *other != index).collect()
    }

    fn now(&self) -> u64 {
        self.history.now()
    }

    /// The life that a broker has in the set.
    fn life(&self, index: usize) -> Option<Incarnation> {
        self.state().in_sync.iter().find(|member| member.id == MemberId(index as u32 + 1)).map(|member| member.store)
    }

    /// Waits until something is so, and says how long that took.
    fn until(&self, what: &str, at_most: Duration, mut so: impl FnMut() -> bool) -> Result<Duration, Halt> {
        let begun = self.sim.now();
        match self.sim.run_until(at_most, &mut so) {
            Err(Halt::Late(_)) => Err(Halt::Panicked(format!("{what}: not within {at_most:?}; {:?}", self.coordinator.state()))),
            other => other.map(|()| self.sim.now() - begun),
        }
    }

    /// Waits for the next acknowledgement of a send that begins now.
    fn writes_again(&self, at_most: Duration) -> Result<Duration, Halt> {
        let since = self.now();
        self.until("an acknowledgement", at_most, || !self.history.acknowledged(since).is_empty())
    }

    /// Waits until a broker other than that one serves clients as master.
    fn another_serves(&self, than: usize, at_most: Duration) -> Result<Duration, Halt> {
        let serves = |index: usize| self.node(index).and_then(|node| node.member()).is_some_and(|member| member.serves().is_some());
        self.until("another master that serves", at_most, || self.others(than).into_iter().any(serves))
    }

    /// The longest time without an acknowledgement, of sends that began since then.
    fn longest_gap(&self, since: u64) -> Duration {
        let times: Vec<u64> = std::iter::once(since).chain(self.history.acknowledged(since).into_iter().map(|(done, _)| done)).chain([self.now()]).collect();
        Duration::from_nanos(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default())
    }

    fn fault(&self, name: &str, begins: bool) {
        let name = name.to_owned();
        self.history.note(if begins { What::FaultBegin { name } } else { What::FaultEnd { name } });
    }

    fn kill(&self, index: usize) {
        self.forget(index);
        self.brokers[index].kill();
        self.history.node(index as u32 + 1, NodeEvent::Crash);
    }

    fn cut_power(&self, index: usize) {
        self.forget(index);
        self.brokers[index].power_cut(self.seed);
        self.history.node(index as u32 + 1, NodeEvent::PowerCut);
    }

    fn start_again(&self, index: usize) {
        self.start(index);
        self.history.node(index as u32 + 1, NodeEvent::Restart);
    }

    fn links(&self, of: usize, cut: bool) {
        for other in self.others(of) {
            let (a, b) = (&self.brokers[of], &self.brokers[other]);
            let network = self.sim.network();
            if cut {
                network.cut(a, b);
                network.cut(b, a);
            } else {
                network.heal(a, b);
                network.heal(b, a);
            }
        }
    }

    fn coordinator_away(&self, indexes: &[usize], is_away: bool) {
        indexes.iter().for_each(|index| self.coordinator.set_away(*index as u32 + 1, is_away));
    }

    fn await_whole(&self) -> Result<(), Halt> {
        self.until("all three in sync", Duration::from_secs(60), || self.coordinator.state().is_some_and(|state| state.in_sync.len() == 3)).map(drop)
    }
}

#[test]
fn a_master_that_was_paused_for_a_minute_acknowledges_nothing_when_it_wakes() {
    play(FlushMode::Sync, 1, |scene| {
        let (old, epoch, since) = (scene.the_master(), scene.state().epoch, scene.now());
        scene.brokers[old].pause(Duration::from_secs(60));
        scene.another_serves(old, Duration::from_secs(8))?;
        scene.pass(Duration::from_secs(90))?;
        let by_old = scene.history.acknowledged(since).into_iter().filter(|(_, by)| by.epoch == epoch.0 && by.node.id == old as u32 + 1);
        // What was on its way at the moment of the pause may still come.
        assert!(by_old.clone().count() <= 3, "{:?}", by_old.collect::<Vec<_>>());
        Ok(())
    });
}

#[test]
fn when_the_masters_machine_is_gone_the_next_master_does_not_wait_for_a_replica_that_still_looks_there() {
    play(FlushMode::Sync, 1, |scene| {
        let (old, epoch) = (scene.the_master(), scene.state().epoch);
        // No end of a connection tells of it, and whoever connects there waits.
        scene.links(old, true);
        scene.coordinator_away(&[old], true);
        scene.until("another epoch", Duration::from_secs(8), || scene.state().epoch > epoch)?;
        let took = scene.another_serves(old, Duration::from_secs(5))?;
        assert!(took < Duration::from_millis(750), "{took:?} from the election to the first client");
        scene.links(old, false);
        scene.coordinator_away(&[old], false);
        scene.await_whole()
    });
}

#[test]
fn a_master_cut_off_from_the_coordinator_goes_on_while_the_whole_set_confirms() {
    play(FlushMode::Sync, 1, |scene| {
        let (before, since) = (scene.state(), scene.now());
        scene.coordinator_away(&[scene.the_master()], true);
        scene.pass(Duration::from_secs(60))?;
        assert_eq!((scene.state(), scene.history.not_acknowledged(since)), (before.clone(), 0));
        assert!(scene.longest_gap(since) < SECOND, "{:?}", scene.longest_gap(since));
        // It can let nobody go: without one replica it confirms nothing, and then it can't be sure that it is master.
        let lost = scene.others(scene.the_master())[0];
        scene.kill(lost);
        let since = scene.now();
        scene.until("another master", Duration::from_secs(20), || scene.state().epoch > before.epoch)?;
        assert!(scene.history.acknowledged(since).iter().all(|(_, by)| by.epoch > before.epoch.0));
        scene.coordinator_away(&[0, 1, 2], false);
        scene.start_again(lost);
        Ok(())
    });
}

#[test]
fn a_master_cut_off_from_its_replicas_acknowledges_alone_only_after_they_have_left_the_set() {
    play(FlushMode::Sync, 1, |scene| {
        let (old, before, since) = (scene.the_master(), scene.state(), scene.now());
        scene.links(old, true);
        scene.until("a set of one", Duration::from_secs(15), || scene.state().in_sync.len() == 1)?;
        let alone = scene.now();
        scene.pass(Duration::from_secs(20))?;
        // What it acknowledged from the cut on it acknowledged when it was alone, but for what the replicas had at that moment.
        let early = scene.history.acknowledged(since).into_iter().filter(|(done, _)| *done > since + SECOND.as_nanos() as u64 && *done < alone);
        assert_eq!(early.count(), 0);
        assert_eq!((scene.state().epoch, scene.the_master()), (before.epoch, old), "it renews its lease: nobody else is elected");
        assert!(!scene.history.acknowledged(alone).is_empty());
        scene.links(old, false);
        scene.await_whole()
    });
}

#[test]
fn with_a_least_number_of_two_no_master_acknowledges_alone() {
    play(FlushMode::Sync, 2, |scene| {
        let old = scene.the_master();
        scene.links(old, true);
        scene.pass(Duration::from_secs(15))?;
        let since = scene.now();
        scene.pass(Duration::from_secs(20))?;
        let by_old = scene.history.acknowledged(since).into_iter().filter(|(_, by)| by.node.id == old as u32 + 1).count();
        assert_eq!(by_old, 0);
        assert!(scene.state().in_sync.len() >= 2, "{:?}", scene.state());
        scene.links(old, false);
        scene.await_whole()
    });
}

#[test]
fn a_set_of_one_that_dies_is_waited_for() {
    play(FlushMode::Sync, 1, |scene| {
        let (last, epoch) = (scene.the_master(), scene.state().epoch);
        let others = scene.others(last);
        others.iter().for_each(|index| scene.kill(*index));
        scene.until("a set of one", Duration::from_secs(15), || scene.state().in_sync.len() == 1)?;
        scene.writes_again(Duration::from_secs(5))?;
        scene.kill(last);
        others.iter().for_each(|index| scene.start_again(*index));
        let since = scene.now();
        scene.pass(Duration::from_secs(60))?;
        assert_eq!((scene.state().epoch, scene.history.acknowledged(since).len()), (epoch, 0));
        scene.start_again(last);
        scene.writes_again(Duration::from_secs(5))?;
        assert_eq!(scene.the_master(), last);
        scene.await_whole()
    });
}

#[test]
fn under_asynchronous_flush_a_member_that_lost_power_is_out_of_the_set_until_it_has_caught_up() {
    play(LAZY, 1, |scene| {
        let lost = scene.others(scene.the_master())[0];
        let life = scene.life(lost).expect("in the set");
        scene.fault("power", true);
        scene.cut_power(lost);
        scene.pass(SECOND)?;
        scene.start_again(lost);
        scene.fault("power", false);
        scene.until("another life", Duration::from_secs(30), || scene.life(lost).is_some_and(|now| now != life))?;
        scene.await_whole()
    });
}

#[test]
fn when_all_lose_power_under_asynchronous_flush_the_longest_log_goes_on_and_that_is_counted() {
    for seed in [2, 5, 8] {
        let sim = Sim::with_timing(seed, SimTiming::default());
        let world = World::new(&sim, crate::node::Settings { flush: LAZY, ..settings(seed) }, seed);
        let scene = Scene { world: &world };
        let run = || {
            let _crew = world.begin(&[&work::ALL[0]])?;
            (0..3).for_each(|index| scene.cut_power(index));
            // With one of them missing nobody knows which log is the longest.
            [0, 1].into_iter().for_each(|index| scene.start_again(index));
            scene.pass(Duration::from_secs(30))?;
            assert_eq!(scene.state().unclean, 0);
            scene.start_again(2);
            scene.until("a master", Duration::from_secs(10), || scene.state().unclean == 1)?;
            scene.writes_again(Duration::from_secs(5))?;
            scene.await_whole()
        };
        run().unwrap_or_else(|halt| panic!("seed {seed}: {halt}"));
        assert_eq!(scene.state().unclean, 1, "once");
    }
}

#[test]
fn a_broker_with_an_empty_disk_is_another_one_and_counts_when_it_has_caught_up() {
    play(FlushMode::Sync, 1, |scene| {
        let master = scene.the_master();
        let lost = scene.others(master)[0];
        let life = scene.life(lost).expect("in the set");
        scene.forget(lost);
        scene.brokers[lost].wipe();
        scene.history.node(lost as u32 + 1, NodeEvent::Wiped);
        scene.pass(SECOND)?;
        // It would be a candidate by its number alone.
        scene.coordinator_away(&[scene.others(master)[1]], true);
        scene.start_again(lost);
        scene.pass(Duration::from_secs(10))?;
        scene.coordinator_away(&[0, 1, 2], false);
        scene.await_whole()?;
        assert_ne!(scene.life(lost), Some(life));
        assert_eq!(scene.the_master(), master);
        Ok(())
    });
}

#[test]
fn a_member_whose_volume_is_an_older_copy_is_found_out_and_counts_as_another_one() {
    for flush in [FlushMode::Sync, LAZY] {
        play(flush, 1, |scene| {
            let (master, lost) = (scene.the_master(), scene.others(scene.the_master())[0]);
            let (life, copy) = (scene.life(lost).expect("in the set"), scene.brokers[lost].disk().kill());
            scene.pass(SECOND * 2)?;
            scene.forget(lost);
            scene.brokers[lost].replace_disk(copy);
            scene.history.node(lost as u32 + 1, NodeEvent::Wiped);
            scene.start_again(lost);
            scene.until("another life", Duration::from_secs(10), || scene.life(lost).is_some_and(|now| now != life))?;
            scene.await_whole()?;
            let status = scene.node(lost).and_then(|node| node.member()).expect("it runs").status();
            assert_eq!((status.shortened, scene.the_master()), (1, master));
            assert!(status.troubles.iter().any(|trouble| trouble.contains("its volume is an older copy")), "{:?}", status.troubles);
            // It is told of that process, and counted for ever.
            scene.kill(lost);
            scene.start_again(lost);
            scene.pass(SECOND * 5)?;
            let status = scene.node(lost).and_then(|node| node.member()).expect("it runs").status();
            assert_eq!((status.shortened, status.troubles), (1, vec![]));
            scene.await_whole()
        });
    }
}

#[test]
fn a_replica_gives_up_its_log_by_order_only_when_a_master_gives_its_own() {
    play(FlushMode::Sync, 1, |scene| {
        let lost = scene.others(scene.the_master())[0];
        let order = || {
            let member = scene.node(lost).and_then(|node| node.member()).expect("it runs");
            scene.sim.block_on(&scene.brokers[lost], "order", move || (member.resync(), member.status()))
        };
        let life = scene.life(lost).expect("in the set");
        let (refused, _) = order()?;
        assert!(refused.is_err_and(|why| why.contains("is in the in-sync set")));
        scene.links(lost, true);
        scene.until("a smaller set", Duration::from_secs(5), || scene.life(lost).is_none())?;
        scene.pass(SECOND * 2)?;
        let (refused, status) = order()?;
        assert!(refused.as_ref().is_err_and(|why| why.contains("log is kept") && why.contains("connecting to the master")), "{refused:?}");
        assert!(status.marks.is_some_and(|marks| marks.appended.0 > 0) && status.troubles.is_empty(), "{status:?}");
        scene.links(lost, false);
        let mut orders = 0;
        while order()?.0.is_err() {
            orders += 1;
            assert!(orders < 20 && scene.life(lost).is_none(), "it is let in after a while only");
            scene.pass(Duration::from_millis(100))?;
        }
        scene.await_whole()?;
        assert_ne!(scene.life(lost), Some(life));
        Ok(())
    });
}

#[test]
fn with_the_coordinator_down_for_ten_minutes_no_send_fails_and_a_restarted_replica_follows_again() {
    play(FlushMode::Sync, 1, |scene| {
        let (before, since) = (scene.state(), scene.now());
        scene.coordinator_away(&[0, 1, 2], true);
        scene.pass(Duration::from_secs(600))?;
        assert_eq!((scene.state(), scene.history.not_acknowledged(since)), (before.clone(), 0));
        // The set can't be made smaller: sends wait for the lost replica. It finds its master without the coordinator.
        let lost = scene.others(scene.the_master())[0];
        scene.kill(lost);
        scene.pass(SECOND)?;
        scene.start_again(lost);
        scene.writes_again(Duration::from_secs(5))?;
        assert_eq!(scene.state(), before);
        scene.coordinator_away(&[0, 1, 2], false);
        Ok(())
    });
}

#[test]
fn a_master_whose_disk_hangs_gives_up_though_it_could_renew_its_lease() {
    play(FlushMode::Sync, 1, |scene| {
        let (old, epoch) = (scene.the_master(), scene.state().epoch);
        scene.brokers[old].stall_disk(Duration::from_secs(30));
        scene.until("another master", Duration::from_secs(5), || scene.state().epoch > epoch)?;
        scene.writes_again(Duration::from_secs(5))?;
        assert_ne!(scene.the_master(), old);
        scene.pass(Duration::from_secs(30))?;
        scene.await_whole()
    });
}

impl Scene<'_> {
    /// How a member says that it is, and how long that took.
    fn ask_status(&self, index: usize) -> Result<(Status, Duration), Halt> {
        let member = self.node(index).and_then(|node| node.member()).expect("it runs");
        let begun = self.sim.now();
        let status = self.sim.block_on(&self.brokers[index], "status", move || member.status())?;
        Ok((status, self.sim.now() - begun))
    }

    /// What a member says to that, over a connection of its own, within a second.
    fn say(&self, index: usize, message: Message) -> Result<Result<Message, String>, Halt> {
        let (net, address) = (self.clients.env().net, format!("{}:10912", crate::node::name(index as u32 + 1)));
        self.sim.block_on(&self.clients, "asks", move || {
            let connection = net.connect(&address, SECOND).map_err(|error| error.to_string())?;
            let mut link = Link::new(connection);
            link.sender.send(&message, SECOND).map_err(|error| error.to_string())?;
            let answer = link.receiver.receive(SECOND).map_err(|error| error.to_string());
            link.connection.close();
            answer
        })
    }
}

#[test]
fn a_member_whose_disk_hangs_answers_questions_refuses_and_tells_how_it_is() {
    play(FlushMode::Sync, 1, |scene| {
        let (master, epoch) = (scene.the_master(), scene.state().epoch);
        let [stalled, killed] = scene.others(master)[..] else { panic!("three brokers") };
        let asker = Member { id: MemberId(9), store: Incarnation(9) };
        let (cluster, group) = ("c".to_owned(), "g".to_owned());
        let ask = Message::Ask(Ask { version: VERSION, cluster: cluster.clone(), group: group.clone(), member: asker });
        let hello = Message::Hello(Hello { version: VERSION, cluster, group, member: asker, seen: Seen::default() });
        let answers = |index: usize| {
            let (status, took) = scene.ask_status(index)?;
            let (answer, refusal) = (scene.say(index, ask.clone())?, scene.say(index, hello.clone())?);
            assert!(took < Duration::from_millis(100), "status took {took:?}");
            assert!(matches!(answer, Ok(Message::Answer(_))), "{answer:?}");
            assert!(matches!(refusal, Ok(Message::Refusal(_))), "{refusal:?}");
            Ok(status)
        };
        // A replica, with some of the log in hand that it can't write; and it hears of a set without itself.
        scene.brokers[stalled].stall_disk(SECOND * 15);
        scene.pass(SECOND * 4)?;
        let status = answers(stalled)?;
        assert!(status.troubles.iter().any(|trouble| trouble.contains("disk has taken no write")), "{:?}", status.troubles);
        scene.pass(SECOND * 15)?;
        scene.await_whole()?;
        // A master, right when it has to remember a smaller set.
        scene.brokers[master].stall_disk(SECOND * 15);
        scene.kill(killed);
        scene.until("a smaller set", SECOND, || scene.state().in_sync.len() == 2)?;
        scene.pass(Duration::from_millis(100))?;
        let (_, took) = scene.ask_status(master)?;
        assert!(took < Duration::from_millis(100), "status took {took:?}");
        scene.until("an end of the tenure", Duration::from_millis(2500), || scene.ask_status(master).is_ok_and(|(status, _)| status.master_of.is_none()))?;
        answers(master)?;
        scene.until("another master", SECOND * 2, || scene.state().epoch > epoch)?;
        scene.start_again(killed);
        scene.pass(SECOND * 15)?;
        scene.await_whole()
    });
}

#[test]
fn a_deposed_master_ceases_at_once_though_its_disk_hangs() {
    play(FlushMode::Sync, 1, |scene| {
        let old = scene.the_master();
        let next = MemberId(scene.others(old)[0] as u32 + 1);
        scene.brokers[old].stall_disk(SECOND * 10);
        scene.elect(next)?;
        // It learns of it by its next renewal, before its disk counts as one that hangs.
        let has_ceased = || scene.ask_status(old).is_ok_and(|(status, took)| status.master_of.is_none() && took < Duration::from_millis(100));
        scene.until("an end of the old tenure", Duration::from_millis(1300), has_ceased)?;
        scene.pass(SECOND * 10)?;
        scene.await_whole()
    });
}

#[test]
fn a_master_without_coordinator_and_replicas_answers_no_reads_when_another_one_may_be_master() {
    play(FlushMode::Sync, 1, |scene| {
        let (old, epoch) = (scene.the_master(), scene.state().epoch);
        scene.links(old, true);
        scene.coordinator_away(&[old], true);
        let ask = || {
            let mut client = Client::new(scene.clients.env(), 900, 3, &scene.history);
            let request = Request::Fetch { group: "readers".to_owned(), topic: "orders".to_owned(), queue: 0 };
            scene.sim.block_on(&scene.clients, "reader", move || client.ask_of(old as u32, &request, Duration::from_secs(3)))
        };
        while scene.state().epoch == epoch {
            scene.pass(Duration::from_millis(50))?;
        }
        assert!(matches!(ask()?, Reply::Answered(_, Answer::Refused { .. })), "the moment that there is another one");
        scene.links(old, false);
        scene.coordinator_away(&[old], false);
        Ok(())
    });
}

#[test]
fn a_deposed_master_ceases_also_when_its_disk_does_not_let_it_remember_why() {
    play(FlushMode::Sync, 1, |scene| {
        let (old, epoch) = (scene.the_master(), scene.state().epoch);
        let next = MemberId(scene.others(old)[0] as u32 + 1);
        scene.brokers[old].disk().inject(Fault::once(Op::Rename, FaultKind::Eio));
        // It learns of it by its next renewal, long before it would give up by itself.
        scene.elect(next)?;
        scene.until("an end of the old tenure", Duration::from_secs(15), || scene.history.has_ceased(old as u32 + 1, epoch.0))?;
        scene.await_whole()
    });
}

#[test]
fn a_coordinator_that_was_set_back_is_refused_and_the_group_serves_on() {
    play(FlushMode::Sync, 1, |scene| {
        let (master, epoch) = (scene.the_master(), scene.state().epoch);
        scene.kill(master);
        scene.until("another master", Duration::from_secs(5), || scene.state().epoch > epoch)?;
        scene.start_again(master);
        scene.await_whole()?;
        // Clients have found it again.
        scene.pass(Duration::from_secs(10))?;
        let (before, since) = (scene.state(), scene.now());
        let old = scene.coordinator.set_back(2).expect("it has changed more often");
        assert!(old.seen() < before.seen());
        scene.pass(Duration::from_secs(30))?;
        assert_eq!((scene.state().seen(), scene.history.not_acknowledged(since)), (old.seen(), 0), "nobody acts on it, and clients see nothing");
        let troubles = |index: usize| scene.node(index).and_then(|node| node.member()).map(|member| member.status().troubles).unwrap_or_default();
        assert!(troubles(scene.the_master_by_itself()).iter().any(|trouble| trouble.contains("was set back")));
        scene.coordinator.restore();
        Ok(())
    });
}

impl Scene<'_> {
    /// Makes that one master as if it had been elected while the old one was looking elsewhere.
    fn elect(&self, next: MemberId) -> Result<(), Halt> {
        let coordinator = self.coordinator.of(9);
        let elect = move || {
            let now = coordinator.read(SECOND).expect("it answers").expect("there is a group");
            coordinator.swap(Some(&now.version), &now.state.with_master(next, true), SECOND)
        };
        assert!(matches!(self.sim.block_on(&self.clients, "election", elect)?, Ok(Swapped::Done(_))));
        Ok(())
    }

    /// The broker that takes itself for master.
    fn the_master_by_itself(&self) -> usize {
        let is_master = |index: &usize| self.node(*index).and_then(|node| node.member()).is_some_and(|member| member.status().master_of.is_some());
        (0..self.brokers.len()).find(is_master).expect("there is one")
    }
}

#[test]
fn a_killed_masters_successor_writes_within_a_second_and_one_that_hangs_is_replaced_after_its_lease() {
    play(FlushMode::Sync, 1, |scene| {
        let old = scene.the_master();
        scene.kill(old);
        scene.another_serves(old, SECOND)?;
        scene.start_again(old);
        scene.await_whole()?;
        let (old, epoch) = (scene.the_master(), scene.state().epoch);
        scene.brokers[old].pause(Duration::from_secs(20));
        let took = scene.another_serves(old, Duration::from_secs(8))?;
        assert!(took > Duration::from_secs(4) && scene.state().epoch == epoch.next(), "{took:?}");
        scene.pass(Duration::from_secs(20))
    });
}

#[test]
fn writes_stop_for_less_than_half_a_second_when_a_replica_is_killed_and_for_half_the_lease_when_it_is_cut_off() {
    play(FlushMode::Sync, 1, |scene| {
        let (lost, lease) = (scene.others(scene.the_master())[0], scene.settings.timing.lease);
        let since = scene.now();
        scene.kill(lost);
        scene.pass(lease)?;
        assert!(scene.longest_gap(since) <= Duration::from_millis(400), "killed: {:?}", scene.longest_gap(since));
        scene.start_again(lost);
        scene.await_whole()?;
        let since = scene.now();
        scene.links(lost, true);
        scene.pass(lease)?;
        assert!(scene.longest_gap(since) <= lease / 2, "cut off: {:?}", scene.longest_gap(since));
        scene.links(lost, false);
        scene.await_whole()?;
        // Its connection breaks, it lives: it stays.
        let before = scene.state();
        scene.sim.network().reset(&scene.brokers[lost], &scene.brokers[scene.the_master()]);
        scene.pass(lease)?;
        assert_eq!(scene.state(), before);
        Ok(())
    });
}

#[test]
fn when_the_master_and_a_replica_die_together_the_third_writes_within_a_second() {
    play(FlushMode::Sync, 1, |scene| {
        let (old, lost) = (scene.the_master(), scene.others(scene.the_master())[1]);
        scene.kill(lost);
        scene.kill(old);
        scene.another_serves(old, SECOND)?;
        [old, lost].into_iter().for_each(|index| scene.start_again(index));
        scene.await_whole()
    });
}

#[test]
fn a_hand_over_takes_less_than_a_second_and_the_set_stays_whole() {
    play(FlushMode::Sync, 1, |scene| {
        for _ in 0..3 {
            let (old, epoch, since) = (scene.the_master(), scene.state().epoch, scene.now());
            let member = scene.node(old).and_then(|node| node.member()).expect("it runs");
            let now = scene.sim.block_on(&scene.brokers[old], "switchover", move || member.hand_over(None, Duration::from_secs(3)))?;
            assert_eq!(now.map(|id| id.0 as usize - 1), Ok(scene.the_master()));
            scene.writes_again(SECOND)?;
            assert_eq!((scene.state().epoch, scene.state().in_sync.len()), (Epoch(epoch.0 + 1), 3));
            assert!(scene.longest_gap(since) < SECOND, "{:?}", scene.longest_gap(since));
            scene.pass(Duration::from_secs(3))?;
        }
        Ok(())
    });
}
