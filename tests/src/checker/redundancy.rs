//! When redundancy was back after a fault: the writer names as many synchronous standbys as before, each streams, and
//! as many walsenders stream in all.

use super::record::{NodeState, Probe, Standbys};

/// What the last sample before the fault showed; without one nothing can be said.
fn before(probes: &[Probe], fault_us: u64) -> Option<Standbys> {
    let earlier = probes.iter().filter(|probe| probe.end_us <= fault_us);
    earlier.filter(|probe| probe.standbys.is_some()).max_by_key(|probe| probe.end_us)?.standbys
}

fn is_full(now: Standbys, wanted: Standbys) -> bool {
    now.named >= wanted.named
        && now.sync_streaming >= wanted.sync_streaming
        && now.streaming >= wanted.streaming
}

/// Microseconds from the fault to the begin of the last uninterrupted stretch of full redundancy, as the final writer
/// saw it; absent when it was not full at the end, or not known.
///
/// Only the final writer is asked: a cut-off primary goes on listing walsenders that are long gone.
pub fn back_after_us(probes: &[Probe], fault_us: u64) -> Option<u64> {
    let wanted = before(probes, fault_us)?;
    let last_writer = probes
        .iter()
        .filter(|probe| probe.state == NodeState::Writable && probe.standbys.is_some())
        .max_by_key(|probe| probe.end_us)?;
    let mut own: Vec<&Probe> = probes
        .iter()
        .filter(|probe| probe.host == last_writer.host && probe.end_us > fault_us)
        .filter(|probe| probe.standbys.is_some() || probe.state != NodeState::Writable)
        .collect();
    own.sort_by_key(|probe| probe.end_us);
    let full = |probe: &&Probe| probe.standbys.is_some_and(|standbys| is_full(standbys, wanted));
    let Some(last_gap) = own.iter().rposition(|probe| !full(probe)) else { return Some(0) };
    own.get(last_gap + 1).map(|probe| probe.end_us - fault_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(host: &str, at_us: u64, standbys: Option<(u32, u32)>) -> Probe {
        let state = if standbys.is_some() { NodeState::Writable } else { NodeState::ReadOnly };
        let standbys =
            standbys.map(|(sync_streaming, streaming)| Standbys { named: 2, sync_streaming, streaming });
        Probe { host: host.into(), begin_us: at_us - 1, end_us: at_us, state, standbys }
    }

    #[test]
    fn it_is_counted_to_the_last_stretch_of_the_final_writer() {
        let probes = [
            sample("db1", 100, Some((2, 3))),
            sample("db2", 200, None),
            // The old writer does not know yet.
            sample("db1", 250, Some((2, 3))),
            sample("db2", 300, Some((1, 2))),
            sample("db2", 400, Some((2, 3))),
            sample("db2", 450, Some((2, 2))),
            sample("db2", 500, Some((2, 3))),
            sample("db2", 600, Some((2, 3))),
        ];
        assert_eq!(back_after_us(&probes, 150), Some(350));
        assert_eq!(back_after_us(&probes[..6], 150), None);
    }

    #[test]
    fn redundancy_that_was_never_gone_is_back_at_once() {
        let probes = [sample("db1", 100, Some((2, 3))), sample("db1", 300, Some((2, 3)))];
        assert_eq!(back_after_us(&probes, 150), Some(0));
    }

    #[test]
    fn without_a_sample_before_the_fault_nothing_is_known() {
        assert_eq!(back_after_us(&[sample("db1", 300, Some((2, 3)))], 150), None);
    }
}
