//! Who may give which verb: one line for each, with arguments that a test can run it with. What acts passes
//! `Target::order_session`, which refuses everybody but an operator; a test runs every line with every certificate.

/// Whom a verb obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Anybody with a certificate of the fleet: it only looks.
    Anybody,
    /// A person whose certificate says operator.
    Operator,
}

use Who::{Anybody, Operator};

/// The verbs on a cluster, by their words on the command line, and what they need beside them.
pub const TABLE: &[(&[&str], &[&str], Who)] = &[
    (&["status"], &[], Anybody),
    (&["list"], &[], Anybody),
    (&["history"], &[], Anybody),
    (&["events"], &[], Anybody),
    (&["report"], &[], Anybody),
    (&["watch"], &["--lines", "1"], Anybody),
    (&["doctor"], &[], Anybody),
    (&["arm"], &["--reason", "x", "--yes", "--accept-unmeasured"], Operator),
    (&["adopt", "plan"], &[], Anybody),
    (&["adopt", "check"], &[], Anybody),
    (&["remove", "plan"], &[], Anybody),
    (&["disarm"], &["--reason", "x", "--yes"], Operator),
    (&["switchover"], &["--reason", "x", "--yes"], Operator),
    (&["drain"], &["db4", "--reason", "x", "--yes"], Operator),
    (&["undrain"], &["db4", "--reason", "x", "--yes"], Operator),
    (&["restart"], &["db4", "--reason", "x", "--yes"], Operator),
    (&["rolling", "run"], &["--reason", "x", "--yes", "--", "true"], Operator),
    (&["operation", "list"], &[], Anybody),
    (&["operation", "show"], &[], Anybody),
    (&["operation", "watch"], &["--timeout", "1"], Anybody),
    (&["operation", "cancel"], &["1", "--reason", "x", "--yes"], Operator),
    (&["failover"], &["db4", "--accept-data-loss", "--reason", "x", "--yes"], Operator),
    (&["fence"], &["db4", "--reason", "x", "--yes"], Operator),
    (&["unfence"], &["db4", "--reason", "x", "--yes"], Operator),
    (&["hold", "end"], &["--reason", "x", "--yes"], Operator),
    (&["maintenance", "on"], &["--for", "10m", "--reason", "x", "--yes"], Operator),
    (&["upgrade", "status"], &[], Anybody),
    (&["upgrade", "finalize"], &["--reason", "x", "--yes"], Operator),
    (&["maintenance", "off"], &["--reason", "x", "--yes"], Operator),
];
