//! `report`: asks the agents what they observed and how late their renewals were. Looks only.

use clap::Args;
use holdfast_types::Scope;

use super::agents;
use super::exit::{Exit, Failure};
use super::print;
use super::target::{Target, now_wall_ms};
use crate::view::report::{Question, Report};

/// Options of `report`.
#[derive(Debug, Clone, Args)]
pub struct ReportOptions {
    #[command(flatten)]
    target: Target,
    /// How far back: a number of minutes, hours or days; agents keep 30 days
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = length_ms)]
    since: i64,
}

/// `90m`, `12h` or `30d`.
fn length_ms(text: &str) -> Result<i64, String> {
    let units = [("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let found = units.into_iter().find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)));
    let length = found.and_then(|(number, unit_ms)| Some(i64::from(number.parse::<u32>().ok()?) * unit_ms));
    length.filter(|ms| *ms > 0).ok_or_else(|| "is no duration; say for example 90m, 12h or 30d".to_owned())
}

/// Runs `report`. Without etcd the agents of the configuration are asked. Exits 4 if no agent answers.
pub async fn report(options: &ReportOptions) -> Result<Exit, Failure> {
    let report = match from_members(options).await {
        Err(failure) if failure.exit == Exit::Unreachable => from_configured(options, failure).await?,
        answered => answered?,
    };
    print::report(options.target.output, &report, || report.text());
    Ok(if report.has_answers() { Exit::Done } else { Exit::Unreachable })
}

async fn from_members(options: &ReportOptions) -> Result<Report, Failure> {
    let session = options.target.session().await?;
    let view = session.view().await?;
    let since_wall_ms = now_wall_ms() - options.since;
    let answers = agents::reports(&session, &view, since_wall_ms).await;
    let answers = answers.into_iter().map(|(member, answer)| (member.to_string(), answer)).collect();
    let (region, cluster) = (session.cluster.region.clone(), Some(session.cluster.clone()));
    Ok(Report::new(&Question { region, cluster, scope: None, since_wall_ms }, &answers))
}

async fn from_configured(options: &ReportOptions, failure: Failure) -> Result<Report, Failure> {
    let region = options.target.region()?;
    if region.config.agents.is_empty() {
        return Err(failure);
    }
    print::prose(&format!(
        "etcd does not answer ({}); the agents of the configuration are asked",
        failure.text
    ));
    let since_wall_ms = now_wall_ms() - options.since;
    let answers = agents::reports_of_all(&region, since_wall_ms).await;
    let wanted = options.target.cluster.as_deref().and_then(|text| text.rsplit('/').next());
    let scope = wanted.and_then(|scope| Scope::new(scope).ok());
    let question = Question { region: region.config.name.clone(), cluster: None, scope, since_wall_ms };
    Ok(Report::new(&question, &answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_a_number_and_a_unit() {
        assert_eq!(
            [length_ms("90m"), length_ms("12h"), length_ms("30d")],
            [Ok(5_400_000), Ok(43_200_000), Ok(2_592_000_000)]
        );
        for wrong in ["", "d", "0d", "-1d", "30", "1w", "5 d", "99999999999d"] {
            assert!(length_ms(wrong).is_err(), "{wrong}");
        }
    }
}
