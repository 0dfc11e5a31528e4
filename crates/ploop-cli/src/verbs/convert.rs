//! `ploop convert`: a disk stored in another way. So far: one that is split, in one piece.

use super::layers::{closed, options, rate, say, working};
use crate::layer_args as args;
use crate::plan;
use crate::show::{Output, json};
use ploop_daemon::{Failure, Result};
use ploop_image::layers::{Joined, join};
use ploop_io::{RealDir, RealEntropy};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
struct Shown {
    image: PathBuf,
    /// In how many pieces the disk was.
    pieces: usize,
    levels: usize,
    copied_bytes: u64,
}

/// Without an option there is nothing to convert to.
pub fn run(args: &args::Convert, output: Output) -> Result<()> {
    let other = [("-f", args.format.is_some()), ("-v", args.version.is_some())];
    plan::not_yet("convert", &other)?;
    if !args.one_piece {
        return Err(Failure::parameter("it is not said what to convert the disk to")
            .hint("--one-piece joins the pieces of a split disk"));
    }
    let rate = rate(&args.pace)?;
    let disk = closed(&args.disk)?;
    let options = options(&disk, args.pace.drop_cbt, args.files);
    let done = working(&disk, rate, "joining the pieces", |work| {
        join(&RealDir, &RealEntropy, &disk, &options, work)
    })?;
    say(&done.notes);
    let Joined { image, pieces, levels, bytes, .. } = done;
    if pieces == 1 {
        tracing::warn!("{} is in one piece already", disk.display());
    }
    if output.json {
        json::print(&Shown { image, pieces, levels, copied_bytes: bytes });
    }
    Ok(())
}
