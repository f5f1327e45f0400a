//! PostgreSQL's `synchronous_standby_names`, in the grammar of version 15 (`src/backend/replication/syncrep_gram.y` is
//! described under "Synchronous Replication" of its manual): only `ANY k (names)` is quorum commit.

use std::collections::BTreeSet;

use holdfast_agent_core::sync::AnySetting;
use holdfast_types::MemberName;

/// Why the setting is not quorum commit over named members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAny {
    /// Empty: every commit is acknowledged at once.
    #[error("synchronous_standby_names is empty")]
    Empty,
    /// A priority list.
    #[error("synchronous_standby_names is a priority list, not ANY k (names)")]
    Priority,
    /// `*` stands for anybody.
    #[error("synchronous_standby_names lets anybody acknowledge (*)")]
    Anybody,
    /// Not of its grammar, or a name that is no member's.
    #[error("synchronous_standby_names {0:?} is not understood")]
    Malformed(String),
}

/// Reads the setting.
pub fn parse(text: &str) -> Result<AnySetting, NotAny> {
    let malformed = || NotAny::Malformed(text.to_owned());
    let tokens = tokens(text).ok_or_else(malformed)?;
    match tokens.as_slice() {
        [] => Err(NotAny::Empty),
        [
            Token::Name { text, quoted: false },
            Token::Name { text: count, .. },
            Token::Open,
            names @ ..,
            Token::Close,
        ] if text.eq_ignore_ascii_case("any") => {
            let acknowledgements = count.parse().map_err(|_| malformed())?;
            Ok(AnySetting { acknowledgements, names: members(names).ok_or_else(malformed)?? })
        }
        _ => Err(NotAny::Priority),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Name { text: String, quoted: bool },
    Open,
    Close,
    Comma,
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(&c) = rest.peek() {
        match c {
            c if c.is_ascii_whitespace() => drop(rest.next()),
            '(' => tokens.push((rest.next(), Token::Open).1),
            ')' => tokens.push((rest.next(), Token::Close).1),
            ',' => tokens.push((rest.next(), Token::Comma).1),
            '"' => {
                rest.next();
                let mut name = String::new();
                loop {
                    match (rest.next()?, rest.peek()) {
                        ('"', Some('"')) => {
                            rest.next();
                            name.push('"');
                        }
                        ('"', _) => break,
                        (c, _) => name.push(c),
                    }
                }
                tokens.push(Token::Name { text: name, quoted: true });
            }
            _ => {
                let mut name = String::new();
                while let Some(&c) = rest.peek() {
                    if c.is_ascii_whitespace() || "(),\"".contains(c) {
                        break;
                    }
                    name.push(c);
                    rest.next();
                }
                tokens.push(Token::Name { text: name, quoted: false });
            }
        }
    }
    Some(tokens)
}

/// Names with commas in between; `None` when they are not.
fn members(tokens: &[Token]) -> Option<Result<BTreeSet<MemberName>, NotAny>> {
    let mut names = BTreeSet::new();
    for (index, token) in tokens.iter().enumerate() {
        match (index % 2, token) {
            (0, Token::Name { text, quoted: false }) if text == "*" => return Some(Err(NotAny::Anybody)),
            (0, Token::Name { text, .. }) => drop(names.insert(MemberName::new(text.as_str()).ok()?)),
            (1, Token::Comma) => {}
            _ => return None,
        }
    }
    (tokens.len() % 2 == 1).then_some(Ok(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(setting: &str) -> (usize, Vec<String>) {
        let found = parse(setting).unwrap();
        (found.acknowledgements, found.names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_patroni_writes_is_read() {
        assert_eq!(names("ANY 1 (db2,db3)"), (1, vec!["db2".into(), "db3".into()]));
        assert_eq!(names("any 2 ( \"db-2.plant\" , db3,\"4\" )").0, 2);
        assert_eq!(names("ANY 1 (\"db-2.plant\")").1, ["db-2.plant"]);
    }

    #[test]
    fn everything_else_is_not_quorum_commit() {
        assert_eq!(parse(""), Err(NotAny::Empty));
        assert_eq!(parse(" "), Err(NotAny::Empty));
        for priority in ["db2", "db2, db3", "FIRST 1 (db2)", "2 (db2, db3)", "*", "\"any\" 1 (a)"] {
            assert_eq!(parse(priority), Err(NotAny::Priority), "{priority}");
        }
        assert_eq!(parse("ANY 1 (*)"), Err(NotAny::Anybody));
        for bad in ["ANY x (a)", "ANY 1 ()", "ANY 1 (a b)", "ANY 1 (a,)", "ANY 1 (\"a)"] {
            assert!(matches!(parse(bad), Err(NotAny::Malformed(_))), "{bad}");
        }
    }
}
