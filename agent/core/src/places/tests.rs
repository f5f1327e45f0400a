use super::*;

const HOUR_MS: i64 = MARKED_ANEW_AFTER_MS;

fn on(mount_point: &str, fs_id: u64) -> FileSystem {
    FileSystem {
        mount_point: mount_point.into(),
        fs_type: "ext4".into(),
        source: "/dev/loop1".into(),
        uuid: None,
        fs_id: Some(fs_id),
    }
}

fn hot() -> PlaceName {
    PlaceName::Tablespace("16385".into())
}

fn found(name: PlaceName, path: &str, mount_point: &str, fs_id: u64) -> FoundPlace {
    let there = There {
        on: on(mount_point, fs_id),
        unmounted: None,
        takes_marker: true,
        marker: Some("w1".into()),
        writable: true,
        free_bytes: WAL_ROOM_BYTES,
        is_postgres: true,
    };
    FoundPlace { name, path: path.into(), there: Ok(there) }
}

fn all() -> Vec<FoundPlace> {
    vec![
        found(PlaceName::Data, "/pg/data", "/pg", 1),
        found(PlaceName::Wal, "/pg/data/pg_wal", "/pg", 1),
        found(hot(), "/mnt/hot/pg", "/mnt/hot", 2),
    ]
}

/// What an agent keeps that sees these.
fn recorded() -> Places {
    match keep(None, &all(), HOUR_MS, "w1") {
        Keep::Mark { after, .. } => after,
        other => panic!("{other:?}"),
    }
}

/// What is said of the tablespace after `change`.
fn said(recorded: Option<&Places>, change: impl FnOnce(&mut FoundPlace)) -> Option<Fault> {
    let mut found = all();
    change(found.last_mut().unwrap());
    let mut wrong = judge(recorded, &found);
    assert!(wrong.len() <= 1 && wrong.iter().all(|wrong| wrong.name == hot()), "{wrong:?}");
    wrong.pop().map(|wrong| wrong.fault)
}

fn there(place: &mut FoundPlace) -> &mut There {
    place.there.as_mut().unwrap()
}

#[test]
fn what_is_as_it_was_may_start() {
    assert_eq!(judge(Some(&recorded()), &all()), []);
    assert_eq!(judge(None, &all()), [], "nothing is known, and nothing speaks against it");
}

#[test]
fn a_mount_that_is_missing_is_named() {
    let fault = said(Some(&recorded()), |place| there(place).on = on("/", 1)).unwrap();
    assert_eq!(fault, Fault::NotMounted { recorded: "/mnt/hot".into(), found: "/".into() });
    let mut found = all();
    there(&mut found[2]).on = on("/", 1);
    let text = judge(Some(&recorded()), &found)[0].to_string();
    assert!(text.starts_with("tablespace 16385 (/mnt/hot/pg): /mnt/hot is not mounted"), "{text}");
    assert!(text.ends_with("mount it: mount /mnt/hot"), "{text}");
    let gone = said(Some(&recorded()), |place| place.there = Err("No such file".into()));
    assert_eq!(gone, Some(Fault::Gone { why: "No such file".into(), mount_point: "/mnt/hot".into() }));
    let never_seen = said(None, |place| place.there = Err("No such file".into()));
    assert_eq!(never_seen, Some(Fault::NotThere("No such file".into())));
}

#[test]
fn another_disk_and_an_older_copy_of_the_same_are_not_the_one() {
    let other = said(Some(&recorded()), |place| there(place).on.fs_id = Some(3));
    assert!(matches!(other, Some(Fault::OtherFileSystem { .. })), "{other:?}");
    let other = said(Some(&recorded()), |place| there(place).on.fs_type = "xfs".into());
    assert!(matches!(other, Some(Fault::OtherFileSystem { .. })), "{other:?}");
    let older = said(Some(&recorded()), |place| there(place).marker = Some("w0".into()));
    assert_eq!(older, Some(Fault::OtherMarker("another")));
    assert_eq!(said(Some(&recorded()), |place| there(place).marker = None), Some(Fault::OtherMarker("gone")));
}

#[test]
fn what_is_known_of_one_side_alone_is_no_difference() {
    assert_eq!(said(Some(&recorded()), |place| there(place).on.fs_id = None), None);
    assert_eq!(
        said(Some(&recorded()), |place| there(place).on.uuid = Some("u".into())),
        None,
        "udev runs now"
    );
    assert_eq!(said(Some(&recorded()), |place| there(place).on.source = "/dev/sdz".into()), None);
    let mut known = recorded();
    known.places[2].on.uuid = Some("u".into());
    let other = said(Some(&known), |place| there(place).on.uuid = Some("v".into()));
    assert!(matches!(other, Some(Fault::OtherFileSystem { .. })), "{other:?}");
    // The root of a file system takes no marker.
    assert_eq!(
        said(Some(&known), |place| (there(place).takes_marker, there(place).marker) = (false, None)),
        None
    );
}

