//! PostgreSQL's warnings that a commit gave up its wait for a synchronous standby, in its log: stderr, csvlog or jsonlog.
//!
//! The words are those of `src/backend/replication/syncrep.c`, the same from PostgreSQL 9.1 to 18, in English; a server that
//! speaks another language is not counted ([`why_not`]). A client's own text in a message or a statement is not taken for
//! one: the words must begin the message of a line whose level is WARNING.

/// The wait was cancelled: the client is told of success all the same.
const ANSWERED: &str = "canceling wait for synchronous replication due to user request";
/// The server was told to end: the client loses its connection.
const CUT_OFF: &str =
    "canceling the wait for synchronous replication and terminating connection due to administrator command";
/// What stands before a message of that level in each of the three formats.
const BEGINS: [&str; 4] = ["WARNING:  ", "WARNING,01000,\"", "WARNING,57P01,\"", "\"message\":\""];

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Told of success.
    pub answered: u64,
    /// Cut off.
    pub cut_off: u64,
}

/// Counts the whole lines of a piece of the log. The second number is how many bytes those are: what follows is read again
/// with its end.
pub fn count(piece: &[u8]) -> (Counts, usize) {
    let whole = piece.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut counts = Counts::default();
    for line in piece[..whole].split(|byte| *byte == b'\n') {
        counts.answered += u64::from(is_warning(line, ANSWERED));
        counts.cut_off += u64::from(is_warning(line, CUT_OFF));
    }
    (counts, whole)
}

fn is_warning(line: &[u8], words: &str) -> bool {
    let Some(at) = line.windows(words.len()).position(|window| window == words.as_bytes()) else {
        return false;
    };
    BEGINS.iter().any(|begin| line[..at].ends_with(begin.as_bytes()))
}

/// Why the warnings of a server with these settings cannot be found in its log; `None`: they can.
pub fn why_not(log_min_messages: &str, lc_messages: &str) -> Option<String> {
    let logs =
        log_min_messages.starts_with("debug") || matches!(log_min_messages, "info" | "notice" | "warning");
    if !logs {
        return Some(format!("log_min_messages is {log_min_messages}; set it to warning"));
    }
    // Empty is the language of the server's environment, which cannot be told here.
    let english = matches!(lc_messages, "C" | "POSIX")
        || lc_messages.starts_with("C.")
        || lc_messages.starts_with("en");
    (!english).then(|| format!("lc_messages is '{lc_messages}'; set it to C or en_US.UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STDERR: &[u8] = b"2026-11-27 10:00:00.000 UTC [77] app@app WARNING:  canceling wait for synchronous replication due to user request\n\
        2026-11-27 10:00:00.000 UTC [77] app@app DETAIL:  The transaction has already committed locally, but might not have been replicated to the standby.\n\
        2026-11-27 10:00:01.000 UTC [78] app@app WARNING:  canceling the wait for synchronous replication and terminating connection due to administrator command\n\
        2026-11-27 10:00:02.000 UTC [79] app@app STATEMENT:  select 'canceling wait for synchronous replication due to user request'\n";

    #[test]
    fn both_kinds_are_counted_and_what_people_write_is_not() {
        let (counts, whole) = count(STDERR);
        assert_eq!((counts, whole), (Counts { answered: 1, cut_off: 1 }, STDERR.len()));
    }

    #[test]
    fn the_other_formats() {
        let csv = br#"2026-11-27 10:00:00.000 UTC,"app","app",77,"[local]",6.4d,3,"COMMIT",2026-11-27 09:59:00 UTC,4/9,0,WARNING,01000,"canceling wait for synchronous replication due to user request","The transaction has already committed locally, but might not have been replicated to the standby.",,,,,,,,"psql","client backend",,0
"#;
        assert_eq!(count(csv).0, Counts { answered: 1, cut_off: 0 });
        let json = br#"{"timestamp":"2026-11-27 10:00:00.000 UTC","user":"app","pid":77,"error_severity":"WARNING","state_code":"57P01","message":"canceling the wait for synchronous replication and terminating connection due to administrator command","detail":"x"}
"#;
        assert_eq!(count(json).0, Counts { answered: 0, cut_off: 1 });
        let quoted = br#"{"error_severity":"LOG","message":"statement: select '\"message\":\"canceling wait for synchronous replication due to user request'"}
"#;
        assert_eq!(count(quoted).0, Counts::default());
    }

    #[test]
    fn a_line_without_its_end_is_left_for_the_next_time() {
        let cut = &STDERR[..100];
        assert_eq!(count(cut), (Counts::default(), 0));
        assert!(count(&STDERR[..STDERR.len() - 1]).1 < STDERR.len() - 1);
    }

    #[test]
    fn a_server_that_does_not_say_it_or_not_in_english_is_not_counted() {
        for level in ["debug1", "info", "notice", "warning"] {
            assert_eq!(why_not(level, "C"), None);
        }
        for level in ["error", "log", "fatal", "panic"] {
            assert!(why_not(level, "en_US.UTF-8").is_some_and(|why| why.contains("log_min_messages")));
        }
        assert!(why_not("warning", "de_DE.UTF-8").is_some_and(|why| why.contains("lc_messages")));
    }
}
