//! The partition table of a device: what is in it, and the last partition made longer.

use super::gpt;
use ploop_daemon::failure::OrFail;
use ploop_daemon::runtime::partition;
use ploop_daemon::{Code, Failure, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An old table: four entries of sixteen bytes.
const ENTRIES: usize = 446;
/// Types of entries that hold other partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The type of the one that keeps old tools off a GPT.
const PROTECTIVE: u8 = 0xee;
/// What an old table counts in.
const SECTOR: u64 = 512;
/// The first number of partitions within one.
const FIRST_LOGICAL: u32 = 5;
/// More of them no kernel takes.
const LOGICAL: usize = 60;
/// A place that cannot be said in cylinders, heads and sectors.
const FAR: [u8; 3] = [0xfe, 0xff, 0xff];

/// A partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// From 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

impl Part {
    /// The first byte behind it.
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// What divides a device.
pub enum Table {
    /// Nothing.
    Bare,
    /// A GPT in blocks of so many bytes.
    Gpt(Box<gptman::GPT>, u64),
    /// A table of the old kind, and the logical partitions in its extended one.
    Mbr(Box<[u8; 512]>, Vec<Part>),
}

impl Table {
    /// Reads the table of a device; `whole` when it is known to hold something without one.
    ///
    /// # Errors
    /// The device cannot be read, or its table is damaged.
    pub fn read(device: &Path, block: u64, whole: bool) -> Result<Self> {
        let what = || format!("partition table of {}", device.display());
        let mut file = File::open(device).or_fail(Code::Partition, what())?;
        if whole {
            return Ok(Self::Bare);
        }
        if let Some(gpt) = partition::read(&mut file, block) {
            return Ok(Self::Gpt(Box::new(gpt), block));
        }
        let mut sector = Box::new([0; 512]);
        file.read_exact_at(&mut sector[..], 0).or_fail(Code::Partition, what())?;
        let entries = || sector[ENTRIES..510].chunks_exact(16);
        let sane = entries().all(|entry| entry[0] & 0x7f == 0);
        let any = entries().any(|entry| entry[4] != 0 && entry[4] != PROTECTIVE);
        if sector[510..] != [0x55, 0xaa] || !sane {
            return Ok(Self::Bare);
        }
        if entries().any(|entry| entry[4] == PROTECTIVE) {
            let message = format!("{}: its GPT is damaged", what());
            let hint = format!("`gdisk {}` can repair it", device.display());
            return Err(Failure::new(Code::Partition, message).hint(hint));
        }
        if !any {
            return Ok(Self::Bare);
        }
        let mut inner = Vec::new();
        if let Some(entry) = entries().find(|entry| is_extended(entry)) {
            let extended = placed(entry, 0, 0);
            inner = logical(&file, &extended).or_fail(Code::Partition, what())?;
        }
        Ok(Self::Mbr(sector, inner))
    }

    /// The partitions, by number.
    pub fn parts(&self) -> Vec<Part> {
        match self {
            Self::Bare => Vec::new(),
            Self::Gpt(gpt, block) => {
                let used = gpt.iter().filter(|(_, entry)| entry.is_used());
                used.filter_map(|(number, entry)| {
                    let blocks =
                        entry.ending_lba.checked_sub(entry.starting_lba)?.checked_add(1)?;
                    let start = entry.starting_lba.checked_mul(*block)?;
                    Some(Part { number, start, len: blocks.checked_mul(*block)? })
                })
                .collect()
            }
            Self::Mbr(sector, inner) => {
                let entries = sector[ENTRIES..510].chunks_exact(16).zip(1..);
                let used = entries.filter(|(entry, _)| entry[4] != 0);
                let primary = used.map(|(entry, number)| placed(entry, number, 0));
                primary.chain(inner.iter().cloned()).collect()
            }
        }
    }

    /// Whether a partition lies in another one of an old table.
    pub fn is_logical(&self, part: &Part) -> bool {
        matches!(self, Self::Mbr(_, inner) if inner.contains(part))
    }

    /// Where the last partition may end on a device of `size` bytes.
    ///
    /// # Errors
    /// An old table cannot say a place so far.
    pub fn end(&self, size: u64, cluster: u64) -> Result<u64> {
        match self {
            Self::Bare => Ok(size),
            Self::Gpt(_, block) => {
                Ok(gpt::range(size, cluster, *block).map_or(0, |(_, last)| (last + 1) * block))
            }
            Self::Mbr(..) => {
                let most = u64::from(u32::MAX) * SECTOR;
                if size > most {
                    let message = format!(
                        "{size} bytes: a partition table of the old kind (MBR) reaches to {most}"
                    );
                    return Err(Failure::new(Code::Partition, message).hint(format!(
                        "up to -s {}, or `gdisk` converts it to a GPT",
                        most / SECTOR
                    )));
                }
                Ok(size / 4096 * 4096)
            }
        }
    }

    /// Writes the table for the size that the device has now, with a partition that ends at `end`.
    ///
    /// # Errors
    /// The device cannot be written.
    pub fn write(&mut self, device: &Path, number: u32, end: u64) -> Result<()> {
        let what = || format!("partition table of {}", device.display());
        let file = File::options().read(true).write(true).open(device);
        let mut file = file.or_fail(Code::Partition, what())?;
        match self {
            Self::Bare => Ok(()),
            Self::Gpt(gpt, block) => {
                let bad = |error: gptman::Error| {
                    Failure::new(Code::Partition, format!("{}: {error}", what()))
                };
                let old = gpt.header.clone();
                gpt.header.update_from(&mut file, *block).map_err(bad)?;
                if old.is_primary() {
                    // Where somebody has put them.
                    gpt.header.partition_entry_lba = old.partition_entry_lba;
                    gpt.header.first_usable_lba = old.first_usable_lba;
                }
                gpt[number].ending_lba = end / *block - 1;
                write_gpt(gpt, *block, &mut file, &what())
            }
            Self::Mbr(sector, _) => {
                let at = ENTRIES + 16 * (number as usize - 1);
                let start = u64::from(u32::from_le_bytes(four(&sector[..], at + 8)));
                let len = u32::try_from(end / SECTOR - start).unwrap_or(u32::MAX);
                sector[at + 5..at + 8].copy_from_slice(&FAR);
                sector[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
                file.write_all_at(&sector[..], 0).or_fail(Code::Partition, what())?;
                file.sync_all().or_fail(Code::Sync, what())
            }
        }
    }
}

fn is_extended(entry: &[u8]) -> bool {
    EXTENDED.contains(&entry[4])
}

/// The partition of an entry that counts from `base`.
fn placed(entry: &[u8], number: u32, base: u64) -> Part {
    let word = |at| u64::from(u32::from_le_bytes(four(entry, at))) * SECTOR;
    Part { number, start: base + word(8), len: word(12) }
}

/// The partitions in an extended one: each sector with a table names the next.
fn logical(file: &File, extended: &Part) -> std::io::Result<Vec<Part>> {
    let damaged = || std::io::Error::other("the list in its extended partition is damaged");
    let inside = |part: &Part| part.start >= extended.start && part.end() <= extended.end();
    let mut found = Vec::new();
    let mut at = extended.start;
    for _ in 0..LOGICAL {
        let mut sector = [0; 512];
        file.read_exact_at(&mut sector, at)?;
        if sector[510..] != [0x55, 0xaa] {
            return Err(damaged());
        }
        let entries = || sector[ENTRIES..510].chunks_exact(16);
        for entry in entries().filter(|entry| entry[4] != 0 && !is_extended(entry)) {
            let part = placed(entry, found.len() as u32 + FIRST_LOGICAL, at);
            found.push(Some(part).filter(inside).ok_or_else(damaged)?);
        }
        let next = entries().find(|entry| is_extended(entry));
        let Some(next) = next.map(|entry| placed(entry, 0, extended.start)) else {
            return Ok(found);
        };
        at = Some(next).filter(inside).ok_or_else(damaged)?.start;
    }
    Err(damaged())
}

/// The copy at the new end first: at every moment one of the two is whole, where it is looked for.
fn write_gpt(gpt: &gptman::GPT, block: u64, file: &mut File, what: &str) -> Result<()> {
    let bad = |error: gptman::Error| Failure::new(Code::Partition, format!("{what}: {error}"));
    let entries: Vec<_> = gpt.iter().map(|(_, entry)| entry.clone()).collect();
    let mut first = gpt.header.clone();
    if first.is_backup() {
        // It was read from the copy: the first one is damaged.
        (first.primary_lba, first.backup_lba) = (first.backup_lba, first.primary_lba);
        first.partition_entry_lba = 2;
    }
    let mut copy = first.clone();
    (copy.primary_lba, copy.backup_lba) = (first.backup_lba, first.primary_lba);
    copy.partition_entry_lba = first.last_usable_lba + 1;
    for header in [&mut copy, &mut first] {
        header.write_into(file, block, &entries).map_err(bad)?;
        file.sync_all().or_fail(Code::Sync, what)?;
    }
    protect(file, block).or_fail(Code::Partition, what)?;
    file.sync_all().or_fail(Code::Sync, what)
}

/// The entry that keeps old tools off covers the whole device, as far as it can say.
fn protect(file: &mut File, block: u64) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom};
    let size = file.seek(SeekFrom::End(0))?;
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0)?;
    if protected(&mut sector, size / block) { file.write_all_at(&sector, 0) } else { Ok(()) }
}

