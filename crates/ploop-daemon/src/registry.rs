//! Who serves which disk on this host: one JSON file per server, beside its control socket (T7).
//!
//! Whoever finds an entry whose process is gone removes it. A process is known by its pid and its
//! start time, so that a reused pid is not taken for it.

use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use ploop_image::locate::{DESCRIPTOR, Located, locate};
use ploop_io::RealDir;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// One server's entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the entry ([`key`]), with `.PID` behind it when another server has the same.
    pub id: String,
    /// The server.
    pub pid: u32,
    /// When it started, in clock ticks after boot: tells it from a later process with its pid.
    pub pid_start: u64,
    /// DiskDescriptor.xml, or the lone image.
    pub disk: PathBuf,
    /// The images, base first.
    pub images: Vec<PathBuf>,
    /// Pieces that the disk is split into, with an image in each for every level: 1 of most.
    #[serde(default = "one")]
    pub pieces: usize,
    /// Opened read-only.
    pub read_only: bool,
    /// Its descriptor may name images outside its directory.
    #[serde(default)]
    pub allow_outside: bool,
    /// The block device.
    pub device: Option<String>,
    /// The device is `/dev/ploop/NAME` too.
    #[serde(default)]
    pub name: Option<String>,
    /// Its partition device to mount, when it has a partition table.
    pub partition: Option<String>,
    /// How the device is made: `loop`.
    pub transport: Option<String>,
    /// Where `ploop mount` mounted it.
    pub mountpoint: Option<PathBuf>,
    /// As in the ready lines: `nbd unix:PATH`, `fuse FILE`.
    pub exports: Vec<String>,
    /// Seconds since 1970.
    pub started: u64,
    /// Number of the group whose members see it in their lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible_to: Option<u32>,
    /// Its server is about to end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stopping: bool,
}

const fn one() -> usize {
    1
}

