//! The tables of the packet filter against the kernel's own: what passes, what is reset, and how fast.

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use holdfast_host::nftables::{self, Lost, Refuse, State, Table};
use holdfast_host::sockets;
use support::{DEADLINE, Host, accept, may_make_hosts};

/// Measured: a refusal comes back in less than a millisecond; a dropped packet takes a second to be sent again.
const AT_ONCE: Duration = Duration::from_millis(500);
/// A stream that has been silent for this long has ended: its sender writes every 5 ms.
const SILENCE: Duration = Duration::from_millis(300);

/// A standby with a cable to its writer (10.98.1.2) and to another member (10.98.2.2).
fn three_hosts() -> (Host, Host, Host) {
    let (standby, writer, other) = (Host::new(), Host::new(), Host::new());
    standby.plug(&writer, 1);
    standby.plug(&other, 2);
    (standby, writer, other)
}

fn main_table() -> Table {
    Table::new("service", "main", 5432)
}

fn follow(host: &Host, table: Table, source: Option<(&'static str, u16)>) {
    host.on(move |runtime| runtime.block_on(table.follow(source))).unwrap();
}

fn cut(host: &Host, table: Table, address: &'static str) {
    let lost = Lost { address: address.into(), port: 5432, rest_port: Some(8008) };
    host.on(move |runtime| runtime.block_on(table.cut(&[lost]))).unwrap();
}

fn state(host: &Host, table: Table) -> Option<State> {
    host.on(move |runtime| runtime.block_on(table.state())).unwrap()
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}

fn assert_refused_at_once(host: &Host, to: &str) {
    let (result, took) = host.connect(to);
    let error = result.expect_err("the connection was let through");
    assert!(is_reset(&error) && took < AT_ONCE, "{to}: {error} after {took:?}");
}

fn assert_passes(host: &Host, to: &str) {
    let (result, _) = host.connect(to);
    assert!(result.is_ok(), "{to}: {result:?}");
}

/// Bytes go through in one direction.
fn assert_talks(from: &mut TcpStream, to: &mut TcpStream) {
    to.set_read_timeout(Some(DEADLINE)).unwrap();
    from.write_all(b"x").unwrap();
    to.read_exact(&mut [0]).unwrap();
}

/// Writes until the connection breaks, or the deadline passes; the time until it broke.
fn write_until_reset(stream: &mut TcpStream) -> Duration {
    let started = Instant::now();
    while started.elapsed() < DEADLINE {
        if let Err(error) = stream.write_all(b"x") {
            assert!(is_reset(&error), "{error}");
            return started.elapsed();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("the connection goes on");
}

/// Nothing arrives any more, once what had been received before is read.
fn assert_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    let started = Instant::now();
    let mut buffer = [0; 65536];
    while started.elapsed() < DEADLINE {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => return assert!(is_reset(&error), "{error}"),
        }
    }
    panic!("bytes go on arriving");
}

/// Writes every 5 ms until the connection breaks, as a walsender under load does.
fn stream_from(mut stream: TcpStream) {
    std::thread::spawn(move || {
        while stream.write_all(b"wal").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn a_cut_stops_what_was_established_in_both_directions() {
    if !may_make_hosts() {
        return;
    }
    let (standby, writer, _other) = three_hosts();
    let (at_writer, at_standby) = (writer.listen(5432), standby.listen(5432));
    follow(&standby, main_table(), Some(("10.98.1.2", 5432)));
    let mut receiver = standby.connect("10.98.1.2:5432").0.unwrap();
    stream_from(accept(&at_writer));
    let client_of_standby = writer.connect("10.98.1.1:5432").0.unwrap();
    let mut served = accept(&at_standby);
    receiver.read_exact(&mut [0; 30]).unwrap();

    cut(&standby, main_table(), "10.98.1.2");
    assert_silent(&mut receiver);
    let took = write_until_reset(&mut receiver);
    assert!(took < AT_ONCE, "the standby's side broke only after {took:?}");
    stream_from(client_of_standby);
    assert_silent(&mut served);
    assert_refused_at_once(&standby, "10.98.1.2:5432");
    assert_refused_at_once(&standby, "10.98.1.2:8008");
}

#[test]
fn a_cut_leaves_everything_else_alone() {
    if !may_make_hosts() {
        return;
    }
    let (standby, writer, other) = three_hosts();
    let (grpc, at_standby) = (writer.listen(7460), standby.listen(5432));
    follow(&standby, main_table(), Some(("10.98.1.2", 5432)));
    let mut to_peer = standby.connect("10.98.1.2:7460").0.unwrap();
    let mut peer = accept(&grpc);
    let mut client = other.connect("10.98.2.1:5432").0.unwrap();
    let mut server = accept(&at_standby);

    cut(&standby, main_table(), "10.98.1.2");
    assert_talks(&mut to_peer, &mut peer);
    assert_talks(&mut client, &mut server);
    assert_talks(&mut server, &mut client);
    assert_passes(&other, "10.98.2.1:5432");
    assert_passes(&standby, "127.0.0.1:5432");
    assert_passes(&standby, "10.98.2.1:5432");
}

#[test]
fn replication_is_open_towards_the_source_and_nobody_else() {
    if !may_make_hosts() {
        return;
    }
    let (standby, writer, other) = three_hosts();
    let _listeners = (writer.listen(5432), other.listen(5432), standby.listen(5432));
    follow(&standby, main_table(), None);
    assert_refused_at_once(&standby, "10.98.1.2:5432");
    assert_refused_at_once(&standby, "10.98.2.2:5432");
    follow(&standby, main_table(), Some(("10.98.1.2", 5432)));
    assert_passes(&standby, "10.98.1.2:5432");
    assert_refused_at_once(&standby, "10.98.2.2:5432");
    assert_passes(&other, "10.98.2.1:5432");
    assert_passes(&standby, "127.0.0.1:5432");
}

#[test]
fn a_change_of_source_ends_the_stream_from_the_last_one() {
    if !may_make_hosts() {
        return;
    }
    let (standby, writer, other) = three_hosts();
    let (at_writer, _at_other) = (writer.listen(5432), other.listen(5432));
    follow(&standby, main_table(), Some(("10.98.1.2", 5432)));
    let mut receiver = standby.connect("10.98.1.2:5432").0.unwrap();
    drop(accept(&at_writer));
    follow(&standby, main_table(), Some(("10.98.2.2", 5432)));
    let took = write_until_reset(&mut receiver);
    assert!(took < AT_ONCE, "{took:?}");
    assert_passes(&standby, "10.98.2.2:5432");
}

#[test]
fn two_instances_do_not_touch_each_other() {
    if !may_make_hosts() {
        return;
    }
    let (standby, writer, _other) = three_hosts();
    let _listeners = (writer.listen(5432), writer.listen(5433));
    let second = || Table::new("service", "second", 5433);
    follow(&standby, second(), Some(("10.98.1.2", 5433)));
    cut(&standby, main_table(), "10.98.1.2");
    assert_refused_at_once(&standby, "10.98.1.2:5432");
    assert_passes(&standby, "10.98.1.2:5433");
    follow(&standby, second(), None);
    standby.on(|runtime| runtime.block_on(main_table().remove())).unwrap();
    assert_passes(&standby, "10.98.1.2:5432");
    assert_refused_at_once(&standby, "10.98.1.2:5433");
}

#[test]
fn the_kernel_says_what_is_in_force() {
    if !may_make_hosts() {
        return;
    }
    let standby = Host::new();
    let generation = || standby.on(|_| nftables::generation()).unwrap();
    assert_eq!(state(&standby, main_table()), None);
    let before = generation();
    assert_eq!(generation(), before, "asking and listing change nothing");
    follow(&standby, main_table(), None);
    assert!(generation().follows(before), "a table is one change");
    assert_eq!(state(&standby, main_table()), Some(State::default()));
    follow(&standby, main_table(), Some(("fd00::1", 5432)));
    let open = State { source: Some(("fd00::1".into(), 5432)), ..State::default() };
    assert_eq!(state(&standby, main_table()), Some(open));
    cut(&standby, main_table(), "10.0.0.9");
    let closed = State { source: None, cut: ["10.0.0.9".to_owned()].into() };
    assert_eq!(state(&standby, main_table()), Some(closed));
    // Twice, and once more when there is nothing.
    for _ in 0..2 {
        standby.on(|runtime| runtime.block_on(main_table().remove())).unwrap();
    }
    assert_eq!(state(&standby, main_table()), None);
}

#[test]
fn a_pooler_refuses_a_lost_writer_and_takes_it_back() {
    if !may_make_hosts() {
        return;
    }
    let (pooler, writer, other) = three_hosts();
    let (at_writer, _at_other) = (writer.listen(5432), other.listen(5432));
    let mut server = pooler.connect("10.98.1.2:5432").0.unwrap();
    stream_from(accept(&at_writer));
    let only = |lost: Vec<(String, u16)>| {
        pooler.on(move |runtime| runtime.block_on(Refuse::new("pgbouncer").only(&lost))).unwrap();
    };
    only(vec![("10.98.1.2".into(), 5432)]);
    assert_silent(&mut server);
    assert!(write_until_reset(&mut server) < AT_ONCE);
    assert_refused_at_once(&pooler, "10.98.1.2:5432");
    assert_passes(&pooler, "10.98.2.2:5432");
    only(Vec::new());
    assert_passes(&pooler, "10.98.1.2:5432");
}

#[test]
fn a_destroyed_connection_breaks_for_one_who_only_reads() {
    if !may_make_hosts() {
        return;
    }
    let (pooler, writer, other) = three_hosts();
    let (at_writer, at_other) = (writer.listen(5432), other.listen(5432));
    let mut lost = pooler.connect("10.98.1.2:5432").0.unwrap();
    let mut kept = pooler.connect("10.98.2.2:5432").0.unwrap();
    let (_lost_server, mut kept_server) = (accept(&at_writer), accept(&at_other));
    writer.ip("link set v1 down");
    pooler.on(|runtime| runtime.block_on(sockets::destroy("10.98.1.2", 5432))).unwrap();
    lost.set_read_timeout(Some(DEADLINE)).unwrap();
    let started = Instant::now();
    let error = lost.read(&mut [0]).unwrap_err();
    assert!(is_reset(&error) && started.elapsed() < AT_ONCE, "{error} after {:?}", started.elapsed());
    assert_talks(&mut kept, &mut kept_server);
}
