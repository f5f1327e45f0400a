//! How late the session renewals of each host were, against each timing profile, and what of it stands in the way of arming.
//!
//! A write lease outlives a renewal that is late by no more than the lease without one interval. What a host has met in a month
//! says which profile it can carry; a host that has hardly been watched says nothing.

use std::collections::BTreeMap;

use holdfast_proto::message::HostReport;
use holdfast_types::renewals::{Histogram, Late};
use holdfast_types::{HostName, MemberName, Profile, Timings};
use serde::Serialize;

use super::arming::Check;
use super::text;

/// Less than this says nothing about a month.
const WATCHED_MS_MIN: u64 = 3_600_000;
/// How many of the longest are shown.
const LONGEST_SHOWN: usize = 3;

/// One late renewal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LateReport {
    /// When it was confirmed, RFC 3339, by the clock of its host.
    pub at: String,
    /// How late, in milliseconds.
    pub late_ms: u64,
}

/// What one profile would have met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProfileReport {
    /// Which one.
    pub profile: Profile,
    /// Its write lease, in milliseconds.
    pub write_lease_ms: u64,
    /// How often a renewal was so late that a write lease would have ended.
    pub leases_ended: u64,
    /// What p99.9 must be below, in milliseconds.
    pub p999_below_ms: u64,
    /// Whether it is; absent when the host has been watched for less than an hour.
    pub carries: Option<bool>,
}

/// The renewals of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StallReport {
    /// Which host.
    pub host: HostName,
    /// Its profile; absent when this build does not know it.
    pub profile: Option<Profile>,
    /// How many renewals were confirmed.
    pub renewals: u64,
    /// For how long they were watched, in milliseconds.
    pub watched_ms: u64,
    /// How late half of them were at most, in milliseconds.
    pub p50_ms: Option<u64>,
    /// How late 999 of 1000 were at most, in milliseconds.
    pub p999_ms: Option<u64>,
    /// The longest, longest first.
    pub longest: Vec<LateReport>,
    /// Against each profile.
    pub profiles: Vec<ProfileReport>,
}

impl StallReport {
    /// Of what an agent has kept.
    pub fn new(report: &HostReport) -> Self {
        let mut late = Histogram::default();
        report.renewals.iter().for_each(|day| late.add_all(&day.late));
        let mut longest: Vec<Late> = report.renewals.iter().flat_map(|day| day.longest.clone()).collect();
        longest.sort_by_key(|one| std::cmp::Reverse(one.late_ms));
        let watched_ms = report.renewals.iter().fold(0_u64, |sum, day| sum.saturating_add(day.watched_ms));
        let measured = watched_ms >= WATCHED_MS_MIN;
        let p999_ms = late.per_mille_ms(999);
        let against = |profile| {
            let timings = Timings::of(profile);
            let p999_below_ms = timings.late_per_mille_999_below_ms();
            ProfileReport {
                profile,
                write_lease_ms: timings.write_lease_ms(),
                leases_ended: late.over(timings.late_until_lease_over_ms()),
                p999_below_ms,
                carries: p999_ms.filter(|_| measured).map(|p999_ms| p999_ms < p999_below_ms),
            }
        };
        let shown = |one: &Late| LateReport { at: text::moment(one.at_wall_ms), late_ms: one.late_ms };
        Self {
            host: report.host.clone(),
            profile: report.profile,
            renewals: late.count(),
            watched_ms,
            p50_ms: late.per_mille_ms(500),
            p999_ms,
            longest: longest.iter().take(LONGEST_SHOWN).map(shown).collect(),
            profiles: Profile::ALL.map(against).into(),
        }
    }

    fn of(&self, profile: Profile) -> Option<&ProfileReport> {
        self.profiles.iter().find(|one| one.profile == profile)
    }
}

