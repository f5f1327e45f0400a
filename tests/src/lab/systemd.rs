//! How a unit comes back, read from the very files that the packages install (`systemd/` at the top level).
//!
//! Decides what of systemd's language the lab can keep to, and refuses the rest: a directive that is not understood here
//! would make "as systemd would" untrue in silence. Touches nothing; the files are part of the program. Called by `units`.

use std::sync::LazyLock;

/// What the lab takes from a unit file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// `Restart=`.
    pub restart: Restart,
    /// `RestartSec=`.
    pub delay_ms: u64,
    /// It may start only after `holdfast-boot-deny.service` has succeeded.
    pub requires_boot_deny: bool,
}

/// systemd's `Restart=`, as far as our files use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Whatever its end was.
    Always,
    /// Never: what runs once at boot.
    No,
}

/// Every file, by its path below `systemd/`.
const FILES: [(&str, &str); 7] = [
    ("holdfast-agent.service", include_str!("../../../systemd/holdfast-agent.service")),
    ("holdfast-coordinator.service", include_str!("../../../systemd/holdfast-coordinator.service")),
    ("holdfast-guard.service", include_str!("../../../systemd/holdfast-guard.service")),
    ("holdfast-boot-deny.service", include_str!("../../../systemd/holdfast-boot-deny.service")),
    ("patroni.service.d/holdfast.conf", include_str!("../../../systemd/patroni.service.d/holdfast.conf")),
    ("pgbouncer.service.d/holdfast.conf", include_str!("../../../systemd/pgbouncer.service.d/holdfast.conf")),
    ("etcd.service.d/holdfast.conf", include_str!("../../../systemd/etcd.service.d/holdfast.conf")),
];

const BOOT_DENY: &str = "holdfast-boot-deny.service";
const SECTIONS: [&str; 3] = ["Unit", "Service", "Install"];
/// Directives that say when something starts, ends and comes back, or in which sandbox. Everything else is a spelling mistake
/// or something that nobody has thought through for the lab.
const KNOWN: [&str; 46] = [
    "Description",
    "After",
    "Before",
    "Requires",
    "Wants",
    "WantedBy",
    "StartLimitIntervalSec",
    "Type",
    "NotifyAccess",
    "WatchdogSec",
    "ExecStart",
    "Restart",
    "RestartSec",
    "RemainAfterExit",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "KillMode",
    "OOMPolicy",
    "OOMScoreAdjust",
    "ManagedOOMPreference",
    "LimitMEMLOCK",
    "PrivateNetwork",
    "DevicePolicy",
    "DeviceAllow",
    "RuntimeDirectory",
    "RuntimeDirectoryPreserve",
    "RuntimeDirectoryMode",
    "StateDirectory",
    "StateDirectoryMode",
    "CapabilityBoundingSet",
    "NoNewPrivileges",
    "ReadWritePaths",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictSUIDSGID",
    "RestrictRealtime",
    "MemoryDenyWriteExecute",
    "SystemCallArchitectures",
    "LockPersonality",
    "ProtectSystem",
    "ProtectHome",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
];

/// The agent.
pub fn agent() -> Policy {
    named("holdfast-agent.service")
}

/// The guard.
pub fn guard() -> Policy {
    named("holdfast-guard.service")
}

/// The coordinator.
pub fn coordinator() -> Policy {
    named("holdfast-coordinator.service")
}

/// Patroni.
pub fn patroni() -> Policy {
    named("patroni.service.d/holdfast.conf")
}

/// `PgBouncer`.
pub fn pgbouncer() -> Policy {
    named("pgbouncer.service.d/holdfast.conf")
}

/// etcd.
pub fn etcd() -> Policy {
    named("etcd.service.d/holdfast.conf")
}

fn named(name: &str) -> Policy {
    static POLICIES: LazyLock<Vec<(&str, Policy)>> = LazyLock::new(|| {
        let read = |(name, text): (&'static str, &str)| {
            (name, policy(text).unwrap_or_else(|why| panic!("systemd/{name}: {why}")))
        };
        FILES.map(read).into()
    });
    let found = POLICIES.iter().find(|(file, _)| *file == name);
    found.expect("the names above are those of the files").1
}

