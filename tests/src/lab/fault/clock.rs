//! The wall clock of one host, set forwards or backwards. The monotonic clock goes on as it did.
//!
//! A container has no wall clock of its own, so each process is told another time: the agent and PostgreSQL by
//! libfaketime, Patroni by a module that replaces `time.time`, because libfaketime 0.9.10 breaks the sleeps of Python
//! 3.11. All of them read the same file. Needs `fake_clock = true` in the lab's specification.

use anyhow::{Context as _, Result};

use crate::lab::failure::Failure;
use crate::lab::files;
use crate::lab::plan::{HostPlan, Plan};

/// A day: what is longer than any certificate lives would test certificates.
const SECONDS_MAX: i64 = 86_400;

/// Refuses a lab whose processes read the machine's clock.
pub fn must_be_faked(plan: &Plan) -> Result<()> {
    if plan.spec.fake_clock {
        return Ok(());
    }
    Err(Failure::usage("the hosts of this lab have the machine's clock; bring it up with fake_clock = true"))
}

/// Reads the seconds of an order.
pub fn seconds(text: Option<&str>) -> Result<i64> {
    let seconds = text.and_then(|text| text.parse::<i64>().ok());
    let seconds = seconds.filter(|seconds| *seconds != 0 && seconds.abs() <= SECONDS_MAX);
    seconds.ok_or_else(|| {
        let text = text.unwrap_or_default();
        let most = format!("seconds of at most {SECONDS_MAX}, such as 30 or -30");
        Failure::usage(format!("clock-jump takes {most}; {text:?} is none"))
    })
}

/// Sets it; 0 is the true time.
pub fn set(host: &HostPlan, seconds: i64) -> Result<()> {
    // In one step, and in place of the old file: a reader never sees half of it.
    let (file, new) = (host.clock(), host.clock().with_extension("new"));
    files::write(&new, &format!("{seconds:+}\n"))?;
    std::fs::rename(&new, &file).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_a_sign_and_a_bound() {
        assert_eq!(seconds(Some("-30")).unwrap(), -30);
        assert_eq!(seconds(Some("+30")).unwrap(), 30);
        for wrong in [None, Some("0"), Some("soon"), Some("86401")] {
            assert!(seconds(wrong).is_err(), "{wrong:?}");
        }
    }
}