/// A table of all hosts.
pub fn text(hosts: &[StallReport]) -> String {
    if hosts.is_empty() {
        return String::new();
    }
    let header =
        ["Host", "Profile", "Renewals", "Watched", "p50", "p99.9", "Longest", "Would have ended a lease"];
    let mut table = text::table(&header);
    let ms = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    for host in hosts {
        let ended = host.profiles.iter().map(|one| {
            let carries = match one.carries {
                Some(true) => "",
                Some(false) => " (p99.9 too late)",
                None => " (too few)",
            };
            format!("{} {}{carries}", one.profile, one.leases_ended)
        });
        table.add_row([
            host.host.to_string(),
            host.profile.map_or_else(|| text::UNKNOWN.to_owned(), |profile| profile.to_string()),
            host.renewals.to_string(),
            length(host.watched_ms),
            ms(host.p50_ms),
            ms(host.p999_ms),
            ms(host.longest.first().map(|one| one.late_ms)),
            text::list(ended),
        ]);
    }
    format!("how late session renewals were:\n{table}\n")
}

fn length(ms: u64) -> String {
    match ms / 60_000 {
        minutes @ 0..=119 => format!("{minutes} min"),
        minutes @ 120..=2_879 => format!("{} h", minutes / 60),
        minutes => format!("{} d", minutes / 1_440),
    }
}

/// What a person who arms has said of the timings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The profile that is expected everywhere.
    pub profile: Option<Profile>,
    /// Hosts that nobody has watched for long enough are taken as they are.
    pub accept_unmeasured: bool,
}

/// Adds to `check` what is in the way of arming. `asked`: each member's agent, and what it said; `told`: the profiles that the
/// agents have published.
pub fn check(
    asked: &BTreeMap<MemberName, Result<HostReport, String>>,
    told: &BTreeMap<MemberName, Profile>,
    wanted: Wanted,
    check: &mut Check,
) {
    for (member, answer) in asked {
        let report = answer.as_ref().ok().map(StallReport::new);
        let profile = report.as_ref().and_then(|report| report.profile).or(told.get(member).copied());
        match (wanted.profile, profile) {
            (Some(wanted), Some(profile)) if wanted != profile => check.block(
                format!("the agent of {member} runs the timing profile {profile}, not {wanted}"),
                format!(
                    "set profile = \"{wanted}\" in its agent.toml and restart it, or say --profile {profile}"
                ),
            ),
            (Some(_), None) => check.warn(format!("the timing profile of {member} is not known")),
            _ => {}
        }
        let Some(profile) = profile else { continue };
        let measured = report.as_ref().and_then(|report| report.of(profile).map(|one| (report, one)));
        match measured {
            Some((report, ProfileReport { carries: Some(false), p999_below_ms, .. })) => check.block(
                format!(
                    "session renewals of {member} were up to {} ms late (p99.9 of {} in {}), {profile} needs less than \
                     {p999_below_ms} ms, a third of its write lease",
                    report.p999_ms.unwrap_or_default(),
                    report.renewals,
                    length(report.watched_ms),
                ),
                format!("find what stalls it (holdfast report), or take {}", slower(profile)),
            ),
            Some((_, ProfileReport { carries: Some(true), .. })) => {}
            _ => unmeasured(member, profile, answer, wanted, check),
        }
    }
}

fn slower(profile: Profile) -> &'static str {
    match profile {
        Profile::Fast => "the profile normal on every host",
        Profile::Normal => "the profile wide on every host",
        Profile::Wide => "a quieter host or a nearer etcd: there is no slower profile",
    }
}

