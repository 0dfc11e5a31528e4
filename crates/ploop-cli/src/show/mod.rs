//! What the user sees: text for people, JSON for programs (T8).
//!
//! | part | what |
//! |---|---|
//! | `json` | JSON output |
//! | `log` | notes and warnings, as text or as JSON |
//! | `output` | standard output, whose errors are errors of the verb |
//! | `progress` | progress of what takes long |
//! | `stat` | `ploop stat` for people |
//! | `table` | tables for people |

pub mod json;
pub mod log;
mod output;
pub mod progress;
pub mod stat;
pub mod table;

use ploop_daemon::Failure;
use std::io::{self, Write};

/// How to show things.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// One JSON object on stdout, errors as JSON on stderr.
    pub json: bool,
    /// Words: 3 is normal.
    pub verbosity: u8,
}

pub use output::{lost, put};

/// One line on stdout; what cannot be written is told by [`lost`].
pub fn line(text: impl AsRef<str>) {
    put(&format!("{}\n", text.as_ref()));
}

/// Lines on stdout, at once; whether anybody reads them.
pub fn lines<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> bool {
    let mut text = String::new();
    for line in lines {
        text.push_str(line.as_ref());
        text.push('\n');
    }
    put(&text)
}

/// One line on stderr.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// Shows why it failed; returns the exit code.
pub fn failure(failure: &Failure, output: Output) -> u8 {
    if output.json {
        note(json::text(&json::Error { error: failure.to_wire() }));
    } else if output.verbosity > 0 {
        note(format!("ploop: {}: {}", failure.kind, failure.message));
        if let Some(hint) = &failure.hint {
            for (n, line) in hint.lines().filter(|line| !line.trim().is_empty()).enumerate() {
                note(if n == 0 { format!("  hint: {}", line.trim()) } else { format!("  {line}") });
            }
        }
    }
    failure.code.number()
}
