//! What can go wrong before the first client comes.

use std::io;

/// An error of the NBD server itself (clients only ever see NBD errors).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is not understood.
    #[error("`{text}` is not an NBD address: {why} (wanted unix:PATH or tcp:HOST:PORT)")]
    Address {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// T3: an address others can reach, without leave.
    #[error("{addr} can be reached from other hosts; pass --insecure-listen to allow it")]
    NotLoopback {
        /// The address.
        addr: String,
    },
    /// Somebody answers there.
    #[error("{addr} is in use by a running server")]
    InUse {
        /// The address.
        addr: String,
    },
    /// The name or description of an export cannot be told over NBD.
    #[error("the export's {what} has {len} bytes, at most {max} are possible")]
    TooLong {
        /// Name or description.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and on what.
        what: String,
        /// Its answer.
        source: io::Error,
    },
}

/// The result of an operation on the server.
pub type Result<T> = std::result::Result<T, Error>;

/// Puts what was tried in front of a system error.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source: source.into() })
    }
}
