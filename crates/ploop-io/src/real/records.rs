//! Records as shared mappings of files in a directory, best one on tmpfs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::RealEntropy;
use crate::{Entropy, Records, Words};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const WORD: usize = size_of::<AtomicU64>();
/// A larger file is none of ours.
const MAX_BYTES: u64 = 1 << 30;

/// One file per record, `NAME.record`.
#[derive(Clone, Debug)]
pub struct RealRecords {
    dir: PathBuf,
}

impl RealRecords {
    /// Records in this directory, which is made when the first record is.
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.record"))
    }
}

impl Records for RealRecords {
    fn open(&self, name: &str) -> io::Result<Option<Words>> {
        let path = self.path(name);
        let opened =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        let (len, owner) = (meta.len(), meta.uid());
        let me = rustix::process::geteuid().as_raw();
        if !meta.is_file() || (owner != me && owner != 0) {
            return Err(io::Error::other(format!("{} belongs to user {owner}", path.display())));
        }
        if len == 0 || len > MAX_BYTES || len % WORD as u64 != 0 {
            return Err(io::Error::other(format!("{} has {len} bytes", path.display())));
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_BYTES")]
        let words = len as usize / WORD;
        Ok(Some(Words::new(Mapping::new(&file, words)?)))
    }

    fn create(&self, name: &str, words: usize) -> io::Result<Words> {
        fs::create_dir_all(&self.dir)?;
        let fresh = self.dir.join(format!(".{name}.{:016x}", self.session()));
        let made = make(&fresh, words).and_then(|mapping| {
            fs::rename(&fresh, self.path(name))?;
            Ok(Words::new(mapping))
        });
        if made.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&fresh);
        }
        made
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn boot(&self) -> io::Result<u128> {
        let text = fs::read_to_string(BOOT_ID)?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        u128::from_str_radix(&digits, 16)
            .map_err(|_| io::Error::other(format!("{BOOT_ID} says {text:?}")))
    }

    fn session(&self) -> u64 {
        let mut bytes = [0; 8];
        RealEntropy.fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    }
}

fn make(path: &std::path::Path, words: usize) -> io::Result<Mapping> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    // Blocks now: a store into a hole of a full tmpfs would end the process.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, (words * WORD) as u64)?;
    Mapping::new(&file, words)
}

/// A shared mapping of a file's words.
struct Mapping {
    at: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is only reached through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &File, words: usize) -> io::Result<Self> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let flags = flags | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice; the file is as long, and only
        // its owner can cut it.
        let at = unsafe { mmap(std::ptr::null_mut(), words * WORD, prot, flags, file, 0) }?;
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { at, words })
    }
}

impl Deref for Mapping {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `words` aligned words, mapped until the drop; any bits are a valid AtomicU64.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range `new` mapped; no reference outlives `self`. A failure leaves it mapped.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.words * WORD) };
    }
}

#[cfg(test)]
mod tests {
    use super::RealRecords;
    use crate::Records;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn words_are_found_again_and_a_new_record_begins_with_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let records = RealRecords::at(dir.path().join("run"));
        assert!(records.open("1:2").unwrap().is_none());
        let words = records.create("1:2", 1000).unwrap();
        words[999].store(7, SeqCst);
        drop(words);
        let again = records.open("1:2").unwrap().unwrap();
        assert_eq!((again.len(), again[999].load(SeqCst)), (1000, 7));
        let fresh = records.create("1:2", 10).unwrap();
        assert!(fresh.iter().all(|word| word.load(SeqCst) == 0));
        assert_eq!(again[999].load(SeqCst), 7, "who has the old one keeps it");
        assert_eq!(std::fs::read_dir(dir.path().join("run")).unwrap().count(), 1);
        records.remove("1:2").unwrap();
        records.remove("1:2").unwrap();
        assert!(records.open("1:2").unwrap().is_none());
    }

    #[test]
    fn odd_files_and_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let records = RealRecords::at(dir.path());
        std::fs::write(dir.path().join("a.record"), b"12345").unwrap();
        assert!(records.open("a").unwrap_err().to_string().contains("5 bytes"));
        std::os::unix::fs::symlink("a.record", dir.path().join("b.record")).unwrap();
        assert!(records.open("b").is_err());
        assert!(records.boot().unwrap() != 0);
        assert_ne!(records.session(), records.session());
    }
}
