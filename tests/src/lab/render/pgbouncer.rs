//! PgBouncer's configuration: transaction pooling, certificates on both sides, and the included file that names the
//! writer.

use std::net::Ipv4Addr;

use crate::lab::plan::{HostPlan, Instance, Plan};

/// `pgbouncer.ini`.
pub fn config(plan: &Plan, host: &HostPlan, instance: &Instance<'_>) -> String {
    let (unit, certs, users) = (instance.pooler_unit(), host.certs().display().to_string(), plan.users());
    let (etc, settings) = (host.etc().display().to_string(), &plan.spec.pgbouncer);
    let (address, port, socket_dir) = (host.address, instance.pooler_port, host.pooler_socket_dir());
    let (target, socket_dir) = (host.target_file(&unit).display().to_string(), socket_dir.display());
    let (client, tcp_user_timeout) = (users.join("app").display().to_string(), settings.tcp_user_timeout_ms);
    let server_login_retry = settings.server_login_retry;
    format!(
        "%include {target}\n\
         [pgbouncer]\n\
         listen_addr = {address}\n\
         listen_port = {port}\n\
         unix_socket_dir = {socket_dir}\n\
         unix_socket_mode = 0700\n\
         pool_mode = transaction\n\
         max_client_conn = 1000\n\
         default_pool_size = 50\n\
         server_login_retry = {server_login_retry}\n\
         tcp_user_timeout = {tcp_user_timeout}\n\
         ignore_startup_parameters = extra_float_digits\n\
         auth_type = hba\n\
         auth_hba_file = {etc}/pgbouncer-hba.conf\n\
         auth_file = {etc}/userlist.txt\n\
         admin_users = pgbouncer\n\
         client_tls_sslmode = verify-full\n\
         client_tls_ca_file = {certs}/ca.crt\n\
         client_tls_cert_file = {certs}/host.crt\n\
         client_tls_key_file = {certs}/host.key\n\
         server_tls_sslmode = verify-full\n\
         server_tls_ca_file = {certs}/ca.crt\n\
         server_tls_cert_file = {client}.crt\n\
         server_tls_key_file = {client}.key\n"
    )
}

/// Who may connect: the clients' role by certificate, and whoever may open the socket (root and postgres).
pub const HBA: &str = "local all all trust\nhostssl all app 0.0.0.0/0 cert\n";

/// The users that PgBouncer knows. None has a password: certificates log in.
pub const USERLIST: &str = "\"app\" \"\"\n\"pgbouncer\" \"\"\n";

/// The included file: every database name leads to the writer.
pub fn target(address: Ipv4Addr, port: u16) -> String {
    format!("[databases]\n* = host={address} port={port}\n")
}
