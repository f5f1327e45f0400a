//! Mutual TLS everywhere: etcd, Patroni's REST API, PostgreSQL, PgBouncer and an agent's gRPC answer a client with a
//! certificate and refuse one without.

use serde_json::Value;

use crate::support::{Lab, host, route, text};

/// Speaks one line to a server, in clear, by TLS alone, or with a certificate; prints whether it was answered. With TLS 1.3
/// a client is refused only when it reads.
const ASK: &str = r#"import socket, ssl, sys
how, address, port, line, ca, cert, key = sys.argv[1:]
connection = socket.create_connection((address, int(port)), 5)
connection.settimeout(5)
if how != 'plain':
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(['h2'] if line.startswith('PRI') else ['http/1.1'])
    if how == 'cert': context.load_cert_chain(cert, key)
try:
    if how != 'plain': connection = context.wrap_socket(connection, server_hostname=address)
    connection.sendall(line.encode().decode('unicode_escape').encode('latin1'))
    answer = connection.recv(64)
except ssl.SSLError as error:
    sys.exit('refused: ' + str(error.reason))
except OSError as error:
    sys.exit('refused: ' + str(error))
# In clear a server says no by HTTP's 400 or by a fatal alert of TLS.
if not answer or b' 400 ' in answer[:16] or answer[:1] == b'\x15': sys.exit('refused: ' + repr(answer))
print('answered', answer)"#;

/// HTTP/2's preface and an empty SETTINGS frame, to which a server answers with its own.
const HTTP2: &str = r"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

pub fn nobody_gets_in_without_a_certificate(lab: &Lab, described: &Value) {
    let (etcd, db) = (host(described, "e1"), host(described, "db1"));
    let servers = [
        ("etcd", etcd, &etcd["etcd"]["ports"]["client"], r"GET /health HTTP/1.1\r\nHost: e1\r\n\r\n"),
        (
            "etcd's peer port",
            etcd,
            &etcd["etcd"]["ports"]["peer"],
            r"GET /version HTTP/1.1\r\nHost: e1\r\n\r\n",
        ),
        ("Patroni", db, &db["instances"][0]["ports"]["patroni"], r"GET /patroni HTTP/1.0\r\n\r\n"),
        ("the agent", db, &db["agent"]["ports"]["grpc"], HTTP2),
    ];
    let certs = &host(described, "client")["certs"];
    for (server, host, port, line) in servers {
        for (how, answered) in [("cert", true), ("tls", false), ("plain", false)] {
            let command =
                ["/usr/bin/python3", "-c", ASK, how, text(&host["address"]), &port.to_string(), line];
            let identity = ["ca", "cert", "key"].map(|file| text(&certs[file]));
            let ended = lab.exec("client", &[&command[..], &identity].concat());
            assert_eq!(ended.success(), answered, "{server} by {how}: {} {}", ended.stdout, ended.stderr);
            assert!(answered || ended.stderr.contains("refused"), "{server} by {how}: {}", ended.stderr);
        }
    }
    let cluster = &described["regions"][0]["clusters"][0];
    for (kind, to) in [("libpq", None), ("pgbouncer", Some("pool1"))] {
        let dsn = route(cluster, kind, to);
        assert!(lab.commits("client", &dsn), "{kind} with a certificate");
        let without: Vec<&str> = dsn
            .split(' ')
            .filter(|word| !word.starts_with("sslcert=") && !word.starts_with("sslkey="))
            .collect();
        // An absent file is no certificate; without the setting libpq would look in the home directory.
        let without = format!("{} sslcert=/nonexistent", without.join(" "));
        let plain = without.replace("sslmode=verify-full", "sslmode=disable");
        for dsn in [without, plain] {
            let ended = lab.exec("client", &["timeout", "10", "psql", "-qAtX", &dsn, "-c", "SELECT 1"]);
            assert!(!ended.success() && ended.stdout.is_empty(), "{kind}: {dsn}: {}", ended.stdout);
            assert!(ended.code != Some(124), "{kind} hangs: {dsn}");
        }
    }
}
