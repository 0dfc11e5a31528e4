//! Output that cannot be written is an error, whatever the verb.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;
use common::World;
use std::fs;
use std::process::Stdio;

#[test]
fn a_full_or_closed_standard_output_is_an_error() {
    let world = World::new();
    let image = world.disk("a");
    world.ok(&["init", "-s", "16M", "-t", "none", &image]);
    world.ok(&["snapshot", "a"]);
    let ploop = env!("CARGO_BIN_EXE_ploop");
    let verbs: [&[&str]; 9] = [
        &["--help"],
        &["check", "--help"],
        &["check", "a"],
        &["info", "-s", "a"],
        &["map", "a"],
        &["snapshot-list", "a"],
        &["list", "--long"],
        &["generate", "completions", "bash"],
        &["--json", "info", "-s", "a"],
    ];
    for args in verbs {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = world.command(args).stdout(Stdio::from(full)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("standard output cannot be written"), "{args:?}: {said}");

        let line = format!("exec \"$0\" {} >&-", args.join(" "));
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &line, ploop]).current_dir(world.path(""));
        let output = command.env("PLOOP_RUN_DIR", world.path("run")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?} closed: {said}");
        assert!(said.contains("standard output cannot be written"), "{args:?}: {said}");
    }
    // Where nothing is said nothing is lost, and nobody has to listen.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = world.command(&["snapshot", "a"]).stdout(Stdio::from(full)).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(
        world.command(&["check", "a"]).stdout(Stdio::null()).status().unwrap().code(),
        Some(0)
    );
}
