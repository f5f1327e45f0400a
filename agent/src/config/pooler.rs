//! The PgBouncer processes of this host.

use std::path::PathBuf;

use holdfast_types::{ClusterId, RegionName};

use super::reader::{Reader, path, text};

/// One PgBouncer process.
#[derive(Debug, Clone)]
pub struct Pooler {
    /// Its name on this host.
    pub name: String,
    /// The cluster it serves.
    pub cluster: ClusterId,
    /// Directory of the Unix socket of its admin console.
    pub admin_socket_dir: PathBuf,
    /// Its port.
    pub port: u16,
    /// The file, included by its configuration, that names the writer.
    pub target_file: PathBuf,
    /// How the agent writes through it, to prove that clients can.
    pub probe: Option<Probe>,
}

/// Who writes through a PgBouncer, over its Unix socket. The role needs no right but to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The role, as PgBouncer and PostgreSQL know it.
    pub user: String,
    /// The database.
    pub database: String,
    /// The password, in the first line of this file, where PgBouncer asks for one.
    pub password_file: Option<PathBuf>,
}

/// One `[[pooler]]`.
pub(super) fn pooler(one: &mut Reader<'_>, region: Option<&RegionName>) -> Option<Pooler> {
    let name = one.required("name", text);
    let cluster = super::cluster(one, region);
    let admin_socket_dir = one.required("admin_socket_dir", path);
    let port = one.required("port", super::port);
    let target_file = one.required("target_file", path);
    let probe = one.optional_table("probe", |probe| {
        let (user, database) = (probe.required("user", text), probe.required("database", text));
        let password_file = probe.optional("password_file", path);
        Some(Probe { user: user?, database: database?, password_file })
    });
    Some(Pooler {
        name: name?,
        cluster: cluster?,
        admin_socket_dir: admin_socket_dir?,
        port: port?,
        target_file: target_file?,
        probe,
    })
}
