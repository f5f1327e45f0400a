//! What `view/patroni.rs` makes of a cluster's keys.

use holdfast_types::Class;

use crate::view::patroni::*;
use crate::view::testing::{self, db};

#[test]
fn keys_of_a_running_cluster_are_read() {
    let view = testing::healthy().patroni;
    assert_eq!(view.leader, Some(db(1)));
    assert_eq!(view.class(), Some(Class::Quorum));
    assert_eq!((view.switch("failsafe_mode"), view.switch("pause")), (Some(true), Some(false)));
    let sync = view.sync.as_ref().unwrap();
    assert_eq!((sync.standbys.clone(), sync.quorum), (vec![db(2), db(3)], 1));
    assert_eq!([1, 2, 4].map(|n| view.role_of(&db(n))), ["leader", "quorum_standby", "replica"]);
    let member = &view.members[&db(2)];
    assert_eq!(member.address(), Some("10.77.0.22:5432"));
    assert_eq!(member.position().unwrap().to_string(), "2:0/5000060");
    assert_eq!(view.history[0].lsn.to_string(), "0/4000000");
}

#[test]
fn modes_are_read_as_patroni_reads_them() {
    let class = |text: &str| {
        let config = Some(serde_json::from_str(&format!("{{\"synchronous_mode\":{text}}}")).unwrap());
        PatroniView { config, ..PatroniView::default() }.class()
    };
    assert_eq!(class("\"Quorum\""), Some(Class::Quorum));
    assert_eq!((class("true"), class("\"on\"")), (Some(Class::On), Some(Class::On)));
    assert_eq!((class("false"), class("null")), (Some(Class::Off), Some(Class::Off)));
    assert_eq!(PatroniView::default().class(), None, "without /config it is unknown");
}
