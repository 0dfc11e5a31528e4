//! The guest's memory, mapped into this process.

use crate::error::{Error, Result};
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use vhost::vhost_user::message::{VhostUserMemoryRegion, VhostUserSingleMemoryRegion};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};

/// A range of guest memory where it is in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub ptr: NonNull<u8>,
    pub len: usize,
}

// SAFETY: it names shared memory that no Rust value lives in; its users say why it is mapped.
unsafe impl Send for Piece {}

/// One region as the monitor describes it.
#[derive(Clone)]
struct Region {
    guest: u64,
    len: u64,
    /// Where the monitor has it: it names rings by its own addresses.
    user: u64,
    mapping: Arc<GuestRegionMmap>,
}

/// All regions. Immutable: a change makes another one, and whoever works with this one keeps it.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    regions: Vec<Region>,
    map: GuestMemoryMmap,
}

fn mapped(region: &VhostUserMemoryRegion, file: File) -> Result<Region> {
    let bad = |text| Error::Io { what: "guest memory", source: std::io::Error::other(text) };
    let len = usize::try_from(region.memory_size).map_err(|_| bad("a region is too large"))?;
    let end = region.mmap_offset.checked_add(region.memory_size);
    let there = rustix::fs::fstat(&file).map(|stat| stat.st_size as u64);
    if end.is_none_or(|end| there.is_ok_and(|there| end > there)) {
        return Err(bad("a region is longer than its file"));
    }
    let offset = FileOffset::new(file, region.mmap_offset);
    let mapping = MmapRegion::from_file(offset, len).map_err(|error| Error::Io {
        what: "mapping guest memory",
        source: std::io::Error::other(error.to_string()),
    })?;
    let at = GuestAddress(region.guest_phys_addr);
    let mapping = GuestRegionMmap::new(mapping, at).ok_or_else(|| bad("a region wraps around"))?;
    Ok(Region {
        guest: region.guest_phys_addr,
        len: region.memory_size,
        user: region.user_addr,
        mapping: Arc::new(mapping),
    })
}

impl Memory {
    /// Maps the regions of a message.
    pub fn of(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Self> {
        let regions = regions.iter().zip(files).map(|(region, file)| mapped(region, file));
        Self::made(regions.collect::<Result<_>>()?)
    }

    /// The same with one more.
    pub fn with(&self, region: &VhostUserSingleMemoryRegion, file: File) -> Result<Self> {
        let mut regions = self.regions.clone();
        regions.push(mapped(region, file)?);
        Self::made(regions)
    }

    /// The same without one.
    pub fn without(&self, gone: &VhostUserSingleMemoryRegion) -> Result<Self> {
        let mut regions = self.regions.clone();
        regions.retain(|r| (r.guest, r.len) != (gone.guest_phys_addr, gone.memory_size));
        Self::made(regions)
    }

    fn made(mut regions: Vec<Region>) -> Result<Self> {
        regions.sort_by_key(|region| region.guest);
        let all = regions.iter().map(|region| Arc::clone(&region.mapping)).collect();
        let map = match regions.is_empty() {
            true => GuestMemoryMmap::new(),
            false => GuestMemoryMmap::from_arc_regions(all).map_err(|error| Error::Io {
                what: "guest memory",
                source: std::io::Error::other(error.to_string()),
            })?,
        };
        Ok(Self { regions, map })
    }

    /// For the rings.
    pub fn map(&self) -> &GuestMemoryMmap {
        &self.map
    }

    /// The guest's address of what the monitor has at one of its own.
    pub fn guest(&self, user: u64) -> Option<u64> {
        let region = self.regions.iter().find(|r| (r.user..r.user + r.len).contains(&user))?;
        region.guest.checked_add(user - region.user)
    }

    /// Where a range is here, one piece per region. `false`: some of it is no memory.
    pub fn pieces(&self, at: u64, len: u32, into: &mut Vec<Piece>) -> bool {
        let mut left = len as usize;
        for slice in self.map.get_slices(GuestAddress(at), left) {
            let Ok(slice) = slice else { return false };
            let Some(ptr) = NonNull::new(slice.ptr_guard_mut().as_ptr()) else { return false };
            left -= slice.len();
            add(into, Piece { ptr, len: slice.len() });
        }
        left == 0
    }
}

/// Neighbours become one.
fn add(into: &mut Vec<Piece>, piece: Piece) {
    if let Some(last) = into.last_mut()
        && last.ptr.as_ptr().wrapping_add(last.len) == piece.ptr.as_ptr()
    {
        last.len += piece.len;
    } else if piece.len > 0 {
        into.push(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn region(guest: u64, len: u64, user: u64) -> (VhostUserMemoryRegion, File) {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, len).unwrap();
        (VhostUserMemoryRegion::new(guest, len, user, 0), fd.into())
    }

    #[test]
    fn ranges_are_found_across_regions_and_not_beyond() {
        let (first, a) = region(0x1000, 0x2000, 0x7000_0000);
        let (second, b) = region(0x3000, 0x1000, 0x9000_0000);
        let memory = Memory::of(&[second, first], vec![b, a]).unwrap();
        assert_eq!(memory.guest(0x7000_0010), Some(0x1010));
        assert_eq!(memory.guest(0x9000_0fff), Some(0x3fff));
        assert_eq!(memory.guest(0x9000_1000), None);
        let mut pieces = Vec::new();
        assert!(memory.pieces(0x2ffe, 4, &mut pieces));
        assert_eq!(pieces.iter().map(|p| p.len).sum::<usize>(), 4);
        pieces.clear();
        // Neighbours in one region are one piece.
        assert!(memory.pieces(0x1000, 512, &mut pieces) && memory.pieces(0x1200, 512, &mut pieces));
        assert_eq!(pieces.len(), 1);
        for (at, len) in [(0x3fff, 2), (0, 1), (u64::MAX, 2), (0x4000, 1)] {
            assert!(!memory.pieces(at, len, &mut Vec::new()), "{at:#x}");
        }
        let gone = VhostUserSingleMemoryRegion::new(0x1000, 0x2000, 0, 0);
        let less = memory.without(&gone).unwrap();
        assert!(!less.pieces(0x1000, 1, &mut Vec::new()));
        assert!(less.pieces(0x3000, 1, &mut Vec::new()));
    }

    #[test]
    fn overlapping_and_truncated_regions_are_refused() {
        let (first, a) = region(0x1000, 0x2000, 0);
        let (second, b) = region(0x2000, 0x1000, 0x9000_0000);
        assert!(Memory::of(&[first, second], vec![a, b]).is_err());
        let (mut long, file) = region(0, 0x1000, 0);
        long.memory_size = 0x2000;
        assert!(Memory::of(&[long], vec![file]).is_err());
    }
}
