//! The users of an etcd with authentication: one for each host and person, one for Patroni, and what each may do.
//!
//! The list comes from the table of `holdfast_types::permissions`; here it gets the users' names and its three forms: a
//! table, JSON, and commands of `etcdctl` for a person to read and run. Nothing here runs them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use holdfast_proto::tls::{Peer, PeerError, PersonName};
use holdfast_types::keys::ClusterKeys;
use holdfast_types::permissions::{Grant, Holder, grants};
use holdfast_types::{ClusterId, HostName, MemberName};
use serde::Serialize;

use super::status::FORMAT;
use super::text;

/// Who works with a cluster.
#[derive(Debug, Clone)]
pub struct Site {
    /// The cluster.
    pub cluster: ClusterId,
    /// Hosts with a member of it.
    pub databases: Vec<(HostName, MemberName)>,
    /// Hosts with a pooler for it, and the pooler's name there.
    pub poolers: Vec<(HostName, String)>,
    /// Hosts with an agent that only announces itself: for backups, or of applications.
    pub others: Vec<HostName>,
    /// Hosts with a coordinator.
    pub coordinators: Vec<HostName>,
    /// People who may give orders.
    pub operators: Vec<PersonName>,
    /// People who may only look.
    pub viewers: Vec<PersonName>,
}

/// By what etcd knows a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Login {
    /// The common name of a client certificate.
    #[default]
    Certificate,
    /// A password.
    Password,
}

/// One user, its role in the cluster, and what that role may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EtcdUser {
    /// The user's name: the common name of the certificates of `holdfast pki`.
    pub user: String,
    /// The role, which is of this cluster alone: a host of two clusters has two.
    pub role: String,
    /// How it logs in.
    pub login: Login,
    /// What the role may do.
    pub grants: Vec<EtcdGrant>,
}

/// One permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EtcdGrant {
    /// The key, or what the keys begin with.
    pub key: String,
    /// All keys that begin with it.
    pub prefix: bool,
    /// Reading and writing; else reading alone.
    pub write: bool,
}

impl From<Grant> for EtcdGrant {
    fn from(Grant { key, prefix, write }: Grant) -> Self {
        Self { key, prefix, write }
    }
}

/// Everything that is to be printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EtcdUsers {
    /// The version of the JSON.
    pub format: u64,
    /// The cluster.
    pub cluster: String,
    /// The users.
    pub users: Vec<EtcdUser>,
}

/// The users that a cluster needs. `login`: how hosts and people log in; Patroni has a password in any case.
pub fn of(site: &Site, login: Login) -> Result<EtcdUsers, PeerError> {
    let cluster = &site.cluster;
    let keys = ClusterKeys::new(cluster);
    let mut granted: BTreeMap<String, Vec<EtcdGrant>> = BTreeMap::new();
    for (peer, holder) in holders(site)? {
        let of_peer = granted.entry(peer.common_name()).or_default();
        for grant in grants(&holder, &cluster.region, &keys).into_iter().map(EtcdGrant::from) {
            // A host may be of two kinds.
            if !of_peer.contains(&grant) {
                of_peer.push(grant);
            }
        }
    }
    let place = format!("{}/{}", cluster.namespace, cluster.scope);
    let patroni = EtcdUser {
        user: format!("{}/patroni/{place}", cluster.region),
        role: format!("{place}/patroni"),
        login: Login::Password,
        grants: grants(&Holder::Patroni, &cluster.region, &keys).into_iter().map(EtcdGrant::from).collect(),
    };
    let own = |(user, grants): (String, _)| EtcdUser { role: format!("{place}/{user}"), user, login, grants };
    let users = [patroni].into_iter().chain(granted.into_iter().map(own)).collect();
    Ok(EtcdUsers { format: FORMAT, cluster: cluster.to_string(), users })
}

fn holders(site: &Site) -> Result<Vec<(Peer, Holder)>, PeerError> {
    let host = |host: &HostName| Peer::host(site.cluster.region.clone(), host.clone());
    let mut all = Vec::new();
    for (name, member) in &site.databases {
        let others = site.databases.iter().filter(|(other, _)| other != name);
        let peers = others.map(|(other, _)| other.clone()).collect();
        all.push((host(name)?, Holder::Database { host: name.clone(), member: member.clone(), peers }));
    }
    for (name, pooler) in &site.poolers {
        all.push((host(name)?, Holder::Pooler { host: name.clone(), pooler: pooler.clone() }));
    }
    for name in &site.others {
        all.push((host(name)?, Holder::Backup { host: name.clone() }));
    }
    for name in &site.coordinators {
        all.push((host(name)?, Holder::Coordinator));
    }
    all.extend(site.operators.iter().map(|name| {
        let peer = Peer::Operator(name.clone());
        let user = peer.common_name();
        (peer, Holder::Operator { user })
    }));
    all.extend(site.viewers.iter().map(|name| (Peer::Viewer(name.clone()), Holder::Viewer)));
    Ok(all)
}

impl EtcdUsers {
    /// For people.
    pub fn table(&self) -> String {
        let mut table = text::table(&["User", "Logs in by", "May", "Keys"]);
        for user in &self.users {
            let login = match user.login {
                Login::Certificate => "certificate",
                Login::Password => "password",
            };
            for (place, grant) in user.grants.iter().enumerate() {
                let (name, login) = if place == 0 { (user.user.as_str(), login) } else { ("", "") };
                let key = format!("{}{}", grant.key, if grant.prefix { "*" } else { "" });
                table.add_row([name, login, if grant.write { "write" } else { "read" }, &key]);
            }
        }
        format!("{table}\n")
    }

