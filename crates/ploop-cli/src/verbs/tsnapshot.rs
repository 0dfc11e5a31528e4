//! `ploop tsnapshot`: the present state, mounted read-only beside the disk; `ploop umount` merges
//! it away again.

use super::{layers, mount, online};
use crate::host::server;
use crate::show::Output;
use crate::{layer_args, plan};
use ploop_daemon::registry::Entry;
use ploop_daemon::runtime::{ServeSpec, open};
use ploop_daemon::{Failure, Result};
use ploop_format::Guid;
use ploop_format::descriptor::Temporary;
use ploop_image::{Wish, layers as images, snapshot_as};
use ploop_io::{RealDir, RealEntropy};
use std::path::Path;

/// Takes and mounts it; when it cannot be mounted it goes at once.
pub fn run(args: layer_args::TemporarySnapshot, output: Output) -> Result<()> {
    plan::not_yet("tsnapshot", &[("-c", args.component.is_some()), ("-d", args.device.is_some())])?;
    let guid = args.uuid.as_deref().map(plan::guid).transpose()?;
    let disk = plan::absolute(&args.disk)?;
    let guid = match server::of_disk(&disk)? {
        Some(entry) => online::temporary(&entry, guid)?,
        None => {
            let options = open::options(&ServeSpec::private(disk.clone(), false));
            let wish = Wish { guid, temporary: true, ready: None };
            snapshot_as(&RealDir, &RealEntropy, &disk, &wish, &options)?.guid
        }
    };
    let mounted = mount::run(&args.mount(disk.clone(), guid.to_string()), output);
    if mounted.is_err() {
        // The first error is the one to tell.
        let _ = delete(&disk, guid);
    }
    mounted
}

/// After the server of a snapshot has gone: a temporary one is merged away.
pub fn after_umount(entry: &Entry) -> Result<()> {
    let Some(home) = entry.disk.parent() else { return Ok(()) };
    let name = entry.disk.file_name().and_then(|name| name.to_str());
    let Ok(parsed) = images::describe(&RealDir, home) else { return Ok(()) };
    let image = parsed.images.iter().find(|image| Some(image.file.as_str()) == name);
    let Some(guid) = image.map(|image| image.guid).filter(|guid| *guid != parsed.top) else {
        return Ok(());
    };
    match parsed.shot(guid).map(|shot| shot.temporary) {
        Some(Temporary::Yes) => delete(home, guid).map_err(|failure| {
            Failure::new(failure.code, format!("the temporary snapshot stays: {failure}"))
                .hint(format!("ploop snapshot-delete -u {guid} {}", home.display()))
        }),
        _ => Ok(()),
    }
}

fn delete(disk: &Path, guid: Guid) -> Result<()> {
    let quiet = Output { json: false, verbosity: 0 };
    match server::of_disk(disk)? {
        Some(entry) => online::remove(&entry, guid, None, quiet),
        None => layers::remove_closed(disk, guid, None, false).map(drop),
    }
}
