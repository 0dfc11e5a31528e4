//! The steps of the demo, in order. Each does one thing a user would do and proves its outcome.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::timeline::Timeline;
use super::tree::Manifest;
use super::work::Work;
use super::{damage, tree};
use crate::sh;

const SIZE: &str = "4G";
const SIZE_BYTES: u64 = 4 << 30;
/// Exit code of `check` for an image whose structure is broken (T4).
const BROKEN: i32 = 11;

/// The disk of the demo: its directory's descriptor and its base image.
struct Disk {
    descriptor: PathBuf,
    base: PathBuf,
}

impl Disk {
    fn new(work: &Work, name: &str) -> Result<Self> {
        let dir = work.dir.join(name);
        fs::create_dir(&dir)?;
        Ok(Self { descriptor: dir.join("DiskDescriptor.xml"), base: dir.join("root.hds") })
    }

    fn dir(&self) -> &Path {
        self.descriptor.parent().unwrap_or(Path::new("."))
    }

    /// Every image of the chain.
    fn deltas(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("root.hds") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }
}

pub fn all(work: &mut Work, show: &mut Timeline) -> Result<()> {
    let disk = Disk::new(work, "disk")?;
    create(work, show, &disk)?;
    let first = fill(work, show, &disk)?;
    snapshot(work, show, &disk)?;
    let second = change(work, show, &disk, &first)?;
    check(work, show, &disk)?;
    current(work, show, &disk, &second)?;
    frozen(work, show, &disk, &first)?;
    flipped_bit(work, show, &disk, &first)?;
    doubled_entry(work, show)?;
    partitioned(work, show)
}

/// init: an empty disk.
fn create(work: &Work, show: &mut Timeline, disk: &Disk) -> Result<()> {
    work.text(work.ploop(&["init", "-s", SIZE, "-t", "none"]).arg(&disk.base))?;
    let kib = fs::metadata(&disk.base)?.blocks() / 2;
    show.step("init", &format!("a disk of {SIZE} takes {kib} KiB"));
    qemu_check(work, disk)?;
    show.proof("", "qemu-img check finds nothing to say");
    Ok(())
}

/// attach, mkfs, mount, copy, hash.
fn fill(work: &mut Work, show: &mut Timeline, disk: &Disk) -> Result<Manifest> {
    let device = work.attach(&disk.descriptor)?;
    let size = work.text(sh::program("blockdev").args(["--getsize64", &device]))?;
    ensure!(size == SIZE_BYTES.to_string(), "{device} has {size} bytes, not {SIZE_BYTES}");
    show.proof("attach", &format!("{device}, {size} bytes"));

    work.text(sh::program("mkfs.ext4").args(["-q", &device]))?;
    work.mount_device(&device)?;
    show.step("mkfs, mount", "ext4 on the device itself");

    let from = tree::source()?;
    let to = work.mount_point.join("tree");
    fs::create_dir(&to)?;
    work.text(&mut tree::copy(&from, &to))?;
    work.text(sh::program("sync").arg("--file-system").arg(&work.mount_point))?;
    let manifest = work.manifest(&to)?;
    let used = fs::metadata(&disk.base)?.blocks() / 2048;
    let parent = from.first().and_then(|dir| dir.parent()).unwrap_or(Path::new("/"));
    show.step(
        "copy, hash",
        &format!(
            "{} directories of {}, {} files\nimage: {used} MiB",
            from.len(),
            parent.display(),
            manifest.len()
        ),
    );
    work.umount_device()?;
    work.detach(&disk.descriptor)?;
    show.step("detach", "unmounted, server gone");
    Ok(manifest)
}

/// snapshot of the closed disk.
fn snapshot(work: &Work, show: &mut Timeline, disk: &Disk) -> Result<()> {
    let before = disk.deltas()?.len();
    work.text(work.ploop(&["snapshot"]).arg(&disk.descriptor))?;
    let deltas = disk.deltas()?.len();
    ensure!(deltas == before + 1, "{before} images before the snapshot, {deltas} after it");
    let list = work.text(work.ploop(&["snapshot-list"]).arg(&disk.descriptor))?;
    show.proof("snapshot", "the base is frozen, a new top takes the writes");
    show.step("", &list);
    Ok(())
}

/// mount again, change and delete files, trim, unmount.
fn change(work: &mut Work, show: &mut Timeline, disk: &Disk, first: &Manifest) -> Result<Manifest> {
    let said = work.mount(&disk.descriptor, false)?;
    show.step("mount", &said);
    let tree = work.mount_point.join("tree");
    first.must_equal(&work.manifest(&tree)?, "after the snapshot")?;
    show.proof("", "all files read through the chain as they were copied");
    let words = tree::change(&tree)?;
    show.step("change", &words);
    let manifest = work.manifest(&tree)?;
    ensure!(manifest != *first, "nothing changed");
    let trimmed = work.text(sh::program("fstrim").arg("--verbose").arg(&work.mount_point))?;
    show.step("fstrim", &trimmed.replace(&*work.mount_point.to_string_lossy(), "mount point"));
    work.umount()?;
    show.step("umount", "detached with it");
    Ok(manifest)
}

/// check by us and by QEMU, of the closed disk.
fn check(work: &Work, show: &mut Timeline, disk: &Disk) -> Result<()> {
    work.text(work.ploop(&["check", "-f", "-c"]).arg(&disk.descriptor))?;
    show.proof("check", "ploop check -f -c: nothing found");
    qemu_check(work, disk)?;
    show.proof("", &format!("qemu-img check: nothing found in {} images", disk.deltas()?.len()));
    Ok(())
}

