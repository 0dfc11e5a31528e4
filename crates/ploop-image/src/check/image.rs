//! The check of one image file.

use super::CheckOptions;
use super::report::{Finding, FindingKind, ImageReport};
use crate::error::{ErrorKind, IoContext, Result};
use crate::extension::Extension;
use crate::head::Head;
use crate::open::plan::Claim;
use crate::scan::{self, Scan, Table};
use ploop_format::units::HEADER_WORDS;
use ploop_format::{BadEntry, EntryFault, is_zero};
use ploop_io::RawFile;
use std::path::Path;

/// Checks one file; what it finds goes into the report, only failing reads are errors.
pub(super) fn check_image(
    file: &dyn RawFile,
    path: &Path,
    claim: Claim,
    options: &CheckOptions,
) -> Result<ImageReport> {
    let mut report = ImageReport { image: path.display().to_string(), ..Default::default() };
    let len = file.len().at(ErrorKind::Stat, "cannot stat", path)?;
    let head = match claim {
        Claim::Raw => return Ok(ImageReport { raw: true, ..report }),
        Claim::Either => match Head::read_if_ploop(file, path) {
            Ok(None) => return Ok(ImageReport { raw: true, ..report }),
            Ok(Some(head)) => Ok(head),
            Err(error) => Err(error),
        },
        Claim::Ploop => Head::read(file, path),
    };
    let head = match head {
        Ok(head) => head,
        Err(error) if error.kind() == ErrorKind::BadImage => {
            report.add(Finding::new(FindingKind::Header, true, error.to_string()));
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    fill_header(&mut report, &head);
    if !head.header.has_first_block() {
        let text = "the first block is 0xffffffff, so nobody has said where data begins";
        report.add(Finding::new(FindingKind::Header, true, text));
    }
    if check_before_scan(&mut report, &head, len, options) {
        return Ok(report);
    }
    check_table(&mut report, file, &head, len)?;
    Ok(report)
}

fn fill_header(report: &mut ImageReport, head: &Head) {
    report.version = head.version_number();
    report.cluster_bytes = head.cluster().bytes();
    (report.clusters, report.live) = (head.entries(), head.live());
    report.in_use = head.dirty();
    if report.in_use {
        let text = format!("the in-use mark is {:#010x}", head.in_use_word());
        report.add(Finding::new(FindingKind::InUse, false, text));
    }
}

/// What needs no BAT, in the order of 7.x: length, conversion.
fn check_before_scan(
    report: &mut ImageReport,
    head: &Head,
    len: u64,
    options: &CheckOptions,
) -> bool {
    let table = head.table(len);
    // Too short for its own block table: nothing else about its length is worth saying.
    if len < head.data_start() {
        let text = format!("the file has {len} bytes, header and BAT take {}", head.data_start());
        report.add(Finding::new(FindingKind::Header, true, text));
        return true;
    }
    if table.bounds.ragged() != 0 {
        let text = format!(
            "the file has {len} bytes, {} more than {} clusters of {}",
            table.bounds.ragged(),
            table.bounds.whole_clusters(),
            table.bounds.cluster.bytes()
        );
        // On a crashed image it is an interrupted extension: the next open takes care of it.
        report.add(Finding::new(FindingKind::Ragged, !head.dirty(), text));
        if !head.dirty() {
            return true;
        }
    }
    report.skipped = !head.dirty() && !options.force;
    if head.dirty() && head.converting() {
        let text = "a conversion of the format version was interrupted";
        report.add(Finding::new(FindingKind::Conversion, true, text));
        return true;
    }
    false
}

fn check_table(report: &mut ImageReport, file: &dyn RawFile, head: &Head, len: u64) -> Result<()> {
    let table = head.table(len);
    // A ragged end of a crashed image is rounded up, as the next open does.
    let rounded = table.rounded_up();
    let path = file.path();
    let scan = scan::scan(file, &rounded, &[], &mut |bad| note_entry(report, &rounded, bad)).at(
        ErrorKind::Read,
        "cannot read the BAT of",
        path,
    )?;
    report.allocated = scan.mapped;
    report.counted = true;
    if report.skipped {
        return Ok(());
    }
    check_garbage(report, file, &table)?;
    check_size(report, head);
    let mut scan = scan;
    check_extension(report, file, head, &mut scan)?;
    report.leaks = (scan.used.len() - scan.used.count_ones(..)) as u64;
    Ok(())
}

fn note_entry(report: &mut ImageReport, table: &Table, bad: BadEntry) {
    let kind = match bad.fault {
        EntryFault::Duplicate { .. } => FindingKind::Duplicate,
        EntryFault::InsideBat { .. } => FindingKind::InsideBat,
        EntryFault::PastEof { .. } | EntryFault::Reserved => FindingKind::PastEnd,
        EntryFault::Misaligned { .. } => FindingKind::Misaligned,
    };
    // An image that was closed properly is believed, but not that its file is all there.
    if report.skipped && kind != FindingKind::PastEnd {
        return;
    }
    report.add(Finding {
        kind,
        slot: Some(bad.slot.0),
        cluster: Some(table.bounds.file_cluster(bad.value).0),
        detail: bad.to_string(),
        fatal: true,
    });
}

/// Words behind the last BAT entry: an open does not look at them, and a grow of ours clears them
/// (F20), so they are told and no more.
fn check_garbage(report: &mut ImageReport, file: &dyn RawFile, table: &Table) -> Result<()> {
    let start = (table.entries + HEADER_WORDS) * 4;
    scan::for_data(
        file,
        start,
        table.bounds.data_start,
        |_| table.bounds.data_start,
        |at, bytes| {
            if is_zero(bytes) {
                return Ok(());
            }
            let (words, _) = bytes.as_chunks::<4>();
            for (index, word) in words.iter().enumerate().filter(|(_, w)| **w != [0; 4]) {
                let slot = at / 4 + index as u64 - HEADER_WORDS;
                let value = u32::from_le_bytes(*word);
                report.add(Finding {
                kind: FindingKind::Garbage,
                slot: Some(slot),
                cluster: None,
                detail: format!(
                    "word {slot} behind the last of {} BAT entries is {value}: no entry, not used",
                    table.entries
                ),
                fatal: false,
            });
            }
            Ok(())
        },
    )
    .at(ErrorKind::Read, "cannot read the BAT of", file.path())
}

/// The device may end inside its last cluster (QEMU writes such), not before it.
fn check_size(report: &mut ImageReport, head: &Head) {
    let wanted = head.cluster().count(head.size().bytes());
    if wanted < head.entries() {
        let text = format!(
            "the device has {} sectors ({wanted} clusters), the BAT {} entries",
            head.size(),
            head.entries()
        );
        report.add(Finding::new(FindingKind::Size, false, text));
    }
}

/// The extension and the clusters it names must be inside the file and nobody else's.
fn check_extension(
    report: &mut ImageReport,
    file: &dyn RawFile,
    head: &Head,
    scan: &mut Scan,
) -> Result<()> {
    let clusters = match head.extension(file, file.path())? {
        Extension::None => return Ok(()),
        Extension::Bad(why) => {
            report.add(Finding::new(FindingKind::Extension, true, why));
            return Ok(());
        }
        Extension::Good { clusters, .. } => clusters,
    };
    let whole = scan.used.len() as u64;
    for cluster in clusters {
        let text = if cluster >= whole {
            format!("the extension names cluster {cluster}, the file has {whole}")
        } else if scan.used.put(cluster as usize) {
            format!("cluster {cluster} of the extension belongs to the BAT or the data too")
        } else {
            continue;
        };
        report.add(Finding {
            cluster: Some(cluster),
            ..Finding::new(FindingKind::Extension, true, text)
        });
    }
    Ok(())
}
