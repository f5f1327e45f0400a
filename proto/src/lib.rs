//! What two programs of Holdfast must agree on when they speak to each other: identities in certificates, TLS, the gRPC
//! service of the agent, and who may call which method of it.

pub mod tls;
