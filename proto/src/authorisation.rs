//! Who may call what: one table, one line per method, and the layer that holds every call to it.
//!
//! A method without a line is refused to everybody, and a test fails on it. The layer sees only callers whose
//! certificate the handshake has verified; it decides by their names alone and never looks into a message.

use std::pin::Pin;
use std::task::{Context, Poll};

use holdfast_types::RegionName;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::tls::{Caller, Peer};

/// A class of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A host of the same region. Hosts of other regions are strangers: regions do not order each other about.
    Host,
    /// A person who may give orders.
    Operator,
    /// A person who may only look.
    Viewer,
}

use Class::{Host, Operator, Viewer};

/// Every method and who may call it.
pub const TABLE: &[(&str, &[Class])] = &[
    ("/holdfast.v1.Agent/GetStatus", &[Host, Operator, Viewer]),
    ("/holdfast.v1.Agent/Life", &[Host]),
    ("/holdfast.v1.Agent/Grant", &[Host]),
    ("/holdfast.v1.Agent/GetReport", &[Host, Operator, Viewer]),
    ("/holdfast.v1.Agent/Preflight", &[Host, Operator, Viewer]),
];

/// Decides one call in `region`.
pub fn check(region: &RegionName, caller: Option<&Caller>, method: &str) -> Result<(), Status> {
    let Some(Caller { peer, .. }) = caller else {
        return Err(Status::unauthenticated("the connection has no verified certificate"));
    };
    let Some((_, allowed)) = TABLE.iter().find(|(name, _)| *name == method) else {
        return Err(Status::unimplemented(format!("{method} is not a method of this agent")));
    };
    let class = match peer {
        Peer::Host { region: of, .. } if of == region => Host,
        Peer::Host { .. } => {
            return Err(Status::permission_denied(format!("{peer} is not a host of region {region}")));
        }
        Peer::Operator(_) => Operator,
        Peer::Viewer(_) => Viewer,
    };
    if allowed.contains(&class) {
        return Ok(());
    }
    let allowed: Vec<String> = allowed.iter().map(|class| format!("{class:?}").to_lowercase()).collect();
    Err(Status::permission_denied(format!("{peer} may not call {method}; allowed: {}", allowed.join(", "))))
}

/// Puts [`check`] before a service.
#[derive(Debug, Clone)]
pub struct Authorisation {
    region: RegionName,
}

impl Authorisation {
    /// For an agent of `region`.
    pub fn new(region: RegionName) -> Self {
        Self { region }
    }
}

impl<S> Layer<S> for Authorisation {
    type Service = Authorised<S>;
    fn layer(&self, inner: S) -> Authorised<S> {
        Authorised { region: self.region.clone(), inner }
    }
}

/// A service behind the table.
#[derive(Debug, Clone)]
pub struct Authorised<S> {
    region: RegionName,
    inner: S,
}

impl<S, B> Service<Request<B>> for Authorised<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let caller = request.extensions().get::<Caller>();
        match check(&self.region, caller, request.uri().path()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(refused) => {
                tracing::warn!(
                    ?caller,
                    method = request.uri().path(),
                    why = refused.message(),
                    "call refused"
                );
                Box::pin(async move { Ok(refused.into_http()) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use tonic::Code;

    fn methods() -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(crate::wire::DESCRIPTOR).unwrap();
        let mut found = Vec::new();
        for file in set.file {
            for service in &file.service {
                let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
                found.extend(service.method.iter().map(|method| path(method.name())));
            }
        }
        found
    }

    fn caller(uri: &str) -> Caller {
        Caller { peer: uri.parse().unwrap(), address: "127.0.0.1:1".parse().unwrap() }
    }

    fn code(uri: &str, method: &str) -> Code {
        let r1 = RegionName::new("r1").unwrap();
        let method = format!("/holdfast.v1.Agent/{method}");
        check(&r1, Some(&caller(uri)), &method).err().map_or(Code::Ok, |status| status.code())
    }

    #[test]
    fn every_method_has_one_line_and_every_line_a_method() {
        let mut lines: Vec<&str> = TABLE.iter().map(|(name, _)| *name).collect();
        let mut methods = methods();
        assert!(methods.len() >= 2, "{methods:?}: the walk is broken");
        lines.sort_unstable();
        methods.sort_unstable();
        assert_eq!(lines, methods);
        assert!(TABLE.iter().all(|(_, allowed)| !allowed.is_empty()));
    }

    #[test]
    fn people_look_and_only_hosts_ask_for_life_and_for_leases() {
        for method in ["Life", "Grant"] {
            for person in ["holdfast://viewer/wall", "holdfast://operator/ann"] {
                assert_eq!(code(person, "GetStatus"), Code::Ok);
                assert_eq!(code(person, "GetReport"), Code::Ok);
                assert_eq!(code(person, method), Code::PermissionDenied);
            }
            assert_eq!(code("holdfast://r1/host/db2", method), Code::Ok);
        }
    }

    #[test]
    fn hosts_of_other_regions_and_unknown_methods_are_refused() {
        for (method, _) in TABLE {
            let method = method.rsplit('/').next().unwrap();
            assert_eq!(code("holdfast://r2/host/db1", method), Code::PermissionDenied);
        }
        assert_eq!(code("holdfast://operator/ann", "Shutdown"), Code::Unimplemented);
        let nobody = check(&RegionName::new("r1").unwrap(), None, "/holdfast.v1.Agent/GetStatus");
        assert_eq!(nobody.unwrap_err().code(), Code::Unauthenticated);
    }
}
