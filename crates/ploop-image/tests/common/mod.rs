//! What the tests of this crate share: a disk in a temporary directory, tools, samples.
#![allow(dead_code, reason = "each test binary uses a part")]

#[path = "../../../../tests/e2e/src/samples.rs"]
pub mod samples;

use ploop_engine::CloseReport;
use ploop_format::{ClusterSize, Sector, Version};
use ploop_image::{CreateOptions, Created, Disk, ImageError, Kind, LockWait, OpenOptions, create};
use ploop_io::{RealDir, RealEntropy};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// 64 KiB clusters.
pub const SMALL: u32 = 128;

pub fn cluster(sectors: u32) -> ClusterSize {
    ClusterSize::from_sectors(sectors).unwrap()
}

pub fn options(kind: Kind) -> CreateOptions {
    CreateOptions { size: Sector(20_480), version: Version::V2, cluster: cluster(SMALL), kind }
}

/// A new disk in a directory of its own.
pub struct TestDisk {
    pub home: TempDir,
    pub made: Created,
}

impl TestDisk {
    pub fn with(options: &CreateOptions) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("root.hds");
        let made = create(&RealDir, &RealEntropy, &path, options, &mut |_, _| {}).unwrap();
        Self { home, made }
    }

    pub fn new() -> Self {
        Self::with(&options(Kind::Expanded))
    }

    pub fn open(&self) -> Result<Disk, ImageError> {
        open(self.home.path(), &quick())
    }

    pub fn image(&self) -> &Path {
        &self.made.image
    }
}

/// Little waiting for locks: a child that another test forks shares them for a moment.
pub fn quick() -> OpenOptions {
    let wait = LockWait { total: Duration::from_millis(300), ..LockWait::SOME };
    OpenOptions { wait, ..OpenOptions::default() }
}

pub fn read_only() -> OpenOptions {
    OpenOptions { read_only: true, ..quick() }
}

pub fn open(target: &Path, options: &OpenOptions) -> Result<Disk, ImageError> {
    Disk::open(Arc::new(RealDir), target, options)
}

/// What an engine reports that ended well.
pub fn clean(end: u64, mapped: bool) -> CloseReport {
    CloseReport { clean: true, failure: None, end, mapped, changed: true, more: Vec::new() }
}

/// Changes bytes of a file.
pub fn poke(path: &Path, at: u64, bytes: &[u8]) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

pub fn poke32(path: &Path, at: u64, value: u32) {
    poke(path, at, &value.to_le_bytes());
}

pub fn peek32(path: &Path, at: u64) -> u32 {
    let mut bytes = [0; 4];
    fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    u32::from_le_bytes(bytes)
}

pub fn set_len(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

pub fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// Maps guest cluster `slot` of a v2 image to a new cluster at the end, filled with `byte`.
pub fn write_cluster(path: &Path, sectors: u32, slot: u64, byte: u8) {
    let bytes = u64::from(sectors) * 512;
    let end = len(path);
    assert_eq!(end % bytes, 0);
    poke(path, end, &vec![byte; bytes as usize]);
    poke32(path, 64 + 4 * slot, (end / bytes) as u32);
}

/// Runs a tool; its exit code and all its output. `None` when it is not installed.
pub fn tool(name: &str, args: &[&str]) -> Option<(i32, String)> {
    let output = match Command::new(name).args(args).output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skip: {name} is not installed");
            return None;
        }
        Err(e) => panic!("{name}: {e}"),
    };
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}

/// `qemu-img check` finds nothing, leaks included.
pub fn assert_qemu_clean(path: &Path) {
    if let Some((code, text)) =
        tool("qemu-img", &["check", "-f", "parallels", path.to_str().unwrap()])
    {
        assert_eq!(code, 0, "{text}");
    }
}

pub fn in_use(path: &Path) -> u32 {
    peek32(path, 44)
}

pub fn copy(name: &str, home: &TempDir) -> PathBuf {
    samples::copy_sample(name, &home.path().join("disk")).unwrap()
}
