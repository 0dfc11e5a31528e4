//! The first partition of an attached device (T2): read from its GPT, added by BLKPG.

use crate::{Code, Failure, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a kernel may take to find the partitions of a device.
const FINDING: Duration = Duration::from_millis(500);
/// Entries of a table, at most; 128 is usual.
const ENTRIES: u32 = 1024;

/// A partition this server added; deleted before the device goes.
#[derive(Clone, Debug)]
pub struct Partition {
    device: PathBuf,
    path: PathBuf,
    number: u32,
}

/// Where a partition lies, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its number, from 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length.
    pub len: u64,
}

impl Partition {
    /// Adds the first partition of the GPT; `None` when there is no GPT.
    ///
    /// # Errors
    /// There is one, but the kernel refuses the partition.
    pub fn add_first(device: &Path, block: u64) -> Result<Option<Self>> {
        // D8: it reads the device, and a kill meanwhile must end that.
        ploop_fuse::apart(|| Self::add_first_here(device, block))
            .map_err(|error| Failure::io(Code::System, "a thread for the partitions", &error))?
    }

    fn add_first_here(device: &Path, block: u64) -> Result<Option<Self>> {
        delete_stale(device);
        let Ok(mut file) = File::open(device) else { return Ok(None) };
        let Some(place) = first(&mut file, block) else { return Ok(None) };
        drop(file);
        let path = ploop_fuse::partition::add(device, place.number, place.start, place.len);
        let path = path.map_err(|error| {
            Failure::new(Code::Partition, format!("partition {}: {error}", place.number))
        })?;
        Ok(Some(Self { device: device.to_owned(), path, number: place.number }))
    }

    /// Its device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it away.
    ///
    /// # Errors
    /// It is in use.
    pub fn remove(&self) -> Result<()> {
        // What is cached of it is written out, to the device.
        let gone = ploop_fuse::apart(|| ploop_fuse::partition::delete(&self.device, self.number));
        let gone =
            gone.map_err(|error| Failure::io(Code::System, "a thread for the partitions", &error))?;
        gone.map_err(|error| {
            Failure::new(Code::DeviceBusy, format!("{}: {error}", self.path.display()))
        })
    }
}

/// Partitions of whoever had the device before us and could not delete them: it was killed, or
/// stopped while they were mounted. A loop device keeps them.
fn delete_stale(device: &Path) {
    for number in known(device) {
        tracing::info!("{}: partition {number} is not of this disk", device.display());
        if let Err(error) = ploop_fuse::partition::delete(device, number) {
            tracing::warn!("{error}");
        }
    }
}

/// Takes away what a verb has told the kernel of, before a device that keeps it goes.
pub fn delete_all(device: &Path) {
    // What is cached of them is written out, to the device.
    let gone = ploop_fuse::apart(|| {
        for number in known(device) {
            if let Err(error) = ploop_fuse::partition::delete(device, number) {
                tracing::warn!("partition {number}: {error}");
            }
        }
    });
    if let Err(error) = gone {
        tracing::warn!("a thread for the partitions: {error}");
    }
}

/// Numbers of the partitions that the kernel knows.
fn known(device: &Path) -> Vec<u32> {
    let Some(name) = device.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let folder = Path::new("/sys/class/block").join(name);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("partition")).ok()?.trim().parse().ok()
    };
    entries.filter_map(number).collect()
}

