//! What an agent has left on its host, for those who must do without it: the gates where its configuration cannot be used, and
//! `holdfast disarm --local`. They look here, so that both see the same. Reads only, and decides nothing: what cannot be read
//! is said to be so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_types::record::Stored;
use holdfast_types::record::local_disarm::{PROMISE_FILE, REMEMBERED_FILE, RememberedMode};
use holdfast_types::{ClusterId, Namespace, Scope};

use crate::file::read_text;

const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a configuration of the agent still says, damaged or not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// There is no file.
    pub absent: bool,
    /// Where the agent's state lies.
    pub state_dir: Option<PathBuf>,
    /// Where its sockets lie.
    pub run_dir: Option<PathBuf>,
    /// Data directory and directory of the programs of each instance.
    pub instances: Vec<(PathBuf, PathBuf)>,
    /// The folder of each instance's cluster below the state directory, and its data directory.
    pub folders: Vec<(String, PathBuf)>,
}

impl Configuration {
    /// As far as the file can be read.
    pub fn read(file: &Path) -> Self {
        let text = match read_text(file, FILE_BYTES_MAX) {
            Ok(text) => text,
            // Whoever may not look does not know.
            Err(_) => return Self { absent: matches!(file.try_exists(), Ok(false)), ..Self::default() },
        };
        let Ok(table) = text.parse::<toml::Table>() else { return Self::default() };
        let path = |table: &toml::Table, key: &str| {
            let path = PathBuf::from(table.get(key)?.as_str()?);
            path.is_absolute().then_some(path)
        };
        let instances = table.get("instance").and_then(toml::Value::as_array);
        let instances: Vec<_> = instances.into_iter().flatten().filter_map(toml::Value::as_table).collect();
        let programs =
            |instance: &&toml::Table| Some((path(instance, "data_dir")?, path(instance, "bin_dir")?));
        let folder = |instance: &&toml::Table| {
            let text = |key: &str| instance.get(key)?.as_str();
            let (namespace, scope) =
                (Namespace::new(text("namespace")?).ok()?, Scope::new(text("scope")?).ok()?);
            Some((ClusterId::folder_name(&namespace, &scope), path(instance, "data_dir")?))
        };
        Self {
            absent: false,
            state_dir: path(&table, "state_dir"),
            run_dir: path(&table, "run_dir"),
            instances: instances.iter().filter_map(programs).collect(),
            folders: instances.iter().filter_map(folder).collect(),
        }
    }
}

/// One cluster of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// The name of its folder.
    pub cluster: String,
    /// What is remembered; `None` when it cannot be read.
    pub remembered: Option<RememberedMode>,
    /// There is a promise that binds this host.
    pub promised: bool,
}

/// What is remembered of each cluster, by its name. A state directory that cannot be looked through is one cluster of which
/// nothing can be read; one that is not there has none.
pub fn memories(state_dir: &Path) -> Vec<Memory> {
    let mut found = match folders(state_dir) {
        Ok(folders) => folders.into_iter().filter_map(memory).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(_) => {
            vec![Memory { cluster: state_dir.display().to_string(), remembered: None, promised: false }]
        }
    };
    found.sort_by(|one: &Memory, other| one.cluster.cmp(&other.cluster));
    found
}

fn folders(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(state_dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// `None`: a folder in which no cluster is remembered.
fn memory(folder: PathBuf) -> Option<Memory> {
    let remembered = match read_text(&folder.join(REMEMBERED_FILE), FILE_BYTES_MAX) {
        Ok(text) => {
            Stored::decode("", text.as_bytes()).ok().map(|stored: Stored<RememberedMode>| stored.body)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => None,
    };
    let cluster = folder.file_name()?.to_string_lossy().into_owned();
    Some(Memory { cluster, remembered, promised: folder.join(PROMISE_FILE).exists() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::Mode;

    #[test]
    fn a_damaged_configuration_still_says_what_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        assert!(Configuration::read(&file).absent);
        let text = "state_dir = \"/s\"\nrun_dir = \"relative\"\nnonsense = 1\n\
                    [[instance]]\nnamespace = \"service\"\nscope = \"main\"\ndata_dir = \"/d\"\nbin_dir = \"/b\"\n\
                    [[instance]]\ndata_dir = \"/e\"\n";
        fs::write(&file, text).unwrap();
        let expected = Configuration {
            absent: false,
            state_dir: Some("/s".into()),
            run_dir: None,
            instances: vec![("/d".into(), "/b".into())],
            folders: vec![("service.main".into(), "/d".into())],
        };
        assert_eq!(Configuration::read(&file), expected);
        fs::write(&file, "state_dir = ").unwrap();
        assert_eq!(Configuration::read(&file), Configuration::default(), "there, and of no use");
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_absent() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(memories(&state.path().join("not there")), []);
        for (cluster, text) in [("b", "{"), ("a", r#"{"format":1,"min_reader":1,"mode":"armed"}"#)] {
            fs::create_dir(state.path().join(cluster)).unwrap();
            fs::write(state.path().join(cluster).join(REMEMBERED_FILE), text).unwrap();
        }
        fs::create_dir(state.path().join("empty")).unwrap();
        fs::write(state.path().join("a").join(PROMISE_FILE), "").unwrap();
        let [a, b] = &memories(state.path())[..] else { panic!("two clusters") };
        assert_eq!((a.cluster.as_str(), a.promised, b.cluster.as_str(), b.promised), ("a", true, "b", false));
        assert_eq!(a.remembered, Some(RememberedMode { mode: Mode::Armed, fenced: None }));
        assert_eq!(b.remembered, None);
        let file = state.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(memories(&file)[0].remembered, None, "no directory");
    }
}
