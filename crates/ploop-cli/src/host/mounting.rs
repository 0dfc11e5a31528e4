//! Every mount this tool makes: with the options that a file system needs when its device is only
//! read, perhaps beside the same file system in use.

use super::btrfs;
use super::command::{program, run};
use super::mkfs;
use ploop_daemon::failure::OrFail;
use ploop_daemon::{Code, Failure, Result};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::UnshareFlags;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

/// How a device is mounted.
#[derive(Clone, Copy, Default)]
pub struct How<'a> {
    /// The device takes no writes, or is to get none.
    pub frozen: bool,
    /// Mount it read-only.
    pub read_only: bool,
    /// The type, when somebody said which.
    pub fstype: Option<&'a str>,
    /// More options, separated by commas; they come last.
    pub options: Option<&'a str>,
}

/// Mounts `device` on `target`.
///
/// # Errors
/// Code 21.
pub fn mount(device: &str, target: &Path, how: How<'_>) -> Result<()> {
    let kind = how.fstype.map(str::to_owned).or_else(|| mkfs::detect(device));
    let mut options: Vec<&str> = Vec::new();
    if how.frozen || how.read_only {
        options.push("ro");
    }
    if let (true, Some(kind)) = (how.frozen, &kind) {
        options.extend(frozen(kind));
        not_replayed(device, kind);
    }
    if kind.as_deref() == Some("btrfs") {
        btrfs::may_be_mounted(device)?;
    }
    options.extend(how.options);
    let mut words: Vec<OsString> = Vec::new();
    if let Some(fstype) = how.fstype {
        words.extend(["-t".into(), fstype.into()]);
    }
    if !options.is_empty() {
        words.extend(["-o".into(), options.join(",").into()]);
    }
    words.extend([device.into(), target.into()]);
    run(program("mount", words), Code::Mount).map_err(|failure| match kind.as_deref() {
        Some("xfs") if !how.frozen => {
            failure.hint("a copy of an xfs that is mounted already needs `-o nouuid`")
        }
        None => failure.hint(format!("{device} has no file system that blkid knows")),
        _ => failure,
    })
}

/// What makes a file system leave its device alone, and bear a second one with the same identity:
/// a snapshot has the log of a file system in use, which can not be replayed.
fn frozen(kind: &str) -> &'static [&'static str] {
    match kind {
        "xfs" => &["norecovery", "nouuid"],
        "ext4" | "ext3" => &["noload"],
        "btrfs" => &["rescue=nologreplay"],
        _ => &[],
    }
}

/// Says so when a journal with something in it is passed by.
fn not_replayed(device: &str, kind: &str) {
    const FEATURES: u64 = 1024 + 0x60;
    const NEEDS_RECOVERY: u32 = 4;
    let mut word = [0; 4];
    let journal = matches!(kind, "ext4" | "ext3")
        && File::open(device).is_ok_and(|file| file.read_exact_at(&mut word, FEATURES).is_ok());
    if journal && u32::from_le_bytes(word) & NEEDS_RECOVERY != 0 {
        tracing::warn!(
            "{device}: the file system was not at rest, and its journal is not replayed on a \
             device that is only read: the last changes are missing"
        );
    }
}

/// Mounts `device` where nobody else sees it, lets `work` use it there, and unmounts it again. It
/// goes by itself when this process is killed. A file system that is mounted already, in whatever
/// namespace, is the same one here.
///
/// # Errors
/// Code 21, or the work's.
pub fn for_a_moment<T: Send>(
    device: &str,
    how: How<'_>,
    work: impl FnOnce(&Path) -> Result<T> + Send,
) -> Result<T> {
    // A namespace belongs to a thread; programs it starts are in it too.
    std::thread::scope(|scope| {
        let there = scope.spawn(move || {
            own_namespace()?;
            let dir = Scratch::new()?;
            mount(device, &dir.0, how)?;
            let done = work(&dir.0);
            let gone = unmount(&dir.0, UnmountFlags::empty());
            let gone = gone.or_fail(Code::Umount, dir.0.display().to_string());
            done.and_then(|done| gone.map(|()| done))
        });
        there.join().unwrap_or_else(|_| Err(Failure::new(Code::Internal, "a thread panicked")))
    })
}

/// Mounts `device` for whoever has the directory that is returned open; it has no name.
///
/// # Errors
/// Code 21.
pub fn pinned(device: &str, how: How<'_>) -> Result<File> {
    let dir = Scratch::new()?;
    mount(device, &dir.0, how)?;
    let root = File::open(&dir.0).or_fail(Code::Mount, dir.0.display().to_string());
    let gone = unmount(&dir.0, UnmountFlags::DETACH);
    gone.or_fail(Code::Umount, dir.0.display().to_string())?;
    root
}

/// A mount namespace for this thread: what is mounted here stays here, what is unmounted elsewhere
/// goes here too.
///
/// # Errors
/// No right to.
pub fn own_namespace() -> Result<()> {
    let what = "a mount namespace";
    // SAFETY: no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.or_fail(Code::Mount, what)?;
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", flags).or_fail(Code::Mount, what)
}

/// An empty directory of ours; removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let name = format!("ploop-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple());
        let dir = std::env::temp_dir().join(name);
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        made.or_fail(Code::Mkdir, dir.display().to_string())?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
