//! Reads a TOML table field by field and collects every problem with its path, instead of stopping at the first.
//!
//! Never decides what a field means; called by [`super::parse`].

use std::fmt;
use std::path::PathBuf;

use toml::{Table, Value};

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, for example `instance[0].port`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// A table that is being read. What has not been taken at the end is unknown.
pub struct Reader<'p> {
    table: Table,
    path: String,
    problems: &'p mut Vec<Problem>,
}

impl<'p> Reader<'p> {
    /// Reads `table`, which stands at `path` (empty for the top).
    pub fn new(table: Table, path: impl Into<String>, problems: &'p mut Vec<Problem>) -> Self {
        Self { table, path: path.into(), problems }
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem with `key`.
    pub fn problem(&mut self, key: &str, text: impl Into<String>) {
        let path = self.at(key);
        self.problems.push(Problem { path, text: text.into() });
    }

    /// A field that may be missing, turned into a `T` by `read`, which says what it expected when it cannot.
    pub fn optional<T>(&mut self, key: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        let value = self.table.remove(key)?;
        match read(value) {
            Ok(value) => Some(value),
            Err(text) => {
                self.problem(key, text);
                None
            }
        }
    }

    /// A field that must be there.
    pub fn required<T>(&mut self, key: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
            return None;
        }
        self.optional(key, read)
    }

    /// A table below this one; an absent one is read as empty, so that its required fields are named.
    pub fn table<T>(&mut self, key: &str, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let table = self.optional(key, table).unwrap_or_default();
        let path = self.at(key);
        let mut inner = Reader::new(table, path, self.problems);
        let result = read(&mut inner);
        inner.finish();
        result
    }

    /// A table below this one that may be missing.
    pub fn optional_table<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Option<T> {
        if self.table.contains_key(key) { self.table(key, read) } else { None }
    }

    /// An array of tables; absent is empty.
    pub fn tables<T>(&mut self, key: &str, mut read: impl FnMut(&mut Reader<'_>) -> Option<T>) -> Vec<T> {
        let array = |value| match value {
            Value::Array(items) => items.into_iter().map(table).collect::<Result<Vec<_>, _>>(),
            other => Err(format!("must be an array of tables ([[{key}]]), not {}", other.type_str())),
        };
        let items = self.optional(key, array).unwrap_or_default();
        let path = self.at(key);
        let mut found = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let mut inner = Reader::new(item, format!("{path}[{index}]"), self.problems);
            found.extend(read(&mut inner));
            inner.finish();
        }
        found
    }

    /// Names every field that nobody took.
    pub fn finish(mut self) {
        for key in std::mem::take(&mut self.table).keys() {
            self.problem(key, "is not a setting of this build; remove it or correct its spelling");
        }
    }
}

fn table(value: Value) -> Result<Table, String> {
    match value {
        Value::Table(table) => Ok(table),
        other => Err(format!("must be a table, not {}", other.type_str())),
    }
}

/// A text.
pub fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        Value::String(_) => Err("must not be empty".into()),
        other => Err(format!("must be a text, not {}", other.type_str())),
    }
}

/// A list of texts, at least one.
pub fn texts(value: Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(items) if !items.is_empty() => items.into_iter().map(text).collect(),
        _ => Err("must be a list of texts, at least one".into()),
    }
}

/// An absolute path.
pub fn path(value: Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    if path.is_absolute() { Ok(path) } else { Err(format!("{} must be an absolute path", path.display())) }
}

/// Yes or no.
pub fn switch(value: Value) -> Result<bool, String> {
    match value {
        Value::Boolean(on) => Ok(on),
        other => Err(format!("must be true or false, not {}", other.type_str())),
    }
}

/// A number between the bounds, both included.
pub fn number(min: i64, max: i64) -> impl Fn(Value) -> Result<u64, String> {
    move |value| match value {
        Value::Integer(number) if (min..=max).contains(&number) => {
            u64::try_from(number).map_err(|_| "must not be negative".to_owned())
        }
        Value::Integer(number) => Err(format!("{number} must be between {min} and {max}")),
        other => Err(format!("must be a number, not {}", other.type_str())),
    }
}

/// Anything that is written as a text and read by its own type.
pub fn parsed<T, E: fmt::Display>(
    read: impl Fn(String) -> Result<T, E>,
) -> impl Fn(Value) -> Result<T, String> {
    move |value| read(text(value)?).map_err(|error| error.to_string())
}

/// One of a serde enumeration's names.
pub fn one_of<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, String> {
    value.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}
