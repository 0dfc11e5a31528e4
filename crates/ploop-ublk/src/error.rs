//! What can go wrong with a ublk device, in words a user can act upon.

use crate::copies::Copies;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why there is no device.
#[derive(Debug, Error)]
pub enum Error {
    /// No control file.
    #[error("/dev/ublk-control is not there: load the ublk_drv module (Linux 6.5 or newer)")]
    NoModule,
    /// The control file cannot be opened.
    #[error("/dev/ublk-control cannot be opened; it needs root")]
    NotPermitted,
    /// The driver lacks something.
    #[error("this kernel's ublk driver is too old (features {0:#x}): Linux 6.5 is needed")]
    TooOld(u64),
    /// It cannot move data as it was told to.
    #[error("this kernel's ublk driver (features {offered:#x}) has no {copies}")]
    NoCopies {
        /// How.
        copies: Copies,
        /// What it has.
        offered: u64,
    },
    /// The rings have no commands.
    #[error("ublk needs io_uring, which cannot be used here")]
    NoRing(#[source] io::Error),
    /// A command was refused.
    #[error("ublk: {command} of device {device}")]
    Command {
        /// Which command.
        command: &'static str,
        /// Which device.
        device: i64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A device's file.
    #[error("{}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A device that waits for its server has another shape.
    #[error("ublk device {device} has {queues} queues of depth {depth}, not one this server made")]
    Shape {
        /// Which device.
        device: u32,
        /// Its queues.
        queues: u16,
        /// Their depth.
        depth: u16,
    },
    /// The server of a device is gone, but the driver has not noticed.
    #[error("ublk device {0} has lost its server and does not come to rest")]
    Unsettled(u32),
    /// No memory for the buffers.
    #[error("no memory for {0} bytes of buffers")]
    Memory(usize, #[source] io::Error),
}

impl Error {
    /// There is no ublk to be had here, and no device waits for the disk: another way will do.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NoModule | Self::NotPermitted | Self::TooOld(_) | Self::NoRing(_) => true,
            Self::Command { command, .. } => *command == "ADD_DEV",
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_waits_is_never_passed_by() {
        let command = |command| Error::Command {
            command,
            device: 1,
            source: io::Error::from_raw_os_error(1),
        };
        assert!(Error::NoModule.is_absence() && command("ADD_DEV").is_absence());
        assert!(!command("START_USER_RECOVERY").is_absence());
        assert!(!Error::Unsettled(1).is_absence());
        assert!(!Error::Shape { device: 1, queues: 1, depth: 1 }.is_absence());
    }
}