/// Whether something was changed.
fn protected(sector: &mut [u8; 512], blocks: u64) -> bool {
    let before = *sector;
    let len = u32::try_from(blocks.saturating_sub(1)).unwrap_or(u32::MAX);
    for entry in sector[ENTRIES..510].chunks_exact_mut(16) {
        let whole = entry[4] == PROTECTIVE && entry[8..12] == 1_u32.to_le_bytes();
        if whole && before[510..] == [0x55, 0xaa] {
            entry[12..16].copy_from_slice(&len.to_le_bytes());
        }
    }
    *sector != before
}

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

#[cfg(test)]
mod tests {
    use super::{ENTRIES, Part, Table, protected};
    use std::io::Write;

    fn old(entries: &[(u8, u32, u32)]) -> [u8; 512] {
        let mut sector = [0; 512];
        for (at, (kind, start, len)) in entries.iter().enumerate() {
            let entry = &mut sector[ENTRIES + 16 * at..][..16];
            entry[4] = *kind;
            entry[8..12].copy_from_slice(&start.to_le_bytes());
            entry[12..16].copy_from_slice(&len.to_le_bytes());
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    fn device(sector: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(sector).unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        file
    }

    #[test]
    fn an_old_table_is_read_and_its_last_partition_grows() {
        let file = device(&old(&[(0x83, 2048, 4096), (0, 0, 0), (0x83, 8192, 2048)]));
        let mut table = Table::read(file.path(), 512, false).unwrap();
        let part = |number, start: u64, len: u64| Part { number, start: start << 9, len: len << 9 };
        assert_eq!(table.parts(), [part(1, 2048, 4096), part(3, 8192, 2048)]);
        let end = table.end(64 << 20, 1 << 20).unwrap();
        table.write(file.path(), 3, end).unwrap();
        let parts = Table::read(file.path(), 512, false).unwrap().parts();
        assert_eq!(parts, [part(1, 2048, 4096), part(3, 8192, (64 << 11) - 8192)]);
        assert!(table.end(3 << 40, 1 << 20).is_err(), "2 TiB is the end");
    }

    #[test]
    fn what_is_no_table_and_what_cannot_be_changed() {
        let bare = |sector: &[u8]| {
            matches!(Table::read(device(sector).path(), 512, false), Ok(Table::Bare))
        };
        assert!(bare(&[0; 512]));
        // A boot sector of a file system.
        let mut boot = old(&[(0x83, 2048, 4096)]);
        boot[ENTRIES] = 0x33;
        assert!(bare(&boot));
        for kind in [0x05, 0x0f, 0xee] {
            let file = device(&old(&[(0x83, 2048, 4096), (kind, 8192, 8192)]));
            assert!(Table::read(file.path(), 512, false).is_err(), "{kind:x}");
        }
        let file = device(&old(&[(0x83, 2048, 4096)]));
        assert!(matches!(Table::read(file.path(), 512, true), Ok(Table::Bare)));
    }

    #[test]
    fn logical_partitions_are_found_and_a_list_without_end_is_refused() {
        use std::os::unix::fs::FileExt;
        let file = device(&old(&[(0x83, 2048, 4096), (0x0f, 8192, 16384)]));
        let put = |at: u64, entries: &[(u8, u32, u32)]| {
            file.as_file().write_all_at(&old(entries), at << 9).unwrap();
        };
        put(8192, &[(0x83, 63, 1000), (0x05, 4096, 2000)]);
        put(8192 + 4096, &[(0x82, 63, 500)]);
        let read = || Table::read(file.path(), 512, false);
        let table = read().unwrap();
        let parts = table.parts();
        let places: Vec<_> = parts.iter().map(|part| (part.number, part.start >> 9)).collect();
        assert_eq!(places, [(1, 2048), (2, 8192), (5, 8192 + 63), (6, 8192 + 4096 + 63)]);
        let inner: Vec<_> = parts.iter().map(|part| table.is_logical(part)).collect();
        assert_eq!(inner, [false, false, true, true]);
        // It leads back to itself; out of the extended partition; the next is none.
        for next in [0, 20_000, 6000] {
            put(8192, &[(0x83, 63, 1000), (0x05, next, 2000)]);
            assert!(read().is_err(), "{next}");
        }
        put(8192, &[(0x83, 63, 99_999)]);
        assert!(read().is_err(), "it ends outside");
    }

    #[test]
    fn the_protective_entry_covers_the_device() {
        let mut sector = old(&[(0xee, 1, 99), (0x83, 2048, 10)]);
        assert!(protected(&mut sector, 1000));
        assert_eq!(sector[..], old(&[(0xee, 1, 999), (0x83, 2048, 10)])[..]);
        assert!(!protected(&mut sector, 1000));
        assert!(protected(&mut sector, 1 << 40));
        assert_eq!(sector[..], old(&[(0xee, 1, u32::MAX), (0x83, 2048, 10)])[..]);
    }

    #[test]
    fn a_gpt_grows_with_its_copy_at_the_new_end() {
        let file = device(&[]);
        let (mut handle, block) = (file.reopen().unwrap(), 512);
        let mut gpt = gptman::GPT::new_from(&mut handle, block, [7; 16]).unwrap();
        for (number, start, end) in [(1, 2048, 4095), (2, 4096, 8191)] {
            gpt[number] = gptman::GPTPartitionEntry {
                partition_type_guid: [1; 16],
                unique_partition_guid: [number as u8; 16],
                starting_lba: start,
                ending_lba: end,
                attribute_bits: 0,
                partition_name: "".into(),
            };
        }
        gpt.write_into(&mut handle).unwrap();
        gptman::GPT::write_protective_mbr_into(&mut handle, block).unwrap();
        let size = 128 << 20;
        handle.set_len(size).unwrap();
        let mut table = Table::read(file.path(), block, false).unwrap();
        let end = table.end(size, 1 << 20).unwrap();
        table.write(file.path(), 2, end).unwrap();
        // The copy alone says the same.
        for damage in [false, true] {
            let mut table = Table::read(file.path(), block, false).unwrap();
            let last = table.parts().pop().unwrap();
            assert_eq!((last.number, last.end()), (2, end));
            // From the copy both are made again.
            table.write(file.path(), 2, end).unwrap();
            if !damage {
                use std::os::unix::fs::FileExt;
                handle.write_all_at(&[0; 1024], 512).unwrap();
            }
        }
        let found = gptman::GPT::read_from(&mut handle, block).unwrap();
        assert!(found.header.is_primary());
        assert_eq!(found.header.backup_lba, size / block - 1);
    }
}