    /// Commands for a shell. `passwords`: the folder with a file for each user that has a password, by the user's name;
    /// without it `etcdctl` asks. What is there already is left as it is, so that they can be run again.
    pub fn script(&self, passwords: Option<&str>) -> String {
        let mut out = format!(
            "# Users and roles of etcd for the cluster {}: read them, then run them with sh, as a user of etcd with the\n\
             # role root (ETCDCTL_ENDPOINTS, ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY say where and who).\n\
             # They do not turn authentication on. Do that once everybody who uses this etcd has a user:\n\
             #   etcdctl user add root; etcdctl role add root; etcdctl user grant-role root root; etcdctl auth enable\n\
             set -e\nexport ETCDCTL_API=3\n",
            self.cluster
        );
        for EtcdUser { user, role, login, grants } in &self.users {
            let file = passwords.map(|folder| quoted(&format!("{folder}/{user}")));
            let (user, role) = (quoted(user), quoted(role));
            let mut say = |line: String| writeln!(out, "{line}").expect("a text takes every line");
            say(format!("\n# {user}"));
            say(format!("etcdctl role get {role} >/dev/null 2>&1 || etcdctl role add {role}"));
            for grant in grants {
                let may = if grant.write { "readwrite" } else { "read" };
                let prefix = if grant.prefix { " --prefix=true" } else { "" };
                say(format!("etcdctl role grant-permission {role} {may} {}{prefix}", quoted(&grant.key)));
            }
            let how = match (login, file) {
                (Login::Certificate, _) => " --no-password".to_owned(),
                (Login::Password, Some(file)) => format!(" --interactive=false < {file}"),
                (Login::Password, None) => String::new(),
            };
            say(format!("etcdctl user get {user} >/dev/null 2>&1 || etcdctl user add {user}{how}"));
            say(format!("etcdctl user grant-role {user} {role}"));
        }
        out
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::{Namespace, RegionName, Scope};

    fn site() -> Site {
        let host = |name: &str| HostName::new(name).unwrap();
        let member = |name: &str| MemberName::new(name).unwrap();
        Site {
            cluster: ClusterId {
                region: RegionName::new("r1").unwrap(),
                namespace: Namespace::new("service").unwrap(),
                scope: Scope::new("main").unwrap(),
            },
            databases: vec![(host("db1"), member("db1")), (host("db2"), member("pg2"))],
            poolers: vec![(host("db2"), "bouncer".into())],
            others: vec![host("backup1")],
            coordinators: vec![host("backup1")],
            operators: vec![PersonName::new("ann").unwrap()],
            viewers: vec![],
        }
    }

    #[test]
    fn every_user_has_the_name_of_its_certificate_and_a_role_of_the_cluster() {
        let users = of(&site(), Login::Certificate).unwrap().users;
        let names: Vec<_> = users.iter().map(|user| (user.user.as_str(), user.login)).collect();
        use Login::{Certificate, Password};
        assert_eq!(
            names,
            [
                ("r1/patroni/service/main", Password),
                ("operator/ann", Certificate),
                ("r1/host/backup1", Certificate),
                ("r1/host/db1", Certificate),
                ("r1/host/db2", Certificate),
            ]
        );
        assert!(users.iter().all(|user| user.role.starts_with("service/main/")));
        let written = |name: &str| -> Vec<&str> {
            let user = users.iter().find(|user| user.user == name).unwrap();
            user.grants.iter().filter(|grant| grant.write).map(|grant| grant.key.as_str()).collect()
        };
        let of_a_coordinator = [
            "/holdfast/v1/r1/session/backup1",
            "/holdfast/v1/r1/coordinator",
            "/holdfast/v1/r1/service/main/operation",
            "/holdfast/v1/r1/service/main/operations/",
            "/holdfast/v1/r1/service/main/drained/",
            "/holdfast/v1/r1/service/main/intents/",
        ];
        assert_eq!(written("r1/host/backup1"), of_a_coordinator);
        assert_eq!(written("r1/patroni/service/main"), ["/service/main/"]);
        let both = written("r1/host/db2");
        for key in [
            "/holdfast/v1/r1/service/main/promise/pg2/",
            "/holdfast/v1/r1/service/main/route/db2.bouncer",
            "/holdfast/v1/r1/session/db1",
            "/service/main/members/",
        ] {
            assert_eq!(both.iter().filter(|found| **found == key).count(), 1, "{key} of {both:?}");
        }
    }

    #[test]
    fn the_script_asks_for_passwords_or_reads_them_and_never_turns_authentication_on() {
        let asks = of(&site(), Login::Password).unwrap().script(None);
        assert!(asks.contains("|| etcdctl user add 'r1/host/db1'\n"), "{asks}");
        assert!(asks.lines().filter(|line| !line.starts_with('#')).all(|line| !line.contains("auth enable")));
        let reads = of(&site(), Login::Certificate).unwrap().script(Some("/p w"));
        assert!(reads.contains(
            "user add 'r1/patroni/service/main' --interactive=false < '/p w/r1/patroni/service/main'\n"
        ));
        assert!(reads.contains("user add 'r1/host/db1' --no-password\n"));
        assert!(reads.contains(
            "grant-permission 'service/main/r1/host/db1' readwrite '/service/main/members/' --prefix=true\n"
        ));
        assert_eq!(quoted("a'b"), r"'a'\''b'");
    }
}