/// The first partition of the GPT, as the kernel itself has found it. A kernel that looks for
/// partitions may do it a moment after the device has come.
#[must_use]
pub fn found(device: &Path, block: u64) -> Option<PathBuf> {
    // D8: it reads the device, and a kill meanwhile must end that.
    let look = || File::open(device).ok().and_then(|mut file| first(&mut file, block));
    let table = ploop_fuse::apart(look).ok().flatten();
    // Partitions of other tables are known by the kernel alone.
    let number = table.map_or(1, |place| place.number);
    let until = Instant::now() + if table.is_some() { FINDING } else { Duration::ZERO };
    while ploop_fuse::partition::place(device, number).is_none() {
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let node = ploop_fuse::partition::node(device, number);
    node.inspect_err(|error| tracing::warn!("{error}")).ok()
}

/// The first used partition of a GPT with blocks of this size.
pub fn first(disk: &mut (impl Read + Seek), block: u64) -> Option<Place> {
    let table = read(disk, block)?;
    let (number, entry) = table.iter().find(|(_, entry)| entry.is_used())?;
    let blocks = entry.ending_lba.checked_sub(entry.starting_lba)?.checked_add(1)?;
    let start = entry.starting_lba.checked_mul(block)?;
    Some(Place { number, start, len: blocks.checked_mul(block)? })
}

/// The GPT with blocks of this size, from its copy at the end when the first one is damaged. `None`
/// also for one of a size and shape that nobody makes: it may be made to exhaust memory.
pub fn read(disk: &mut (impl Read + Seek), block: u64) -> Option<gptman::GPT> {
    let size = disk.seek(SeekFrom::End(0)).ok()?;
    let blocks = size.checked_div(block).filter(|blocks| *blocks > 2 * u64::from(ENTRIES))?;
    for at in [1, blocks - 1] {
        disk.seek(SeekFrom::Start(at * block)).ok()?;
        let Ok(header) = gptman::GPTHeader::read_from(disk) else { continue };
        let usual = header.size_of_partition_entry == 128
            && (1..=ENTRIES).contains(&header.number_of_partition_entries)
            && header.primary_lba == at
            && header.partition_entry_lba < blocks
            && header.backup_lba < blocks.max(1 << 40)
            && header.last_usable_lba < 1 << 40;
        if !usual {
            return None;
        }
    }
    gptman::GPT::read_from(disk, block).ok()
}

#[cfg(test)]
mod tests {
    use super::{first, read};
    use std::io::{Cursor, Seek, SeekFrom, Write};

    #[test]
    fn a_table_that_would_exhaust_memory_is_none() {
        let mut disk = Cursor::new(vec![0; 4 << 20]);
        let mut gpt = gptman::GPT::new_from(&mut disk, 512, [7; 16]).unwrap();
        gpt[3] = gptman::GPTPartitionEntry {
            partition_type_guid: [1; 16],
            unique_partition_guid: [2; 16],
            starting_lba: 2048,
            ending_lba: 4095,
            attribute_bits: 0,
            partition_name: "".into(),
        };
        gpt.write_into(&mut disk).unwrap();
        let place = first(&mut disk, 512).unwrap();
        assert_eq!((place.number, place.start, place.len), (3, 1 << 20, 1 << 20));
        assert!(first(&mut disk, 4096).is_none());
        let header = gptman::GPTHeader {
            number_of_partition_entries: u32::MAX,
            partition_entry_lba: u64::MAX,
            ..gpt.header
        };
        // With the right checksum.
        let mut hostile = header;
        hostile.update_crc32_checksum();
        disk.seek(SeekFrom::Start(512)).unwrap();
        write_header(&mut disk, &hostile);
        assert!(read(&mut disk, 512).is_none());
    }

    /// As gptman does, without the entries.
    fn write_header(disk: &mut Cursor<Vec<u8>>, header: &gptman::GPTHeader) {
        let mut bytes = Vec::new();
        bytes.extend(header.signature);
        bytes.extend(header.revision);
        bytes.extend(header.header_size.to_le_bytes());
        bytes.extend(header.crc32_checksum.to_le_bytes());
        bytes.extend(header.reserved);
        for lba in
            [header.primary_lba, header.backup_lba, header.first_usable_lba, header.last_usable_lba]
        {
            bytes.extend(lba.to_le_bytes());
        }
        bytes.extend(header.disk_guid);
        bytes.extend(header.partition_entry_lba.to_le_bytes());
        bytes.extend(header.number_of_partition_entries.to_le_bytes());
        bytes.extend(header.size_of_partition_entry.to_le_bytes());
        bytes.extend(header.partition_entry_array_crc32.to_le_bytes());
        bytes.resize(512, 0);
        disk.write_all(&bytes).unwrap();
        assert!(gptman::GPTHeader::read_from(&mut Cursor::new(bytes)).is_ok(), "the checksum");
    }
}
