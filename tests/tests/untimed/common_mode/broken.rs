//! What breaks the agents of all database hosts at once, and what mends them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use holdfast_lab::lab::plan;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType, date_time_ymd};

use super::{HOSTS, Region};
use crate::support::{eventually, host, text};

/// Long enough for every agent to take its certificate (it looks at the files every two seconds), and for a look at it.
const SHORT: Duration = Duration::from_secs(15);
/// So long that nobody is told of their end.
const LONG: Duration = Duration::from_secs(400 * 86_400);
/// An agent that cannot run: everything else of the program is as it was.
const BAD_BUILD: &str = r#"#!/bin/bash
[ "$1" = run ] && exit 1
exec -a "$0" PROGRAM "$@"
"#;

impl Region {
    pub fn etc(&self, name: &str) -> PathBuf {
        self.host_dir(name).join("etc")
    }

    fn host_dir(&self, name: &str) -> PathBuf {
        plan::dir(self.lab.name()).join("hosts").join(name)
    }

    /// The program of the agents, and where a copy of it lies while another is in its place.
    fn programs(&self) -> (PathBuf, PathBuf) {
        let here = Path::new(env!("CARGO_BIN_EXE_holdfast-lab")).parent().unwrap();
        (here.join("holdfast-agent"), plan::dir(self.lab.name()).join("good-agent"))
    }

    /// In the mount namespace of each host, so that nobody else sees it.
    pub fn break_agents(&self) {
        let (program, copy) = self.programs();
        fs::copy(&program, &copy).unwrap();
        let bad = plan::dir(self.lab.name()).join("bad-agent");
        fs::write(&bad, BAD_BUILD.replace("PROGRAM", copy.to_str().unwrap())).unwrap();
        fs::set_permissions(&bad, fs::Permissions::from_mode(0o755)).unwrap();
        for name in HOSTS {
            let words = ["mount", "--bind", bad.to_str().unwrap(), program.to_str().unwrap()];
            let said = self.lab.exec(name, &words);
            assert!(said.success(), "{said:?}");
        }
        self.kill_agents();
    }

    pub fn mend_agents(&self) {
        let (program, _) = self.programs();
        for name in HOSTS {
            assert!(self.lab.exec(name, &["umount", "--lazy", program.to_str().unwrap()]).success());
        }
    }

    /// Their supervisor starts them again.
    pub fn kill_agents(&self) {
        for name in HOSTS {
            // One that is between two starts of a loop is not there.
            self.lab.tries(&["fault", self.lab.name(), "kill", name, "agent"]);
        }
    }

    /// The lab gives each host one certificate; from now on the agent has another than Patroni and PostgreSQL.
    pub fn own_certificates(&self) {
        for name in HOSTS {
            self.issue(name, LONG);
            let file = self.etc(name).join("agent.toml");
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, text.replace("host.crt", "agent.crt").replace("host.key", "agent.key")).unwrap();
        }
        self.kill_agents();
    }

    /// Returns for how long the new ones last.
    pub fn short_certificates(&self) -> Duration {
        HOSTS.iter().for_each(|name| self.issue(name, SHORT));
        SHORT + Duration::from_secs(1)
    }

    pub fn new_certificates(&self) {
        HOSTS.iter().for_each(|name| self.issue(name, LONG));
        eventually("every agent runs again", || {
            HOSTS.iter().all(|name| self.lab.tries(&["fault", self.lab.name(), "continue", name, "agent"]))
        });
    }

    fn issue(&self, name: &str, lasts: Duration) {
        let pki = plan::dir(self.lab.name()).join("pki");
        let read = |name: &str| fs::read_to_string(pki.join(name)).unwrap();
        let authority =
            Issuer::from_ca_cert_pem(&read("ca.crt"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let address = text(&host(&self.described, name)["address"]).parse().unwrap();
        let uri = format!("holdfast://r1/host/{name}");
        params.subject_alt_names.push(SanType::IpAddress(address));
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let since_1970 = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let epoch = date_time_ymd(1970, 1, 1);
        params.not_before = epoch + since_1970(SystemTime::now() - Duration::from_secs(3_600));
        params.not_after = epoch + since_1970(SystemTime::now() + lasts);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let folder = self.host_dir(name).join("certs");
        put(&folder.join("agent.key"), &folder.join("host.key"), &key.serialize_pem());
        put(&folder.join("agent.crt"), &folder.join("host.crt"), &certificate.pem());
    }
}

/// With the owner and the mode of a file like it, in one step.
fn put(path: &Path, like: &Path, text: &str) {
    let (like, new) = (fs::metadata(like).unwrap(), path.with_extension("new"));
    fs::write(&new, text).unwrap();
    chown(&new, Some(like.uid()), Some(like.gid())).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(like.mode() & 0o777)).unwrap();
    fs::rename(&new, path).unwrap();
}
