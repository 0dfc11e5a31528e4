//! `ploop tsnapshot`: the present state, mounted read-only beside the disk; `ploop umount` merges
//! it away again.

use super::{leftovers, mount, online};
use crate::host::server;
use crate::show::Output;
use crate::{layer_args, plan};
use ploop_daemon::Result;
use ploop_daemon::runtime::open;
use ploop_image::{Wish, snapshot_as};
use ploop_io::{RealDir, RealEntropy};

/// Takes and mounts it; when it cannot be mounted it goes at once.
pub fn run(args: layer_args::TemporarySnapshot, output: Output) -> Result<()> {
    plan::not_yet("tsnapshot", &[("-c", args.component.is_some()), ("-d", args.device.is_some())])?;
    let guid = args.uuid.as_deref().map(plan::guid).transpose()?;
    let (disk, files) = (plan::absolute(&args.disk)?, args.serving.files);
    leftovers::before(&disk, true, files.allow_outside);
    // Nobody takes it for one that was left, before its server has it.
    let _taking = leftovers::taking()?;
    let guid = match server::of_disk(&disk)? {
        Some(entry) => online::temporary(&entry, guid)?,
        None => {
            let options = open::options(&plan::private(disk.clone(), false, files));
            let wish = Wish { guid, temporary: true, ready: None };
            snapshot_as(&RealDir, &RealEntropy, &disk, &wish, &options)?.guid
        }
    };
    let mounted = mount::run(&args.mount(disk.clone(), guid.to_string()), output);
    if mounted.is_err() {
        // The first error is the one to tell.
        let _ = leftovers::delete(&disk, guid, files);
    }
    mounted
}
