//! What `pki` has made: the answer, as a table and as JSON. Says nothing of what was not made; errors do.

use std::path::Path;

use serde::Serialize;

use crate::view::status::FORMAT;
use crate::view::text;

/// The answer of every verb of `pki`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// The version of the JSON.
    pub format: u64,
    /// The verb, for example `pki host`.
    pub action: &'static str,
    /// Whom the certificate names: `holdfast://<region>/host/<host>`, or the role of PostgreSQL; absent for
    /// an authority and for a client of etcd.
    pub name: Option<String>,
    /// The files that are there now.
    pub files: Vec<MadeFile>,
    /// One line: what to know of them.
    pub text: String,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MadeFile {
    /// Where.
    pub path: String,
    /// `certificate`, `key` or `authority`.
    pub holds: &'static str,
}

impl Made {
    /// The answer of `action`.
    pub fn new(action: &'static str, name: Option<String>, files: Vec<MadeFile>, text: String) -> Self {
        Self { format: FORMAT, action, name, files, text }
    }

    /// For people, beside [`text`](Self::text).
    pub fn table(&self) -> String {
        let mut table = text::table(&["File", "Holds"]);
        for file in &self.files {
            table.add_row([file.path.as_str(), file.holds]);
        }
        format!("{table}\n")
    }
}

impl MadeFile {
    /// A file at `path`.
    pub fn new(path: &Path, holds: &'static str) -> Self {
        Self { path: path.display().to_string(), holds }
    }
}