#[test]
fn the_same_file_system_may_be_seen_at_another_mount_point() {
    let bound = said(Some(&recorded()), |place| there(place).on.mount_point = "/mnt/hot/pg".into());
    assert_eq!(bound, None, "a service with a mount namespace of its own");
    // Of a type that tells no id the marker proves it, and without one the mount point is all there is.
    let unknown = |place: &mut FoundPlace| {
        there(place).on = FileSystem { fs_id: None, ..on("/mnt/hot/pg", 2) };
    };
    assert_eq!(said(Some(&recorded()), unknown), None);
    let moved = said(Some(&recorded()), |place| {
        unknown(place);
        (there(place).takes_marker, there(place).marker) = (false, None);
    });
    assert!(matches!(moved, Some(Fault::NotMounted { .. })), "{moved:?}");
}

#[test]
fn a_link_that_was_turned_is_not_followed() {
    let moved = said(Some(&recorded()), |place| place.path = "/mnt/hot/other".into());
    assert_eq!(moved, Some(Fault::Moved("/mnt/hot/pg".into())));
}

#[test]
fn what_was_never_seen_is_judged_by_itself() {
    assert_eq!(said(None, |place| there(place).is_postgres = false), Some(Fault::Empty));
    let unmounted = said(None, |place| there(place).unmounted = Some("/mnt/hot".into()));
    assert_eq!(unmounted, Some(Fault::FstabNotMounted("/mnt/hot".into())));
    // Known places are not held to fstab: their mount is compared.
    assert_eq!(said(Some(&recorded()), |place| there(place).unmounted = Some("/mnt".into())), None);
}

#[test]
fn postgresql_needs_to_write_and_recovery_needs_room() {
    assert_eq!(said(Some(&recorded()), |place| there(place).writable = false), Some(Fault::ReadOnly));
    assert_eq!(said(None, |place| there(place).writable = false), Some(Fault::ReadOnly));
    assert_eq!(
        said(None, |place| there(place).free_bytes = 0),
        None,
        "a full tablespace keeps nobody from starting"
    );
    let mut found = all();
    there(&mut found[1]).free_bytes = WAL_ROOM_BYTES - 1;
    let wrong = judge(Some(&recorded()), &found);
    assert_eq!(
        wrong.iter().map(|wrong| &wrong.fault).collect::<Vec<_>>(),
        [&Fault::Full(WAL_ROOM_BYTES - 1)]
    );
}

#[test]
fn the_first_look_marks_each_place_and_the_next_one_keeps_nothing() {
    let Keep::Mark { before, word, after } = keep(None, &all(), HOUR_MS, "w1") else {
        panic!("to be marked")
    };
    // Until it is written no marker is asked for.
    assert!(before.places.iter().all(|place| place.markers.is_empty()), "{before:?}");
    assert_eq!(word, "w1");
    assert!(after.places.iter().all(|place| place.markers == ["w1"]), "{after:?}");
    assert_eq!(keep(Some(&after), &all(), HOUR_MS + 1, "w2"), Keep::Nothing);
}

#[test]
fn a_marker_that_is_being_rewritten_may_be_either() {
    for now in [2 * HOUR_MS, 0] {
        let Keep::Mark { before, after, .. } = keep(Some(&recorded()), &all(), now, "w2") else {
            panic!("{now}")
        };
        assert!(before.places.iter().all(|place| place.markers == ["w1", "w2"]), "{before:?}");
        assert!(after.places.iter().all(|place| place.markers == ["w2"]), "{after:?}");
        assert_eq!(judge(Some(&before), &all()), []);
        assert_eq!(judge(Some(&after), &all()).len(), 3, "the copy of before is older now");
    }
}

#[test]
fn tablespaces_come_and_go_and_the_others_stay_as_they_were() {
    let mut found = all();
    found[0].path = "/elsewhere".into();
    found.pop();
    let Keep::Record(kept) = keep(Some(&recorded()), &found, HOUR_MS + 1, "w2") else {
        panic!("one is gone")
    };
    assert_eq!(
        kept.places,
        recorded().places[..2],
        "a running PostgreSQL proves no link right that was turned"
    );
    let mut found = all();
    found.push(self::found(PlaceName::Tablespace("16400".into()), "/mnt/warm/pg", "/mnt/warm", 4));
    there(&mut found[3]).takes_marker = false;
    let Keep::Record(kept) = keep(Some(&recorded()), &found, HOUR_MS + 1, "w2") else { panic!("one is new") };
    assert_eq!((kept.places.len(), kept.places[3].markers.len()), (4, 0));
}
