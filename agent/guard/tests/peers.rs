//! Who may speak to the guard, and what it does with what is no message.

#![allow(clippy::unwrap_used)] // A helper of tests may panic as they do.
#![allow(clippy::disallowed_methods)] // See support.

mod support;

use std::fs::{self, File};
use std::io::{IoSlice, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use holdfast_guard::client::{Client, GuardError};
use holdfast_guard::wire::{
    self, REPLY_BYTES, REQUEST_BYTES, Refusal, Reply, Request, decode_reply, encode_request,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, sendmsg, socket_with,
};
use support::{Cgroup, Guard, has_ended, in_ms, may_guard, name, wait_for, wait_killed};

/// A peer that sends what it likes.
fn raw(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn send(socket: &OwnedFd, packet: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

fn answer(socket: &OwnedFd) -> Option<(u32, Reply)> {
    let mut packet = [0; REPLY_BYTES];
    let (length, _) = recv(socket, &mut packet, RecvFlags::empty()).unwrap();
    decode_reply(&packet[..length])
}

fn open_files(guard: &Guard) -> usize {
    fs::read_dir(format!("/proc/{}/fd", guard.pid())).unwrap().count()
}

#[test]
fn what_is_no_message_is_answered_and_changes_nothing() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    let peer = raw(&guard.socket());
    let malformed = Reply::Refused(Refusal::Malformed);
    send(&peer, b"x", &[]);
    assert_eq!(answer(&peer), Some((0, malformed)));
    let packet = encode_request(77, &Request::Query { name: name() });
    send(&peer, &packet[..REQUEST_BYTES - 1], &[]);
    assert_eq!(answer(&peer), Some((77, malformed)));
    send(&peer, &[&packet[..], b"x"].concat(), &[]);
    assert_eq!(answer(&peer), Some((77, malformed)));
    send(&peer, &[0xff; 4096], &[]);
    assert_eq!(answer(&peer), Some((u32::MAX, malformed)));
    let mut newer = packet;
    newer[4] = 2;
    send(&peer, &newer, &[]);
    assert_eq!(answer(&peer), Some((77, malformed)));
    send(&peer, &packet, &[]);
    assert_eq!(answer(&peer), Some((77, Reply::Absent)));
}

#[test]
fn descriptors_that_are_no_cgroup_are_refused_and_closed() {
    if !may_guard() {
        return;
    }
    let (guard, cgroup) = (Guard::start(&[]), Cgroup::new());
    let peer = raw(&guard.socket());
    let (directory, null) = (cgroup.open(), File::open("/dev/null").unwrap());
    let root = File::open(cgroup.path.parent().unwrap()).unwrap();
    let folder = File::open(&guard.folder).unwrap();
    let register = encode_request(1, &Request::Register { name: name(), port: 1, postmaster: None });
    let query = encode_request(1, &Request::Query { name: name() });
    let refused = Some((1, Reply::Refused(Refusal::NotACgroup)));
    // The first exchange makes the connection known, so that the count below is one of a guard at rest.
    send(&peer, &query, &[]);
    assert_eq!(answer(&peer), Some((1, Reply::Absent)));
    let before = open_files(&guard);
    let many = vec![directory.as_fd(); 20];
    let two = [directory.as_fd(), directory.as_fd()];
    for wrong in [&[][..], &[null.as_fd()], &[folder.as_fd()], &[root.as_fd()], &two, &many] {
        send(&peer, &register, wrong);
        assert_eq!(answer(&peer), refused);
    }
    send(&peer, &query, &[directory.as_fd()]);
    assert_eq!(answer(&peer), Some((1, Reply::Absent)));
    assert_eq!(open_files(&guard), before, "a descriptor was kept");
}

#[test]
fn its_own_cgroup_is_refused() {
    if !may_guard() {
        return;
    }
    let (guard, cgroup) = (Guard::start(&[]), Cgroup::new());
    let inner = cgroup.path.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("cgroup.procs"), guard.pid().to_string()).unwrap();
    let refused = guard.connect().register(name(), cgroup.open().as_fd(), 1, None);
    assert!(matches!(refused, Err(GuardError::Refused(Refusal::OwnCgroup))), "{refused:?}");
}

#[test]
fn only_root_is_heard() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&guard.socket()), 0o600);
    // The credentials decide, not only the file: this guard's socket is open to everybody.
    fs::set_permissions(guard.socket(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&guard.folder, fs::Permissions::from_mode(0o777)).unwrap();
    let python = "import socket, sys\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
        s.settimeout(10)\n\
        s.connect(sys.argv[1])\n\
        try:\n    s.send(bytes.fromhex(sys.argv[2])); print(len(s.recv(1000)))\n\
        except OSError: print('refused')\n";
    let packet = encode_request(1, &Request::Query { name: name() });
    let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
    let ask = |uid: u32| {
        let arguments = ["-c", python, guard.socket().to_str().unwrap(), &hex].map(str::to_owned);
        let output = Command::new("/usr/bin/python3").args(arguments).uid(uid).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(ask(0), REPLY_BYTES.to_string());
    // Closed without an answer: nothing is read from it.
    assert!(["0", "refused"].contains(&ask(65534).as_str()));
}

#[test]
fn nobody_keeps_a_deadline_waiting() {
    if !may_guard() {
        return;
    }
    let (guard, mut cgroup) = (Guard::start(&[]), Cgroup::new());
    let (agent, pid) = (guard.connect(), cgroup.sleeper());
    cgroup.register(&agent, Some(pid));
    agent.extend(name(), 1, in_ms(300), Some(pid)).unwrap();
    // Peers that ask without end and never take an answer, and one that has stopped in the middle.
    let path = guard.socket();
    let noise: Vec<_> = (0..3)
        .map(|_| {
            let peer = raw(&path);
            std::thread::spawn(move || {
                let packet = encode_request(1, &Request::Query { name: name() });
                let control = || SendAncillaryBuffer::default();
                while sendmsg(&peer, &[IoSlice::new(&packet)], &mut control(), SendFlags::NOSIGNAL).is_ok() {}
            })
        })
        .collect();
    wait_for("the kill", || has_ended(pid));
    drop(agent);
    noise.into_iter().for_each(|thread| thread.join().unwrap());
    let kill = wait_killed(&guard.connect()).last_kill.unwrap();
    assert!(kill.begun_ns - kill.deadline_ns < 200 * support::MS, "{kill:?}");
}

#[test]
fn a_new_agent_is_not_kept_out_by_old_ones() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    let _hung: Vec<Client> = (0..30).map(|_| guard.connect()).collect();
    assert_eq!(guard.connect().query(name()).unwrap(), None);
}

