//! The kernel's own NBD client on sockets of ours: `/dev/nbdN`.
//!
//! Every queue gets a socket, whose other end the kernel has. A server that dies leaves the device
//! with requests waiting: for [`DEAD`] another server of the same disk can give it new sockets. So
//! does a living one for sockets that the kernel gave up.

use crate::export::ExportInfo;
use crate::netlink::{Attributes, Family};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A request that takes longer is sent again on another socket, and its own one is given up; a dead
/// server is noticed for its requests so late.
const LATE: Duration = Duration::from_secs(30);
/// How long requests wait for another server.
pub const DEAD: Duration = Duration::from_secs(600);

/// Sockets of one device.
const MOST: usize = 64;
/// What we ask for on a socket, whose buffers do not grow by themselves.
const BUFFER: usize = 1 << 20;

/// Commands.
const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
/// Attributes.
const INDEX: u16 = 1;
const SIZE: u16 = 2;
const BLOCK: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_TIMEOUT: u16 = 8;
const BACKEND: u16 = 10;
const ITEM: u16 = 1;
const FD: u16 = 1;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The module is not there.
    #[error("the kernel has no NBD client: load the module nbd")]
    NoModule,
    /// No rights.
    #[error("connecting the kernel's NBD client needs CAP_SYS_ADMIN")]
    NotPermitted,
    /// The kernel refuses something.
    #[error("the kernel's NBD client: {what}: {errno}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Why not.
        errno: Errno,
    },
}

fn refused(what: &'static str) -> impl Fn(Errno) -> KernelError {
    move |errno| match errno {
        Errno::PERM | Errno::ACCESS => KernelError::NotPermitted,
        errno => KernelError::Refused { what, errno },
    }
}

/// A device of the kernel's client.
pub struct NbdDevice {
    family: Family,
    index: u32,
    path: PathBuf,
    identity: Option<String>,
}

impl NbdDevice {
    /// Whether the kernel has such a client.
    ///
    /// # Errors
    /// It has not, or not for us.
    pub fn probe() -> Result<(), KernelError> {
        Self::family().map(drop)
    }

    fn family() -> Result<Family, KernelError> {
        Family::open("nbd").map_err(|errno| match errno {
            Errno::NOENT => KernelError::NoModule,
            errno => refused("finding it")(errno),
        })
    }

    /// Makes a device with so many sockets, or takes over the one that waits for a server of this
    /// disk. The caller has the disk for itself: who had the device before is dead. Returns our
    /// ends of the sockets: each goes to [`crate::Adopter::adopt`].
    ///
    /// # Errors
    /// There is no such client, or it refuses.
    pub fn connect(
        export: &ExportInfo,
        sockets: usize,
        identity: Option<&str>,
    ) -> Result<(Self, Vec<OwnedFd>), KernelError> {
        let family = Self::family()?;
        if let Some(identity) = identity
            && let Some(index) = device_of(identity)
        {
            let identity = Some(identity.to_owned());
            let mut device = Self { family, index, path: path(index), identity };
            let sockets = device.take_over()?;
            device.update_size(export.limits.size)?;
            return Ok((device, sockets));
        }
        Self::make(family, export, sockets, identity)
    }

    fn make(
        mut family: Family,
        export: &ExportInfo,
        sockets: usize,
        identity: Option<&str>,
    ) -> Result<(Self, Vec<OwnedFd>), KernelError> {
        let pairs = (0..sockets.max(1)).map(|_| pair()).collect::<Result<Vec<_>, _>>()?;
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let flags = export.offer().flags(false);
        let mut wish = Attributes::default()
            .u64(SIZE, export.limits.size)
            .u64(BLOCK, u64::from(export.limits.block))
            .u64(TIMEOUT, LATE.as_secs())
            .u64(DEAD_TIMEOUT, DEAD.as_secs())
            .u64(SERVER_FLAGS, u64::from(flags))
            .nested(SOCKETS, &items(&theirs));
        if let Some(identity) = identity {
            wish = wish.text(BACKEND, identity);
        }
        let answer = family.call(CONNECT, wish).map_err(refused("making a device"))?;
        let index = answer.get_u32(INDEX).ok_or(Errno::PROTO);
        let index = index.map_err(refused("the number of the device"))?;
        let identity = identity.map(str::to_owned);
        Ok((Self { family, index, path: path(index), identity }, ours))
    }

