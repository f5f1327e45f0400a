//! Names of regions, hosts, clusters and members, checked once when they are read.
//!
//! Member names are Patroni's: dots allowed, compared without case as Patroni does (`PROTOCOL.md` section 1).
//! Names that PostgreSQL would read as syntax inside `synchronous_standby_names` are refused.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

/// Longest name that is taken: PostgreSQL cuts identifiers at 63 bytes (`NAMEDATALEN - 1`).
pub const NAME_LENGTH_MAX: usize = 63;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} {problem}")]
pub struct NameError {
    /// What the name was meant to be, for example "member name".
    pub kind: &'static str,
    /// The text that was refused.
    pub value: String,
    /// What is wrong with it, and what is allowed.
    pub problem: &'static str,
}

fn check(kind: &'static str, value: &str, allowed: fn(char) -> bool) -> Result<(), NameError> {
    let problem = if value.is_empty() {
        "is empty"
    } else if value.len() > NAME_LENGTH_MAX {
        "is longer than 63 bytes"
    } else if !value.chars().all(allowed) {
        "has a character outside letters, digits and the few marks that are allowed there"
    } else {
        return Ok(());
    };
    Err(NameError { kind, value: value.to_owned(), problem })
}

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
                let value = value.into();
                check($kind, &value, $allowed)?;
                Ok(Self(value))
            }

            /// The name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A region: one etcd cluster and the database clusters beside it.
    RegionName, "region name", plain
);
name!(
    /// A host inside a region.
    HostName, "host name", plain
);
name!(
    /// Patroni's `scope`: the name of one database cluster.
    Scope, "scope", plain
);
name!(
    /// Patroni's `namespace` without its outer slashes; inner ones stay.
    Namespace, "namespace", |c| plain(c) || c == '/'
);

impl Namespace {
    /// The namespace as one path segment of a key: inner slashes become `%2F` (DESIGN section 10).
    pub fn to_key_segment(&self) -> String {
        self.0.trim_matches('/').replace('/', "%2F")
    }
}

/// A member's name in Patroni, compared without case.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberName {
    written: String,
    folded: String,
}

impl MemberName {
    /// Checks and takes a name. `*`, commas, quotes, spaces and slashes are refused: PostgreSQL or etcd would read
    /// them as syntax.
    pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
        let written = value.into();
        check("member name", &written, |c| {
            !c.is_control() && !c.is_whitespace() && !matches!(c, '*' | ',' | '"' | '\'' | '/' | '(' | ')')
        })?;
        let folded = written.to_lowercase();
        Ok(Self { written, folded })
    }

    /// The name as its owner writes it.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The replication slot that Patroni makes for this member; two members whose slots are equal cannot live in one
    /// scope (DESIGN section 10).
    pub fn slot_name(&self) -> String {
        self.folded.replace(['-', '.'], "_")
    }
}

impl PartialEq for MemberName {
    fn eq(&self, other: &Self) -> bool {
        self.folded == other.folded
    }
}
impl Eq for MemberName {}
impl PartialOrd for MemberName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for MemberName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.folded.cmp(&other.folded)
    }
}
impl Hash for MemberName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded.hash(state);
    }
}
impl fmt::Debug for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.written)
    }
}
impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}
impl TryFrom<String> for MemberName {
    type Error = NameError;
    fn try_from(value: String) -> Result<Self, NameError> {
        Self::new(value)
    }
}
impl From<MemberName> for String {
    fn from(name: MemberName) -> String {
        name.written
    }
}

/// One database cluster: a Patroni scope in a namespace of a region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId {
    /// The region that owns the cluster's etcd.
    pub region: RegionName,
    /// Patroni's namespace.
    pub namespace: Namespace,
    /// Patroni's scope.
    pub scope: Scope,
}

impl ClusterId {
    /// Name of its folder below the state directory of an agent.
    pub fn folder_name(namespace: &Namespace, scope: &Scope) -> String {
        format!("{}.{scope}", namespace.to_key_segment())
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.namespace, self.scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_names_are_equal_without_case() {
        assert_eq!(MemberName::new("DB1.plant").unwrap(), MemberName::new("db1.Plant").unwrap());
        assert_ne!(MemberName::new("db1").unwrap(), MemberName::new("db2").unwrap());
    }

    #[test]
    fn syntax_of_synchronous_standby_names_is_refused() {
        for bad in ["", "*", "a,b", "a b", "\"a\"", "a/b", "a\n", &"x".repeat(64)] {
            assert!(MemberName::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn slots_fold_so_that_a_clash_shows() {
        let (a, b) = (MemberName::new("db-1").unwrap(), MemberName::new("DB.1").unwrap());
        assert_ne!(a, b);
        assert_eq!(a.slot_name(), b.slot_name());
    }

    #[test]
    fn a_namespace_is_one_key_segment() {
        assert_eq!(Namespace::new("team/a").unwrap().to_key_segment(), "team%2Fa");
    }
}
