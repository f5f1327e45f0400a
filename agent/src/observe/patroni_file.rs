//! Patroni's own file, of which etcd says nothing: its watchdog, its hook, its name for PostgreSQL's binary, its store. Pure
//! functions over bytes; what is found is published with the member's facts, for `doctor` and `arm`, and nothing is decided on it.

use std::path::PathBuf;

use holdfast_types::record::PatroniFile;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A file of Patroni has a few kilobytes; a larger one is none.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// What all aliases together may stand for: an anchor on a section of 20 lines, used a hundred times. The library's own limit
/// lets 341 bytes of nested aliases take 0.9 s.
const ALIASED_EVENTS_MAX: usize = 10_000;

/// The sections that are looked at; everything else is Patroni's affair.
#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    watchdog: Option<Watchdog>,
    postgresql: Option<Postgresql>,
    citus: Option<IgnoredAny>,
    consul: Option<IgnoredAny>,
    etcd: Option<IgnoredAny>,
    etcd3: Option<IgnoredAny>,
    exhibitor: Option<IgnoredAny>,
    kubernetes: Option<IgnoredAny>,
    raft: Option<IgnoredAny>,
    zookeeper: Option<IgnoredAny>,
}

impl File {
    /// Patroni tries its stores in the order of their names.
    fn dcs(&self) -> Option<&'static str> {
        let sections = [
            ("consul", &self.consul),
            ("etcd", &self.etcd),
            ("etcd3", &self.etcd3),
            ("exhibitor", &self.exhibitor),
            ("kubernetes", &self.kubernetes),
            ("raft", &self.raft),
            ("zookeeper", &self.zookeeper),
        ];
        sections.into_iter().find(|(_, section)| section.is_some()).map(|(name, _)| name)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Watchdog {
    mode: Option<Mode>,
}

/// YAML takes a bare `off` for a word or for false, as its version says; Patroni takes both for off.
#[derive(Deserialize)]
#[serde(untagged)]
enum Mode {
    Switch(bool),
    Word(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Postgresql {
    pre_promote: Option<String>,
    bin_name: Option<BinName>,
    before_stop: Option<IgnoredAny>,
    callbacks: Option<Callbacks>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Callbacks {
    on_stop: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BinName {
    postgres: Option<String>,
}

/// What Patroni's REST API asks of whoever gives it an order. It goes nowhere else, and is not printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Login {
    /// `restapi.authentication.username`.
    pub username: String,
    /// `restapi.authentication.password`.
    pub password: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RestApi {
    authentication: Option<Login>,
}

/// The login of the REST API, if the file has one.
pub fn login(text: &str) -> Option<Login> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct File {
        restapi: Option<RestApi>,
    }
    let limits = serde_saphyr::alias_limits! { max_total_replayed_events: ALIASED_EVENTS_MAX };
    let options = serde_saphyr::options! { alias_limits: limits };
    let file: File = serde_saphyr::from_str_with_options(text, options).ok()?;
    file.restapi?.authentication
}

/// What matters of the file at `path`.
pub fn parse(path: &str, text: &str) -> Result<PatroniFile, String> {
    let limits = serde_saphyr::alias_limits! { max_total_replayed_events: ALIASED_EVENTS_MAX };
    let options = serde_saphyr::options! { alias_limits: limits };
    let file: File =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| format!("{path}: {error}"))?;
    let (dcs, citus) = (file.dcs().map(str::to_owned), Some(file.citus.is_some()));
    let postgresql = file.postgresql.unwrap_or_default();
    Ok(PatroniFile {
        path: path.to_owned(),
        dcs,
        citus,
        watchdog_mode: file.watchdog.and_then(|watchdog| watchdog.mode).map(|mode| match mode {
            Mode::Switch(false) => "off".into(),
            Mode::Switch(true) => "automatic".into(),
            Mode::Word(word) => word,
        }),
        acts_on_stop: Some(
            postgresql.before_stop.is_some()
                || postgresql.callbacks.is_some_and(|callbacks| callbacks.on_stop.is_some()),
        ),
        pre_promote: postgresql.pre_promote,
        bin_name_postgres: postgresql.bin_name.and_then(|names| names.postgres),
    })
}

/// The file that Patroni was started with: the last argument of its command line, as `/proc` shows it.
pub fn path(command_line: &[u8]) -> Option<PathBuf> {
    let last = command_line.split(|byte| *byte == 0).rfind(|argument| !argument.is_empty())?;
    let path = PathBuf::from(std::str::from_utf8(last).ok()?);
    let is_file =
        path.extension().is_some_and(|ending| ending == "yml" || ending == "yaml" || ending == "json");
    (path.is_absolute() && is_file).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_where_there_is_one() {
        let text = "restapi:\n  listen: 0.0.0.0:8008\n  authentication:\n    username: admin\n    password: \"s 1\"\n";
        let found = login(text).unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("admin", "s 1"));
        assert!(login("restapi:\n  listen: 0.0.0.0:8008\n").is_none() && login("scope: x").is_none());
        assert!(login("restapi: [").is_none());
    }

    #[test]
    fn a_file_in_yaml_is_understood() {
        let text = "scope: main\nwatchdog:\n  mode: off # ours\npostgresql:\n  bin_name:\n    postgres: /usr/lib/holdfast/postgres\n  \
                    pre_promote: >-\n    holdfast-agent promote-gate\n    --scope main\n  parameters: {max_connections: 100}\n";
        let found = parse("/etc/patroni.yml", text).unwrap();
        assert_eq!(found.watchdog_mode.as_deref(), Some("off"));
        assert_eq!(found.pre_promote.as_deref(), Some("holdfast-agent promote-gate --scope main"));
        assert_eq!(found.bin_name_postgres.as_deref(), Some("/usr/lib/holdfast/postgres"));
    }

    #[test]
    fn what_is_absent_is_absent_and_damage_is_named() {
        let found = parse("/p", "scope: main\n").unwrap();
        let nothing = PatroniFile {
            path: "/p".into(),
            citus: Some(false),
            acts_on_stop: Some(false),
            ..PatroniFile::default()
        };
        assert_eq!(found, nothing);
        let switched = parse("/p", r#"{"watchdog": {"mode": "required"}}"#).unwrap();
        assert_eq!(switched.watchdog_mode.as_deref(), Some("required"));
        for bad in ["postgresql: [", "postgresql: {pre_promote: [1]}"] {
            assert!(parse("/etc/p.yml", bad).unwrap_err().starts_with("/etc/p.yml: "), "{bad}");
        }
    }

    #[test]
    fn the_store_is_the_one_that_patroni_takes() {
        let store = |text: &str| parse("/p", text).unwrap().dcs;
        assert_eq!(store("etcd3:\n  hosts: [a:2379]\nraft: {}\n").as_deref(), Some("etcd3"));
        assert_eq!(
            store("zookeeper: {hosts: [z:2181]}\nconsul: {host: c:8500}\n").as_deref(),
            Some("consul")
        );
        assert_eq!(store("etcd3:\nkubernetes:\n  bypass_api_service: true\n").as_deref(), Some("kubernetes"));
        assert_eq!(store("scope: main\n"), None, "its environment may name one");
        assert_eq!(parse("/p", "citus: {group: 0, database: c}").unwrap().citus, Some(true));
    }

    #[test]
    fn what_runs_at_a_stop_is_found() {
        let acts = |text: &str| parse("/p", text).unwrap().acts_on_stop;
        assert_eq!(acts("postgresql: {before_stop: /usr/local/bin/x}"), Some(true));
        assert_eq!(acts("postgresql: {callbacks: {on_stop: /x, on_start: /y}}"), Some(true));
        assert_eq!(acts("postgresql: {callbacks: {on_role_change: /x}}"), Some(false));
    }

    #[test]
    fn the_path_is_the_last_argument() {
        let line = |text: &str| path(text.replace(' ', "\0").as_bytes());
        assert_eq!(
            line("/usr/bin/python3 /usr/bin/patroni /etc/patroni/main.yml "),
            Some("/etc/patroni/main.yml".into())
        );
        assert_eq!(line("/usr/bin/python3 /usr/bin/patroni"), None);
        assert_eq!(line("patroni main.yml"), None, "relative to a folder that we do not know");
        assert_eq!(line(""), None);
    }
}
