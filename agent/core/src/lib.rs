//! The agent's decisions, as pure functions: observation in, plan or verdict out.
//!
//! Nothing here reads a clock, opens a file or waits. The shell (crate `holdfast-agent`) makes an observation, calls a
//! function of this crate, persists what the verdict says must be persisted, acts, and looks again. Section and rule
//! numbers in the comments are those of `proto/PROTOCOL.md`.
//!
//! | module | decides | rules |
//! | --- | --- | --- |
//! | [`in_force`] | which synchronous configurations may still acknowledge | 2 |
//! | [`floor`] | when the writer may publish a new floor record | 1 |
//! | [`detach`] | whether a standby may promise, and the order of its steps | 4, 5, 7 |
//! | [`hung`] | whether the writer's PostgreSQL or its disk hangs | 9 |
//! | [`attest`] | whether a stopped writer gives its term away, or starts again on the spot | 9, 9a |
//! | [`close`] | whether a reign has ended, and the transaction that says so | 8, 9, 12, 13 |
//! | [`relinquish`] | whether a term that nobody uses may be given back | 10 |
//! | [`renewed`] | since when a writer's session cannot have been renewed | 8, 19 |
//! | [`eligible`] | whether a member may lead, as its agent publishes it | 16 |
//! | [`successor`] | to whom the leader key is given | 8, 16 |
//! | [`open`] | what the promotion hook answers | 14, 16 |
//! | [`timeline`] | on which timeline id the next reign writes | 14 |
//! | [`lease`] | until when the writer may accept writes | 19, 22, 24 |
//! | [`grant`] | whether a member grants the writer a lease without etcd | 22 |
//! | [`start_gate`] | whether a postmaster may start | 9, I5, I12 |
//! | [`places`] | whether PostgreSQL's directories lie where they belong | I12 |
//! | [`local_disarm`] | what a local disarm opens on its host | |
//! | [`member`] | what a database member does now: the composition of all of these | 4 to 23 |
//! | [`cluster`] | nothing: it is the view of etcd that decisions are made on | |
//! | [`planned`] | what an agent has to do in a phase of a planned operation | I13 |
//! | [`pooler`] | whether clients should come to a pooler, and when one that hangs is ended | DESIGN section 4 |
//! | [`route`] | where a pooler sends its clients | DESIGN section 4 |
//! | [`routing`] | what a load balancer is told that asks this host | DESIGN section 4 |
//! | [`observe`] | what an observing agent takes for in force | DESIGN section 4 |
//! | [`observed`] | what an observing agent keeps of an incident | |
//! | [`renewals`] | how late the renewals of a session were, for a month | |
//! | [`rollback`] | whether etcd has forgotten what this host knows | 25 |
//! | [`outside`] | when a fence device is asked, and what its word proves | 11 |
//! | [`expired`] | whether the next writer of class `off` may open | 19, 22, class `off` |
//! | [`fenced`] | which fences are told, and once each | I4 |
//! | [`mutant`] | nothing: which rule a test build leaves out | |
//! | [`hold`] | whether a second failover waits for a person | DESIGN section 10 |

pub mod attest;
pub mod close;
pub mod cluster;
pub mod detach;
pub mod eligible;
pub mod expired;
pub mod fenced;
pub mod floor;
pub mod gone;
pub mod grant;
pub mod hold;
pub mod hung;
pub mod in_force;
pub mod lease;
pub mod local_disarm;
pub mod member;
pub mod mutant;
pub mod observe;
pub mod observed;
pub mod open;
pub mod outside;
pub mod places;
pub mod planned;
pub mod pooler;
pub mod relinquish;
pub mod renewals;
pub mod renewed;
pub mod rollback;
pub mod route;
pub mod routing;
pub mod start_gate;
pub mod successor;
pub mod sync;
pub mod timeline;

#[cfg(test)]
mod testing;
