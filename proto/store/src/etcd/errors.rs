//! From the client's errors to ours: did it happen, did it not, or is it unknown?

use std::error::Error as _;

use etcd_client::Error;
use tonic::{Code, Status};

use super::connector::NoneConnected;
use crate::StoreError;

pub(super) fn read(call: &'static str, error: Error) -> StoreError {
    match error {
        Error::GRpcStatus(status) => from_status(call, &status),
        // The client says so in its own words when the first answer has a time of 0.
        Error::LeaseKeepAliveError(why) if why.contains("not found") => StoreError::LeaseNotFound { call },
        Error::InvalidArgs(why) => StoreError::Refused { call, why },
        other => StoreError::Broken { call, why: other.to_string() },
    }
}

fn from_status(call: &'static str, status: &Status) -> StoreError {
    if let Some(why) = not_connected(status) {
        return StoreError::Unreachable { call, why };
    }
    let why = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated => StoreError::Unauthenticated { call, why },
        _ if is_about_who_asks(&why) => StoreError::Unauthenticated { call, why },
        Code::PermissionDenied => StoreError::Refused {
            call,
            why: format!("{why}: our etcd user lacks it; what each needs: holdfast permissions etcd"),
        },
        _ if why.contains("requested lease not found") => StoreError::LeaseNotFound { call },
        // The caller knows the revision that it asked for and fills it in.
        _ if why.contains("required revision has been compacted") => {
            StoreError::Compacted { call, revision: 0 }
        }
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented => StoreError::Refused { call, why },
        // etcd reports an election, a lost leader and its own timeouts as Unavailable, after it may have proposed; a
        // broken connection comes as Unknown, Internal or Cancelled. All the same to us.
        code => StoreError::Broken { call, why: format!("{code:?}: {}", with_causes(status)) },
    }
}

/// etcd has various codes for these, by version. The third is an order that was under way while a role was changed, or
/// a token (JWT) of before: it was not followed.
fn is_about_who_asks(why: &str) -> bool {
    let texts = [
        "authentication failed",
        "user name is empty",
        "revision in header is old",
        "revision of auth store is old",
        "invalid auth token",
    ];
    texts.iter().any(|text| why.contains(text))
}

/// A user and a password were shown to an etcd that has no users.
pub(super) fn has_no_users(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { why, .. } if why.contains("authentication is not enabled"))
}

/// Somebody asked who may not.
pub(super) fn is_permission(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused { why, .. } if why.contains("permission denied"))
}

fn not_connected(status: &Status) -> Option<String> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(NoneConnected(why)) = error.downcast_ref() {
            return Some(why.clone());
        }
        cause = error.source();
    }
    None
}

fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
