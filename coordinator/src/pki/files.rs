//! Writing of certificates and keys: nothing is overwritten, keys are for their owner alone, all files or none.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::PkiError;

/// Certificates are public.
const CERTIFICATE_MODE: u32 = 0o644;
/// PostgreSQL refuses a key that others can read.
const KEY_MODE: u32 = 0o600;

/// No key or certificate is longer.
const PEM_BYTES_MAX: u64 = 64 * 1024;

/// One file that is to be made.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    pem: String,
    mode: u32,
    may_be_there: bool,
}

impl NewFile {
    /// A certificate; must not be there yet.
    pub fn certificate(path: PathBuf, pem: String) -> Self {
        Self { path, pem, mode: CERTIFICATE_MODE, may_be_there: false }
    }

    /// A private key; must not be there yet.
    pub fn key(path: PathBuf, pem: String) -> Self {
        Self { path, pem, mode: KEY_MODE, may_be_there: false }
    }

    /// A copy of the authority's certificate; may be there with the same content.
    pub fn authority_copy(path: PathBuf, pem: String) -> Self {
        Self { path, pem, mode: CERTIFICATE_MODE, may_be_there: true }
    }

    /// Whether the file has to be written, or is there already as wanted.
    fn is_missing(&self) -> Result<bool, PkiError> {
        match holdfast_proto::read_bounded(&self.path, PEM_BYTES_MAX) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(PkiError::Read { path: self.path.clone(), error }),
            Ok(found) if self.may_be_there && found == self.pem.as_bytes() => Ok(false),
            Ok(_) if self.may_be_there => Err(PkiError::OtherAuthority { path: self.path.clone() }),
            Ok(_) => Err(PkiError::Exists { path: self.path.clone() }),
        }
    }

    fn write(&self) -> Result<(), PkiError> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(self.mode);
        let written = options.open(&self.path).and_then(|mut file| {
            file.write_all(self.pem.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => PkiError::Exists { path: self.path.clone() },
            _ => PkiError::Write { path: self.path.clone(), error },
        })
    }
}

/// Makes `folder` and the files in it. If one cannot be written, those that were written before it are removed.
pub fn write_all(folder: &Path, files: &[NewFile]) -> Result<(), PkiError> {
    let mut missing = Vec::new();
    for file in files {
        if file.is_missing()? {
            missing.push(file);
        }
    }
    fs::create_dir_all(folder).map_err(|error| PkiError::Write { path: folder.to_owned(), error })?;
    for (done, file) in missing.iter().enumerate() {
        if let Err(error) = file.write() {
            // A half-written file of a full disk is ours as well, one that another process made is not.
            let own = done + usize::from(!matches!(error, PkiError::Exists { .. }));
            for written in &missing[..own] {
                let _ = fs::remove_file(&written.path);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Reads a PEM file of the authority.
pub fn read(path: &Path) -> Result<String, PkiError> {
    holdfast_proto::read_text(path, PEM_BYTES_MAX).map_err(|error| match error.kind() {
        ErrorKind::NotFound => PkiError::NoAuthority { path: path.to_owned() },
        _ => PkiError::Read { path: path.to_owned(), error },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_for_its_owner_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let files = [NewFile::certificate(at("a.crt"), "C".into()), NewFile::key(at("a.key"), "K".into())];
        write_all(folder.path(), &files).unwrap();
        assert_eq!(fs::metadata(at("a.key")).unwrap().permissions().mode() & 0o777, 0o600);

        let again = [NewFile::certificate(at("b.crt"), "C".into()), NewFile::key(at("a.key"), "X".into())];
        let error = write_all(folder.path(), &again).unwrap_err();
        assert!(matches!(&error, PkiError::Exists { path } if *path == at("a.key")), "{error}");
        assert_eq!(fs::read_to_string(at("a.key")).unwrap(), "K");
        assert!(!at("b.crt").exists(), "a part was written");
    }

    #[test]
    fn the_copy_of_the_authority_may_be_there_if_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("ca.crt");
        write_all(folder.path(), &[NewFile::authority_copy(at.clone(), "A".into())]).unwrap();
        write_all(folder.path(), &[NewFile::authority_copy(at.clone(), "A".into())]).unwrap();
        let error = write_all(folder.path(), &[NewFile::authority_copy(at, "B".into())]).unwrap_err();
        assert!(matches!(error, PkiError::OtherAuthority { .. }), "{error}");
    }
}
