//! One pass over a BAT: which file clusters are taken, and every entry that cannot be right.
//!
//! Linear in the BAT, bounded in memory: reads of 1 MiB, one bit per file cluster, no allocation
//! per entry. Empty 4 KiB pages cost one comparison.

use crate::open::recover::overlay;
use fixedbitset::FixedBitSet;
use ploop_format::units::{HEADER_WORDS, PAGE, PAGE_WORDS, SECTOR_SHIFT};
use ploop_format::{ClusterSize, FileCluster, GuestCluster, Version};
use ploop_io::RawFile;
use std::collections::HashSet;
use std::io;
use std::ops::Range;

/// Bytes of a read.
const CHUNK: u64 = 1 << 20;
/// Entries with a shared place that a read-only open bears.
const MAX_SHARED: usize = 1 << 20;
/// More clusters no entry can name.
const MAX_FILE_CLUSTERS: u64 = 1 << 32;

/// Where an image keeps its BAT, and how long its file is.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// How an entry names a position.
    pub version: Version,
    /// The cluster size.
    pub cluster: ClusterSize,
    /// Entries of the BAT.
    pub entries: u64,
    /// First byte behind header and BAT.
    pub data_start: u64,
    /// Length of the file.
    pub len: u64,
}

/// Why an entry cannot be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Fault {
    /// An earlier entry names the same cluster.
    Duplicate,
    /// It names the header or the BAT.
    InsideBat,
    /// Its cluster does not lie inside the file.
    PastEnd,
    /// A v1 entry is not at a cluster boundary.
    Misaligned,
}

/// An entry that cannot be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadEntry {
    /// What is wrong.
    pub fault: Fault,
    /// Which entry.
    pub slot: GuestCluster,
    /// The word on disk.
    pub value: u32,
    /// The file cluster it names.
    pub cluster: FileCluster,
}

/// What a BAT says.
#[derive(Debug)]
pub struct Scan {
    /// File clusters taken by header, BAT and good entries; as long as the file, rounded up.
    pub used: FixedBitSet,
    /// Entries that name a cluster, bad ones included.
    pub mapped: u64,
    /// Bad entries.
    pub bad: u64,
}

impl Table {
    /// Whole or partial clusters of the file.
    #[must_use]
    pub const fn file_clusters(&self) -> u64 {
        self.cluster.count(self.len.saturating_sub(self.shift()))
    }

    /// Bytes by which an unaligned v1 image has its clusters shifted; 0 for all others.
    #[must_use]
    pub const fn shift(&self) -> u64 {
        self.cluster.offset_in(self.data_start)
    }

    /// Clusters of header and BAT.
    #[must_use]
    pub const fn data_clusters(&self) -> u64 {
        self.cluster.count(self.data_start)
    }

    /// Bytes behind the last whole cluster.
    #[must_use]
    pub const fn ragged(&self) -> u64 {
        self.cluster.offset_in(self.len.saturating_sub(self.shift()))
    }

    /// The same with the file rounded up to a whole cluster.
    #[must_use]
    pub const fn rounded_up(self) -> Self {
        match self.ragged() {
            0 => self,
            ragged => Self { len: self.len + (self.cluster.bytes() - ragged), ..self },
        }
    }

    /// Whole clusters of the file.
    #[must_use]
    pub const fn whole_clusters(&self) -> u64 {
        self.len.saturating_sub(self.shift()) >> self.cluster.log2()
    }
}

impl Scan {
    /// The end of the last cluster in use, in bytes.
    #[must_use]
    pub fn end(&self, cluster: ClusterSize) -> u64 {
        let last = self.used.maximum().map_or(0, |bit| bit as u64 + 1);
        cluster.file_start(FileCluster(last))
    }
}

