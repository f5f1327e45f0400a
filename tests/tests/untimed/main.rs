//! Labs with real servers in which no gap and no deadline is measured: a condition comes in the end, or something never
//! happens. So they may slow each other down, and run as many at a time as the machine has processors. What measures has a
//! file of its own beside this folder, and the machine for itself. Needs root, `tests/setup`, and the built workspace.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // Helpers of tests are not seen as tests.

#[path = "../support/mod.rs"]
mod support;

mod adopt;
mod come_back;
mod common_mode;
mod contract;
mod etcd_users;
mod mounts;
mod observe;
mod outside;
mod overriding;
mod poolers;
mod rebuilt_etcd;
mod shapes;
mod two_builds;
mod two_clusters;
mod two_regions;