#[test]
fn a_second_guard_does_not_take_the_socket() {
    if !may_guard() {
        return;
    }
    let guard = Guard::start(&[]);
    let mut second = Command::new(env!("CARGO_BIN_EXE_holdfast-guard"));
    let output = second.arg("--socket").arg(guard.socket()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another guard uses"));
    assert_eq!(guard.connect().query(name()).unwrap(), None);
}

#[test]
fn it_says_how_it_is_called() {
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast-guard")).args(words).output().unwrap();
        (output.status.code(), [output.stdout, output.stderr].concat())
    };
    let (code, text) = run(&["--version"]);
    assert_eq!((code, text.starts_with(b"holdfast-guard ")), (Some(0), true));
    assert_eq!(run(&["--sockets"]).0, Some(2));
    assert_eq!(run(&["--socket"]).0, Some(2));
    assert_eq!(wire::SOCKET, "/run/holdfast/guard.sock");
}

#[test]
fn the_service_manager_hears_of_it() {
    if !may_guard() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let mut guard = Command::new(env!("CARGO_BIN_EXE_holdfast-guard"))
        .arg("--socket")
        .arg(folder.path().join("guard.sock"))
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .spawn()
        .unwrap();
    let heard = || {
        let mut word = [0; 64];
        let length = socket.recv(&mut word).unwrap();
        String::from_utf8_lossy(&word[..length]).into_owned()
    };
    let words = [heard(), heard(), heard()];
    guard.kill().unwrap();
    guard.wait().unwrap();
    assert_eq!(words, ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
}

#[test]
fn a_log_that_nobody_reads_does_not_stop_it() {
    if !may_guard() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    // Full to the last byte.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("guard.sock");
    let mut guard = Command::new(env!("CARGO_BIN_EXE_holdfast-guard"))
        .arg("--socket")
        .arg(&socket)
        .stderr(writer)
        .spawn()
        .unwrap();
    wait_for("the guard's socket", || Client::connect(&socket).is_ok());
    let (client, mut cgroup) = (Client::connect(&socket).unwrap(), Cgroup::new());
    let pid = cgroup.sleeper();
    cgroup.register(&client, Some(pid));
    client.extend(name(), 1, in_ms(50), Some(pid)).unwrap();
    wait_for("the kill", || has_ended(pid));
    wait_killed(&client);
    guard.kill().unwrap();
    guard.wait().unwrap();
    let mut text = Vec::new();
    reader.read_to_end(&mut text).unwrap();
    assert!(text.iter().all(|byte| *byte == b'x'));
}
