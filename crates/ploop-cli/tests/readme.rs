//! The commands of README.md, as they stand there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;
use common::{World, can_attach, have};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// The lines of the block under a heading.
fn block(heading: &str) -> Vec<String> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let text = fs::read_to_string(readme).unwrap();
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.skip_while(|line| !line.starts_with("    "));
    let lines = lines.take_while(|line| line.starts_with("    "));
    lines.map(|line| line.split(" # ").next().unwrap().trim().to_owned()).collect()
}

/// On a machine that has nothing but the program: no directory is there yet.
#[test]
fn a_disk_in_nine_lines() {
    if !can_attach() || !have("mkfs.ext4") || !have("resize2fs") {
        return;
    }
    let world = World::new();
    fs::create_dir(world.path("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_ploop"), world.path("bin/ploop")).unwrap();
    let mount = world.text("mnt");
    fs::create_dir(&mount).unwrap();
    let path = format!("{}:{}", world.text("bin"), std::env::var("PATH").unwrap());
    let shell = |line: &str| {
        // A directory of the test in the place of the machine's own.
        let line = line.replace("/mnt", &mount);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line}")]).current_dir(world.path(""));
        command.env("PATH", &path).env("PLOOP_RUN_DIR", world.path("run")).stdin(Stdio::null());
        command
    };
    let lines = block("## A disk in nine lines");
    assert_eq!(lines.len(), 9, "{lines:#?}");
    for line in lines {
        let Some(socket) = line.strip_prefix("ploop serve disk ") else {
            let output = shell(&line).output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
            continue;
        };
        // It runs until it is stopped.
        let socket = world.path(socket.rsplit([' ', ':']).next().unwrap());
        let mut server = shell(&line).stdout(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while !socket.exists() {
            assert!(server.try_wait().unwrap().is_none(), "{line}: it ended");
            assert!(Instant::now() < until, "{line}: no {}", socket.display());
            thread::sleep(Duration::from_millis(20));
        }
        let pid = server.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(server.wait().unwrap().success(), "{line}");
    }
}
