//! The first partition of an attached device (T2): read from its GPT, added by BLKPG.

use crate::{Code, Failure, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

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
    let Some(name) = device.file_name().and_then(|name| name.to_str()) else { return };
    let Ok(entries) = std::fs::read_dir(Path::new("/sys/class/block").join(name)) else { return };
    for entry in entries.flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path().join("partition")) else { continue };
        let Ok(number) = text.trim().parse() else { continue };
        tracing::info!("{}: partition {number} is not of this disk", device.display());
        if let Err(error) = ploop_fuse::partition::delete(device, number) {
            tracing::warn!("{error}");
        }
    }
}

/// The first used partition of a GPT with blocks of this size.
pub fn first(disk: &mut (impl std::io::Read + std::io::Seek), block: u64) -> Option<Place> {
    let table = gptman::GPT::read_from(disk, block).ok()?;
    let (number, entry) = table.iter().find(|(_, entry)| entry.is_used())?;
    let blocks = entry.ending_lba.checked_sub(entry.starting_lba)?.checked_add(1)?;
    let start = entry.starting_lba.checked_mul(block)?;
    Some(Place { number, start, len: blocks.checked_mul(block)? })
}
