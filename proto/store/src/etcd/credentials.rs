//! User and password, for an etcd with authentication whose users are not known by their certificates.
//!
//! The file is read at each connection, so a changed password is taken without a restart; its password is kept in memory
//! for when its disk does not answer. What etcd has refused is not asked again at once: it checks a password with bcrypt,
//! some 60 ms of a processor, and agents ask several times a second. Decides nothing about who may do what.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::StoreError;

/// A user of etcd who shows a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// The user's name.
    pub name: String,
    /// The file whose first line is the password; also one that systemd hands over (`LoadCredential=`).
    pub password_file: PathBuf,
}

/// A file on a disk that works is read in a millisecond.
const READ_DEADLINE: Duration = Duration::from_millis(300);
const FILE_BYTES_MAX: u64 = 4 * 1024;
/// So long a refused password is not asked again, unless the file has another one.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Credentials {
    user: EtcdUser,
    state: Arc<Mutex<State>>,
    /// Only one thread reads at a time; one that hangs on a dead disk is left behind, and no second follows it.
    reading: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    last: Option<String>,
    refused: Option<Refused>,
}

struct Refused {
    password: String,
    at: Instant,
    why: String,
}

impl Credentials {
    pub fn new(user: EtcdUser) -> Self {
        Self { user, state: Arc::default(), reading: Arc::default() }
    }

    pub fn name(&self) -> &str {
        &self.user.name
    }

    /// The password, unless etcd has refused this one just now.
    pub async fn password(&self) -> Result<String, StoreError> {
        let password = self.read().await.map_err(|why| StoreError::Unauthenticated {
            call: "authenticate",
            why: format!(
                "the password of user {} cannot be had: {}: {why}; write it into that file",
                self.user.name,
                self.user.password_file.display()
            ),
        })?;
        match &self.lock().refused {
            Some(refused) if refused.password == password && refused.at.elapsed() < REFUSED_PAUSE => {
                Err(StoreError::Unauthenticated { call: "authenticate", why: refused.why.clone() })
            }
            _ => Ok(password),
        }
    }

    /// etcd has refused this password: the error that says so, which is logged once for each password.
    pub fn refused(&self, password: String, why: &str) -> StoreError {
        let (name, file) = (&self.user.name, self.user.password_file.display());
        let why = format!(
            "etcd refuses user {name} with the password in {file} ({why}); write the user's password into that file, \
             which is read again by itself, or set it with: etcdctl user passwd {name}"
        );
        let mut state = self.lock();
        if state.refused.as_ref().is_none_or(|refused| refused.password != password) {
            tracing::error!("{why}");
        }
        state.refused = Some(Refused { password, at: Instant::now(), why: why.clone() });
        StoreError::Unauthenticated { call: "authenticate", why }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file holds; what it held last if it cannot be read now.
    async fn read(&self) -> Result<String, String> {
        let why = match self.start_reading() {
            Some(answer) => match tokio::time::timeout(READ_DEADLINE, answer).await {
                Ok(Ok(Ok(password))) => return Ok(password),
                Ok(Ok(Err(why))) => why,
                Ok(Err(_)) => "no thread could read it".into(),
                Err(_) => format!("not read within {} ms", READ_DEADLINE.as_millis()),
            },
            None => "an earlier read has not come back".into(),
        };
        self.lock().last.clone().ok_or(why)
    }

    fn start_reading(&self) -> Option<oneshot::Receiver<Result<String, String>>> {
        if self.reading.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (answer, receiver) = oneshot::channel();
        let (path, state, reading) =
            (self.user.password_file.clone(), Arc::clone(&self.state), Arc::clone(&self.reading));
        let read = move || {
            let found = holdfast_proto::read_text(&path, FILE_BYTES_MAX).map_err(|error| error.to_string());
            let found = found.and_then(|text| first_line(&text));
            if let Ok(password) = &found {
                state.lock().unwrap_or_else(PoisonError::into_inner).last = Some(password.clone());
            }
            reading.store(false, Ordering::Release);
            // Whoever asked has perhaps stopped waiting.
            let _ = answer.send(found);
        };
        if std::thread::Builder::new().name("etcd-password".into()).spawn(read).is_err() {
            self.reading.store(false, Ordering::Release);
        }
        Some(receiver)
    }
}

fn first_line(text: &str) -> Result<String, String> {
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err("its first line is empty".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(folder: &tempfile::TempDir) -> Credentials {
        Credentials::new(EtcdUser { name: "db1".into(), password_file: folder.path().join("password") })
    }

    #[tokio::test]
    async fn a_refused_password_is_not_asked_again_until_the_file_has_another() {
        let folder = tempfile::tempdir().unwrap();
        let credentials = credentials(&folder);
        let file = folder.path().join("password");
        let missing = credentials.password().await.unwrap_err().to_string();
        assert!(missing.contains("user db1") && missing.contains(&file.display().to_string()), "{missing}");
        std::fs::write(&file, "one\nnot this\n").unwrap();
        let password = credentials.password().await.unwrap();
        assert_eq!(password, "one");
        let said = credentials.refused(password, "no").to_string();
        assert!(!said.contains("one\n") && said.contains("etcdctl user passwd db1"), "{said}");
        assert_eq!(credentials.password().await.unwrap_err().to_string(), said);
        std::fs::write(&file, "two").unwrap();
        assert_eq!(credentials.password().await.unwrap(), "two");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(credentials.password().await.unwrap(), "two", "what it held last");
    }
}
