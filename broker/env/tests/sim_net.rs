//! The network between simulated machines.

use sluice_env::{
    Connection,
    sim::threads::{Machine, Sim, sleep},
};
use std::{io::ErrorKind, sync::Arc, time::Duration};

const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);

type Pair = (Arc<dyn Connection>, Arc<dyn Connection>);

/// Two machines, and a connection from the first to the second.
fn connected(sim: &Sim) -> (Machine, Machine, Pair) {
    let (a, b) = (sim.machine("a"), sim.machine("b"));
    let pair = connect(sim, &a, &b);
    (a, b, pair)
}

fn connect(sim: &Sim, a: &Machine, b: &Machine) -> Pair {
    let (from, to) = (a.env().net, b.env().net);
    sim.block_on(a, "connects", move || {
        let listener = to.listen("b:0").expect("free");
        let here = from.connect(&listener.address(), LONG).expect("taken");
        (here, listener.accept(LONG).expect("came"))
    })
    .expect("no deadlock")
}

fn kind<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// Everything that comes until the stream ends, or the error that ends it.
fn read_to_end(connection: &dyn Connection) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut all, mut piece) = (Vec::new(), [0; 1000]);
    loop {
        match connection.read(&mut piece, LONG) {
            Ok(0) => return (all, None),
            Ok(read) => all.extend_from_slice(&piece[..read]),
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

#[test]
fn bytes_come_whole_in_order_and_take_their_time() {
    let sim = Sim::new(1);
    let (a, b, (here, there)) = connected(&sim);
    sim.network().set_delay(&a, &b, Duration::from_millis(3), Duration::from_millis(9));
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 7) as u8).collect();
    let expected = sent.clone();
    a.spawn("writes", move || {
        sent.chunks(70_000).for_each(|chunk| here.write_all(chunk, LONG).expect("taken"));
    });
    let before = sim.now();
    let (got, end) = sim.block_on(&b, "reads", move || read_to_end(&*there)).expect("no deadlock");
    assert!(got == expected && end.is_none());
    // Three windows, one after the other.
    assert!(sim.now() - before >= Duration::from_millis(3 * 3), "{:?}", sim.now() - before);
}

#[test]
fn nothing_comes_over_a_cut_link_until_it_is_healed_and_the_other_direction_stays_open() {
    let sim = Sim::new(2);
    let (a, b, (here, there)) = connected(&sim);
    sim.network().cut(&a, &b);
    let (here, there) = sim
        .block_on(&a, "talks", move || {
            here.write_all(b"late", LONG).expect("into the window");
            there.write_all(b"back", LONG).expect("into the window");
            let mut bytes = [0; 4];
            assert_eq!(kind(there.read(&mut bytes, SOON)), Some(ErrorKind::TimedOut));
            assert_eq!((here.read(&mut bytes, SOON).expect("open"), &bytes), (4, b"back"));
            (here, there)
        })
        .expect("no deadlock");
    // Nor does the news that the peer has gone.
    sim.block_on(&a, "goes", move || drop(here)).expect("no deadlock");
    let there = sim
        .block_on(&b, "waits", move || {
            assert_eq!(kind(there.read(&mut [0; 4], SOON)), Some(ErrorKind::TimedOut));
            there.write_all(b"anybody?", SOON).expect("the window is open");
            there
        })
        .expect("no deadlock");
    let network = sim.network().clone();
    let (from, to) = (a.clone(), b.clone());
    a.spawn("heals", move || {
        sleep(Duration::from_secs(1));
        network.heal(&from, &to);
    });
    let (got, end) = sim.block_on(&b, "reads", move || read_to_end(&*there)).expect("no deadlock");
    assert_eq!((got.as_slice(), end), (&b"late"[..], None));
}

