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
        println!("skip: cannot write {}: {error}", path.to_string_lossy());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_name_and_reason() {
        // Another process with its own variable: this one's may be the real log.
        let exe = std::env::current_exe().unwrap();
        let log = std::env::temp_dir().join(format!("ploop-skip-{}", std::process::id()));
        let inner = "skip::tests::inner_says_it_cannot_run";
        let output = std::process::Command::new(exe)
            .args(["--exact", inner, "--nocapture"])
            .env(LOG, &log)
            .env("PLOOP_SKIP_INNER", "1")
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        assert_eq!(text, "skip: inner: no device here\n");
    }

    /// Does nothing unless the test above runs it.
    #[test]
    fn inner_says_it_cannot_run() {
        if std::env::var_os("PLOOP_SKIP_INNER").is_some() {
            skip("inner", "no device\nhere");
        }
    }
}