/// `normal` and `wide` carry what a host is expected to be; `fast` is for hosts of which it is known.
fn unmeasured(
    member: &MemberName,
    profile: Profile,
    answer: &Result<HostReport, String>,
    wanted: Wanted,
    check: &mut Check,
) {
    let why = match answer {
        Ok(_) => "less than an hour has been watched".to_owned(),
        Err(why) => why.clone(),
    };
    let text = format!("nothing is known of the stalls of {member} ({why})");
    if profile == Profile::Fast && !wanted.accept_unmeasured {
        let fix =
            "watch for an hour at least in mode observe, take the profile normal, or say --accept-unmeasured";
        check.block(format!("{text}, and the profile is fast"), fix);
    } else {
        check.warn(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::built_host::host_report;
    use crate::view::testing::db;

    fn report(profile: Profile, gaps: &[(u64, u64)]) -> HostReport {
        host_report("db1", profile, gaps)
    }

    fn checked(answer: Result<HostReport, String>, told: Option<Profile>, wanted: Wanted) -> Check {
        let told = told.map(|profile| (db(1), profile)).into_iter().collect();
        let mut found = Check::default();
        check(&[(db(1), answer)].into(), &told, wanted, &mut found);
        found
    }

    #[test]
    fn a_host_is_measured_against_each_profile() {
        // 600 ms apart: late by 4 ms; and three stalls.
        let stalls = StallReport::new(&report(Profile::Fast, &[(10_000, 604), (2, 2_000), (1, 8_000)]));
        assert_eq!((stalls.renewals, stalls.p50_ms, stalls.p999_ms), (10_003, Some(4), Some(4)));
        assert_eq!(stalls.longest[0].late_ms, 7_400);
        let ended: Vec<u64> = stalls.profiles.iter().map(|one| one.leases_ended).collect();
        assert_eq!(ended, [3, 1, 1], "fast 1200, normal 2650, wide 6000 ms late");
        assert!(stalls.profiles.iter().all(|one| one.carries == Some(true)));
        let text = text(&[stalls]);
        assert!(text.contains("fast 3, normal 1, wide 1"), "{text}");
        let short = StallReport::new(&report(Profile::Fast, &[(10, 604)]));
        assert_eq!(short.profiles[0].carries, None);
        assert_eq!(StallReport::new(&report(Profile::Fast, &[])).p999_ms, None);
    }

    #[test]
    fn a_host_that_stalls_too_often_is_not_armed_with_a_profile_that_cannot_carry_it() {
        let often = [(10_000, 604), (20, 1_300)];
        let fast = checked(Ok(report(Profile::Fast, &often)), None, Wanted::default());
        assert_eq!(fast.blockers.len(), 1, "{fast:?}");
        assert!(fast.blockers[0].problem.contains("needs less than 600 ms"), "{fast:?}");
        let insist = Wanted { accept_unmeasured: true, ..Wanted::default() };
        assert_eq!(
            checked(Ok(report(Profile::Fast, &often)), None, insist).blockers.len(),
            1,
            "it is measured"
        );
        let normal = [(10_000, 1_204), (20, 1_900)];
        assert_eq!(checked(Ok(report(Profile::Normal, &normal)), None, Wanted::default()), Check::default());
        let wide = [(10_000, 4_004), (20, 9_000)];
        let wide = checked(Ok(report(Profile::Wide, &wide)), None, Wanted::default());
        assert!(wide.blockers[0].fix.contains("no slower profile"), "{wide:?}");
    }

    #[test]
    fn an_unmeasured_host_refuses_fast_and_warns_the_others() {
        let insist = Wanted { accept_unmeasured: true, ..Wanted::default() };
        for (answer, told) in [
            (Ok(report(Profile::Fast, &[(10, 604)])), None),
            (Err("refused".to_owned()), Some(Profile::Fast)),
        ] {
            let refused = checked(answer.clone(), told, Wanted::default());
            assert!(refused.blockers[0].fix.contains("--accept-unmeasured"), "{refused:?}");
            let accepted = checked(answer, told, insist);
            assert_eq!((accepted.blockers.len(), accepted.warnings.len()), (0, 1));
        }
        let normal = checked(Err("refused".into()), Some(Profile::Normal), Wanted::default());
        assert_eq!((normal.blockers.len(), normal.warnings.len()), (0, 1));
        let unknown = checked(Err("refused".into()), None, Wanted::default());
        assert_eq!(unknown, Check::default(), "arming says itself that its agent has told nothing");
    }

    #[test]
    fn another_profile_than_the_one_that_was_named_refuses() {
        let fast = Wanted { profile: Some(Profile::Fast), accept_unmeasured: true };
        let normal = checked(Err("refused".into()), Some(Profile::Normal), fast);
        assert!(
            normal.blockers[0].problem.contains("runs the timing profile normal, not fast"),
            "{normal:?}"
        );
        assert_eq!(checked(Err("refused".into()), Some(Profile::Fast), fast).blockers, []);
        assert!(checked(Err("refused".into()), None, fast).warnings[0].contains("is not known"));
    }
}