/// Reads a unit file or a drop-in.
fn policy(text: &str) -> Result<Policy, String> {
    let directives = directives(text)?;
    let value = |key: &str| {
        let found = directives.iter().find(|(_, name, _)| *name == key);
        found.map(|(_, _, value)| *value)
    };
    let restart = match value("Restart") {
        Some("always") => Restart::Always,
        None if value("Type") == Some("oneshot") => Restart::No,
        other => return Err(format!("Restart={} is not what the lab can do", other.unwrap_or_default())),
    };
    if restart == Restart::Always && value("StartLimitIntervalSec") != Some("0") {
        return Err("StartLimitIntervalSec must be 0: the lab starts a unit again for ever".into());
    }
    Ok(Policy {
        restart,
        delay_ms: value("RestartSec").map_or(Ok(0), milliseconds)?,
        requires_boot_deny: value("Requires").is_some_and(|units| units.split(' ').any(|u| u == BOOT_DENY)),
    })
}

/// Section, name and value of each line that has them.
fn directives(text: &str) -> Result<Vec<(&str, &str, &str)>, String> {
    let mut section = None;
    let mut found: Vec<(&str, &str, &str)> = Vec::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let at = |why: &str| format!("line {number}: {why}: {line}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = SECTIONS.contains(&name).then_some(name);
            section.ok_or_else(|| at("no section that is known"))?;
            continue;
        }
        let section = section.ok_or_else(|| at("a directive without a section"))?;
        let (name, value) = line.split_once('=').ok_or_else(|| at("no directive"))?;
        // An empty list of capabilities is none; elsewhere an empty value takes back what a file before it has said.
        let may_be_empty = name == "CapabilityBoundingSet";
        if !KNOWN.contains(&name) || (value.is_empty() && !may_be_empty) || value.ends_with('\\') {
            return Err(at("not understood"));
        }
        if found.iter().any(|(_, other, _)| *other == name) {
            return Err(at("is there twice"));
        }
        found.push((section, name, value));
    }
    Ok(found)
}

/// `100ms`, `1s`, or seconds without a unit.
fn milliseconds(text: &str) -> Result<u64, String> {
    let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1_000),
        (None, None) => (text, 1_000),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text} is no time that is understood here"))?;
    Ok(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_understood_and_comes_back_as_it_says() {
        for (name, _) in FILES {
            named(name);
        }
        let of = |policy: Policy| (policy.restart, policy.delay_ms, policy.requires_boot_deny);
        assert_eq!(of(agent()), (Restart::Always, 100, false));
        assert_eq!(of(guard()), (Restart::Always, 50, false));
        assert_eq!(of(patroni()), (Restart::Always, 1_000, true));
        assert_eq!(of(pgbouncer()), (Restart::Always, 100, false));
        assert_eq!(of(etcd()), (Restart::Always, 1_000, false));
        assert_eq!(of(coordinator()), (Restart::Always, 1_000, false));
        assert_eq!(named(BOOT_DENY).restart, Restart::No);
    }

    #[test]
    fn every_directive_has_its_reason_and_no_file_is_forgotten() {
        for (name, text) in FILES {
            let mut before = "";
            for line in text.lines() {
                let plain = line.starts_with("Description=") || line.starts_with("WantedBy=");
                // What a program is called with needs no reason, and two capabilities of a list have one comment each.
                let is_directive = line.contains('=') && !line.starts_with('#');
                if is_directive && !plain && !line.starts_with("ExecStart=") {
                    assert!(before.starts_with('#'), "systemd/{name}: no reason for {line}");
                }
                before = line;
            }
        }
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
        let mut there = Vec::new();
        for entry in std::fs::read_dir(&top).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            match std::fs::read_dir(entry.path()) {
                Ok(inner) => there.extend(
                    inner.flatten().map(|file| format!("{name}/{}", file.file_name().into_string().unwrap())),
                ),
                Err(_) => there.push(name),
            }
        }
        there.sort();
        let mut known = FILES.map(|(name, _)| name);
        known.sort_unstable();
        assert_eq!(there, known);
    }

    #[test]
    fn what_the_lab_cannot_do_is_refused() {
        let refused = [
            ("Restart=always", "without a section"),
            ("[Service]\nRestart=on-failure", "Restart=on-failure"),
            ("[Service]\nRestart=always", "StartLimitIntervalSec"),
            (
                "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=1min",
                "1min is no time",
            ),
            ("[Service]\nRestrat=always", "not understood"),
            ("[Servize]", "no section"),
            ("[Service]\nRestart=always\nRestart=always", "twice"),
            ("[Service]\nType=exec\nhello", "no directive"),
        ];
        for (text, why) in refused {
            let error = policy(text).unwrap_err();
            assert!(error.contains(why), "{text:?} gave {error}");
        }
        assert_eq!(milliseconds("3"), Ok(3_000));
    }
}
