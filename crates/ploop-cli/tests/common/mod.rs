//! The `ploop` under test, with a registry of its own, and what it started.
#![allow(dead_code, reason = "not every test needs everything")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Makes a directory for a disk; returns the path of its image.
    pub fn disk(&self, name: &str) -> String {
        std::fs::create_dir(self.path(name)).unwrap();
        self.text(&format!("{name}/root.hds"))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ploop"));
        command.args(args).env("PLOOP_RUN_DIR", self.path("run")).stdin(Stdio::null());
        command.current_dir(self.dir.path());
        command
    }

    pub fn run(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().unwrap();
        Said::of(args, &output)
    }

    /// Runs and wants exit code 0.
    pub fn ok(&self, args: &[&str]) -> Said {
        let said = self.run(args);
        assert_eq!(said.code, 0, "{said:?}");
        said
    }

    /// Starts `ploop serve` and waits for that many ready lines.
    pub fn serve(&self, args: &[&str], ready: usize) -> Server {
        let mut child =
            self.command(&[&["serve"], args].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        let mut server = Server { child, lines, ready: Vec::new() };
        for _ in 0..ready {
            let line = server.lines.recv_timeout(Duration::from_secs(30));
            server.ready.push(line.expect("a ready line"));
        }
        server
    }
}

impl Drop for World {
    /// Whatever a failed test left attached or mounted.
    fn drop(&mut self) {
        let mounted = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for target in mounted.lines().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(target).starts_with(self.path("mnt")) {
                let _ = Command::new("umount").arg(target).status();
            }
        }
        let Ok(entries) = std::fs::read_dir(self.path("run")) else { return };
        for entry in entries.flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(device) = json["device"].as_str() {
                let _ = self.command(&["detach", "--force", device]).status();
            }
        }
    }
}

#[derive(Debug)]
pub struct Said {
    pub args: Vec<String>,
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    fn of(args: &[&str], output: &Output) -> Self {
        Self {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn error(&self) -> serde_json::Value {
        let line = self.err.lines().last().unwrap_or_default();
        let json: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        json["error"].clone()
    }
}

pub struct Server {
    child: Child,
    lines: Receiver<String>,
    pub ready: Vec<String>,
}

impl Server {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// The exit code after a signal.
    pub fn end(mut self, signal: &str) -> i32 {
        self.signal(signal);
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "the server does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The test harness names its threads after the tests.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("main").to_owned()
}

/// Whether a program can be found; says so when it cannot.
pub fn have(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("PATH=$PATH:/sbin:/usr/sbin command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        ploop_e2e::skip(&test_name(), &format!("{program} is not installed"));
    }
    found
}

/// Whether block devices can be made here; says so when not.
pub fn can_attach() -> bool {
    let root = rustix::process::geteuid().is_root();
    let there = ["/dev/fuse", "/dev/loop-control"].iter().all(|path| Path::new(path).exists());
    if !(root && there) {
        ploop_e2e::skip(&test_name(), "needs root, /dev/fuse and /dev/loop-control");
    }
    root && there
}

/// Runs a program, wants success, returns its stdout.
pub fn sh(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}
