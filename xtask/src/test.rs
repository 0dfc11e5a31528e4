//! `cargo xtask test`: set-up, doc tests, then every test under nextest. Ends with nextest's own
//! closing lines; just above them the number of tests and those that could not run, with reasons.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{fs, mem};

use anyhow::{Context, Result, ensure};

use crate::{setup, sh};

/// Tests that cannot run append a line to the file this variable names.
const SKIP_LOG: &str = "PLOOP_SKIP_LOG";

pub fn run(filter: &[String]) -> Result<()> {
    let start = Instant::now();
    setup::tests()?;
    let bin = build_tool()?;
    let doc = if filter.is_empty() { doc_tests()? } else { 0 };
    sh::say(&format!("test: ready after {} s", start.elapsed().as_secs()));

    let log = sh::target_dir()?.join("skipped-tests.txt");
    fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
    let mut nextest = sh::cargo();
    nextest
        .args(["nextest", "run", "--workspace", "--profile", "ci", "--no-fail-fast"])
        .args(filter)
        .env(SKIP_LOG, &log)
        .env("PLOOP_BIN", &bin);
    let (closing, green) = follow(&mut nextest)?;

    let skipped = skipped(&log)?;
    sh::say("");
    sh::say(&format!("doc tests passed: {doc}"));
    sh::say(&format!("tests that could not run here: {}", skipped.len()));
    skipped.iter().for_each(|line| sh::say(&format!("  {line}")));
    closing.iter().for_each(|line| sh::say(line));
    ensure!(green, "not all tests passed");
    Ok(())
}

/// The `ploop` binary the end-to-end tests run; they find it by `PLOOP_BIN`.
fn build_tool() -> Result<std::path::PathBuf> {
    sh::run(sh::cargo().args(["build", "--quiet", "--package", "ploop-cli"]))?;
    Ok(sh::target_dir()?.join("debug/ploop"))
}

fn doc_tests() -> Result<u64> {
    let said = sh::text(sh::cargo().args(["test", "--quiet", "--doc", "--workspace"]))?;
    Ok(said.lines().filter_map(doc_passed).sum())
}

/// `test result: ok. 3 passed; ...` -> 3
fn doc_passed(line: &str) -> Option<u64> {
    line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok()
}

/// Runs nextest, shows what it says as it says it, and keeps its closing lines for later.
fn follow(command: &mut Command) -> Result<(Vec<String>, bool)> {
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", sh::words(command)))?;
    let stderr = child.stderr.take().context("nextest has no stderr")?;
    let mut tail = Tail::default();
    for line in BufReader::new(stderr).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        tail.feed(line).iter().for_each(|line| sh::say(line));
    }
    let status = child.wait()?;
    Ok((tail.finish(), status.success()))
}

/// Splits a stream of lines in two: what goes out now, and the closing lines from the summary on.
#[derive(Default)]
struct Tail {
    /// A ruled line: the summary may follow it.
    rule: Option<String>,
    closing: Vec<String>,
}

impl Tail {
    fn feed(&mut self, line: String) -> Vec<String> {
        if !self.closing.is_empty() || line.trim_start().starts_with("Summary [") {
            self.closing.extend(self.rule.take());
            self.closing.push(line);
            return Vec::new();
        }
        let mut out: Vec<String> = self.rule.take().into_iter().collect();
        if is_rule(&line) {
            self.rule = Some(line);
        } else {
            out.push(line);
        }
        out
    }

    fn finish(mut self) -> Vec<String> {
        self.closing.extend(self.rule.take());
        mem::take(&mut self.closing)
    }
}

/// A line drawn with U+2500, as nextest puts above its summary.
fn is_rule(line: &str) -> bool {
    !line.trim().is_empty() && line.trim().chars().all(|c| c == '\u{2500}')
}

/// The tests that said they cannot run, each line once, sorted.
fn skipped(log: &Path) -> Result<Vec<String>> {
    let mut lines: Vec<String> = fs::read_to_string(log)?
        .lines()
        .map(|line| line.strip_prefix("skip: ").unwrap_or(line).to_string())
        .collect();
    lines.sort();
    lines.dedup();
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(lines: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut tail = Tail::default();
        let now = lines.iter().flat_map(|line| tail.feed((*line).to_string())).collect();
        (now, tail.finish())
    }

    #[test]
    fn the_summary_and_what_follows_comes_last() {
        let rule = "\u{2500}\u{2500}";
        let (now, closing) = feed(&[
            "start",
            rule,
            "PASS a",
            "FAIL b",
            rule,
            "   Summary [ 1s] 2 tests run",
            "FAIL b",
            "error",
        ]);
        assert_eq!(now, ["start", rule, "PASS a", "FAIL b"]);
        assert_eq!(closing, [rule, "   Summary [ 1s] 2 tests run", "FAIL b", "error"]);
    }

    #[test]
    fn a_run_that_ends_before_its_summary_loses_no_line() {
        let (now, closing) = feed(&["error: could not compile", "\u{2500}"]);
        assert_eq!(now, ["error: could not compile"]);
        assert_eq!(closing, ["\u{2500}"]);
    }

    #[test]
    fn doc_test_results_are_counted() {
        assert_eq!(doc_passed("test result: ok. 3 passed; 0 failed"), Some(3));
        assert_eq!(doc_passed("running 3 tests"), None);
    }

    #[test]
    fn skipped_tests_are_listed_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "skip: b: no loop\nskip: a: no fuse\nskip: b: no loop\n").unwrap();
        assert_eq!(skipped(file.path()).unwrap(), ["a: no fuse", "b: no loop"]);
    }
}