/// Reads the whole BAT, as if `changes` (sorted) stood in it; `sink` gets each bad entry, in order.
///
/// # Errors
/// A read failed, the file ends inside the BAT, or it is longer than any entry can reach.
pub fn scan(
    file: &dyn RawFile,
    table: &Table,
    changes: &[(GuestCluster, u32)],
    sink: &mut dyn FnMut(BadEntry),
) -> io::Result<Scan> {
    let clusters = table.file_clusters();
    if clusters > MAX_FILE_CLUSTERS {
        return Err(io::Error::other(format!("{clusters} clusters are more than a BAT can name")));
    }
    let mut state = State::new(table, sink);
    let total = (table.entries + HEADER_WORDS) * 4;
    let place = |(slot, _): &(GuestCluster, u32)| (slot.0 + HEADER_WORDS) * 4;
    let until = |at| changes.get(changes.partition_point(|c| place(c) < at)).map_or(total, place);
    for_data(file, 0, total, until, |at, bytes| {
        overlay(changes, at, bytes);
        state.chunk(at, bytes);
        Ok(())
    })?;
    Ok(state.scan)
}

/// The entries that share their place with another, sorted; all of them, also the first.
///
/// # Errors
/// As [`scan`].
pub fn shared(file: &dyn RawFile, table: &Table) -> io::Result<Vec<GuestCluster>> {
    let mut twice: HashSet<u32> = HashSet::new();
    scan(file, table, &[], &mut |bad| {
        if bad.fault == Fault::Duplicate {
            twice.insert(bad.value);
        }
    })?;
    let mut found = Vec::new();
    if twice.is_empty() {
        return Ok(found);
    }
    let total = (table.entries + HEADER_WORDS) * 4;
    for_data(
        file,
        0,
        total,
        |_| total,
        |at, bytes| {
            for (n, word) in bytes.chunks_exact(4).enumerate() {
                let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                let place = at / 4 + n as u64;
                if place >= HEADER_WORDS && twice.contains(&value) {
                    if found.len() == MAX_SHARED {
                        let text = format!("more than {MAX_SHARED} entries share a place");
                        return Err(io::Error::other(text));
                    }
                    found.push(GuestCluster(place - HEADER_WORDS));
                }
            }
            Ok(())
        },
    )?;
    Ok(found)
}

/// Reads `start..end` in pieces of a page multiple; the last piece is cut at `end`.
pub(crate) fn for_chunks(
    file: &dyn RawFile,
    start: u64,
    end: u64,
    each: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    for_data(file, start, end, |at| at, each)
}

/// As [`for_chunks`], but behind a piece of zeros holes of the file are left out, each as far as
/// `until` allows: a few bytes of file may claim the longest BAT there is.
pub(crate) fn for_data(
    file: &dyn RawFile,
    start: u64,
    end: u64,
    until: impl Fn(u64) -> u64,
    mut each: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    // Aligned, so that direct I/O does not have to bounce.
    let mut memory = vec![0u8; (CHUNK.min(end.next_multiple_of(PAGE)) + PAGE) as usize];
    let skip = memory.as_ptr().align_offset(PAGE as usize).min(PAGE as usize);
    let buffer = &mut memory[skip..];
    let mut at = start - start % PAGE;
    while at < end {
        let want = CHUNK.min((end - at).next_multiple_of(PAGE)) as usize;
        let got = file.read_at(&mut buffer[..want], at)?;
        let need = (want as u64).min(end - at) as usize;
        if got < need {
            let text = format!("the file ends at byte {}, needed {end}", at + got as u64);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let skip = start.saturating_sub(at) as usize;
        let next = at + want as u64;
        let zeros = next < end && until(next) > next && is_zero(&buffer[skip..need]);
        each(at + skip as u64, &mut buffer[skip..need])?;
        at = next;
        if zeros {
            let data = file.next_data(at)?.unwrap_or(end);
            at = at.max(data.min(until(at)) / PAGE * PAGE);
        }
    }
    if file.len()? < end {
        let text = format!("the file has {} bytes, needed {end}", file.len()?);
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
    }
    Ok(())
}

/// Pages of a BAT, by number, that are holes of the file, in order. Looked for in steps of a read's
/// size, so that small ones may be missed; when the file system cannot tell, nothing is found.
///
/// # Errors
/// The file system fails.
pub(crate) fn bare_pages(file: &dyn RawFile, entries: u64) -> io::Result<Vec<Range<u64>>> {
    let total = (entries + HEADER_WORDS) * 4;
    let mut found = Vec::new();
    let mut at = CHUNK;
    while at < total {
        let data = file.next_data(at)?.unwrap_or(total).min(total);
        // The last page of the BAT may have other words behind its end.
        let run = at / PAGE..data / PAGE;
        if run.start < run.end {
            found.push(run);
        }
        at = data.max(at) / CHUNK * CHUNK + CHUNK;
    }
    Ok(found)
}

/// Whether all bytes are zero; the compiler makes wide compares of it.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(64);
    blocks.by_ref().all(|b| b.iter().fold(0, |a, x| a | x) == 0)
        && blocks.remainder().iter().all(|x| *x == 0)
}

