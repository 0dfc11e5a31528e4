//! A file system at rest while a snapshot is taken.
//!
//! A process of its own freezes it and thaws it again: when its pipe closes, so that a killed tool
//! leaves nothing frozen, or when its time is over.

use ploop_daemon::registry::Entry;
use ploop_daemon::runtime::freeze::{freeze, thaw};
use ploop_daemon::{Code, Failure, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The hidden verb of the watching process.
pub const VERB: &str = "freeze-watch";
/// Nothing stays frozen for longer.
const LONGEST: Duration = Duration::from_secs(60);

/// Somebody else may have it frozen for so long.
const OTHERS: Duration = Duration::from_secs(30);
/// Between two tries.
const NAP: Duration = Duration::from_millis(10);

/// A frozen file system; thawed when dropped.
pub struct Frozen {
    watcher: Child,
}

impl Frozen {
    /// Freezes where an open disk is mounted; `None` when nobody knows.
    ///
    /// # Errors
    /// It cannot be frozen.
    pub fn of_entry(entry: &Entry) -> Result<Option<Self>> {
        let mounts = super::mounts::of_entry(entry)?;
        let Some(mount) = mounts.first() else { return Ok(None) };
        Self::new(&mount.target).map(Some)
    }

    fn new(target: &Path) -> Result<Self> {
        let failed = |e: &std::io::Error| {
            Failure::io(Code::System, format!("cannot freeze {}", target.display()), e)
        };
        let me = std::env::current_exe().map_err(|e| failed(&e))?;
        let mut watcher = Command::new(me)
            .args([OsStr::new(VERB), target.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the tool: what it froze is thawed after it.
            .process_group(0)
            .spawn()
            .map_err(|e| failed(&e))?;
        let mut said = String::new();
        if let Some(out) = &mut watcher.stdout {
            let _ = out.take(7).read_to_string(&mut said);
        }
        let frozen = Self { watcher };
        match said.as_str() {
            "frozen\n" => Ok(frozen),
            // It has said why.
            _ => Err(Failure::new(Code::System, format!("cannot freeze {}", target.display()))
                .hint("-F takes the snapshot without")),
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// The watching process: freezes, says so, and thaws when stdin ends or the time is over.
///
/// # Errors
/// It cannot be frozen.
pub fn watch(target: &Path) -> Result<()> {
    let failed = |e: &std::io::Error| {
        Failure::io(Code::System, format!("cannot freeze {}", target.display()), e)
    };
    let directory = File::open(target).map_err(|e| failed(&e))?;
    // Somebody else's snapshot is being taken: this one is next.
    let until = Instant::now() + OTHERS;
    loop {
        match freeze(&directory) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                std::thread::sleep(NAP);
            }
            done => break done.map_err(|e| failed(&e))?,
        }
    }
    let (ended, end) = channel();
    let reader = std::thread::Builder::new().name("ploop-thaw".into()).spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        let _ = ended.send(());
    });
    if reader.is_ok() {
        let mut out = std::io::stdout();
        let _ = out.write_all(b"frozen\n").and_then(|()| out.flush());
        let _ = end.recv_timeout(LONGEST);
    }
    thaw(&directory).map_err(|e| failed(&e))
}
