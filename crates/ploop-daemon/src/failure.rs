//! An error that knows its exit code: what failed, with numbers, and a hint.

use crate::Code;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io;

/// A failed operation of the tool or the server.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// A word for it, finer than the code where the library knows more.
    pub kind: Cow<'static, str>,
    /// What failed, with numbers.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
}

/// Shorthand.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, kind: Cow::Borrowed(code.kind()), message: message.into(), hint: None }
    }

    /// A bad option or argument (38).
    #[must_use]
    pub fn parameter(message: impl Into<String>) -> Self {
        Self::new(Code::Parameter, message)
    }

    /// A failed call of the system: `what` says which, on what.
    #[must_use]
    pub fn io(code: Code, what: impl AsRef<str>, error: &io::Error) -> Self {
        Self::new(code, format!("{}: {error}", what.as_ref()))
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A finer word than the code's.
    #[must_use]
    pub fn kind(mut self, kind: &'static str) -> Self {
        self.kind = Cow::Borrowed(kind);
        self
    }

    /// The JSON form of T8.
    #[must_use]
    pub fn to_wire(&self) -> WireFailure {
        WireFailure {
            kind: self.kind.clone().into_owned(),
            code: self.code.number(),
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}

/// A failure as JSON: on stderr with `--json` (T8), and from a background server to its parent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WireFailure {
    /// [`Code::kind`].
    pub kind: String,
    /// [`Code::number`].
    pub code: u8,
    /// What failed.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
}

impl From<WireFailure> for Failure {
    fn from(wire: WireFailure) -> Self {
        let code = Code::from_number(u64::from(wire.code)).unwrap_or(Code::Internal);
        Self { code, kind: Cow::Owned(wire.kind), message: wire.message, hint: wire.hint }
    }
}

/// Adds an exit code and words to a failed call of the system.
pub trait OrFail<T> {
    /// `code` and what was tried.
    ///
    /// # Errors
    /// The failure made of them.
    fn or_fail(self, code: Code, what: impl AsRef<str>) -> Result<T>;
}

impl<T, E: Into<io::Error>> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, code: Code, what: impl AsRef<str>) -> Result<T> {
        self.map_err(|error| Failure::io(code, what, &error.into()))
    }
}
