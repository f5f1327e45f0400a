//! The report for people.

use std::fmt::Write;

use holdfast_types::{Class, Mode};

use super::{StatusReport, poolers};
use crate::view::findings::Severity;
use crate::view::{text, would};

/// The newest lines of what would have been done; `events` and JSON have the rest.
const WOULD_LINES: usize = 12;

impl StatusReport {
    /// The first line: what is wrong, or that nothing is.
    pub fn headline(&self) -> String {
        match self.findings.first() {
            Some(first) => {
                let word = if first.severity == Severity::Outage { "OUTAGE" } else { "AT RISK" };
                format!("{word}: {}", first.line())
            }
            None => match (&self.mode.mode, &self.term) {
                (Mode::Armed, Some(term)) => format!("healthy: {} writes in term {}", term.holder, term.term),
                (mode, _) => format!("healthy, mode {mode}: Holdfast does not act here"),
            },
        }
    }

    /// The whole status for people.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.headline());
        for finding in self.findings.iter().skip(1) {
            let _ = writeln!(out, "  also: {}", finding.line());
        }
        out.push_str(&self.facts());
        out.push_str(&self.member_table());
        if !self.routes.is_empty() {
            let mut table = text::table(&["Pooler", "Term", "Target", "Clients", "Waiting"]);
            for route in &self.routes {
                let clients = match (route.agent, route.paused) {
                    ("gone", _) => "unknown: its agent is gone",
                    (_, true) => "paused",
                    (_, false) if route.drained => "served, drained",
                    (_, false) => "served",
                };
                let target = route.target.clone().unwrap_or_else(|| "-".into());
                let waiting = poolers::waiting(route.clients_waiting, route.waited_ms);
                let term = route.term.to_string();
                table.add_row([route.pooler.clone(), term, target, clients.into(), waiting]);
            }
            let _ = writeln!(out, "{table}");
            for route in self.routes.iter().filter(|route| route.up == Some(false)) {
                let why = route.why.as_deref().unwrap_or(text::UNKNOWN);
                let _ = writeln!(out, "{}: takes no clients: {why}", route.pooler);
            }
        }
        if self.mode.mode == Mode::Observe {
            out.push_str(&would::text(&self.would, WOULD_LINES));
        }
        out
    }

    fn facts(&self) -> String {
        let mut out = String::new();
        let class = self.class.map_or(text::UNKNOWN, class_word);
        let _ = write!(out, "mode {}, class {class}", self.mode.mode);
        if let (Some(by), Some(reason)) = (&self.mode.by, &self.mode.reason) {
            let _ = write!(out, " (by {by}: {reason})");
        }
        if let Some(maintenance) = &self.maintenance {
            let _ = write!(out, "\n{}", maintenance.text);
        }
        if let Some(loss) = &self.loss {
            let _ = write!(out, "\n{loss}");
        }
        for warned in &self.warned {
            let is_writer = self.term.as_ref().is_some_and(|term| term.holder == warned.member);
            out.extend(warned.line(is_writer).map(|line| format!("\n{line}")));
        }
        match &self.term {
            None => out.push_str("\nno term yet"),
            Some(term) => {
                let alive = match term.session_alive {
                    Some(true) => "agent alive",
                    Some(false) => "agent gone",
                    None => "agent unknown",
                };
                let _ = write!(out, "\nterm {} {} by {}, {alive}", term.term, term.state, term.holder);
                if let Some(evidence) = &term.evidence {
                    let _ = write!(out, ", {evidence}");
                }
                if !term.in_force {
                    let _ = write!(out, " (not in force: older than mode {})", self.mode.mode);
                }
            }
        }
        if let Some(floor) = &self.floor {
            let old = match (floor.current, floor.follows_sync) {
                (true, true) => "",
                (true, false) => " (older than /sync)",
                (false, _) => " (of an older term)",
            };
            let (members, quorum) = (text::list(&floor.members), floor.quorum);
            let _ = write!(out, "\nfloor {}{old}, counting {members} with quorum {quorum}", floor.position);
        }
        if let Some(etcd) = &self.etcd {
            let members = etcd.members.map_or(text::UNKNOWN.into(), |members| members.to_string());
            let alarms = etcd.alarms.as_ref().map_or(text::UNKNOWN.into(), text::list);
            let quorum = match etcd.has_quorum {
                Some(true) => "quorum",
                Some(false) => "no quorum",
                None => "quorum unknown",
            };
            let size = etcd.db_size_bytes.map_or(text::UNKNOWN.into(), text::bytes);
            let read = etcd.read_us.map_or("without answer".into(), text::micros);
            let fsync = etcd.fsync_p99_us.map_or(text::UNKNOWN.into(), text::micros);
            let _ = write!(
                out,
                "\netcd {} of {members} answer, {quorum}, alarms {alarms}, {size}, linearizable read {read}, fsync p99 {fsync}",
                etcd.answering
            );
        }
        out.push('\n');
        out
    }

    /// The table of `list`.
    pub fn member_table(&self) -> String {
        let header =
            ["Member", "Host", "Role", "State", "TL", "LSN", "Lag", "Agent", "Promise", "Fence", "Tags"];
        let mut table = text::table(&header);
        let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        for member in &self.members {
            let timeline = member.timeline.map(|timeline| timeline.to_string());
            let lag = if member.role == "leader" { None } else { member.lag_bytes.map(text::bytes) };
            table.add_row([
                member.member.clone(),
                or_dash(&member.host),
                match (member.writer, member.drained) {
                    (true, _) => format!("{} (writer)", member.role),
                    (false, true) => format!("{} (drained)", member.role),
                    (false, false) => member.role.to_owned(),
                },
                member.state.clone().unwrap_or_else(|| text::UNKNOWN.into()),
                or_dash(&timeline),
                or_dash(&member.lsn),
                or_dash(&lag),
                member.agent.to_owned(),
                or_dash(&member.promise),
                or_dash(&member.fence),
                text::list(&member.tags),
            ]);
        }
        let system = self.system_id.as_deref().unwrap_or(text::UNKNOWN);
        format!("+ Cluster: {} ({system})\n{table}\n", self.cluster)
    }
}

fn class_word(class: Class) -> &'static str {
    match class {
        Class::Quorum => "quorum",
        Class::On => "on",
        Class::Off => "off",
    }
}
