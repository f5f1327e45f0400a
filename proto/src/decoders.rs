//! What this crate reads of bytes that others made, without a connection or a file around it: for tests of hostile input only.
//!
//! Each function asserts what must hold of what was understood, and says whether anything was.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_types::preflight::Preflight;
use prost::Message;
use rustls::pki_types::UnixTime;

use crate::convert::opened;
use crate::message::{
    GrantAnswer, GrantQuestion, HostReport, HostStatus, InstanceName, LifeAnswer, LifeQuestion,
};
use crate::tls::files::{Content, check};
use crate::tls::{Peer, TlsPaths};
use crate::wire;

/// Every message of the agent's service.
pub fn grpc(bytes: &[u8]) -> bool {
    let understood = [
        wire::GetStatusRequest::decode(bytes).is_ok_and(|request| opened(request.envelope).is_ok()),
        message::<wire::HostStatus, HostStatus>(bytes, |status| status.into()),
        message::<wire::LifeRequest, LifeQuestion>(bytes, |question| question.into()),
        message::<wire::LifeReply, LifeAnswer>(bytes, |answer| (*answer).into()),
        message::<wire::GrantRequest, GrantQuestion>(bytes, |question| question.into()),
        message::<wire::GrantReply, GrantAnswer>(bytes, |answer| (*answer).into()),
        wire::GetReportRequest::decode(bytes).is_ok_and(|request| opened(request.envelope).is_ok()),
        message::<wire::HostReport, HostReport>(bytes, |report| report.into()),
        message::<wire::PreflightRequest, InstanceName>(bytes, |instance| instance.into()),
        message::<wire::PreflightReply, Preflight>(bytes, |preflight| preflight.into()),
    ];
    understood.contains(&true)
}

fn message<W, D>(bytes: &[u8], back: impl Fn(&D) -> W) -> bool
where
    W: Message + Default,
    D: TryFrom<W> + PartialEq + Debug,
    D::Error: Debug,
{
    let Ok(Ok(read)) = W::decode(bytes).map(D::try_from) else { return false };
    let again = W::decode(back(&read).encode_to_vec().as_slice()).expect("what was encoded is a message");
    assert_eq!(D::try_from(again).expect("what this build writes it reads"), read);
    true
}

/// The files of an identity, all with this content, and a certificate as a handshake hands it over.
pub fn certificate(bytes: &[u8]) -> bool {
    let path = |name: &str| PathBuf::from(name);
    let paths = TlsPaths { ca: path("ca"), cert: path("cert"), key: path("key"), crl: Some(path("crl")) };
    let content =
        Content { ca: bytes.to_vec(), cert: bytes.to_vec(), key: bytes.to_vec(), crl: Some(bytes.to_vec()) };
    // In 2026, when the certificates of the corpus are in force.
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000));
    let problems = check(&paths, &content, now).err().unwrap_or_default();
    assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
    match Peer::of_certificate(bytes) {
        Ok(peer) => {
            assert_eq!(peer.to_string().parse(), Ok(peer));
            true
        }
        Err(_) => problems.is_empty(),
    }
}