impl Entry {
    /// Levels of the disk.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.images.len() / self.pieces.max(1)
    }

    /// The image of the highest level; of a split disk that of its first piece.
    #[must_use]
    pub fn top(&self) -> Option<&Path> {
        self.images.iter().nth_back(self.pieces.max(1) - 1).map(PathBuf::as_path)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_false(word: &bool) -> bool {
    !*word
}

/// A directory of entries.
#[derive(Clone, Debug)]
pub struct Registry {
    dir: PathBuf,
    /// Nobody else may look into it.
    private: bool,
}

/// An entry of this process; removed when dropped.
#[derive(Debug)]
pub struct Claim {
    registry: Registry,
    entry: Entry,
}

impl Registry {
    /// The registry of this user: `$PLOOP_RUN_DIR`, else `/run/ploop`, else (not root)
    /// `$XDG_RUNTIME_DIR/ploop`.
    #[must_use]
    pub fn of_user() -> Self {
        if let Some(dir) = std::env::var_os("PLOOP_RUN_DIR").filter(|dir| !dir.is_empty()) {
            return Self::at(dir);
        }
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            return Self::at("/run/ploop");
        }
        let dir = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => Path::new(&dir).join("ploop"),
            None => std::env::temp_dir().join(format!("ploop-{}", uid.as_raw())),
        };
        Self { dir, private: true }
    }

    /// A registry in a directory of the caller's choice.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), private: false }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The control socket of an entry.
    #[must_use]
    pub fn socket(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.sock"))
    }

    /// Makes the directory if need be.
    ///
    /// # Errors
    /// It cannot be made, or it is somebody else's.
    pub fn prepare(&self) -> Result<()> {
        if self.is_there()? {
            return Ok(());
        }
        let mode = if self.private { 0o700 } else { 0o755 };
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(&self.dir);
        made.or_fail(Code::Mkdir, format!("cannot make {}", self.dir.display()))?;
        self.is_there().map(drop)
    }

    /// Whether the directory is there. One that another user made, or could change, is not used:
    /// its entries could name any process, socket and file.
    ///
    /// # Errors
    /// It is a link, somebody else's, or open to others.
    pub fn is_there(&self) -> Result<bool> {
        let dir = self.dir.display();
        let meta = match fs::symlink_metadata(&self.dir) {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(Failure::io(Code::Examine, format!("cannot look at {dir}"), &error));
            }
        };
        let me = rustix::process::geteuid();
        let others = if self.private { 0o077 } else { 0o022 };
        let bits = meta.mode() & 0o7777;
        let (why, hint) = if !meta.is_dir() {
            ("it is no directory".to_owned(), "remove it")
        } else if meta.uid() != me.as_raw() && (self.private || meta.uid() != 0) {
            let why = format!("it belongs to user {}, this is user {}", meta.uid(), me.as_raw());
            (why, "PLOOP_RUN_DIR names another directory")
        } else if bits & others != 0 && self.private {
            (format!("others can get at it: its mode is {bits:04o}"), "chmod 700 it")
        } else if bits & others != 0 && meta.uid() == me.as_raw() {
            // What others have put there meanwhile is theirs, and not read.
            let closed = fs::Permissions::from_mode(bits & !others);
            let done =
                fs::set_permissions(&self.dir, closed).or_fail(Code::System, dir.to_string());
            return done.map(|()| true);
        } else if bits & others != 0 {
            (format!("others can change it: its mode is {bits:04o}"), "chmod 755 it")
        } else {
            return Ok(true);
        };
        let message = format!("{dir}, where open disks are listed, is not used: {why}");
        Err(Failure::new(Code::System, message).kind("registry").hint(hint))
    }

    /// Whether members of a group can be let see an entry here.
    ///
    /// # Errors
    /// The directory is closed to them, or this user may not give a file to the group.
    pub fn check_visible(&self, group: u32) -> Result<()> {
        if self.private {
            let dir = self.dir.display();
            let message = format!("--visible-to: the disks of this user are listed in {dir}");
            let hint = "that is closed to others; root's list in /run/ploop can be seen by a group";
            return Err(Failure::parameter(message).hint(hint));
        }
        let me = rustix::process::geteuid();
        let groups = rustix::process::getgroups().unwrap_or_default();
        let mine = |gid: rustix::process::Gid| gid.as_raw() == group;
        if me.is_root() || mine(rustix::process::getegid()) || groups.into_iter().any(mine) {
            return Ok(());
        }
        Err(Failure::parameter(format!("--visible-to: this user is not in group {group}")))
    }

    /// Enters this process. `entry.id` is chosen here.
    ///
    /// # Errors
    /// The directory or the file cannot be written.
    pub fn claim(&self, mut entry: Entry) -> Result<Claim> {
        self.prepare()?;
        let _lock = self.lock()?;
        entry.pid = std::process::id();
        entry.pid_start = start_of(entry.pid).unwrap_or(0);
        entry.id = key(&entry.disk);
        let taken = self.load(&entry.id).is_some_and(|other| other.alive());
        if taken {
            // Read-only servers share a disk (T6).
            entry.id = format!("{}.{}", entry.id, entry.pid);
        }
        let claim = Claim { registry: self.clone(), entry };
        claim.store()?;
        Ok(claim)
    }

    /// The entries of living servers, sorted by name. Dead ones are removed, with what is left of
    /// their servers.
    ///
    /// # Errors
    /// The directory is there but cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let (living, dead): (Vec<_>, Vec<_>) = self.all()?.into_iter().partition(Entry::alive);
        for entry in &dead {
            let _ = self.clear(entry, false);
        }
        Ok(living)
    }

    /// All entries, sorted by name.
    pub(crate) fn all(&self) -> Result<Vec<Entry>> {
        if !self.is_there()? {
            return Ok(Vec::new());
        }
        let names = match fs::read_dir(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                let what = format!("cannot read {}", self.dir.display());
                return Err(Failure::io(Code::Read, what, &error));
            }
        };
        let names = names.flatten().filter_map(|name| name.file_name().into_string().ok());
        let mut entries: Vec<_> =
            names.filter_map(|name| self.load(name.strip_suffix(".json")?)).collect();
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(entries)
    }

    /// The server of a disk: by descriptor, image, or a directory that holds the descriptor.
    ///
    /// # Errors
    /// As [`Registry::entries`].
    pub fn by_disk(&self, disk: &Path) -> Result<Option<Entry>> {
        Ok(of_disk(self.entries()?, disk))
    }

    /// The server of a block device or one of its partitions.
    ///
    /// # Errors
    /// As [`Registry::entries`].
    pub fn by_device(&self, device: &str) -> Result<Option<Entry>> {
        Ok(of_device(self.entries()?, device))
    }

    pub(crate) fn load(&self, id: &str) -> Option<Entry> {
        let bytes = own(&self.dir.join(format!("{id}.json")))?;
        let mut entry: Entry = serde_json::from_slice(&bytes).ok()?;
        id.clone_into(&mut entry.id);
        Some(entry)
    }

    pub(crate) fn remove(&self, id: &str) {
        let _ = fs::remove_file(self.dir.join(format!("{id}.json")));
        // Of one who was killed while it wrote that.
        let _ = fs::remove_file(self.dir.join(format!("{id}.json.tmp")));
        let _ = fs::remove_file(self.socket(id));
    }

    pub(crate) fn lock(&self) -> Result<fs::File> {
        let path = self.dir.join(".lock");
        let what = || format!("cannot lock {}", path.display());
        let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.or_fail(Code::Flock, what())?;
        flock(&file, FlockOperation::LockExclusive).or_fail(Code::Flock, what())?;
        Ok(file)
    }
}