struct State<'a> {
    scan: Scan,
    /// log2 of sectors per cluster for v1, 0 for v2.
    shift: u32,
    /// Sectors by which an unaligned v1 image has its clusters shifted.
    offset: u32,
    data: u64,
    whole: u64,
    sink: &'a mut dyn FnMut(BadEntry),
}

impl<'a> State<'a> {
    fn new(table: &'a Table, sink: &'a mut dyn FnMut(BadEntry)) -> Self {
        let clusters = table.file_clusters() as usize;
        let mut used = FixedBitSet::with_capacity(clusters);
        let data = table.data_start >> table.cluster.log2();
        used.insert_range(..(data as usize).min(clusters));
        let shift = match table.version {
            Version::V1 => table.cluster.sectors().trailing_zeros(),
            Version::V2 => 0,
        };
        // Clusters of an unaligned image are counted from its first whole one.
        let offset = (table.shift() >> SECTOR_SHIFT) as u32;
        let whole = table.whole_clusters();
        Self { scan: Scan { used, mapped: 0, bad: 0 }, shift, offset, data, whole, sink }
    }

    fn chunk(&mut self, at: u64, bytes: &[u8]) {
        let first = at / 4;
        for (page, bytes) in bytes.chunks(PAGE as usize).enumerate() {
            if is_zero(bytes) {
                continue;
            }
            let first = first + page as u64 * PAGE_WORDS;
            let skip = HEADER_WORDS.saturating_sub(first) as usize;
            let (words, _) = bytes.as_chunks::<4>();
            for (index, word) in words.iter().enumerate().skip(skip) {
                let value = u32::from_le_bytes(*word);
                if value != 0 {
                    self.entry(first + index as u64 - HEADER_WORDS, value);
                }
            }
        }
    }

    #[inline]
    fn entry(&mut self, slot: u64, value: u32) {
        self.scan.mapped += 1;
        let shifted = value.saturating_sub(self.offset);
        let cluster = u64::from(shifted >> self.shift);
        let fault = if self.shift != 0 && shifted.trailing_zeros() < self.shift {
            Fault::Misaligned
        } else if cluster < self.data {
            Fault::InsideBat
        } else if cluster >= self.whole {
            Fault::PastEnd
        } else if self.scan.used.put(cluster as usize) {
            Fault::Duplicate
        } else {
            return;
        };
        self.scan.bad += 1;
        (self.sink)(BadEntry {
            fault,
            slot: GuestCluster(slot),
            value,
            cluster: FileCluster(cluster),
        });
    }
}

impl BadEntry {
    /// A sentence with the numbers, for an image of this table.
    #[must_use]
    pub fn describe(&self, table: &Table) -> String {
        let Self { slot, cluster, value, .. } = self;
        let whole = table.whole_clusters();
        match self.fault {
            Fault::Duplicate => {
                format!("BAT entry {slot} points to cluster {cluster}, another entry does too")
            }
            Fault::InsideBat => format!(
                "BAT entry {slot} points to cluster {cluster}, header and BAT take {}",
                table.data_clusters()
            ),
            Fault::PastEnd => {
                format!("BAT entry {slot} points to cluster {cluster}, the file has {whole}")
            }
            Fault::Misaligned => format!(
                "BAT entry {slot} is sector {value}, no multiple of a cluster of {} sectors",
                table.cluster.sectors()
            ),
        }
    }
}
