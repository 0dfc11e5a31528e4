//! `ploop snapshot`: the present state of a disk, frozen.

use super::online;
use crate::host::server;
use crate::show::{Output, json};
use crate::{args, plan};
use ploop_daemon::runtime::{ServeSpec, open};
use ploop_daemon::{Failure, Result};
use ploop_io::{RealDir, RealEntropy};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
struct Shown {
    uuid: String,
    image: PathBuf,
    /// Nobody had the disk open, so nobody waited.
    pause_ns: u64,
}

/// Of an open disk its server takes it, of several disks all at one moment.
pub fn run(args: &args::Snapshot, output: Output) -> Result<()> {
    plan::not_yet("snapshot", &[("-b", args.cbt.is_some()), ("-d", args.device.is_some())])?;
    let guid = args.uuid.as_deref().map(plan::guid).transpose()?;
    let disks = args.disks.iter().map(|disk| plan::absolute(disk)).collect::<Result<Vec<_>>>()?;
    for disk in &disks {
        super::leftovers::before(disk, true, args.files.allow_outside);
    }
    let freeze = !args.no_freeze;
    if disks.len() > 1 {
        let mut entries = Vec::with_capacity(disks.len());
        for disk in &disks {
            let entry = server::of_disk(disk)?.ok_or_else(|| {
                let message = format!("{} is not open", disk.display());
                Failure::parameter(message).hint("one moment of several disks is one of open disks")
            })?;
            entries.push(entry);
        }
        return online::group(&entries, guid, freeze, output);
    }
    let [disk] = disks.as_slice() else {
        return Err(Failure::parameter("which disk?"));
    };
    if let Some(entry) = server::of_disk(disk)? {
        return online::snapshot(&entry, guid, freeze, output);
    }
    let drop_cbt = args.drop_cbt;
    let how =
        open::options(&ServeSpec { drop_cbt, ..plan::private(disk.clone(), false, args.files) });
    let taken = ploop_image::snapshot(&RealDir, &RealEntropy, disk, guid, &how)?;
    for note in &taken.notes {
        tracing::warn!("{note}");
    }
    if output.json {
        json::print(&Shown { uuid: taken.guid.to_string(), image: taken.image, pause_ns: 0 });
    }
    Ok(())
}
