//! What the kernel's table lets through, read back: an agent that starts finds what its last start left, and whoever
//! flushes the packet filter takes our table with it. Decides nothing.

use holdfast_agent_core::member::Network;
use holdfast_host::nftables::{self, NftError};

use super::Member;

impl Member {
    /// Reads the table if anything has changed in the kernel's packet filter since it was read last.
    pub(super) async fn look_at_network(&self) {
        let generation = nftables::generation().ok();
        if generation.is_some() && generation == self.state().network_generation {
            return;
        }
        match self.firewall.state().await {
            Ok(found) => {
                let network = found.map_or_else(Network::default, |found| Network {
                    installed: true,
                    source: found.source,
                    cut: found.cut,
                });
                let mut state = self.state();
                // A table that another transaction has changed meanwhile is read again at the next look.
                (state.network, state.network_generation) = (network, generation);
            }
            Err(error) => {
                tracing::warn!(cluster = %self.instance.cluster, %error, "the packet filter cannot be read");
                let mut state = self.state();
                (state.network, state.network_generation) = (Network::default(), None);
            }
        }
    }

    /// Loads the table by `change` and keeps what that put in place. Nobody else's change lies between if the kernel counts
    /// exactly one; otherwise the next look reads it back.
    pub async fn change_network(
        &self,
        now: Network,
        change: impl Future<Output = Result<(), NftError>>,
    ) -> Result<(), NftError> {
        let before = nftables::generation().ok();
        change.await?;
        let after = nftables::generation().ok();
        let only_ours = matches!((before, after), (Some(before), Some(after)) if after.follows(before));
        let mut state = self.state();
        (state.network, state.network_generation) = (now, after.filter(|_| only_ours));
        Ok(())
    }
}
