//! One pass over a BAT: which file clusters are taken, and every entry that cannot be right.
//!
//! Linear in the BAT, bounded in memory: reads of 1 MiB, one bit per file cluster, no allocation
//! per entry. Empty 4 KiB pages cost one comparison.

use fixedbitset::FixedBitSet;
use ploop_format::units::{HEADER_WORDS, PAGE};
use ploop_format::{
    BadEntry, BatPage, BatPageView, Bounds, ClusterSize, EntryFault, FileCluster, GuestCluster,
    Sector, is_zero,
};
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

/// The BAT of an image, in a file of some length.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Entries of the BAT.
    pub entries: u64,
    /// The limits of an entry.
    pub bounds: Bounds,
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
    /// The same with the file rounded up to a whole cluster.
    #[must_use]
    pub const fn rounded_up(self) -> Self {
        Self { bounds: self.bounds.rounded_up(), ..self }
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
    let clusters = table.bounds.file_clusters();
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
        if matches!(bad.fault, EntryFault::Duplicate { .. }) {
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

/// Puts the changes into a piece of the BAT that was read from byte `at`.
fn overlay(changes: &[(GuestCluster, u32)], at: u64, bytes: &mut [u8]) {
    let word = |cluster: GuestCluster| (cluster.0 + HEADER_WORDS) * 4;
    let end = at + bytes.len() as u64;
    let first = changes.partition_point(|(cluster, _)| word(*cluster) < at);
    for (cluster, entry) in changes[first..].iter().take_while(|(c, _)| word(*c) < end) {
        let place = (word(*cluster) - at) as usize;
        bytes[place..place + 4].copy_from_slice(&entry.to_le_bytes());
    }
}

struct State<'a> {
    scan: Scan,
    table: Table,
    sink: &'a mut dyn FnMut(BadEntry),
}

impl<'a> State<'a> {
    fn new(table: &Table, sink: &'a mut dyn FnMut(BadEntry)) -> Self {
        let Table { bounds, .. } = table;
        let clusters = bounds.file_clusters() as usize;
        let mut used = FixedBitSet::with_capacity(clusters);
        let data = bounds.data_start >> bounds.cluster.log2();
        used.insert_range(..(data as usize).min(clusters));
        Self { scan: Scan { used, mapped: 0, bad: 0 }, table: *table, sink }
    }

    /// A piece of the BAT that begins at byte `at` of the file, a page boundary.
    fn chunk(&mut self, at: u64, bytes: &[u8]) {
        let Table { entries, bounds } = self.table;
        for (n, bytes) in bytes.chunks(PAGE as usize).enumerate() {
            let page = BatPage(at / PAGE + n as u64);
            let view = (!is_zero(bytes)).then(|| BatPageView::new(entries, page, bytes)).flatten();
            for entry in view.into_iter().flat_map(|view| view.mapped(bounds)) {
                self.entry(entry);
            }
        }
    }

    #[inline]
    fn entry(&mut self, entry: Result<(GuestCluster, u32, Sector), BadEntry>) {
        self.scan.mapped += 1;
        let bad = match entry {
            Err(bad) => bad,
            Ok((slot, value, at)) => {
                let FileCluster(cluster) = self.table.bounds.file_cluster(value);
                if !self.scan.used.put(cluster as usize) {
                    return;
                }
                BadEntry { slot, value, fault: EntryFault::Duplicate { at } }
            }
        };
        self.scan.bad += 1;
        (self.sink)(bad);
    }
}
