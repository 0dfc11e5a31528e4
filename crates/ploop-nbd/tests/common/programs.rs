//! Running other people's programs.

use std::path::Path;
use std::process::{Command, Output};

/// Whether a program is there; says so when it is not.
pub fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if !found {
        println!("skip: {program} not installed");
    }
    found
}

pub fn run(program: &str, args: &[&str]) -> Output {
    // No client may hang the tests.
    Command::new("timeout").arg("60").arg(program).args(args).output().unwrap()
}

/// Runs a program that must succeed; its standard output.
pub fn must(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
