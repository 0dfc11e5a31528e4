//! `check`: every row of the original's table with the severities of 7.x, reporting only (T4).
//!
//! | finding | clean | in use |
//! |---|---|---|
//! | header not usable | 11 | 11 |
//! | file not a whole number of clusters | 11 | reported, 37 |
//! | conversion in progress | - | 17 |
//! | entry past the end | 11 | 11 |
//! | v1 entry misaligned, duplicate, entry inside the BAT | 11 with `-f` | 11 |
//! | words behind the BAT | reported with `-f` | reported, 37 |
//! | damaged extension | 11 with `-f` | - (it is void) |
//! | in-use mark, any value but "closed" and "v2.1" | - | 37 |
//! | unused clusters | counted | counted |
//!
//! Where 7.x repairs without being asked (it lengthens a ragged file), this one writes nothing and
//! gives the code of 7.x in its read-only mode. What is found does not depend on whether the disk
//! or one image of it was named: duplicates count without `-c`, which 7.x asks for.

mod image;
mod report;

pub use report::{CheckReport, Finding, FindingKind, ImageReport, MAX_FINDINGS};

use crate::error::{ErrorKind, IoContext, Result};
use crate::locate::{self, Located};
use crate::open::plan::{Claim, Document};
use crate::open::{OpenOptions, attempt};
use ploop_io::{Dir, OpenHow};
use std::path::{Path, PathBuf};

/// How to check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckOptions {
    /// `-f`: also an image that was closed properly.
    pub force: bool,
    /// `-c`: look for duplicate entries. Taken for scripts; they are always looked for.
    pub duplicates: bool,
    /// `-r`: taken for scripts; nothing is ever written anyway.
    pub read_only: bool,
}

/// Checks a disk (descriptor or directory: the whole chain) or one image file.
///
/// # Errors
/// Nothing could be checked: not found, refused by the gate, open somewhere (37), no descriptor.
pub fn check(
    dir: &dyn Dir,
    target: &Path,
    options: &CheckOptions,
    open: &OpenOptions,
) -> Result<CheckReport> {
    match locate::locate_file(dir, target) {
        Ok(Located::Descriptor(path)) => check_disk(dir, &path, options, open),
        Ok(Located::Image(path)) => check_file(dir, &path, options, open),
        // A file that is neither: the report says so, as the original does.
        Err(error) if error.kind() == ErrorKind::BadImage => check_file(dir, target, options, open),
        Err(error) => Err(error),
    }
}

fn check_file(
    dir: &dyn Dir,
    path: &Path,
    options: &CheckOptions,
    open: &OpenOptions,
) -> Result<CheckReport> {
    let how = OpenHow { direct: open.direct, ..OpenHow::default() };
    let file = dir.open(path, how).at(ErrorKind::Open, "cannot open", path)?;
    attempt::share(&file, path, open)?;
    let images = vec![image::check_image(&*file, path, Claim::Ploop, options)?];
    Ok(CheckReport { images, ..CheckReport::default() })
}

fn check_disk(
    dir: &dyn Dir,
    path: &Path,
    options: &CheckOptions,
    open: &OpenOptions,
) -> Result<CheckReport> {
    let open = OpenOptions { read_only: true, structure_only: true, ..open.clone() };
    let mut report = CheckReport::default();
    let mut pieces = 1;
    let mut piece = 0;
    while piece < pieces {
        let open = OpenOptions { piece, ..open.clone() };
        let locked = attempt::lock_all(dir, path, &open, None)?;
        let mut own = CheckReport::default();
        for file in &locked.files {
            own.images.push(image::check_image(&*file.file, &file.path, file.claim, options)?);
        }
        check_sizes(&mut own);
        if let Some(document) = &locked.plan.document {
            pieces = document.disk.pieces();
            report.descriptor = Some(document.path.display().to_string());
            if piece == 0 {
                check_places(&mut own, document);
            }
            check_document(&mut own, document);
            check_beside(&mut own, &report.images, document);
            if piece + 1 == pieces {
                find_orphans(dir, &mut own, document);
            }
        }
        report.images.append(&mut own.images);
        report.findings.append(&mut own.findings);
        report.mixed_clusters |= own.mixed_clusters;
        piece += 1;
    }
    Ok(report)
}

