//! The control socket by another's client: `varlinkctl` of a newer systemd, with its own libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::fetch::Store;
use crate::sh;

const SUITE: &str = "trixie";
const PACKAGES: &[&str] = &[
    "systemd",
    "libsystemd-shared",
    "libc6",
    "libssl3t64",
    "libzstd1",
    "zlib1g",
    "libblkid1",
    "libmount1",
    "libselinux1",
];
const INTERFACE: &str = "org.ploop.Disk";

/// Asks the server whose control socket is in `run`; says what was done.
pub fn check(store: &mut Store, run: &Path) -> Result<String> {
    let root = store.folder("varlink", SUITE, PACKAGES)?;
    let socket = socket(run)?;
    let at = socket.display().to_string();
    let said = |words: &[&str]| sh::text(varlinkctl(&root).args(words));
    let version = said(&["--version"])?;
    let idl = sh::root()?.join("crates/ploop-daemon/src/control/org.ploop.Disk.varlink");
    said(&["validate-idl", &idl.display().to_string()])?;
    ensure!(said(&["info", &at])?.contains(INTERFACE), "info does not name {INTERFACE}");
    let described = said(&["introspect", &at, INTERFACE])?;
    let method = |line: &&str| line.starts_with("method ");
    let methods = described.lines().filter(method).count();
    ensure!(methods > 15, "{methods} methods: {described}");
    let call = |method: &str, parameters: &str| {
        said(&["call", "--more", &at, &format!("{INTERFACE}.{method}"), parameters])
    };
    let info = call("Info", "{}")?;
    ensure!(info.contains("size_bytes"), "{info}");
    let refused = call("Grow", "{\"size_bytes\": 5}");
    let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("org.ploop.Disk.Parameter"), "a bad size: {refused}");
    let taken = call("Snapshot", "{}")?;
    ensure!(taken.contains("pause_ns"), "{taken}");
    let job = call("Merge", "{}")?;
    ensure!(job.contains("\"job\":1"), "{job}");
    let end = call("Watch", "{\"job\": 1}")?;
    ensure!(end.lines().last().is_some_and(|line| line.contains("\"done\"")), "{end}");
    let version = version.lines().next().unwrap_or_default().to_owned();
    Ok(format!("varlinkctl of {version}: {methods} methods, snapshot, merge watched to its end"))
}

fn socket(run: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(run)?.flatten().map(|entry| entry.path());
    let mut sockets = entries.filter(|path| path.extension().is_some_and(|e| e == "sock"));
    sockets.next().with_context(|| format!("no control socket in {}", run.display()))
}

/// By the loader of its own suite: this system's libraries are older.
fn varlinkctl(root: &Path) -> Command {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let path = format!("{}:{}", libraries.display(), libraries.join("systemd").display());
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.args(["--library-path", &path]).arg(root.join("usr/bin/varlinkctl"));
    command
}
