//! What can go wrong around a FUSE file or a loop device.

use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of mounting, unmounting or a loop device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Still open by somebody: nothing was changed.
    #[error("{path} is in use")]
    Busy {
        /// The file or device.
        path: PathBuf,
    },
    /// Another server's FUSE file is mounted there.
    #[error("{path} is already served by another process")]
    AlreadyServed {
        /// The file.
        path: PathBuf,
    },
    /// The file to mount over, or to put a loop device on, is of another kind.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// An argument that cannot be.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
    /// A loop device took the file without direct I/O.
    #[error("{path}: direct I/O is not possible over {file}")]
    NoDirectIo {
        /// The device.
        path: PathBuf,
        /// The file below.
        file: PathBuf,
    },
    /// A system call failed.
    #[error("{what} {path}: {source}")]
    System {
        /// What was tried, a verb: "mount", "open".
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn system(
        what: &'static str,
        path: &Path,
        source: impl Into<std::io::Error>,
    ) -> Self {
        let source = source.into();
        if source.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
            return Self::Busy { path: path.to_path_buf() };
        }
        Self::System { what, path: path.to_path_buf(), source }
    }

    /// Whether somebody still uses the file or device.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}
