//! What `holdfast disarm --local` means on its host: which mode it acts by, and what its gates answer.
//!
//! A person has said that Patroni alone decides there, whatever etcd, the agent or a certificate say. Only a fence stands
//! (promise I5), because it says that the *data* of the host must be looked at first; the order may name that too.

use holdfast_types::record::LocalDisarm;
use holdfast_types::{MemberName, Mode};

/// The mode that a host acts by. `known` is that of the cluster, `None` while it cannot be told.
pub fn mode_here(known: Option<Mode>, local: Option<&LocalDisarm>) -> Option<Mode> {
    match local {
        Some(local) if local.stands() => Some(Mode::Disarmed),
        _ => known,
    }
}

/// What a gate of the host answers. `None`: no local disarm stands, and the other rules decide. `Err`: why not, with the
/// next safe command.
pub fn opens(
    local: Option<&LocalDisarm>,
    fenced: Option<&str>,
    me: &MemberName,
) -> Option<Result<(), String>> {
    let local = local.filter(|local| local.stands())?;
    Some(match fenced {
        Some(why) if !local.over_fence => Err(format!(
            "{me} is fenced ({why}), and a local disarm does not lift that; validate and clear it with: holdfast unfence \
             {me}; or, where etcd is gone, on this host: holdfast disarm --local --over-fence --reason WHY"
        )),
        _ => Ok(()),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::name;
    use holdfast_types::record::LocalEnd;

    pub(crate) fn disarmed(over_fence: bool) -> LocalDisarm {
        LocalDisarm {
            by: "root".into(),
            reason: "test".into(),
            at_wall_ms: 1,
            over_fence,
            bin_dir: None,
            ended: None,
        }
    }

    pub(crate) fn ended() -> LocalDisarm {
        let end = LocalEnd { by: "root".into(), reason: "over".into(), at_wall_ms: 2 };
        LocalDisarm { ended: Some(end), ..disarmed(true) }
    }

    #[test]
    fn a_host_acts_as_disarmed_while_the_record_stands_whatever_is_known() {
        for known in [None, Some(Mode::Armed), Some(Mode::Observe)] {
            assert_eq!(mode_here(known, Some(&disarmed(false))), Some(Mode::Disarmed));
            assert_eq!(mode_here(known, Some(&ended())), known);
            assert_eq!(mode_here(known, None), known);
        }
    }

    #[test]
    fn a_fence_stands_unless_the_order_names_it() {
        let opens = |local: &LocalDisarm, fenced| opens(Some(local), fenced, &name("a"));
        assert_eq!(opens(&disarmed(false), None), Some(Ok(())));
        assert!(opens(&disarmed(false), Some("by ann")).unwrap().unwrap_err().contains("--over-fence"));
        assert_eq!(opens(&disarmed(true), Some("by ann")), Some(Ok(())));
        assert_eq!(opens(&ended(), None), None);
    }
}
