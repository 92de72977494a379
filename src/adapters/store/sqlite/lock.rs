//! The exclusive lock on a data directory: one process owns it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use rustix::fs::Access;

/// The lock's file, in the data directory; it holds the owner's process id.
const FILE: &str = "lock";

/// Why a data directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("data directory `{}` is in use by process {pid}", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
        /// Its owner, as far as the file tells.
        pid: String,
    },
    /// The file system refuses.
    #[error("cannot lock data directory `{}`", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Holds the lock until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct DirLock {
    file: File,
}

impl DirLock {
    /// Makes the directory if it is missing and locks it for this process.
    ///
    /// # Errors
    ///
    /// Another process has it, or the file system refuses.
    pub(super) fn acquire(data_dir: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: data_dir.to_owned(), source };
        std::fs::create_dir_all(data_dir).map_err(io)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(data_dir.join(FILE))
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { path: data_dir.to_owned(), pid: owner(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        write_owner(&mut file).map_err(io)?;
        Ok(Self { file })
    }

    /// Says whether this process could have the directory, and changes nothing.
    ///
    /// # Errors
    ///
    /// Another process has it, or the file system would refuse.
    pub(super) fn look(data_dir: &Path) -> Result<(), LockError> {
        let io = |source| LockError::Io { path: data_dir.to_owned(), source };
        may_write(data_dir).map_err(io)?;
        let mut file = match OpenOptions::new().read(true).write(true).open(data_dir.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io(error)),
        };
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                Err(LockError::Held { path: data_dir.to_owned(), pid: owner(&mut file) })
            }
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Gives the directory up before the lock is dropped.
    pub(super) fn release(&self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "cannot unlock the data directory");
        }
    }
}

/// Says whether files can be made in the directory, or it in the nearest folder that there is.
fn may_write(data_dir: &Path) -> io::Result<()> {
    let there =
        data_dir.ancestors().find(|folder| folder.exists()).unwrap_or_else(|| Path::new("."));
    if !there.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK)?)
}

fn owner(file: &mut File) -> String {
    let mut pid = String::new();
    match file.read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
        _ => "(unknown)".to_owned(),
    }
}

fn write_owner(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_told_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        let error = DirLock::acquire(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        assert!(matches!(DirLock::look(dir.path()), Err(LockError::Held { .. })));
        drop(first);
        DirLock::look(dir.path()).unwrap();
        DirLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_look_makes_nothing_and_knows_what_could_not_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a").join("b");
        DirLock::look(&missing).unwrap();
        assert!(!dir.path().join("a").exists());
        std::fs::write(dir.path().join("a"), "a file").unwrap();
        assert!(matches!(DirLock::look(&missing), Err(LockError::Io { .. })));
        assert!(DirLock::acquire(&missing).is_err());
    }
}
