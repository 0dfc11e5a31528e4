//! `ploop map`: which image has which part of a disk.

use crate::args;
use crate::host::server;
use crate::plan;
use crate::show::{Output, json, table};
use ploop_daemon::control::types::Extent;
use ploop_daemon::runtime::{Session, mapping, open};
use ploop_daemon::{Result, registry::Entry};
use ploop_io::RealDir;
use serde::Serialize;
use std::path::Path;

/// What the map is made of.
struct Mapped {
    size: u64,
    cluster: u64,
    images: Vec<String>,
    extents: Vec<Extent>,
}

#[derive(Serialize)]
struct Shown {
    size_bytes: u64,
    cluster_bytes: u64,
    images: Vec<String>,
    extents: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    offset_bytes: u64,
    length_bytes: u64,
    /// Counted from the top, as qemu-img does; none for a hole.
    depth: Option<u32>,
    /// Its place in `images`, which begin with the base; none for a hole.
    level: Option<u32>,
    /// Reads as zeros.
    zero: bool,
}

/// A table of what is stored, or JSON with the holes too.
pub fn run(args: &args::Map, output: Output) -> Result<()> {
    let disk = plan::absolute(&args.disk)?;
    // Mappings may not have been written yet: a running server knows better than the files.
    let mapped = match server::of_disk(&disk)? {
        Some(entry) => from_server(&entry)?,
        None => from_files(&disk, args.files)?,
    };
    if output.json {
        // Of a split disk as many images as pieces lie at each depth.
        let pieces = ploop_image::layers::describe(&RealDir, &disk).map_or(1, |d| d.pieces());
        print_json(mapped, u32::try_from(pieces).unwrap_or(1))
    } else {
        print_table(&mapped)
    }
    Ok(())
}

fn from_server(entry: &Entry) -> Result<Mapped> {
    let mut client = server::connect(entry)?;
    let state = client.info()?;
    let mut extents: Vec<Extent> = Vec::new();
    client.map(|extent| {
        join(&mut extents, extent);
        Ok(())
    })?;
    Ok(Mapped {
        size: state.size_bytes,
        cluster: state.cluster_bytes,
        images: state.images.into_iter().map(|image| image.path).collect(),
        extents,
    })
}

fn from_files(disk: &Path, files: args::Reading) -> Result<Mapped> {
    let spec = plan::reading(disk.to_owned(), files);
    let session = Session::start(open(&spec)?, &spec, |_, _| Ok(Vec::new()))?;
    let limits = session.device().limits();
    let images = session
        .disk()
        .into_iter()
        .flat_map(ploop_image::Disk::images)
        .map(|image| image.display().to_string())
        .collect();
    let read = || {
        let mut extents = Vec::new();
        let mut next = Some(0);
        while let Some(offset) = next {
            let reply = mapping::map(&session.remotes()[0], limits, offset)?;
            reply.extents.into_iter().for_each(|extent| join(&mut extents, extent));
            next = reply.next_bytes;
        }
        Ok(extents)
    };
    let extents = read();
    let stopped = session.stop();
    Ok(Mapped {
        size: limits.size,
        cluster: limits.cluster,
        images,
        extents: stopped.and(extents)?,
    })
}

/// Parts of one extent may come in two replies.
fn join(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.level == extent.level => last.length_bytes += extent.length_bytes,
        _ => extents.push(extent),
    }
}

fn print_json(mapped: Mapped, pieces: u32) {
    let depths = mapped.images.len() / pieces as usize;
    let top = u32::try_from(depths.saturating_sub(1)).unwrap_or(u32::MAX);
    let range = |extent: &Extent| Range {
        offset_bytes: extent.offset_bytes,
        length_bytes: extent.length_bytes,
        depth: extent.level.map(|level| top.saturating_sub(level / pieces)),
        level: extent.level,
        zero: extent.level.is_none(),
    };
    let extents = mapped.extents.iter().map(range).collect();
    json::print(&Shown {
        size_bytes: mapped.size,
        cluster_bytes: mapped.cluster,
        images: mapped.images,
        extents,
    });
}

fn print_table(mapped: &Mapped) {
    let image = |level: u32| mapped.images.get(level as usize).map_or("?", String::as_str);
    let rows = mapped.extents.iter().filter_map(|extent| {
        let level = extent.level?;
        Some(vec![
            format!("{:#x}", extent.offset_bytes),
            format!("{:#x}", extent.length_bytes),
            level.to_string(),
            image(level).to_owned(),
        ])
    });
    table::print(&["OFFSET", "LENGTH", "LEVEL", "FILE"], &[0, 1, 2], rows.collect());
}