#[test]
fn every_wait_has_its_end() {
    let sim = Sim::new(3);
    let (a, b, (here, there)) = connected(&sim);
    let (net, before) = (a.env().net, sim.now());
    sim.block_on(&a, "waits", move || {
        assert_eq!(kind(here.read(&mut [0; 4], SOON)), Some(ErrorKind::TimedOut));
        // More than the window, and nobody reads.
        assert_eq!(kind(here.write_all(&vec![0; 2 << 20], SOON)), Some(ErrorKind::TimedOut));
        let listener = net.listen("a:7").expect("free");
        assert_eq!(kind(listener.accept(SOON)), Some(ErrorKind::TimedOut));
        assert_eq!(kind(net.listen("a:7")), Some(ErrorKind::AddrInUse));
        assert_eq!(kind(net.connect("b:7", LONG)), Some(ErrorKind::ConnectionRefused));
        assert_eq!(kind(net.connect("nobody:7", LONG)), Some(ErrorKind::NotFound));
        drop(there);
    })
    .expect("no deadlock");
    assert!((SOON * 3..SOON * 4).contains(&(sim.now() - before)), "{:?}", sim.now() - before);
    sim.network().cut(&b, &a);
    let net = a.env().net;
    let refused = sim.block_on(&a, "connects", move || kind(net.connect("b:7", SOON))).expect("no deadlock");
    assert_eq!(refused, Some(ErrorKind::TimedOut));
}

#[test]
fn peers_hear_of_a_killed_process_and_not_of_a_machine_without_power() {
    let sim = Sim::new(4);
    let (a, b, (here, _there)) = connected(&sim);
    b.kill();
    let broken = sim.block_on(&a, "hears", move || (kind(here.read(&mut [0; 4], LONG)), kind(here.write_all(b"x", LONG)))).expect("no deadlock");
    assert_eq!(broken, (Some(ErrorKind::ConnectionReset), Some(ErrorKind::BrokenPipe)));
    let (here, _there) = connect(&sim, &a, &b);
    b.power_cut(1);
    let net = a.env().net;
    let silent = sim.block_on(&a, "waits", move || (kind(here.read(&mut [0; 4], SOON)), kind(here.write_all(b"x", SOON)), kind(net.connect("b:9", SOON))));
    assert_eq!(silent.expect("no deadlock"), (Some(ErrorKind::TimedOut), None, Some(ErrorKind::TimedOut)));
    // Its next life can be reached.
    let (here, there) = connect(&sim, &a, &b);
    let got = sim.block_on(&a, "talks", move || {
        here.write_all(b"again", LONG).expect("taken");
        drop(here);
        read_to_end(&*there)
    });
    assert_eq!(got.expect("no deadlock"), (b"again".to_vec(), None));
}

#[test]
fn who_waits_in_a_connection_is_woken_by_its_end() {
    let sim = Sim::new(5);
    let (a, b, (here, there)) = connected(&sim);
    let closer = here.clone();
    a.spawn("closes", move || {
        sleep(SOON);
        closer.close();
    });
    let before = sim.now();
    let woken = sim.block_on(&a, "reads", move || kind(here.read(&mut [0; 4], LONG))).expect("no deadlock");
    assert_eq!(woken, Some(ErrorKind::ConnectionReset));
    let ended = sim.block_on(&b, "reads", move || there.read(&mut [0; 4], LONG).ok()).expect("no deadlock");
    assert_eq!(ended, Some(0));
    assert!(sim.now() - before < LONG);
    let (here, there) = connect(&sim, &a, &b);
    sim.network().reset(&a, &b);
    let both = sim.block_on(&a, "reads", move || (kind(here.read(&mut [0; 4], LONG)), kind(there.read(&mut [0; 4], LONG)))).expect("no deadlock");
    assert_eq!(both, (Some(ErrorKind::ConnectionReset), Some(ErrorKind::ConnectionReset)));
}

#[test]
fn one_seed_is_one_run_and_another_seed_another() {
    let run = |seed| {
        let sim = Sim::new(seed);
        let (a, b, (here, there)) = connected(&sim);
        a.spawn("writes", move || (0..50_u8).for_each(|i| here.write_all(&[i; 100], LONG).expect("taken")));
        let (got, _) = sim.block_on(&b, "reads", move || read_to_end(&*there)).expect("no deadlock");
        assert_eq!(got.len(), 5000);
        (sim.trace(), sim.now())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
