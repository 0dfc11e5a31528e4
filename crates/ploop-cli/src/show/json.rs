//! JSON output: snake_case, one object, sizes end in `_bytes` (T8).

use ploop_daemon::failure::WireFailure;
use serde::Serialize;

/// The object an error is.
#[derive(Debug, Serialize)]
pub struct Error {
    /// What failed.
    pub error: WireFailure,
}

/// As text. Our types have no maps with odd keys, so this cannot fail; if it did, the text says so.
pub fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

/// Prints an object.
pub fn print(value: &impl Serialize) {
    super::line(text(value));
}