impl Entry {
    /// Whether its server still runs. One that was killed does not, though its end takes a moment.
    #[must_use]
    pub fn alive(&self) -> bool {
        start_of(self.pid) == Some(self.pid_start) && !is_killed(self.pid)
    }
}

impl Claim {
    /// The entry as last stored.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The path of its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.registry.socket(&self.entry.id)
    }

    /// The path of a file of this server with another ending.
    #[must_use]
    pub fn path(&self, ending: &str) -> PathBuf {
        self.registry.dir.join(format!("{}.{ending}", self.entry.id))
    }

    /// Changes the entry and stores it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn update(&mut self, change: impl FnOnce(&mut Entry)) -> Result<()> {
        change(&mut self.entry);
        self.store()
    }

    fn store(&self) -> Result<()> {
        let path = self.path("json");
        let staged = self.path("json.tmp");
        let write = || -> std::io::Result<()> {
            let text = serde_json::to_vec_pretty(&self.entry)?;
            let _ = fs::remove_file(&staged);
            // What the disks of a host are called is nobody else's business, unless asked.
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
            if let Some(group) = self.entry.visible_to {
                std::os::unix::fs::fchown(&file, None, Some(group))?;
                file.set_permissions(fs::Permissions::from_mode(0o640))?;
            }
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            drop(file);
            fs::rename(&staged, &path)
        };
        write().or_fail(Code::Write, format!("cannot write {}", path.display()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.registry.remove(&self.entry.id);
    }
}

/// The content of a file of this user's or root's.
fn own(path: &Path) -> Option<Vec<u8>> {
    let mut file = fs::File::open(path).ok()?;
    let owner = file.metadata().ok()?.uid();
    let mut bytes = Vec::new();
    let mine = owner == 0 || owner == rustix::process::geteuid().as_raw();
    (mine && file.read_to_end(&mut bytes).is_ok()).then_some(bytes)
}

/// The name of a disk in the registry (T7). A disk is its descriptor: the images below its top may
/// belong to others too, and all of them come and go. A descriptor is known by its directory, for
/// it is written anew with every change, and by its own name where that is not the usual one; a
/// lone image, and a snapshot that is served by itself, by its file.
#[must_use]
pub fn key(disk: &Path) -> String {
    let ident = |path: &Path| fs::metadata(path).map_or((0, 0), |meta| (meta.dev(), meta.ino()));
    let is_descriptor = disk.extension().is_some_and(|e| e.eq_ignore_ascii_case("xml"));
    let (Some(home), true) = (disk.parent(), is_descriptor) else {
        let (dev, ino) = ident(disk);
        return format!("{dev:x}:{ino:x}");
    };
    let (dev, ino) = ident(home);
    let name = disk.file_name().unwrap_or_default();
    if name == DESCRIPTOR {
        return format!("{dev:x}:{ino:x}");
    }
    let hash = name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{dev:x}:{ino:x}-{hash:x}")
}

/// The entry of a disk: by its descriptor, the directory of that, or an image that the disk has to
/// itself. An image of another disk, or of none, means that one, whoever has it below its own.
#[must_use]
pub fn of_disk(entries: Vec<Entry>, disk: &Path) -> Option<Entry> {
    let path = fs::canonicalize(disk).unwrap_or_else(|_| disk.to_owned());
    // The descriptor beside it rules; where that cannot be read an image in the disk's directory
    // still tells.
    let named = match locate(&RealDir, &path) {
        Ok(Located::Descriptor(descriptor)) => fs::canonicalize(descriptor).ok(),
        Ok(Located::Image(_)) | Err(_) => None,
    };
    let own = |entry: &Entry| {
        let inside = entry.disk.parent().is_some_and(|home| path.starts_with(home));
        inside && entry.images.contains(&path)
    };
    let found = entries.into_iter().filter(|entry| match &named {
        _ if entry.disk == path => true,
        Some(descriptor) => entry.disk == *descriptor,
        None => own(entry),
    });
    // A snapshot has a server of its own; of several for one disk a writer is the one people mean.
    found.min_by_key(|entry| (entry.disk != path, entry.read_only))
}

/// The entry of a block device or of one of its partitions.
#[must_use]
pub fn of_device(entries: Vec<Entry>, device: &str) -> Option<Entry> {
    let name = if device.contains('/') { device.to_owned() } else { format!("/dev/{device}") };
    let real = fs::canonicalize(&name).unwrap_or_else(|_| name.clone().into());
    let is = |candidate: &Option<String>| {
        candidate.as_ref().is_some_and(|c| *c == name || Path::new(c) == real)
    };
    entries.into_iter().find(|entry| is(&entry.device) || is(&entry.partition))
}

/// When a process started (field 22 of `/proc/PID/stat`); `None` when it is gone or a zombie.
fn start_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, is in parentheses and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether SIGKILL waits for a process: then it comes back from the kernel no more.
fn is_killed(pid: u32) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let pending = text.lines().filter_map(|line| {
        let words = line.strip_prefix("ShdPnd:").or_else(|| line.strip_prefix("SigPnd:"))?;
        u64::from_str_radix(words.trim(), 16).ok()
    });
    pending.fold(0, |all, one| all | one) & KILL != 0
}

