//! How fast a server's disk is, by its own histogram: over HTTP at its client address, because etcd 3.4 tells it nowhere
//! else. Best effort: a server that keeps its metrics at another address leaves it unknown.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::EtcdOptions;
use super::connector::Connector;

/// 1.0, so that the answer ends with the connection and comes in one piece.
const REQUEST: &[u8] = b"GET /metrics HTTP/1.0\r\nHost: etcd\r\n\r\n";
/// etcd answers with about 100 KiB.
const ANSWER_BYTES_MAX: u64 = 4 * 1_024 * 1_024;
const BUCKET: &str = "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"";

/// The time within which 99 of 100 fsyncs of the log were done since the server started, in microseconds.
pub(super) async fn fsync_p99_us(options: &EtcdOptions) -> Option<u64> {
    let deadline = std::time::Duration::from_millis(options.call_deadline_ms);
    let text = tokio::time::timeout(deadline, metrics(options)).await.ok()??;
    p99_us(&text)
}

async fn metrics(options: &EtcdOptions) -> Option<String> {
    let mut options = options.clone();
    if let Some(tls) = options.tls.take() {
        // With h2 offered the server would speak nothing else.
        options.tls = Some(std::sync::Arc::new(move || {
            let mut config = tls().as_ref().clone();
            config.alpn_protocols.clear();
            std::sync::Arc::new(config)
        }));
    }
    let mut stream = Connector::new(&options).connect().await.ok()?;
    stream.write_all(REQUEST).await.ok()?;
    let mut answer = Vec::new();
    // A server that ends without the farewell of TLS has answered all the same.
    let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// The bound of the bucket that holds the 99th of 100; absent without samples, or if it is above every bound.
fn p99_us(text: &str) -> Option<u64> {
    let bucket = |line: &str| {
        let (bound, count) = line.strip_prefix(BUCKET)?.split_once("\"} ")?;
        Some((bound.parse::<f64>().ok()?, count.trim().parse::<f64>().ok()?))
    };
    let buckets: Vec<(f64, f64)> = text.lines().filter_map(bucket).collect();
    // The last one, `+Inf`, counts all.
    let all = buckets.last().map(|(_, count)| *count).filter(|all| *all > 0.0)?;
    let (bound_s, _) = buckets.iter().find(|(_, count)| *count >= 0.99 * all)?;
    // Buckets go from 1 ms to 8 s: whole microseconds hold them.
    bound_s.is_finite().then_some((bound_s * 1_000_000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_the_99th_is_found() {
        let line = |bound: &str, count: &str| format!("{BUCKET}{bound}\"}} {count}\n");
        let text = [
            "HTTP/1.0 200 OK\r\n\r\n# HELP x y\n".to_owned(),
            line("0.001", "90"),
            line("0.002", "98"),
            line("0.004", "99"),
            line("+Inf", "100"),
            "etcd_disk_wal_fsync_duration_seconds_sum 0.1\n".to_owned(),
        ];
        assert_eq!(p99_us(&text.concat()), Some(4_000));
        let slow = [line("0.001", "1"), line("+Inf", "100")].concat();
        assert_eq!(p99_us(&slow), None, "above every bound");
        assert_eq!(p99_us(&[line("0.001", "0"), line("+Inf", "0")].concat()), None);
        assert_eq!(p99_us("HTTP/1.0 404 Not Found\r\n\r\n"), None);
    }
}
