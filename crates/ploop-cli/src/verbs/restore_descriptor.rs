//! `ploop restore-descriptor`: a descriptor for a lone image.

use crate::args;
use crate::plan::{self, Format};
use crate::show::{Output, json};
use ploop_daemon::Result;
use ploop_format::ClusterSize;
use ploop_image::Kind;
use ploop_io::{RealDir, RealEntropy};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
struct Shown {
    descriptor: PathBuf,
}

/// A raw image is never guessed: it must be said.
pub fn run(args: &args::RestoreDescriptor, output: Output) -> Result<()> {
    let kind = args.format.as_deref().map(plan::format).transpose()?.map(|format| match format {
        Format::Expanded => Kind::Expanded,
        Format::Preallocated => Kind::Preallocated,
        Format::Raw => Kind::Raw { sparse: true },
    });
    let cluster = args.blocksize.as_deref().map(plan::cluster).transpose()?;
    let cluster = cluster.and_then(ClusterSize::from_sectors);
    let descriptor = ploop_image::restore_descriptor(
        &RealDir,
        &RealEntropy,
        &args.dir,
        &args.image,
        kind,
        cluster,
    )?;
    if output.json {
        json::print(&Shown { descriptor });
    }
    Ok(())
}
