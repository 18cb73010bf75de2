//! The process at the other end of a connection, and whether it still runs (`SO_PEERCRED`, `man 7 unix`).

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;

/// The process that connected; none that can be named if it is in a namespace of processes that is not seen from here.
#[derive(Debug)]
pub(super) struct Peer(Option<libc::pid_t>);

impl Peer {
    /// Asks who connected.
    #[expect(unsafe_code, reason = "std does not tell who connected")]
    pub(super) fn of(stream: &UnixStream) -> Self {
        let mut peer = libc::ucred {
            pid: 0,
            uid: 0,
            gid: 0,
        };
        let Ok(mut len) = libc::socklen_t::try_from(size_of_val(&peer)) else {
            return Self(None);
        };
        let at = ptr::from_mut(&mut peer).cast();
        // SAFETY: the structure and its length are ours, and the kernel writes no more than the length says.
        let answer = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                at,
                &raw mut len,
            )
        };
        Self((answer == 0 && peer.pid > 0).then_some(peer.pid))
    }

    /// Tells whether the process has ended. One that cannot be named is taken to run.
    #[expect(unsafe_code, reason = "std signals children only")]
    pub(super) fn has_ended(&self) -> bool {
        let Some(pid) = self.0 else {
            return false;
        };
        // SAFETY: no memory is involved, and signal 0 is none.
        let answer = unsafe { libc::kill(pid, 0) };
        answer != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_peer_is_the_process_that_connected_until_it_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let _near = UnixStream::connect(&path).unwrap();
        let (far, _) = listener.accept().unwrap();
        assert!(!Peer::of(&far).has_ended(), "this process runs");

        let mut child = Command::new("true").spawn().unwrap();
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(Peer(Some(pid)).has_ended());
        assert!(!Peer(Some(1)).has_ended(), "another user's process runs");
        assert!(!Peer(None).has_ended());
    }
}
