//! What programs of ours say to each other.

use holdfast_guard::wire::{decode_reply, decode_request, encode_reply, encode_request, serial_of};
use holdfast_proto::trace::TraceContext;

#[allow(dead_code)] // The agent uses the rest of this file.
#[path = "../../../agent/src/gate/protocol.rs"]
mod protocol;

/// Every message of the agent's service.
pub fn grpc(bytes: &[u8]) -> bool {
    holdfast_proto::decoders::grpc(bytes)
}

/// The trace of an incident, from a header or a record.
pub fn traceparent(bytes: &[u8]) -> bool {
    let Some(Ok(context)) = super::text(bytes).map(str::parse::<TraceContext>) else { return false };
    assert_eq!(context.to_string().parse(), Ok(context));
    true
}

/// A packet of the guard's socket: one message, one form.
pub fn guard(bytes: &[u8]) -> bool {
    let _ = serial_of(bytes);
    let request = decode_request(bytes);
    if let Some((serial, request)) = &request {
        assert_eq!(encode_request(*serial, request)[..], *bytes);
    }
    let reply = decode_reply(bytes);
    if let Some((serial, reply)) = &reply {
        assert_eq!(encode_reply(*serial, reply)[..], *bytes);
    }
    request.is_some() || reply.is_some()
}

/// A line of the gates' socket.
pub fn gate(bytes: &[u8]) -> bool {
    let Some(line) = super::text(bytes) else { return false };
    let question = serde_json::from_str::<protocol::Question>(line);
    if let Ok(question) = &question {
        let again = serde_json::to_string(question).expect("its text came from JSON");
        assert_eq!(serde_json::from_str::<protocol::Question>(&again).ok().as_ref(), Some(question));
    }
    let answer = serde_json::from_str::<protocol::Answer>(line);
    if let Ok(answer) = &answer {
        let again = answer.to_line().expect("it has texts only");
        assert_eq!(serde_json::from_slice::<protocol::Answer>(&again).ok().as_ref(), Some(answer));
    }
    question.is_ok() || answer.is_ok()
}
