//! The `ploop` program under test.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// The variable that names the program; `cargo xtask test` sets it.
pub const BIN: &str = "PLOOP_BIN";

/// Where `ploop` lies: `$PLOOP_BIN`, else beside the test's own build.
///
/// `None` when it was not built.
#[must_use]
pub fn ploop_path() -> Option<PathBuf> {
    if let Some(path) = env::var_os(BIN) {
        return Some(path.into());
    }
    let exe = env::current_exe().ok()?;
    exe.ancestors().skip(1).map(|dir| dir.join("ploop")).find(|path| path.is_file())
}

/// A command for the program under test. Panics when it was not built.
#[must_use]
#[allow(clippy::panic, reason = "a helper of tests")]
pub fn ploop(args: &[&str]) -> Command {
    let Some(path) = ploop_path() else {
        panic!("no ploop binary: set {BIN}, or run `cargo build -p ploop-cli` first")
    };
    let mut command = Command::new(path);
    command.args(args);
    command
}