/// A piece of a split disk against the first one, and against its range: only the last one may have
/// another size than the descriptor says.
fn check_beside(own: &mut CheckReport, first: &[ImageReport], document: &Document) {
    let mut found = Vec::new();
    for (image, beside) in own.images.iter().zip(first) {
        if image.version != beside.version {
            let names = format!("{} and {}", beside.image, image.image);
            let text = format!("{names} have versions {} and {}", beside.version, image.version);
            found.push(Finding::new(FindingKind::Chain, true, text));
        }
    }
    let last = document.start + document.parsed.size_sectors == document.disk.size_sectors;
    if !last {
        for finding in &mut own.findings {
            finding.fatal |= finding.kind == FindingKind::Descriptor;
        }
    }
    own.findings.extend(found);
}

/// One cluster size, one version, no level larger than the one above.
fn check_sizes(report: &mut CheckReport) {
    let ploop: Vec<&ImageReport> = report.images.iter().filter(|i| i.version != 0).collect();
    let mut found = Vec::new();
    let mut mixed = false;
    for pair in ploop.windows(2) {
        let (low, up) = (pair[0], pair[1]);
        let names = format!("{} and {}", low.image, up.image);
        if low.cluster_bytes != up.cluster_bytes {
            mixed = true;
            let text = format!(
                "{names} have clusters of {} and {} bytes",
                low.cluster_bytes, up.cluster_bytes
            );
            found.push(Finding::new(FindingKind::Chain, true, text));
        }
        if low.version != up.version {
            let text = format!("{names} have versions {} and {}", low.version, up.version);
            found.push(Finding::new(FindingKind::Chain, true, text));
        }
        if low.live > up.live {
            let text = format!("{names} have {} and {} clusters", low.live, up.live);
            found.push(Finding::new(FindingKind::Chain, true, text));
        }
    }
    report.mixed_clusters = mixed;
    report.findings.extend(found);
}

/// What is not where the descriptor says, and that the content is encrypted.
fn check_places(report: &mut CheckReport, document: &Document) {
    for (named, used) in &document.moved {
        let text = format!("{named} is not there, {} beside the descriptor is", used.display());
        report.findings.push(Finding::new(FindingKind::Descriptor, false, text));
    }
    if let Some(how) = document.parsed.encryption() {
        let text = format!("the content is encrypted ({how}): only its structure was looked at");
        report.findings.push(Finding::new(FindingKind::Encrypted, false, text));
    }
}

/// The descriptor against the top's header (F20: the header rules).
fn check_document(report: &mut CheckReport, document: &Document) {
    let Some(top) = report.images.last() else { return };
    if top.version == 0 {
        return;
    }
    let parsed = &document.parsed;
    let sectors = top.cluster_bytes >> 9;
    let mut found = Vec::new();
    let said = parsed.size_sectors;
    let wanted = said.div_ceil(sectors.max(1));
    if said != 0 && wanted != top.live {
        let text = format!(
            "the descriptor says {said} sectors ({wanted} clusters), {} has {} clusters",
            top.image, top.live
        );
        found.push(Finding::new(FindingKind::Descriptor, false, text));
    }
    let claimed = parsed.cluster.sectors();
    if u64::from(claimed) != sectors {
        let text = format!(
            "the descriptor says clusters of {claimed} sectors, {} has {sectors}",
            top.image
        );
        found.push(Finding::new(FindingKind::Descriptor, true, text));
    }
    report.findings.extend(found);
}

/// Left-over files: listed, never opened (I9).
fn find_orphans(dir: &dyn Dir, report: &mut CheckReport, document: &Document) {
    let home = document.home();
    let named: Vec<PathBuf> = document.disk.all_images().map(|i| home.join(&i.file)).collect();
    let first = |n| document.disk.piece_images(n).first().map(|image| home.join(&image.file));
    let bases: Vec<String> = (0..document.disk.pieces())
        .filter_map(|n| Some(first(n)?.file_name()?.to_str()?.to_owned()))
        .map(|name| name.split(".{").next().unwrap_or_default().to_owned())
        .collect();
    let Ok(list) = dir.list(home) else { return };
    for path in list {
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let path = home.join(name);
        let delta = bases.iter().any(|base| is_of(name, base));
        let staged = name.starts_with(locate::DESCRIPTOR) && name.contains(".tmp");
        if (delta && !named.contains(&path)) || staged {
            let text = format!("{} belongs to no snapshot of this disk", path.display());
            report.findings.push(Finding::new(FindingKind::Orphan, false, text));
        }
    }
}

/// Whether a file has the name of an image of the disk: of a disk that was split, of any piece.
fn is_of(name: &str, base: &str) -> bool {
    let Some((own, _)) = name.split_once(".{") else { return false };
    let piece = |text: &'_ str| -> Option<String> {
        let (stem, number) = text.rsplit_once('.')?;
        number.parse::<u16>().ok().map(|_| stem.to_owned())
    };
    own == base || piece(base).is_some_and(|stem| piece(own) == Some(stem))
}
