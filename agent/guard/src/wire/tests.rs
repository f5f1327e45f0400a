use proptest::prelude::*;

use super::*;

fn name() -> Name {
    Name::new("service/main").unwrap()
}

fn requests() -> Vec<Request> {
    let name = name();
    vec![
        Request::Register { name, port: 5432, postmaster: Some(77) },
        Request::Register { name, port: 5432, postmaster: None },
        Request::Extend { name, term: u64::MAX, deadline_ns: 7, postmaster: Some(i32::MAX) },
        Request::Release { name, term: 3 },
        Request::Query { name },
        Request::QueryPlace { place: 15 },
        Request::StandDown,
    ]
}

fn state() -> State {
    let mut stuck = Stuck::default();
    (1..20).for_each(|pid| stuck.push(pid));
    let kill = Kill { term: 4, deadline_ns: 5, begun_ns: 6, empty_ns: Some(7), left: u32::MAX, stuck };
    State {
        name: Name::new(&"n".repeat(NAME_BYTES_MAX)).unwrap(),
        port: 5432,
        phase: Phase::Killing,
        term: 8,
        deadline_ns: 9,
        postmaster: Postmaster::Outside,
        watchdog: Watchdog::Withheld,
        last_kill: Some(kill),
    }
}

fn replies() -> Vec<Reply> {
    let mut replies: Vec<Reply> = REFUSALS.into_iter().map(Reply::Refused).collect();
    let unkilled = State { last_kill: None, ..state() };
    let not_yet =
        State { last_kill: state().last_kill.map(|kill| Kill { empty_ns: None, ..kill }), ..state() };
    replies.extend([Reply::Absent, Reply::State(state()), Reply::State(unkilled), Reply::State(not_yet)]);
    replies
}

#[test]
fn what_was_encoded_is_decoded() {
    for (serial, request) in (0..).zip(requests()) {
        assert_eq!(decode_request(&encode_request(serial, &request)), Some((serial, request)));
    }
    for (serial, reply) in (0..).zip(replies()) {
        assert_eq!(decode_reply(&encode_reply(serial, &reply)), Some((serial, reply)));
    }
    assert_eq!(state().last_kill.unwrap().stuck.pids(), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_packet_of_another_size_is_refused() {
    for request in requests() {
        let packet = encode_request(1, &request);
        for length in 0..packet.len() {
            assert_eq!(decode_request(&packet[..length]), None);
        }
        let mut long = packet.to_vec();
        long.push(0);
        assert_eq!(decode_request(&long), None);
    }
    for reply in replies() {
        let packet = encode_reply(1, &reply);
        for length in 0..packet.len() {
            assert_eq!(decode_reply(&packet[..length]), None);
        }
    }
}

#[test]
fn another_version_kind_or_magic_is_refused() {
    let packet = encode_request(1, &Request::Query { name: name() });
    for at in 0..8 {
        let mut changed = packet;
        changed[at] ^= 0x40;
        assert_eq!(decode_request(&changed), None, "byte {at}");
    }
    assert_eq!(decode_reply(&packet), None);
}

#[test]
fn bytes_that_a_kind_does_not_use_must_be_zero() {
    let mut release = encode_request(1, &Request::Release { name: name(), term: 1 });
    release[14] = 1; // the process id
    assert_eq!(decode_request(&release), None);
    let mut query = encode_request(1, &Request::Query { name: name() });
    query[REQUEST_BYTES - 1] = b'x'; // behind the name's end
    assert_eq!(decode_request(&query), None);
}

#[test]
fn names_are_short_printable_and_without_space() {
    for wrong in ["", "a b", "a\n", "\u{e4}", "a\0", &"n".repeat(NAME_BYTES_MAX + 1)] {
        assert_eq!(Name::new(wrong), None, "{wrong:?}");
    }
    let mut packet = encode_request(1, &Request::Query { name: name() });
    let length = REQUEST_BYTES - NAME_BYTES_MAX - 1;
    for wrong in [0, 13, 64, 255] {
        packet[length] = wrong;
        assert_eq!(decode_request(&packet), None, "length {wrong}");
    }
}

proptest! {
    /// Whatever bytes come: no panic, and what is accepted is exactly what encoding makes of it.
    #[test]
    fn any_bytes_are_taken(
        which in 0_usize..6,
        changes in prop::collection::vec((0_usize..REQUEST_BYTES, any::<u8>()), 0..6),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut packet = encode_request(7, &requests()[which]);
        changes.iter().for_each(|(at, byte)| packet[*at] = *byte);
        if let Some((serial, request)) = decode_request(&packet) {
            prop_assert_eq!(encode_request(serial, &request), packet);
        }
        prop_assert_eq!(decode_request(&noise), None);
        prop_assert_eq!(decode_reply(&noise), None);
    }

    #[test]
    fn any_reply_is_taken(
        which in 0_usize..4,
        changes in prop::collection::vec((0_usize..REPLY_BYTES, any::<u8>()), 0..6),
    ) {
        let mut packet = encode_reply(7, &replies()[REFUSALS.len() + which]);
        changes.iter().for_each(|(at, byte)| packet[*at] = *byte);
        if let Some((serial, reply)) = decode_reply(&packet) {
            prop_assert_eq!(encode_reply(serial, &reply), packet);
        }
    }
}
