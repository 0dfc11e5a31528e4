//! Listening sockets: a unix path that is ours while we live, or a TCP port (T3).

use crate::addr::NbdAddr;
use crate::error::{Context, Error, Result};
use rustix::fs::{FileType, Mode, Stat, chmod, lstat, unlink};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recv, socket_with, sockopt,
};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Clients the kernel keeps before we accept them.
const BACKLOG: i32 = 128;
/// What we ask for on a unix socket, whose buffers do not grow by themselves.
const UNIX_BUFFER: usize = 1 << 20;

/// A socket that takes clients.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    addr: NbdAddr,
    made: Option<Made>,
}

/// A socket file we made: removed only while it is still that file.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    dev: u64,
    ino: u64,
}

impl Listener {
    /// Listens on an address; other than local ones only with `insecure` (T3).
    ///
    /// # Errors
    /// The address is taken, not of this host, or not loopback without `insecure`.
    pub fn bind(addr: &NbdAddr, insecure: bool) -> Result<Self> {
        if !addr.is_local() && !insecure {
            return Err(Error::NotLoopback { addr: addr.to_string() });
        }
        match addr {
            NbdAddr::Unix(path) => Self::bind_unix(path, addr),
            NbdAddr::Tcp(socket) => {
                let listener = TcpListener::bind(socket).map_err(|source| match source.kind() {
                    std::io::ErrorKind::AddrInUse => Error::InUse { addr: addr.to_string() },
                    _ => Error::Io { what: format!("listening on {addr}"), source },
                })?;
                listener.set_nonblocking(true).context(|| format!("listening on {addr}"))?;
                let real = listener.local_addr().context(|| format!("listening on {addr}"))?;
                Ok(Self { fd: listener.into(), addr: NbdAddr::Tcp(real), made: None })
            }
        }
    }

    fn bind_unix(path: &Path, addr: &NbdAddr) -> Result<Self> {
        let what = || format!("listening on {addr}");
        let name = SocketAddrUnix::new(path).context(what)?;
        remove_stale(path, &name, addr)?;
        let fd = unix_socket().context(what)?;
        bind(&fd, &name).map_err(|errno| match errno {
            Errno::ADDRINUSE => Error::InUse { addr: addr.to_string() },
            _ => Error::Io { what: what(), source: errno.into() },
        })?;
        // Before `listen` nobody can connect: the file never stands open to others.
        chmod(path, Mode::RUSR | Mode::WUSR).context(what)?;
        let stat = lstat(path).context(what)?;
        let made = Made { path: path.into(), dev: stat.st_dev, ino: stat.st_ino };
        let listener = Self { fd, addr: addr.clone(), made: Some(made) };
        listen(&listener.fd, BACKLOG).context(what)?;
        Ok(listener)
    }

    /// The address, with the real port.
    #[must_use]
    pub fn addr(&self) -> &NbdAddr {
        &self.addr
    }

    /// Takes one client, with a name for it; `None` when none waits. Neither the listener nor the
    /// client's socket blocks.
    ///
    /// # Errors
    /// The system's.
    pub fn accept(&self) -> rustix::io::Result<Option<(OwnedFd, String)>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = match accept_with(&self.fd, flags) {
            Ok(fd) => fd,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let peer = match &self.addr {
            NbdAddr::Unix(_) => {
                // Without them it works as well, only slower.
                let _ = sockopt::set_socket_send_buffer_size(&fd, UNIX_BUFFER);
                let _ = sockopt::set_socket_recv_buffer_size(&fd, UNIX_BUFFER);
                self.addr.to_string()
            }
            NbdAddr::Tcp(_) => {
                let _ = sockopt::set_tcp_nodelay(&fd, true);
                // A client whose host died is noticed after some hours.
                let _ = sockopt::set_socket_keepalive(&fd, true);
                peer_of(&fd)
            }
        };
        Ok(Some((fd, peer)))
    }
}

fn peer_of(fd: &OwnedFd) -> String {
    let peer = rustix::net::getpeername(fd).ok().flatten();
    let peer = peer.and_then(|addr| std::net::SocketAddr::try_from(addr).ok());
    peer.map_or_else(|| "tcp".into(), |addr| format!("tcp:{addr}"))
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Removes the socket file of a server that is dead; refuses when it lives or is no socket.
fn remove_stale(path: &Path, name: &SocketAddrUnix, addr: &NbdAddr) -> Result<()> {
    let stat: Stat = match lstat(path) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.context(|| format!("looking at {}", path.display()))?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        let source = std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "a file that is not a socket is in the way",
        );
        return Err(Error::Io { what: format!("listening on {addr}"), source });
    }
    let probe = unix_socket().context(|| format!("looking at {}", path.display()))?;
    match connect(&probe, name) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ACCESS | Errno::PERM | Errno::PROTOTYPE) | Ok(()) | Err(Errno::AGAIN) => {
            return Err(Error::InUse { addr: addr.to_string() });
        }
        Err(errno) => {
            let what = format!("looking at {}", path.display());
            return Err(Error::Io { what, source: errno.into() });
        }
    }
    match unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("removing the stale {}", path.display())),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Some(made) = &self.made else { return };
        let ours = lstat(&made.path).is_ok_and(|s| s.st_dev == made.dev && s.st_ino == made.ino);
        if ours && let Err(errno) = unlink(&made.path) {
            tracing::warn!(path = %made.path.display(), %errno, "the socket file stays");
        }
    }
}

/// Reads without waiting; `Ok(0)` is the end.
pub(crate) fn try_recv(fd: &OwnedFd, buf: &mut [u8]) -> rustix::io::Result<usize> {
    recv(fd, buf, RecvFlags::DONTWAIT).map(|(_, got)| got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn addr(path: &Path) -> NbdAddr {
        NbdAddr::Unix(path.into())
    }

    #[test]
    fn a_unix_socket_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&addr(&path), false).unwrap();
        let mode = lstat(&path).unwrap().st_mode;
        assert_eq!(mode & 0o777, 0o600);
        let again = Listener::bind(&addr(&path), false).unwrap_err();
        assert!(matches!(again, Error::InUse { .. }), "{again}");
        assert!(path.exists(), "the refused one leaves it alone");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind, as a killed server does");
        let listener = Listener::bind(&addr(&path), false).unwrap();
        assert_eq!(listener.addr().to_string(), format!("unix:{}", path.display()));
    }

    #[test]
    fn another_file_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, b"precious").unwrap();
        assert!(Listener::bind(&addr(&path), false).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_put_in_our_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&addr(&path), false).unwrap();
        std::fs::remove_file(&path).unwrap();
        // Keep an inode in between, so that the new file gets another one.
        let _other = UnixListener::bind(dir.path().join("t")).unwrap();
        let _new = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[test]
    fn tcp_takes_a_free_port_and_only_loopback() {
        let any = NbdAddr::parse("tcp:127.0.0.1:0").unwrap();
        let listener = Listener::bind(&any, false).unwrap();
        let NbdAddr::Tcp(real) = listener.addr() else { panic!("not TCP") };
        assert_ne!(real.port(), 0);
        assert!(matches!(Listener::bind(listener.addr(), false), Err(Error::InUse { .. })));
        let open = NbdAddr::parse("tcp:0.0.0.0:0").unwrap();
        let refused = Listener::bind(&open, false).unwrap_err();
        assert!(refused.to_string().contains("--insecure-listen"));
        assert!(Listener::bind(&open, true).is_ok());
    }
}
