//! What can go wrong with a ublk device, in words a user can act upon.

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
    /// No memory for the buffers.
    #[error("no memory for {0} bytes of buffers")]
    Memory(usize, #[source] io::Error),
}
