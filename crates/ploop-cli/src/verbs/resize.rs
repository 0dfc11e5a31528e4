//! `ploop resize`: the device, the partition and the file system on it.

use crate::host::{gpt, mkfs, mounts, server};
use crate::show::{Output, json};
use crate::{layer_args, plan};
use ploop_daemon::registry::Entry;
use ploop_daemon::runtime::blkpg as partition;
use ploop_daemon::{Code, Failure, Result};
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Shown {
    before_bytes: u64,
    size_bytes: u64,
}

/// Of an open disk in place, mounted or not; a disk that is not open is attached for it.
pub fn run(args: &layer_args::Resize, output: Output) -> Result<()> {
    plan::not_yet("resize", &[("-b", args.balloon), ("-p", args.namespace.is_some())])?;
    let Some(size) = args.size.as_deref() else {
        return Err(Failure::parameter("which size? -s SIZE"));
    };
    let bytes = plan::size(size)? * 512;
    let disk = plan::absolute(&args.disk)?;
    let open = server::of_disk(&disk)?.filter(|entry| entry.device.is_some());
    if let Some(entry) = open {
        return shown(resize(&entry, bytes)?, output);
    }
    let spec = plan::attach(&args.disk, "auto", &args.serving)?;
    let entry = server::start(&spec, output.verbosity)?.entry;
    let done = resize(&entry, bytes);
    let stopped = server::stop(&entry, false);
    let done = done?;
    stopped?;
    shown(done, output)
}

fn shown(done: Shown, output: Output) -> Result<()> {
    if output.json {
        json::print(&done);
    }
    Ok(())
}

fn resize(entry: &Entry, bytes: u64) -> Result<Shown> {
    let mut client = server::connect(entry)?;
    let state = client.info()?;
    let before_bytes = state.size_bytes;
    let mounted = mounts::of_entry(entry)?;
    if bytes < before_bytes {
        if let Some(mount) = mounted.first() {
            let message = format!(
                "a file system is made smaller only when it is not mounted: {}",
                mount.target.display()
            );
            return Err(Failure::new(Code::ResizeFs, message).hint("ploop umount it first"));
        }
        // The device keeps its size: what is behind the file system takes no space.
        let around = device_around(entry, before_bytes)?;
        let inner = bytes.checked_sub(around).filter(|inner| *inner > 0).ok_or_else(|| {
            Failure::parameter(format!("{bytes} bytes leave no room for a file system"))
        })?;
        mkfs::shrink(server::mountable(entry)?, inner)?;
        return Ok(Shown { before_bytes, size_bytes: before_bytes });
    }
    let size_bytes = match bytes > before_bytes {
        true => client.grow(bytes)?.size_bytes,
        false => before_bytes,
    };
    if let (Some(device), Some(_)) = (&entry.device, &entry.partition) {
        let device = Path::new(device);
        if let Some((number, start, len)) =
            gpt::extend(device, state.cluster_bytes, state.block_bytes)?
        {
            partition::resize(device, number, start, len).map_err(|error| {
                Failure::new(Code::Partition, format!("partition {number}: {error}"))
            })?;
        }
    }
    let at = mounted.first().map(|mount| mount.target.as_path());
    mkfs::enlarge(server::mountable(entry)?, at)?;
    Ok(Shown { before_bytes, size_bytes })
}

/// Bytes of the device that are not in the partition.
fn device_around(entry: &Entry, size: u64) -> Result<u64> {
    let (Some(device), Some(path)) = (&entry.device, &entry.partition) else { return Ok(0) };
    let digits: String = path
        .chars()
        .rev()
        .take_while(char::is_ascii_digit)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    let place = digits.parse().ok().and_then(|number| partition::place(Path::new(device), number));
    let (_, len) = place.ok_or_else(|| {
        Failure::new(Code::Partition, format!("{path} is not known to the kernel"))
    })?;
    Ok(size.saturating_sub(len))
}
