//! Other programs: found in the system's directories, run with a scrubbed environment.

use ploop_daemon::{Code, Failure, Result};
use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// Where programs are looked for.
pub const PATH: &str = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin";

/// A program with its arguments.
pub fn program<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(name);
    command.args(args).env_clear().env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

/// Whether a program is there.
pub fn installed(name: &str) -> bool {
    PATH.split(':').any(|dir| std::path::Path::new(dir).join(name).is_file())
}

/// Runs it and keeps what it says.
///
/// # Errors
/// It cannot be started.
pub fn output(mut command: Command, code: Code) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().map_err(|error| {
        let failure = Failure::io(code, format!("cannot run {name}"), &error);
        if error.kind() == std::io::ErrorKind::NotFound {
            failure.hint(format!("install {name}; it was looked for in {PATH}"))
        } else {
            failure
        }
    })
}

/// Runs it; anything but exit code 0 is a failure with its last words.
///
/// # Errors
/// As said.
pub fn run(command: Command, code: Code) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = output(command, code)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(code, format!("{name}: {}, {}", output.status, last_words(&output))))
}

/// The end of what it said.
pub fn last_words(output: &Output) -> String {
    let said = if output.stderr.trim_ascii().is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.len().saturating_sub(3);
    if lines.is_empty() { "it said nothing".to_owned() } else { lines[last..].join("; ") }
}