fn qemu_check(work: &Work, disk: &Disk) -> Result<()> {
    for delta in disk.deltas()? {
        work.text(sh::program("qemu-img").args(["check", "-f", "parallels"]).arg(delta))?;
    }
    Ok(())
}

/// The current state, read from disk and not from a cache.
fn current(work: &mut Work, show: &mut Timeline, disk: &Disk, second: &Manifest) -> Result<()> {
    show.step("drop caches", drop_caches(work)?);
    work.mount(&disk.descriptor, false)?;
    let now = work.manifest(&work.mount_point.join("tree"))?;
    second.must_equal(&now, "the current state")?;
    work.umount()?;
    show.proof("mount, hash", &format!("{} files of the current state are right", now.len()));
    Ok(())
}

/// The state of the snapshot: the lower image alone, read only.
fn frozen(work: &mut Work, show: &mut Timeline, disk: &Disk, first: &Manifest) -> Result<()> {
    drop_caches(work)?;
    work.mount(&disk.base, true)?;
    let then = work.manifest(&work.mount_point.join("tree"))?;
    first.must_equal(&then, "the snapshot")?;
    work.umount()?;
    show.proof("mount -r", &format!("{} files of the snapshot are right", then.len()));
    Ok(())
}

/// Only the file system that holds the disk is synced: others may be busy for long.
fn drop_caches(work: &Work) -> Result<&'static str> {
    work.text(sh::program("sync").arg("--file-system").arg(&work.dir))?;
    match fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => Ok("the kernel forgot what it had read"),
        Err(_) => Ok("not permitted here: the next reads may come from the kernel's cache"),
    }
}

/// A bit flipped in a copy of the snapshot: the hashes must notice.
fn flipped_bit(work: &mut Work, show: &mut Timeline, disk: &Disk, first: &Manifest) -> Result<()> {
    let copy = Disk::new(work, "copy")?;
    let sparse = ["--sparse=always", "--no-target-directory"];
    work.text(sh::program("cp").args(sparse).arg(&disk.base).arg(&copy.base))?;
    work.mount(&copy.base, true)?;
    let victim = victim(&work.mount_point.join("tree"))?;
    let bytes = work.dir.join("victim");
    fs::copy(work.mount_point.join("tree").join(&victim), &bytes)?;
    work.umount()?;

    let place = damage::flip_bit_of(&bytes, &copy.base)?;
    show.step("damage", &format!("one bit of a copy flipped, at byte {place}"));
    drop_caches(work)?;
    work.mount(&copy.base, true)?;
    let now = work.manifest(&work.mount_point.join("tree"))?;
    work.umount()?;
    let difference = first.difference(&now);
    ensure!(!difference.changed.is_empty(), "the hashes did not notice the flipped bit");
    show.proof("", &format!("the hashes notice: {difference}"));
    Ok(())
}

/// A file that fills some blocks.
fn victim(tree: &Path) -> Result<String> {
    let output = sh::text(sh::program("find").current_dir(tree).args([
        "-type", "f", "-size", "+24k", "-size", "-200k", "-name", "*.rs", "-print", "-quit",
    ]))?;
    if !output.is_empty() {
        return Ok(output);
    }
    let any = ["-type", "f", "-size", "+8k", "-print", "-quit"];
    let output = sh::text(sh::program("find").current_dir(tree).args(any))?;
    ensure!(!output.is_empty(), "no file of more than two blocks");
    Ok(output)
}

/// Two BAT entries for one cluster in the same copy: `ploop check` must notice.
fn doubled_entry(work: &Work, show: &mut Timeline) -> Result<()> {
    let image = work.dir.join("copy/root.hds");
    let (first, second) = damage::duplicate_entry(&image)?;
    show.step("damage", &format!("BAT entries {first} and {second} of the copy name one cluster"));
    let output = work.output(work.ploop(&["check", "-f", "-c"]).arg(&image))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_string();
    let code = output.status.code();
    ensure!(code == Some(BROKEN), "check exits with {code:?}, not {BROKEN}: {said}");
    let line = said.lines().next().unwrap_or_default();
    let line = line.replace(&*work.dir.to_string_lossy(), "");
    show.proof("", &format!("ploop check notices, exit code {BROKEN}\n{line}"));
    Ok(())
}

/// A second disk the way the original tool makes one: GPT, one partition, ext4 on it.
fn partitioned(work: &mut Work, show: &mut Timeline) -> Result<()> {
    let disk = Disk::new(work, "partitioned")?;
    work.text(work.ploop(&["init", "-s", "1G", "-t", "ext4"]).arg(&disk.base))?;
    show.step("init -t ext4", "1 GiB with a GPT, one partition and ext4 on it");
    work.mount(&disk.descriptor, false)?;
    let file = work.mount_point.join("note");
    fs::write(&file, "written through the partition\n")?;
    work.umount()?;
    drop_caches(work)?;
    work.mount(&disk.descriptor, true)?;
    let text = fs::read_to_string(&file).context("the file is gone")?;
    ensure!(text == "written through the partition\n", "the file reads as {text:?}");
    work.umount()?;
    show.proof("mount -r", "the partition is found and its file reads back");
    check(work, show, &disk)
}