#[cfg(test)]
mod tests {
    use super::{Entry, Registry, of_disk, start_of};
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    use std::path::{Path, PathBuf};

    fn entry(disk: impl AsRef<Path>) -> Entry {
        Entry {
            id: String::new(),
            pid: 0,
            pid_start: 0,
            disk: disk.as_ref().to_owned(),
            images: vec![PathBuf::from("/x/root.hds")],
            pieces: 1,
            read_only: false,
            allow_outside: false,
            device: Some("/dev/loop77".into()),
            name: None,
            partition: Some("/dev/loop77p1".into()),
            transport: Some("loop".into()),
            mountpoint: None,
            exports: vec![],
            started: 1,
            visible_to: None,
            stopping: false,
        }
    }

    #[test]
    fn a_process_that_was_killed_is_not_alive_until_it_is_gone() {
        for _ in 0..50 {
            let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let pid = child.id();
            let pid_start = super::start_of(pid).unwrap();
            let entry = Entry { pid, pid_start, ..entry("/x") };
            assert!(entry.alive());
            child.kill().unwrap();
            let alive = entry.alive();
            child.wait().unwrap();
            assert!(!alive);
        }
    }

    #[test]
    fn a_claim_is_found_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path());
        let claim = registry.claim(entry("/x/DiskDescriptor.xml")).unwrap();
        assert_eq!(claim.entry().id, super::key("/x/DiskDescriptor.xml".as_ref()));
        let found = registry.by_disk("/x/DiskDescriptor.xml".as_ref()).unwrap().unwrap();
        assert_eq!(&found, claim.entry());
        assert!(registry.by_disk("/x/root.hds".as_ref()).unwrap().is_some());
        assert!(registry.by_device("/dev/loop77p1").unwrap().is_some());
        assert!(registry.by_device("loop77").unwrap().is_some());
        assert!(registry.by_device("loop7").unwrap().is_none());
        drop(claim);
        assert!(registry.entries().unwrap().is_empty());
    }

    #[test]
    fn entries_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry { dir: dir.path().join("ploop-7"), private: true };
        let claim = registry.claim(entry("/x/DiskDescriptor.xml")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(registry.dir()), 0o700);
        assert_eq!(
            (mode(&claim.path("json")), mode(&registry.dir().join(".lock"))),
            (0o600, 0o600)
        );
    }

    #[test]
    fn a_directory_that_others_can_reach_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Registry { dir: dir.path().join(name), private: true };
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for (name, mode) in [("listed", 0o755), ("shared", 0o770), ("all", 0o777)] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(dir.path().join(name), mode).unwrap();
        }
        for name in ["link", "file", "listed", "shared", "all"] {
            let error = at(name).claim(entry("/x/a.xml")).unwrap_err();
            assert!(error.message.contains("is not used") && error.hint.is_some(), "{error:?}");
            assert!(at(name).entries().is_err(), "{name}");
        }
        assert!(!dir.path().join("elsewhere").exists());
        let root = rustix::process::geteuid().is_root();
        if !root {
            let name = "a_directory_that_others_can_reach_is_not_used";
            ploop_e2e::skip(name, "needs root, for what belongs to another user");
        }
        if root {
            std::fs::DirBuilder::new().mode(0o700).create(dir.path().join("his")).unwrap();
            std::os::unix::fs::chown(dir.path().join("his"), Some(4242), None).unwrap();
            let error = at("his").entries().unwrap_err();
            assert!(error.message.contains("belongs to user 4242"), "{error:?}");
            assert!(Registry::at(dir.path().join("his")).entries().is_err());
        }
        // Of root's all may know that it is there; nobody else may change it.
        Registry::at(dir.path().join("listed")).entries().unwrap();
        let shared = Registry::at(dir.path().join("shared"));
        let _claim = shared.claim(entry("/x/a.xml")).unwrap();
        let mode = std::fs::metadata(shared.dir()).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o750, "one's own is closed");
        assert_eq!(shared.entries().unwrap().len(), 1);
        if root {
            // What another user had put there before.
            let file = shared.dir().join(format!("{}.json", super::key("/x/a.xml".as_ref())));
            std::os::unix::fs::chown(file, Some(4242), None).unwrap();
            assert_eq!(shared.entries().unwrap(), []);
        }
    }

    #[test]
    fn a_second_server_of_the_same_disk_gets_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path());
        let first = registry.claim(entry("/x/a.xml")).unwrap();
        let second = registry.claim(entry("/x/a.xml")).unwrap();
        assert_ne!(first.entry().id, second.entry().id);
        assert_eq!(registry.entries().unwrap().len(), 2);
    }

    #[test]
    fn the_image_of_another_disk_means_that_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (base, clone) = (dir.path().join("base"), dir.path().join("clone"));
        for home in [&base, &clone] {
            std::fs::create_dir(home).unwrap();
            let path = home.join("root.hds");
            let options = ploop_image::CreateOptions {
                size: ploop_format::Sector(2048),
                version: ploop_format::Version::V2,
                cluster: ploop_format::ClusterSize::from_sectors(64).unwrap(),
                kind: ploop_image::Kind::Expanded,
            };
            let (files, random) = (ploop_io::RealDir, ploop_io::RealEntropy);
            ploop_image::create(&files, &random, &path, &options, &mut |_, _| {}).unwrap();
        }
        let images = vec![base.join("root.hds"), clone.join("root.hds")];
        let open = Entry { images, ..entry(clone.join("DiskDescriptor.xml")) };
        let found = |path: PathBuf| of_disk(vec![open.clone()], &path).is_some();
        assert!(found(clone.clone()) && found(clone.join("DiskDescriptor.xml")));
        assert!(found(clone.join("root.hds")));
        assert!(!found(base.clone()) && !found(base.join("DiskDescriptor.xml")));
        assert!(!found(base.join("root.hds")));
        // Nobody's image is not the clone's either, but what lies in its directory is.
        std::fs::remove_file(base.join("DiskDescriptor.xml")).unwrap();
        std::fs::remove_file(clone.join("DiskDescriptor.xml")).unwrap();
        assert!(!found(base.join("root.hds")));
        assert!(found(clone.join("root.hds")));
        assert_ne!(super::key(&base.join("DiskDescriptor.xml")), super::key(&open.disk));
        assert_ne!(super::key(&clone.join("other.xml")), super::key(&open.disk));
    }

    #[test]
    fn entries_of_dead_or_reused_pids_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path());
        let mut dead = entry("/x/a.xml");
        dead.pid = std::process::id();
        dead.pid_start = start_of(dead.pid).unwrap() + 1;
        let file = dir.path().join("1:2.json");
        std::fs::write(&file, serde_json::to_vec(&dead).unwrap()).unwrap();
        std::fs::write(registry.socket("1:2"), "").unwrap();
        assert!(registry.entries().unwrap().is_empty());
        assert!(!file.exists());
        assert!(!registry.socket("1:2").exists());
    }
}
