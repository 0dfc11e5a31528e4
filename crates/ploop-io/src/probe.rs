//! Choosing an engine, and saying why it is not the ring.

use std::io;
use std::time::Duration;

use crate::{Command, Completion, DEFAULT_ENTRIES, Interest, Io, Null, Op, Threads, Uring, Waker};

/// Which engine to open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineChoice {
    /// The ring, or threads where there is none.
    #[default]
    Auto,
    /// The ring or an error.
    Uring,
    /// Blocking calls on threads.
    Threads,
    /// No I/O at all: for measurements.
    Null,
    /// No I/O but reads and changes of length.
    NullThatReads,
}

/// One of the real engines.
#[derive(Debug)]
pub enum Engine {
    /// `io_uring`.
    Uring(Box<Uring>),
    /// Blocking calls on threads.
    Threads(Box<Threads>),
    /// No I/O at all.
    Null(Box<Null>),
}

impl Engine {
    /// Opens an engine for the calling thread. The sentence says why `Auto` did not take the
    /// ring.
    ///
    /// # Errors
    /// The chosen engine cannot be had here.
    pub fn open(choice: EngineChoice) -> io::Result<(Self, Option<String>)> {
        match choice {
            EngineChoice::Auto => match Self::ring() {
                Ok(ring) => Ok((ring, None)),
                Err(error) => Ok((Self::threads()?, Some(why_no_uring(&error)))),
            },
            EngineChoice::Uring => match Self::ring() {
                Ok(ring) => Ok((ring, None)),
                Err(error) => Err(io::Error::new(error.kind(), why_no_uring(&error))),
            },
            EngineChoice::Threads => Ok((Self::threads()?, None)),
            EngineChoice::Null => Ok((Self::Null(Box::new(Null::new()?)), None)),
            EngineChoice::NullThatReads => Ok((Self::Null(Box::new(Null::that_reads()?)), None)),
        }
    }

    fn ring() -> io::Result<Self> {
        Ok(Self::Uring(Box::new(Uring::new(DEFAULT_ENTRIES)?)))
    }

    fn threads() -> io::Result<Self> {
        Ok(Self::Threads(Box::new(Threads::new()?)))
    }

    /// The engine's name, for logs and status.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Uring(_) => "uring",
            Self::Threads(_) => "threads",
            Self::Null(_) => "null",
        }
    }
}

/// Why [`Uring::new`] failed, as a sentence that says what to change.
#[must_use]
pub fn why_no_uring(error: &io::Error) -> String {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    explain(error, disabled)
}

fn explain(error: &io::Error, disabled: Option<u32>) -> String {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some(2)) => {
            "io_uring is switched off on this host: kernel.io_uring_disabled is 2".to_owned()
        }
        (Some(libc::EPERM), Some(1)) => {
            "io_uring is kept from this process: kernel.io_uring_disabled is 1 and it has neither \
             CAP_SYS_ADMIN nor the group of kernel.io_uring_group"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "io_uring was refused (EPERM): a seccomp filter or a security module forbids it"
                .to_owned()
        }
        (Some(libc::ENOSYS), _) => {
            "there is no io_uring here (ENOSYS): the kernel was built without it, or a seccomp \
             filter hides it"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => {
            "io_uring got no memory (ENOMEM): RLIMIT_MEMLOCK or the memory cgroup is too small"
                .to_owned()
        }
        _ => format!("io_uring cannot be used: {error}"),
    }
}

macro_rules! each {
    ($self:ident, $engine:ident => $call:expr) => {
        match $self {
            Self::Uring($engine) => $call,
            Self::Threads($engine) => $call,
            Self::Null($engine) => $call,
        }
    };
}

impl Io for Engine {
    unsafe fn push(&mut self, op: Op) {
        // SAFETY: the same promise, passed on.
        each!(self, engine => unsafe { engine.push(op) });
    }

    fn submit(&mut self) -> io::Result<()> {
        each!(self, engine => engine.submit())
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        each!(self, engine => engine.reap(out));
    }

    fn wait(&mut self, timeout: Option<Duration>, idle: &dyn Fn() -> bool) -> io::Result<()> {
        each!(self, engine => engine.wait(timeout, idle))
    }

    fn waker(&self) -> Waker {
        each!(self, engine => engine.waker())
    }

    fn watch(&mut self, fd: i32, interest: Interest, token: u64) {
        each!(self, engine => engine.watch(fd, interest, token));
    }

    fn unwatch(&mut self, token: u64) {
        each!(self, engine => engine.unwatch(token));
    }

    unsafe fn command(&mut self, command: Command) -> bool {
        // SAFETY: the same promise, passed on.
        each!(self, engine => unsafe { engine.command(command) })
    }

    fn lend(&mut self, count: u16) -> Option<u16> {
        each!(self, engine => engine.lend(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(errno: i32, disabled: Option<u32>) -> String {
        explain(&io::Error::from_raw_os_error(errno), disabled)
    }

    #[test]
    fn the_reason_names_the_switch() {
        assert!(said(libc::EPERM, Some(2)).contains("kernel.io_uring_disabled is 2"));
        assert!(said(libc::EPERM, Some(1)).contains("kernel.io_uring_group"));
        assert!(said(libc::EPERM, Some(0)).contains("seccomp"));
        assert!(said(libc::ENOSYS, None).contains("ENOSYS"));
        assert!(said(libc::ENOMEM, None).contains("RLIMIT_MEMLOCK"));
        assert!(said(libc::EMFILE, Some(0)).contains("Too many open files"));
    }
}
