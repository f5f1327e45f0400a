//! What this agent answers: the gates on the Unix socket, other agents and operators over gRPC, load balancers over HTTP.

pub mod grpc;
pub mod routing;
pub mod socket;
pub mod web;
