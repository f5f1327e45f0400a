//! What a cluster lets Holdfast do, and which promises it can have.

use serde::{Deserialize, Serialize};

/// Whether decisions act. Checked in the one executor, so that no decision can forget it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Everything is computed and recorded as "would have ..."; nothing acts, hooks let pass.
    #[default]
    Observe,
    /// All promises are in force.
    Armed,
    /// A person has taken Holdfast out of the way.
    Disarmed,
}

/// Which promises a cluster can be given; follows from Patroni's `synchronous_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// `synchronous_mode: quorum`: all promises.
    Quorum,
    /// `synchronous_mode: on`: refused at arming, because Patroni writes `/sync` before the hook and rule 14 would
    /// refuse every promotion.
    On,
    /// `synchronous_mode: off`: no promises to count; loss is bounded and stated.
    Off,
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Quorum => "quorum",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Observe => "observe",
            Self::Armed => "armed",
            Self::Disarmed => "disarmed",
        })
    }
}
