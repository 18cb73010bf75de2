//! The daemon's directories: where they are, that only one daemon has them, and how files in them are replaced.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is not there and cannot be made.
    #[error(
        "cannot create the directory {path}: {source}; set daemon.{key} to one that you may write to"
    )]
    Create {
        /// The directory.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// It cannot be opened or locked.
    #[error("cannot lock the directory {path}: {source}")]
    Lock {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is in a directory such as /tmp, and somebody else made it.
    #[error(
        "cannot use the directory {path}: it belongs to another user; remove it, or set daemon.{key} to another"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
    },
    /// There is something else with its name.
    #[error(
        "cannot use {path}: it is not a directory; remove it, or set daemon.{key} to a directory"
    )]
    NotDirectory {
        /// What is there.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
    },
    /// It is the other directory of this daemon.
    #[error("cannot use {path}: it is the same directory as {other}; set daemon.{key} to another")]
    Same {
        /// The directory.
        path: PathBuf,
        /// The other name of it.
        other: PathBuf,
        /// The key that names it.
        key: &'static str,
    },
    /// Another daemon has it.
    #[error("another vmlan daemon uses {path}; stop it, or give this one a {key} of its own")]
    Taken {
        /// The directory.
        path: PathBuf,
        /// The key that names it.
        key: &'static str,
    },
}

/// A directory that is this daemon's alone, until it is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    created: bool,
    lock: File,
}

impl Directory {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// The lock is on the directory itself: no lock file is left behind, and none can be removed under a daemon.
    ///
    /// # Errors
    ///
    /// It cannot be made, or another daemon has it.
    pub fn open(path: &Path, mode: u32, key: &'static str) -> Result<Self, DirectoryError> {
        let created = !path.exists();
        if !created && !path.is_dir() {
            return Err(DirectoryError::NotDirectory {
                path: path.to_owned(),
                key,
            });
        }
        let result = DirBuilder::new().recursive(true).mode(mode).create(path);
        result.map_err(|source| DirectoryError::Create {
            path: path.to_owned(),
            key,
            source,
        })?;
        let lock_error = |source| DirectoryError::Lock {
            path: path.to_owned(),
            source,
        };
        let lock = File::open(path).map_err(lock_error)?;
        if is_foreign(path, &lock).map_err(lock_error)? {
            return Err(DirectoryError::Foreign {
                path: path.to_owned(),
                key,
            });
        }
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                created,
                lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::Taken {
                path: path.to_owned(),
                key,
            }),
            Err(TryLockError::Error(source)) => Err(lock_error(source)),
        }
    }

    /// Checks that a path does not lead to this directory by another name.
    ///
    /// # Errors
    ///
    /// It does.
    pub fn is_not(&self, path: &Path, key: &'static str) -> Result<(), DirectoryError> {
        let place = |file: &std::fs::Metadata| (file.dev(), file.ino());
        match (self.lock.metadata(), std::fs::metadata(path)) {
            (Ok(this), Ok(that)) if place(&this) == place(&that) => Err(DirectoryError::Same {
                path: path.to_owned(),
                other: self.path.clone(),
                key,
            }),
            _ => Ok(()),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.created {
            // Fails where there is something in it, which is then to be kept.
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// Where everybody may make directories, one with our name may be somebody's trap.
fn is_foreign(path: &Path, directory: &File) -> io::Result<bool> {
    const STICKY: u32 = 0o1000;
    let parent = path.parent().map(std::fs::metadata).transpose()?;
    let shared = parent.is_some_and(|parent| parent.mode() & STICKY != 0);
    Ok(shared && directory.metadata()?.uid() != user())
}

/// Writes a file so that, whatever happens, either the old or the new content is there.
///
/// # Errors
///
/// The system refuses; the old content is still there.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path, mode, |file| file.write_all(content)).map(drop)
}

/// Writes a value as JSON that people can read, for all to read, unless it is there already.
///
/// # Errors
///
/// The system refuses; the old content is still there.
pub fn keep(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    if std::fs::read(path).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    replace(path, text.as_bytes(), 0o644)
}

/// Replaces a file by what `write` writes, and returns the new one, open for writing.
///
/// # Errors
///
/// The system refuses; the old content is still there.
pub fn replace_with(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<File> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let attempt = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&new)?;
        write(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        File::open(parent)?.sync_all()?;
        Ok(file)
    };
    attempt().inspect_err(|_| {
        let _ = std::fs::remove_file(&new);
    })
}

/// Returns where the sockets are when the file does not say.
pub fn default_runtime() -> PathBuf {
    match (user(), variable("XDG_RUNTIME_DIR")) {
        (0, _) => PathBuf::from("/run/vmlan"),
        (_, Some(directory)) => directory.join("vmlan"),
        (user, None) => PathBuf::from(format!("/tmp/vmlan-{user}")),
    }
}

/// Returns where the state is when the file does not say.
pub fn default_state() -> PathBuf {
    match (user(), variable("XDG_STATE_HOME"), variable("HOME")) {
        (0, _, _) => PathBuf::from("/var/lib/vmlan"),
        (_, Some(directory), _) => directory.join("vmlan"),
        (_, None, Some(home)) => home.join(".local/state/vmlan"),
        (user, None, None) => PathBuf::from(format!("/tmp/vmlan-{user}-state")),
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// The user whose process this is.
fn user() -> u32 {
    std::fs::metadata("/proc/self").map_or(u32::MAX, |process| process.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_daemons_alone_and_goes_with_it_when_it_made_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/run");
        let first = Directory::open(&path, 0o755, "runtime_dir").unwrap();
        let second = Directory::open(&path, 0o755, "runtime_dir").unwrap_err();
        assert!(
            second.to_string().starts_with("another vmlan daemon uses"),
            "{second}"
        );
        assert!(path.exists(), "the loser leaves it alone");
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_directory_or_has_another_name_is_refused_in_its_own_words() {
        let parent = tempfile::tempdir().unwrap();
        let (file, link) = (parent.path().join("file"), parent.path().join("link"));
        std::fs::write(&file, "").unwrap();
        let error = Directory::open(&file, 0o755, "state_dir").unwrap_err();
        assert!(
            matches!(error, DirectoryError::NotDirectory { .. }),
            "{error}"
        );
        assert!(file.exists());
        let path = parent.path().join("run");
        let directory = Directory::open(&path, 0o755, "runtime_dir").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let error = directory.is_not(&link, "state_dir").unwrap_err();
        assert!(matches!(error, DirectoryError::Same { .. }), "{error}");
        for other in [parent.path().to_owned(), parent.path().join("absent")] {
            directory.is_not(&other, "state_dir").unwrap();
        }
    }

    #[test]
    fn a_directory_that_was_there_or_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        drop(Directory::open(parent.path(), 0o755, "runtime_dir").unwrap());
        assert!(parent.path().exists());
        let path = parent.path().join("state");
        let directory = Directory::open(&path, 0o755, "state_dir").unwrap();
        std::fs::write(path.join("kept"), "").unwrap();
        drop(directory);
        assert!(path.join("kept").exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_keeps_its_content() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        replace(&path, b"old", 0o644).unwrap();
        replace_with(&path, 0o644, |_| Err(io::Error::other("full"))).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
