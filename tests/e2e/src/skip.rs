//! A test that cannot run says so: one line on stdout and one in the file named by
//! `PLOOP_SKIP_LOG`, from which `cargo xtask test` prints its list. Never a silent return.
//!
//! A crate whose tests cannot depend on this one includes the file:
//! `#[path = "../../../tests/e2e/src/skip.rs"] mod skip;`

use std::fs::OpenOptions;
use std::io::Write;

/// The variable that names the file where skipped tests are listed.
pub const LOG: &str = "PLOOP_SKIP_LOG";

/// Says that `test` cannot run here and why. The caller returns right after it.
///
/// The line goes out in one append, so that tests running side by side do not mix theirs.
#[allow(clippy::print_stdout)]
pub fn skip(test: &str, reason: &str) {
    let line = format!("skip: {test}: {}\n", reason.replace('\n', " "));
    print!("{line}");
    let Some(path) = std::env::var_os(LOG) else { return };
    let log = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = log.and_then(|mut log| log.write_all(line.as_bytes())) {
        print!("skip: cannot write {}: {error}\n", path.to_string_lossy());
    }
}
