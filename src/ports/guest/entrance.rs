//! The socket at which VMMs connect, where vmlan listens: opened, closed for a while and opened again at one path.
//!
//! A VMM that finds it closed is refused at once (`ECONNREFUSED`) and tries again later. One that waited in the backlog of
//! a socket that nobody serves would wait with its guest.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::ports::OpenError;

/// A listening socket and its file, which goes when this goes.
#[derive(Debug)]
pub(super) struct Entrance {
    path: PathBuf,
    /// None while it is closed. The file stays.
    listener: Option<UnixListener>,
    /// By what the file is known again.
    file: Option<(u64, u64)>,
}

impl Entrance {
    /// Listens at a path.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let mut this = Self {
            path: path.to_owned(),
            listener: None,
            file: None,
        };
        this.reopen()?;
        Ok(this)
    }

    /// The socket, unless it is closed.
    pub(super) const fn listener(&self) -> Option<&UnixListener> {
        self.listener.as_ref()
    }

    /// Refuses whoever comes, and whoever waits, until it is opened again.
    pub(super) fn close(&mut self) {
        self.listener = None;
    }

    /// Listens again, at a socket that is made anew.
    pub(super) fn reopen(&mut self) -> Result<&UnixListener, OpenError> {
        let listener = listen(&self.path)?;
        self.file = identity(&self.path);
        Ok(self.listener.insert(listener))
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        // While it was closed, another may have taken the path.
        if self.file.is_some() && self.file == identity(&self.path) {
            // Gone in this moment: there is nothing left to do.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Binds the socket of a port whose VMM connects.
fn listen(path: &Path) -> Result<UnixListener, OpenError> {
    let refuse = |reason: String| OpenError::Socket {
        path: path.display().to_string(),
        reason,
    };
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(refuse(
                "something that is not a socket is there; remove it or choose another path"
                    .to_owned(),
            ));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(refuse(
                "another process listens there; stop it or choose another path".to_owned(),
            ));
        }
        Ok(_) => fs::remove_file(path)
            .map_err(|error| refuse(format!("a stale socket cannot be removed: {error}")))?,
        Err(_) => {}
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other kinds are said in the system's words")]
    let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => refuse("its directory does not exist; create it".to_owned()),
        io::ErrorKind::PermissionDenied => refuse(
            "permission denied; run as a user who may write to its directory, or choose another runtime_dir".to_owned(),
        ),
        _ => refuse(error.to_string()),
    })?;
    let prepared = fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .and_then(|()| listener.set_nonblocking(true));
    prepared.map_err(|error| refuse(error.to_string()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> bool {
        let error = UnixStream::connect(path).err();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    #[test]
    fn who_waits_at_a_closed_entrance_is_sent_away_and_who_comes_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut entrance = Entrance::open(&path).unwrap();
        let mut waiting = UnixStream::connect(&path).unwrap();
        entrance.close();
        let answer = io::Read::read(&mut waiting, &mut [0]);
        assert!(
            matches!(answer, Ok(0) | Err(_)),
            "it does not wait any more"
        );
        assert!(refused(&path));

        entrance.reopen().unwrap();
        UnixStream::connect(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(entrance);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_another_took_meanwhile_is_left_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut entrance = Entrance::open(&path).unwrap();
        entrance.close();
        // Kept, so that its number is not given to another.
        fs::rename(&path, directory.path().join("old")).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        let error = entrance.reopen().unwrap_err().to_string();
        assert!(error.contains("another process listens there"), "{error}");
        drop(entrance);
        UnixStream::connect(&path).unwrap();
        drop(other);
    }
}
