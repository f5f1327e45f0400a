//! Established TCP connections of this network namespace.

use crate::run::{self, Command, RunError};

/// Ends every connection to `port` at `address`, on our side too: a dead host answers nothing, and a client that waits for
/// it learns of its death only at a retransmission (2.3 s, `facts/baseline.md` section 5).
pub async fn destroy(address: &str, port: u16) -> Result<(), RunError> {
    let port = port.to_string();
    // `ss -K` prints what it closed and exits 0 when there was nothing; a kernel without INET_DIAG_DESTROY says so on
    // standard error, and the refusal in nftables then does the work at the next packet.
    let output =
        run::run(Command::new("ss").args(["-K", "-n", "-t", "dst", address, "dport", "=", &port])).await?;
    if !output.success() {
        tracing::warn!(code = ?output.code, stderr = output.stderr, "ss -K failed");
    }
    Ok(())
}
