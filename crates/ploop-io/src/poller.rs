//! Sleep, wake and watches by epoll, for the engines that have no ring.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::wake::EventWaker;
use crate::{Completion, Interest, Waker};

/// The eventfd's name in the epoll set; a descriptor number cannot be this.
const BELL: u64 = u64::MAX;

/// Longest single sleep.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// One thread's epoll set. Each watch is one-shot; several may be on one descriptor.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    waker: Arc<EventWaker>,
    watches: HashMap<i32, Vec<(Interest, u64)>>,
    ready: Vec<Completion>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = Arc::new(EventWaker::new(true)?);
        epoll::add(&epoll, waker.fd(), EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Self { epoll, waker, watches: HashMap::new(), ready: Vec::new() })
    }

    pub(crate) fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }

    pub(crate) fn bell(&self) -> Arc<EventWaker> {
        Arc::clone(&self.waker)
    }

    pub(crate) fn watch(&mut self, fd: i32, interest: Interest, token: u64) {
        self.watches.entry(fd).or_default().push((interest, token));
        if let Err(errno) = self.arm(fd) {
            self.fire(fd, |_| true, |interest| refused(errno, interest));
        }
    }

    pub(crate) fn unwatch(&mut self, token: u64) {
        let found = self.watches.iter_mut().find_map(|(fd, list)| {
            list.iter().position(|w| w.1 == token).map(|at| (*fd, list, at))
        });
        let Some((fd, list, at)) = found else { return };
        list.swap_remove(at);
        // A descriptor closed meanwhile has left the set by itself.
        let _ = self.arm(fd);
    }

    /// Moves what is ready to `out`, after a look at the set when anything is watched.
    pub(crate) fn reap(&mut self, out: &mut Vec<Completion>) {
        if self.ready.is_empty() && !self.watches.is_empty() {
            // A failure here shows again, and is reported, in `sleep`.
            let _ = self.look(Some(Duration::ZERO));
        }
        out.append(&mut self.ready);
    }

    /// The second half of `Io::wait`: announce, ask `idle`, sleep.
    pub(crate) fn sleep(
        &mut self,
        timeout: Option<Duration>,
        idle: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let slept = self.ready.is_empty() && self.waker.announce() && idle();
        let result = if slept { self.look(timeout) } else { Ok(()) };
        self.waker.awake();
        result
    }

    fn look(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // Capped: older kernels take only milliseconds in an int. `wait` may return early.
        let timeout = timeout.and_then(|d| Timespec::try_from(d.min(LONGEST)).ok());
        let mut events = [const { unset() }; 64];
        let count = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        for event in &events[..count] {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == BELL {
                self.waker.clear_bell();
            } else {
                #[expect(clippy::cast_possible_truncation, reason = "a descriptor number")]
                self.event(data as u32 as i32, flags);
            }
        }
        Ok(())
    }

    fn event(&mut self, fd: i32, flags: EventFlags) {
        let both = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        let wanted = |i: Interest| both || flags.intersects(mask(i));
        #[expect(clippy::cast_possible_wrap, reason = "poll events are small")]
        self.fire(fd, wanted, |_| flags.bits() as i32);
        if let Err(errno) = self.arm(fd) {
            self.fire(fd, |_| true, |interest| refused(errno, interest));
        }
    }

    /// Completes the watches on `fd` that `which` names.
    fn fire(
        &mut self,
        fd: i32,
        which: impl Fn(Interest) -> bool,
        result: impl Fn(Interest) -> i32,
    ) {
        let Some(list) = self.watches.get_mut(&fd) else { return };
        list.retain(|&(interest, token)| {
            let fires = which(interest);
            if fires {
                self.ready.push(Completion { token, result: result(interest) });
            }
            !fires
        });
    }

    /// Makes the epoll set agree with the list of watches on `fd`.
    fn arm(&mut self, fd: i32) -> Result<(), Errno> {
        if fd < 0 {
            return Err(Errno::BADF);
        }
        // SAFETY: not negative; a descriptor that is not open makes the calls fail with EBADF,
        // and they keep nothing of it.
        let source = unsafe { BorrowedFd::borrow_raw(fd) };
        let list = self.watches.get(&fd).map_or(&[][..], Vec::as_slice);
        if list.is_empty() {
            self.watches.remove(&fd);
            return match epoll::delete(&self.epoll, source) {
                Err(errno) if errno != Errno::NOENT && errno != Errno::BADF => Err(errno),
                _ => Ok(()),
            };
        }
        let mut flags = EventFlags::ONESHOT;
        for &(interest, _) in list {
            flags |= mask(interest);
        }
        #[expect(clippy::cast_sign_loss, reason = "checked above")]
        let data = EventData::new_u64(fd as u64);
        match epoll::modify(&self.epoll, source, data, flags) {
            Err(Errno::NOENT) => epoll::add(&self.epoll, source, data, flags),
            other => other,
        }
    }
}

const fn unset() -> epoll::Event {
    epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }
}

fn mask(interest: Interest) -> EventFlags {
    match interest {
        Interest::Read => EventFlags::IN,
        Interest::Write => EventFlags::OUT,
    }
}

/// What a watch ends with when epoll refuses the descriptor: files that cannot be polled are
/// always ready, as `poll` says.
fn refused(errno: Errno, interest: Interest) -> i32 {
    if errno == Errno::PERM {
        #[expect(clippy::cast_possible_wrap, reason = "poll events are small")]
        return mask(interest).bits() as i32;
    }
    -errno.raw_os_error()
}
