//! `ploop snapshot`: the present state of a disk that is not open, frozen.

use crate::host::server;
use crate::show::{Output, json};
use crate::{args, plan};
use ploop_daemon::runtime::holder::describe;
use ploop_daemon::runtime::{ServeSpec, open};
use ploop_daemon::{Code, Failure, Result};
use ploop_io::{RealDir, RealEntropy};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
struct Shown {
    uuid: String,
    image: PathBuf,
}

/// One disk now; several at one point in time need open disks.
pub fn run(args: &args::Snapshot, output: Output) -> Result<()> {
    plan::not_yet(
        "snapshot",
        &[
            ("-b", args.cbt.is_some()),
            ("-d", args.device.is_some()),
            ("several disks", args.disks.len() > 1),
        ],
    )?;
    let [disk] = args.disks.as_slice() else {
        return Err(Failure::parameter("which disk?"));
    };
    let guid = args.uuid.as_deref().map(plan::guid).transpose()?;
    let disk = plan::absolute(disk)?;
    if let Some(entry) = server::of_disk(&disk)? {
        let message = format!("{} is in use by {}", disk.display(), describe(&entry));
        return Err(Failure::new(Code::InUse, message).hint("snapshots of open disks come later"));
    }
    let drop_cbt = args.drop_cbt;
    let how = open::options(&ServeSpec { drop_cbt, ..ServeSpec::private(disk.clone(), false) });
    let taken = ploop_image::snapshot(&RealDir, &RealEntropy, &disk, guid, &how)?;
    for note in &taken.notes {
        tracing::warn!("{note}");
    }
    if output.json {
        json::print(&Shown { uuid: taken.guid.to_string(), image: taken.image });
    }
    Ok(())
}
