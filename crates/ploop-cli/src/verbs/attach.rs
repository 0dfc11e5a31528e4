//! `ploop attach`: a block device by a server in the background.

use crate::host::server;
use crate::show::{self, Output, json};
use crate::{args, plan};
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Failure, Result, runtime};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Attached<'a> {
    device: &'a str,
    partition: Option<&'a str>,
    read_only: bool,
    pid: u32,
}

/// Prints the device's path when it is ready.
pub fn run(args: &args::Attach, output: Output) -> Result<()> {
    let mut spec = plan::attach(&args.disk, &args.via, &args.serving)?;
    super::leftovers::before(&spec.disk, !spec.read_only, spec.allow_outside);
    spec.name = args.name.as_deref().map(|name| plan::device_name(name, &spec.disk)).transpose()?;
    if args.foreground {
        return runtime::serve(&spec, &mut |entry: &Entry, _log: &Path| told(entry, output));
    }
    let entry = server::start(&spec, output)?.entry;
    told(&entry, output)
}

fn told(entry: &Entry, output: Output) -> Result<()> {
    let device = entry.device.as_deref();
    let device = device.ok_or_else(|| Failure::new(Code::Internal, "the server has no device"))?;
    if output.json {
        let partition = entry.partition.as_deref();
        let (read_only, pid) = (entry.read_only, entry.pid);
        json::print(&Attached { device, partition, read_only, pid });
    } else {
        show::line(device);
    }
    Ok(())
}
