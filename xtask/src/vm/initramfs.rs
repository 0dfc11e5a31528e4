//! The guest's root: busybox, modules, our binary, the programs of the suite and their libraries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::fetch::Store;
use super::modules;
use crate::sh;

/// Programs of this machine (`cargo xtask setup` sees to them).
const HOST: &[&str] = &[
    "mkfs.ext4",
    "e2fsck",
    "dumpe2fs",
    "tune2fs",
    "resize2fs",
    "blkid",
    "mkfs.xfs",
    "xfs_repair",
    "xfs_growfs",
    "fio",
    "blockdev",
    "fstrim",
    "losetup",
    "mount",
    "umount",
];
/// Programs of the unpacked tools.
const TOOLS: &[&str] = &["usr/sbin/nbd-client", "usr/sbin/dmsetup", "usr/sbin/cryptsetup"];
/// Where the guest's libraries lie.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// The program that is process 1 and the suite: one script, in parts.
const SUITE: &[&str] = &[
    include_str!("suite/steps.sh"),
    include_str!("suite/common.sh"),
    include_str!("suite/loop.sh"),
    include_str!("suite/nbd.sh"),
    include_str!("suite/vhost.sh"),
    include_str!("suite/ublk.sh"),
    include_str!("suite/full.sh"),
    include_str!("suite/mapper.sh"),
    include_str!("suite/run.sh"),
];

/// The archive for a kernel.
pub fn build(store: &Store, kernel: &Path, ploop: &Path) -> Result<Vec<u8>> {
    let tools = store.path("tools");
    let mut archive = Archive::default();
    for dir in ["proc", "sys", "dev", "run", "tmp", "mnt", "disk", "etc", "sbin", "usr"] {
        archive.dir(dir);
    }
    archive.file("init", SUITE.concat().as_bytes());
    archive.copy("bin/busybox", &first(&tools, &["bin/busybox", "usr/bin/busybox"])?)?;
    if Path::new("/etc/mke2fs.conf").is_file() {
        archive.copy("etc/mke2fs.conf", Path::new("/etc/mke2fs.conf"))?;
    }
    let mut programs = vec![ploop.to_owned()];
    for name in HOST {
        let missing = || format!("{name} is missing: cargo xtask setup");
        programs.push(sh::find(name).with_context(missing)?);
    }
    for name in TOOLS {
        let plain = name.trim_start_matches("usr/");
        programs.push(first(&tools, &[name, plain])?);
    }
    let mut libraries = BTreeMap::new();
    for program in &programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.copy(&format!("usr/bin/{name}"), program)?;
        closure(program, &tools, &mut libraries)?;
    }
    for (name, from) in &libraries {
        let dir = if name.starts_with("ld-linux") { "lib64" } else { LIBRARIES };
        archive.copy(&format!("{dir}/{name}"), from)?;
    }
    let mut order = String::new();
    for module in modules::wanted(kernel)? {
        archive.file(&format!("modules/{}.ko", module.name), &module.bytes);
        order.push_str(&module.name);
        order.push('\n');
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}

fn first(root: &Path, names: &[&str]) -> Result<PathBuf> {
    let found = names.iter().map(|name| root.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{} has no {}", root.display(), names.join(" or ")))
}

/// The libraries a program is linked with, by name.
fn closure(program: &Path, tools: &Path, libraries: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let paths = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|dir| tools.join(dir));
    let path = std::env::join_paths(paths)?;
    let output = sh::output(sh::program("ldd").arg(program).env("LD_LIBRARY_PATH", path))?;
    libraries.extend(linked(&String::from_utf8_lossy(&output.stdout)));
    Ok(())
}

/// What `ldd` says: `name => path (address)` or `path (address)`.
fn linked(said: &str) -> Vec<(String, PathBuf)> {
    let paths = said.lines().filter_map(|line| {
        let line = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        let path = line.split(" (").next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    });
    paths.filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood() {
        let said = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7e)\n\
             \tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x7d)\n";
        let names: Vec<_> = linked(said).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["libc.so.6", "ld-linux-x86-64.so.2"]);
        assert!(linked("\tstatically linked\n").is_empty());
    }
}
