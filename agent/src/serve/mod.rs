//! What this agent answers: the gates on the Unix socket, other agents and operators over gRPC.

pub mod grpc;
pub mod socket;
