//! Reads what the kernel's `dm-log-writes` has recorded: every write that reached a device, in the
//! order in which they ended, with flushes, discards and marks.
//!
//! ```text
//! sector 0      magic, version, number of entries, bytes of a sector
//! then each     header (sector, sectors, flags, length of a mark; the mark's text), data
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const HEADER: usize = 32;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// A recorded device.
pub struct Log {
    file: File,
    sector: u64,
    entries: u64,
    read: u64,
    at: u64,
}

/// One entry; positions and lengths in bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// Somebody's words.
    Mark(String),
    /// Data at a place of the device, from a place of the log; what is durable behind it is so
    /// when `durable`.
    Write { to: u64, len: u64, from: u64, durable: bool },
    /// A range without content.
    Discard { to: u64, len: u64 },
}

fn word(bytes: &[u8], n: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[n * 8..n * 8 + 8]);
    u64::from_le_bytes(out)
}

impl Log {
    /// Opens a log.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let mut head = [0; HEADER];
        file.read_exact_at(&mut head, 0)?;
        ensure!(word(&head, 0) == MAGIC, "{} is not a log of dm-log-writes", path.display());
        ensure!(word(&head, 1) == 1, "version {} of dm-log-writes", word(&head, 1));
        let sector = word(&head, 3) & u64::from(u32::MAX);
        ensure!(sector.is_power_of_two() && sector >= 512, "sectors of {sector} bytes");
        Ok(Self { file, sector, entries: word(&head, 2), read: 0, at: sector })
    }

    /// The next entry.
    pub fn next(&mut self) -> Result<Option<Entry>> {
        if self.read == self.entries {
            return Ok(None);
        }
        let mut head = vec![0; self.sector as usize];
        self.file.read_exact_at(&mut head, self.at)?;
        let (to, len) = (word(&head, 0) * self.sector, word(&head, 1) * self.sector);
        let (flags, mark) = (word(&head, 2), word(&head, 3) as usize);
        let from = self.at + self.sector;
        self.read += 1;
        if flags & MARK != 0 {
            self.at = from;
            let text = head.get(HEADER..HEADER + mark).context("a mark is longer than a sector")?;
            let text = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
            return Ok(Some(Entry::Mark(text)));
        }
        if flags & DISCARD != 0 {
            self.at = from;
            return Ok(Some(Entry::Discard { to, len }));
        }
        self.at = from + len;
        let durable = flags & (FLUSH | FUA) != 0;
        Ok(Some(Entry::Write { to, len, from, durable }))
    }

    /// Copies a write's data to a device.
    pub fn copy(&self, to: &File, at: u64, from: u64, len: u64) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(buffer.len() as u64) as usize;
            self.file.read_exact_at(&mut buffer[..step], from + done)?;
            to.write_all_at(&buffer[..step], at + done)?;
            done += step as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(words: [u64; 4], text: &[u8]) -> Vec<u8> {
        let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        out.extend_from_slice(text);
        out.resize(512, 0);
        out
    }

    #[test]
    fn entries_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = [
            sector([MAGIC, 1, 4, 512], b""),
            sector([8, 1, 0, 0], b""),
            vec![7; 512],
            sector([0, 0, MARK, 4], b"here"),
            sector([16, 4, DISCARD, 0], b""),
            sector([24, 1, FUA, 0], b""),
            vec![9; 512],
        ];
        std::fs::write(&path, log.concat()).unwrap();
        let mut log = Log::open(&path).unwrap();
        let write = |to, from, durable| Entry::Write { to, len: 512, from, durable };
        assert_eq!(log.next().unwrap(), Some(write(4096, 1024, false)));
        assert_eq!(log.next().unwrap(), Some(Entry::Mark("here".to_owned())));
        assert_eq!(log.next().unwrap(), Some(Entry::Discard { to: 8192, len: 2048 }));
        assert_eq!(log.next().unwrap(), Some(write(12288, 3072, true)));
        assert_eq!(log.next().unwrap(), None);
        let device = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("device"))
            .unwrap();
        log.copy(&device, 12288, 3072, 512).unwrap();
        let mut back = [0; 512];
        device.read_exact_at(&mut back, 12288).unwrap();
        assert_eq!(back, [9; 512]);
        std::fs::write(&path, [0; 512]).unwrap();
        assert!(Log::open(&path).is_err());
    }
}
