//! What tests and demo need from outside: Debian packages and cargo's own helpers. Only what is
//! missing is installed.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};

use crate::sh;

/// A program, the Debian package that has it, and who wants it.
struct Program {
    name: &'static str,
    package: &'static str,
    demo: bool,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package, demo: false }
}

const fn demo(name: &'static str, package: &'static str) -> Program {
    Program { name, package, demo: true }
}

const PROGRAMS: &[Program] = &[
    demo("mkfs.ext4", "e2fsprogs"),
    demo("e2fsck", "e2fsprogs"),
    demo("qemu-img", "qemu-utils"),
    demo("mount", "mount"),
    demo("losetup", "mount"),
    demo("blockdev", "util-linux"),
    demo("fstrim", "util-linux"),
    demo("zstd", "zstd"),
    demo("xargs", "findutils"),
    program("qemu-io", "qemu-utils"),
    program("qemu-nbd", "qemu-utils"),
    program("qemu-storage-daemon", "qemu-utils"),
    program("mkfs.xfs", "xfsprogs"),
    program("xfs_repair", "xfsprogs"),
    program("xfs_growfs", "xfsprogs"),
    program("sfdisk", "fdisk"),
    program("partx", "util-linux"),
    program("pvcreate", "lvm2"),
    program("mkfs.btrfs", "btrfs-progs"),
    program("btrfs", "btrfs-progs"),
    program("prlimit", "util-linux"),
    program("nbdinfo", "libnbd-bin"),
    program("nbdcopy", "libnbd-bin"),
    program("systemd-analyze", "systemd"),
    program("fio", "fio"),
];

/// Programs and nextest for `cargo xtask test`.
pub fn tests() -> Result<()> {
    debian(PROGRAMS.iter())?;
    cargo_tool("cargo-nextest")
}

/// What only the demo needs.
pub fn for_demo() -> Result<()> {
    debian(PROGRAMS.iter().filter(|program| program.demo))
}

/// What the bench wants besides; a peer that is not there fails its own row only.
pub fn for_bench() {
    if let Err(error) = debian([program("fio", "fio"), program("nbdkit", "nbdkit")].iter()) {
        sh::complain(&format!("setup: {error:#}"));
    }
}

/// What only CI needs.
pub fn ci() -> Result<()> {
    // libFuzzer is C++.
    debian([program("c++", "g++")].iter())?;
    cargo_tool("cargo-deny")?;
    cargo_tool("cargo-fuzz")
}

fn debian<'a>(wanted: impl Iterator<Item = &'a Program>) -> Result<()> {
    let missing = packages(wanted, |name| sh::find(name).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !root()? {
        bail!("some programs are missing; as root: apt-get install {list}");
    }
    sh::say(&format!("setup: installing {list}"));
    if let Err(error) = sh::run(apt().arg("update")) {
        sh::complain(&format!("setup: {error:#}; trying the lists that are there"));
    }
    sh::run(apt().args(["install", "--yes", "--no-install-recommends"]).args(&missing))
        .with_context(|| format!("the Debian packages {list} could not be installed"))
}

/// The packages of the programs that are not `there`, each once, in a fixed order.
fn packages<'a>(
    wanted: impl Iterator<Item = &'a Program>,
    there: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    let mut missing: Vec<_> = wanted.filter(|p| !there(p.name)).map(|p| p.package).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

fn apt() -> std::process::Command {
    let mut command = sh::program("apt-get");
    command.arg("--quiet=2").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn root() -> Result<bool> {
    Ok(std::fs::metadata("/proc/self")?.uid() == 0)
}

/// Builds a cargo helper from its own lock file when it is not there yet.
fn cargo_tool(name: &str) -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    if sh::find(name).is_some() || home.is_some_and(|home| home.join("bin").join(name).is_file()) {
        return Ok(());
    }
    sh::say(&format!("setup: {name} is not there, building it (some minutes)"));
    // No LTO: it only has to run once or twice, and the build is the long part.
    let dir = sh::target_dir()?.join("tools");
    sh::run(
        sh::cargo()
            .args(["install", "--quiet", "--locked", name])
            .env("CARGO_TARGET_DIR", dir)
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_and_each_once() {
        let there = |name: &str| !matches!(name, "qemu-img" | "qemu-io" | "fio");
        assert_eq!(packages(PROGRAMS.iter(), there), ["fio", "qemu-utils"]);
        assert!(packages(PROGRAMS.iter(), |_| true).is_empty());
    }
}
