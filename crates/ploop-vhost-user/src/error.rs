//! What can go wrong with a monitor.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refuses something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The monitor broke the protocol, or went away in the middle of a message.
    #[error("vhost-user: {0}")]
    Protocol(#[from] vhost::vhost_user::Error),
}