    /// A new socket for every dead one.
    fn take_over(&mut self) -> Result<Vec<OwnedFd>, KernelError> {
        let mut all = Vec::new();
        while all.len() < MOST
            && let Some(socket) = self.mend()?
        {
            all.push(socket);
        }
        match all.is_empty() {
            true => Err(refused("taking its device over")(Errno::BUSY)),
            false => Ok(all),
        }
    }

    /// A new socket for a dead one, if there is one: a server died, or a request took so long that
    /// the kernel gave its socket up. Our end of it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mend(&mut self) -> Result<Option<OwnedFd>, KernelError> {
        let (ours, its) = pair()?;
        let wish = self.named().nested(SOCKETS, &items(std::slice::from_ref(&its)));
        match self.family.call(RECONFIGURE, wish) {
            Ok(_) | Err(Errno::NOSPC) => {}
            Err(errno) => return Err(refused("a new socket")(errno)),
        }
        drop(its);
        // Success means little: one that it had no use for has no other end now.
        let mut look = [PollFd::new(&ours, PollFlags::IN)];
        poll(&mut look, Some(&Timespec::default())).map_err(refused("a new socket"))?;
        let unused = look[0].revents().contains(PollFlags::HUP);
        Ok((!unused).then_some(ours))
    }

    /// What names the device to the kernel for a change.
    fn named(&self) -> Attributes {
        let wish = Attributes::default().u32(INDEX, self.index);
        match &self.identity {
            Some(identity) => wish.text(BACKEND, identity),
            None => wish,
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells the kernel a new size.
    ///
    /// # Errors
    /// It does not take it.
    pub fn update_size(&mut self, bytes: u64) -> Result<(), KernelError> {
        let wish = self.named().u64(SIZE, bytes);
        self.family.call(RECONFIGURE, wish).map(drop).map_err(refused("a new size"))
    }

    /// Ends the device; whoever has it open gets errors.
    ///
    /// # Errors
    /// The kernel does not let go of it.
    pub fn disconnect(&mut self) -> Result<(), KernelError> {
        let wish = Attributes::default().u32(INDEX, self.index);
        self.family.call(DISCONNECT, wish).map(drop).map_err(refused("disconnecting"))
    }
}

/// Our end, which does not block, and the kernel's.
fn pair() -> Result<(OwnedFd, OwnedFd), KernelError> {
    let flags = SocketFlags::CLOEXEC;
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let (ours, its) = pair.map_err(refused("a pair of sockets"))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(refused("a socket"))?;
    for fd in [&ours, &its] {
        // Without them it works as well, only slower.
        let _ = sockopt::set_socket_send_buffer_size(fd, BUFFER);
        let _ = sockopt::set_socket_recv_buffer_size(fd, BUFFER);
    }
    Ok((ours, its))
}

fn items(sockets: &[OwnedFd]) -> Attributes {
    let item = |fd: &OwnedFd| Attributes::default().u32(FD, fd.as_raw_fd() as u32);
    sockets.iter().fold(Attributes::default(), |all, fd| all.nested(ITEM, &item(fd)))
}

fn path(index: u32) -> PathBuf {
    PathBuf::from(format!("/dev/nbd{index}"))
}

/// The device that was made for a disk.
fn device_of(identity: &str) -> Option<u32> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries.into_iter().find_map(|entry| {
        let index = entry.file_name().to_str()?.strip_prefix("nbd")?.parse().ok()?;
        let backend = fs::read_to_string(entry.path().join("backend")).ok()?;
        (backend.trim_end() == identity).then_some(index)
    })
}

/// The device of a disk whose server is dead, for somebody who has the disk for himself: nobody
/// else may write below it.
#[must_use]
pub fn waiting_for(identity: &str) -> Option<PathBuf> {
    device_of(identity).map(path)
}
