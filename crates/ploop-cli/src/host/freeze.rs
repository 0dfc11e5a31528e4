//! A file system at rest while a snapshot is taken.
//!
//! A process of its own freezes it and thaws it again: when its pipe closes, so that a killed tool
//! leaves nothing frozen, or when its time is over. It is never killed by the tool: a freeze that
//! was begun ends sooner or later, and somebody must be there to thaw.

use super::mounting::{self, How};
use super::mounts::{self, Mount};
use super::stack;
use ploop_daemon::failure::OrFail;
use ploop_daemon::registry::Entry;
use ploop_daemon::runtime::freeze::{freeze, thaw};
use ploop_daemon::{Code, Failure, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, sync_channel};
use std::time::{Duration, Instant};

/// The hidden verb of the watching process.
pub const VERB: &str = "freeze-watch";
/// What the watching process says when it has frozen; else it says why it cannot.
const FROZEN: &str = "frozen\n";
/// Nothing stays frozen for longer.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a file system may take to write out what it has.
const PATIENCE: Duration = Duration::from_secs(30);
/// Somebody else may have it frozen for so long.
const OTHERS: Duration = Duration::from_secs(20);
/// Between two tries.
const NAP: Duration = Duration::from_millis(10);

/// Frozen file systems; thawed when dropped, the last one first.
#[derive(Default)]
pub struct Frozen {
    watchers: Vec<Watcher>,
}

struct Watcher {
    process: Child,
    /// Where it is mounted, for people.
    place: String,
}

/// A file system in use: the device it is on, and where it is mounted.
struct FileSystem {
    device: PathBuf,
    mounts: Vec<Mount>,
}

impl Frozen {
    /// Freezes every file system that is mounted from an open disk: from its device, a partition,
    /// or what the device mapper made of them, in whatever mount namespace.
    ///
    /// # Errors
    /// One cannot be frozen; the others go on.
    pub fn of_entry(entry: &Entry) -> Result<Self> {
        let mut frozen = Self::default();
        for system in file_systems(entry)? {
            frozen.watchers.push(Watcher::start(&system)?);
        }
        Ok(frozen)
    }

    /// Whether all of it is frozen still.
    ///
    /// # Errors
    /// One was thawed: its time was over, or its watching process was ended.
    pub fn holds(&mut self) -> Result<()> {
        for watcher in &mut self.watchers {
            if !matches!(watcher.process.try_wait(), Ok(None)) {
                let message = format!("{} did not stay frozen", watcher.place);
                return Err(Failure::new(Code::System, message)
                    .hint(format!("it is thawed after {} s at the latest", LONGEST.as_secs())));
            }
        }
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        while let Some(mut watcher) = self.watchers.pop() {
            drop(watcher.process.stdin.take());
            let _ = watcher.process.wait();
        }
    }
}

/// Those on an open disk, each once.
fn file_systems(entry: &Entry) -> Result<Vec<FileSystem>> {
    let Some(device) = &entry.device else { return Ok(Vec::new()) };
    let all = mounts::everywhere()?;
    let mut found: Vec<FileSystem> = Vec::new();
    for device in stack::above(Path::new(device)) {
        let mounts = mounts::from_devices(all.clone(), std::slice::from_ref(&device));
        // Of a namespace that no process is in the kernel alone knows.
        let hidden = mounts.is_empty() && in_use(&device);
        let known = |system: &FileSystem| system.mounts == mounts;
        if hidden || (!mounts.is_empty() && !found.iter().any(known)) {
            found.push(FileSystem { device, mounts });
        }
    }
    Ok(found)
}

/// Whether the kernel has a file system of this device in use.
fn in_use(device: &Path) -> bool {
    let Some(name) = device.file_name() else { return false };
    ["ext4", "xfs", "f2fs"].iter().any(|kind| Path::new("/sys/fs").join(kind).join(name).is_dir())
}

