//! What the machine recorded below our images, replayed: at points where the device was told to
//! make something durable the power fails. Then the file system is mounted, our disk opened, the
//! guest's file system on it checked, and every file that `fsync` had promised is there.
//!
//! The machine's marks tell the story: `disk` (made), `file:NAME:SHA256` (synced), `gone:NAME`
//! (about to be removed).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};

use super::log_writes::{Entry, Log};
use crate::sh;

/// The recorded device's length is that of the step in the suite.
pub const DEVICE: u64 = 420 << 20;

/// Replays a log at `most` points; says how it went. `None`: nothing was recorded.
pub fn replay(ploop: &Path, fs_type: &str, log: &Path, most: usize) -> Result<Option<String>> {
    let Ok(mut entries) = Log::open(log) else { return Ok(None) };
    let all = points(&mut entries)?;
    let chosen = spread(&all, most);
    let dir = log.with_extension("replay");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    let device = File::create(dir.join("device"))?;
    device.set_len(DEVICE)?;
    let (mut log, mut files, mut looked) = (Log::open(log)?, BTreeMap::new(), 0);
    let mut checked = 0;
    for n in 0.. {
        let Some(entry) = log.next()? else { break };
        apply(&log, &device, &mut files, entry)?;
        if chosen.binary_search(&n).is_ok() {
            let point = Point::new(ploop, fs_type, &dir)?;
            point
                .look(&files)
                .with_context(|| format!("{fs_type}, entry {n}, {} files", files.len()))?;
            looked += 1;
            checked += files.len();
        }
    }
    fs::remove_dir_all(&dir)?;
    ensure!(looked == chosen.len() && looked > 0, "{looked} of {} points", chosen.len());
    Ok(Some(format!(
        "{looked} of {} points replayed, {checked} files looked at, every file system clean",
        all.len()
    )))
}

/// Numbers of the entries that made something durable once the disk was there.
fn points(log: &mut Log) -> Result<Vec<usize>> {
    let (mut out, mut made) = (Vec::new(), false);
    for n in 0.. {
        match log.next()? {
            None => break,
            Some(Entry::Mark(text)) if text == "disk" => made = true,
            Some(Entry::Write { durable: true, .. }) if made => out.push(n),
            Some(_) => {}
        }
    }
    Ok(out)
}

/// So many of them, evenly, the last one too.
fn spread(all: &[usize], most: usize) -> Vec<usize> {
    let most = most.min(all.len());
    (1..=most).map(|n| all[n * all.len() / most - 1]).collect()
}

fn apply(
    log: &Log,
    device: &File,
    files: &mut BTreeMap<String, String>,
    entry: Entry,
) -> Result<()> {
    match entry {
        Entry::Write { to, len, from, .. } => log.copy(device, to, from, len)?,
        Entry::Discard { to, len } => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(device, flags, to, len)?;
        }
        Entry::Mark(text) => match text.split(':').collect::<Vec<_>>().as_slice() {
            ["file", name, hash] => {
                files.insert((*name).to_owned(), (*hash).to_owned());
            }
            ["gone", name] => {
                files.remove(*name);
            }
            _ => {}
        },
    }
    Ok(())
}

/// A machine after the power failed; put away when dropped.
struct Point<'a> {
    ploop: &'a Path,
    fs_type: &'a str,
    dir: &'a Path,
}

impl<'a> Point<'a> {
    fn new(ploop: &'a Path, fs_type: &'a str, dir: &'a Path) -> Result<Self> {
        for name in ["host", "guest", "run"] {
            if let Err(error) = fs::create_dir(dir.join(name))
                && error.kind() != ErrorKind::AlreadyExists
            {
                return Err(error.into());
            }
        }
        let mut copy = sh::program("cp");
        copy.args(["--sparse=always", "--reflink=auto"]);
        sh::run(copy.arg(dir.join("device")).arg(dir.join("point")))?;
        Ok(Self { ploop, fs_type, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn tool(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.ploop);
        command.env("PLOOP_RUN_DIR", self.path("run")).args(words).arg(self.path("host/d"));
        command
    }

    fn look(&self, files: &BTreeMap<String, String>) -> Result<()> {
        let mut mount = sh::program("mount");
        mount.args(["-o", "loop", "-t", self.fs_type]);
        sh::text(mount.arg(self.path("point")).arg(self.path("host")))?;
        let device = sh::text(&mut self.tool(&["attach", "--via", "loop"]))?;
        let device = device.trim();
        // The first run replays the journal; the second must find nothing.
        let status = sh::output(sh::program("e2fsck").args(["-f", "-p", device]))?.status;
        ensure!(matches!(status.code(), Some(0 | 1)), "e2fsck -p of the guest: {status}");
        sh::text(sh::program("e2fsck").args(["-f", "-n", device]))?;
        let mut mount = sh::program("mount");
        sh::text(mount.args(["-t", "ext4", device]).arg(self.path("guest")))?;
        for (name, wanted) in files {
            let said = sh::text(sh::program("sha256sum").arg(self.path("guest").join(name)))?;
            let hash = said.split_whitespace().next().unwrap_or_default();
            ensure!(hash == wanted, "{name} is {hash}, {wanted} was synced");
        }
        sh::text(sh::program("umount").arg(self.path("guest")))?;
        sh::text(&mut self.tool(&["detach"]))?;
        sh::text(&mut self.tool(&["check", "-f"]))?;
        sh::text(sh::program("umount").arg(self.path("host")))?;
        Ok(())
    }
}

impl Drop for Point<'_> {
    fn drop(&mut self) {
        if !is_mount_point(&self.path("host")) {
            return;
        }
        let _ = sh::output(sh::program("umount").arg(self.path("guest")));
        let _ = sh::output(&mut self.tool(&["detach", "--force"]));
        let _ = sh::output(sh::program("umount").arg("--lazy").arg(self.path("host")));
    }
}

fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_spread_and_the_last_is_among_them() {
        let all: Vec<usize> = (100..110).collect();
        assert_eq!(spread(&all, 3), [102, 105, 109]);
        assert_eq!(spread(&all, 10), all);
        assert_eq!(spread(&all, 99), all);
        assert!(spread(&[], 5).is_empty());
    }
}