impl Watcher {
    fn start(system: &FileSystem) -> Result<Self> {
        let place = match system.mounts.first() {
            Some(mount) => mount.to_string(),
            None => format!("{} (mounted where no process is)", system.device.display()),
        };
        let failed =
            |e: &std::io::Error| Failure::io(Code::System, format!("cannot freeze {place}"), e);
        let me = std::env::current_exe().map_err(|e| failed(&e))?;
        let mut process = Command::new(me)
            .args([OsStr::new(VERB), system.device.as_os_str()])
            .args(system.mounts.iter().map(word))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Whoever waits for the end of our output must not wait for a freeze that hangs.
            .stderr(Stdio::null())
            // Ctrl-C is for the tool: what it froze is thawed after it.
            .process_group(0)
            .spawn()
            .map_err(|e| failed(&e))?;
        let out = process.stdout.take();
        let (said, answer) = sync_channel(1);
        let listen = move || {
            let mut text = String::new();
            if let Some(out) = out {
                let _ = BufReader::new(out).read_line(&mut text);
            }
            let _ = said.send(text);
        };
        std::thread::Builder::new().spawn(listen).map_err(|e| failed(&e))?;
        let cannot = |why: &str| {
            Err(Failure::new(Code::System, format!("cannot freeze {place}: {why}"))
                .hint("-F takes the snapshot without"))
        };
        match answer.recv_timeout(PATIENCE).as_deref() {
            Ok(FROZEN) => Ok(Self { process, place }),
            Ok(why) => {
                let _ = process.wait();
                cannot(why.trim_end())
            }
            // Its pipe closes here: it thaws as soon as it has frozen.
            Err(_) => cannot(&format!("it has not come to rest in {} s", PATIENCE.as_secs())),
        }
    }
}

/// A mount as a word for the watching process: its number, then a path to it.
fn word(mount: &Mount) -> OsString {
    let mut word = OsString::from(format!("{}:", mount.id));
    word.push(mount.path());
    word
}

/// The watching process: freezes, says so, and thaws when stdin ends or the time is over.
///
/// # Errors
/// It cannot be frozen.
pub fn watch(device: &Path, mounts: &[OsString]) -> Result<()> {
    // Whoever ends the tool and all its processes must not end the one that thaws.
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGPIPE] {
        let flag = std::sync::Arc::default();
        signal_hook::flag::register(signal, flag).or_fail(Code::System, "signals")?;
    }
    let directory = match mounts.iter().find_map(|word| open(word)) {
        Some(directory) => Ok(directory),
        None => hidden(device),
    };
    let directory = directory.and_then(|directory| {
        // Most is written out before anybody has to wait.
        let _ = rustix::fs::syncfs(&directory);
        in_turn(&directory).map_err(|error| why_not(&error)).map(|()| directory)
    });
    let directory = match directory {
        Ok(directory) => directory,
        Err(failure) => {
            let mut out = std::io::stdout();
            let _ = writeln!(out, "{}", failure.message).and_then(|()| out.flush());
            return Err(failure);
        }
    };
    let (ended, end) = channel();
    let reader = std::thread::Builder::new().name("ploop-thaw".into()).spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        let _ = ended.send(());
    });
    if reader.is_ok() {
        let mut out = std::io::stdout();
        let _ = out.write_all(FROZEN.as_bytes()).and_then(|()| out.flush());
        let _ = end.recv_timeout(LONGEST);
    }
    thaw(&directory).or_fail(Code::System, format!("cannot thaw {}", device.display()))
}

/// Somebody else's snapshot may be being taken: this one is next.
fn in_turn(directory: &File) -> io::Result<()> {
    let until = Instant::now() + OTHERS;
    loop {
        match freeze(directory) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                std::thread::sleep(NAP);
            }
            done => return done,
        }
    }
}

fn why_not(error: &std::io::Error) -> Failure {
    let busy = rustix::io::Errno::BUSY.raw_os_error();
    let message = match error.raw_os_error() {
        Some(code) if code == busy => "somebody has frozen it already".to_owned(),
        _ => error.to_string(),
    };
    Failure::new(Code::System, message)
}

/// The root of a mount, unless something else is mounted over it.
fn open(word: &OsStr) -> Option<File> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let at = word.as_bytes().iter().position(|&byte| byte == b':')?;
    let (id, path) = word.as_bytes().split_at(at);
    let id: u64 = std::str::from_utf8(id).ok()?.parse().ok()?;
    let path = PathBuf::from(OsString::from_vec(path[1..].to_vec()));
    let directory = File::open(path).ok()?;
    let stat = statx(&directory, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    // Kernels before 5.8 do not tell: then the path has to do.
    let told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    (!told || stat.stx_mnt_id == id).then_some(directory)
}

/// A file system that cannot be reached where it is mounted: mounted once more, for this process.
fn hidden(device: &Path) -> Result<File> {
    mounting::own_namespace()?;
    let name = device.display().to_string();
    let how = How::default();
    mounting::pinned(&name, how)
        .or_else(|_| mounting::pinned(&name, How { read_only: true, ..how }))
}
