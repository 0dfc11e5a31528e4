//! `ploop resize`: the device, a partition and the file system in it. What is to grow is decided
//! before anything changes; then each in turn, from the device up.

use crate::host::growing::{self, Content, Kind};
use crate::host::mounting::{self, How};
use crate::host::mounts::{self, Mount};
use crate::host::node::Node;
use crate::host::table::{Part, Table};
use crate::host::{mkfs, server, stack};
use crate::show::{Output, json};
use crate::{layer_args, plan};
use ploop_daemon::control::Client;
use ploop_daemon::control::types::State;
use ploop_daemon::registry::Entry;
use ploop_daemon::runtime::blkpg;
use ploop_daemon::{Code, Failure, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

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
    if let Some(entry) = server::of_disk(&disk)? {
        return shown(resize(&entry, bytes, args.partition)?, output);
    }
    let mut spec = plan::attach(&args.disk, "auto", &args.serving)?;
    spec.for_a_moment = true;
    let without = "`ploop grow` makes the disk larger, not what is on it, and needs no device";
    let started = server::start(&spec, output).map_err(|failure| server::or(failure, without));
    let entry = started?.entry;
    let done = resize(&entry, bytes, args.partition);
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

/// What is to become larger or smaller.
struct Target {
    device: PathBuf,
    table: Table,
    /// None: the whole device.
    part: Option<Part>,
    kind: Kind,
    node: Node,
    mount: Option<Mount>,
}

fn resize(entry: &Entry, bytes: u64, wanted: Option<u32>) -> Result<Shown> {
    let mut client = server::connect(entry)?;
    let state = client.info()?;
    let before = state.size_bytes;
    let mut target = target(entry, &state, bytes, wanted)?;
    if bytes < before {
        smaller(&target, bytes, before)?;
        return Ok(Shown { before_bytes: before, size_bytes: before });
    }
    let end = new_end(&target, bytes, &state)?;
    let size_bytes = bytes.max(before);
    let mounted_here = target.mount.as_ref().filter(|mount| mount.seen_by.is_none());
    let here = mounted_here.map(|mount| mount.target.clone());
    if target.mount.is_none() && target.kind == Kind::Ext {
        mkfs::fsck(&target.node.path, Some("ext4"))?;
    }
    if here.is_none() && (target.kind.needs_mount() || target.mount.is_some()) {
        let node = target.node.path.clone();
        let work = |at: &Path| larger(&mut client, &mut target, bytes, end, before, Some(at));
        mounting::for_a_moment(&node, How::default(), work)?;
    } else {
        larger(&mut client, &mut target, bytes, end, before, here.as_deref())?;
    }
    Ok(Shown { before_bytes: before, size_bytes })
}

/// Looks at everything, and changes nothing.
fn target(entry: &Entry, state: &State, bytes: u64, wanted: Option<u32>) -> Result<Target> {
    let disk = entry.disk.display();
    let Some(device) = entry.device.as_deref().map(PathBuf::from) else {
        let message = format!("{disk} is served without a block device");
        return Err(Failure::new(Code::Device, message)
            .hint("ploop grow makes it larger; the rest is for whoever uses it"));
    };
    if entry.read_only {
        return Err(Failure::new(Code::Parameter, format!("{disk} is open read-only")));
    }
    let whole = growing::content(&device, None);
    let table = Table::read(&device, state.block_bytes, whole != Content::Unknown)?;
    let looked_at = |part: Part| {
        let content = growing::content(&device, Some(&part));
        (part, content)
    };
    let parts: Vec<_> = table.parts().into_iter().map(looked_at).collect();
    let (part, kind) = match (&table, whole) {
        (Table::Bare, Content::Grows(kind)) if wanted.is_none() => (None, kind),
        (Table::Bare, whole) => return Err(bare(&device, &whole, wanted)),
        _ => {
            let (part, kind) = growing::choose(&parts, wanted)?;
            if table.is_logical(part) {
                return Err(logical(part.number));
            }
            let fits = part.end() >= table.end(bytes, state.cluster_bytes)?;
            if bytes != state.size_bytes || (wanted.is_none() && !fits) {
                growing::is_last(&parts, part)?;
            }
            (Some(part.clone()), kind)
        }
    };
    growing::have_tools(kind)?;
    let node = Node::of(&device, part.as_ref())?;
    let above = stack::above(Path::new(&node.path));
    let mut mounts = mounts::from_devices(mounts::everywhere()?, &above);
    let writable = mounts.iter().position(|mount| !mount.read_only);
    if let (Some(mount), None) = (mounts.first(), writable) {
        let message = format!("{mount} is mounted read-only");
        return Err(Failure::new(Code::ResizeFs, message)
            .hint(format!("mount -o remount,rw {}", mount.target.display())));
    }
    let mount = writable.map(|at| mounts.swap_remove(at));
    Ok(Target { device, table, part, kind, node, mount })
}

fn logical(number: u32) -> Failure {
    let message =
        format!("partition {number} lies in an extended partition, whose list is not changed here");
    Failure::new(Code::Partition, message)
        .hint("ploop grow makes the device larger; partition and file system are then for fdisk")
}

fn bare(device: &Path, whole: &Content, wanted: Option<u32>) -> Failure {
    let device = device.display();
    if let (Some(number), Content::Grows(_)) = (wanted, whole) {
        let message = format!("{device} has no partitions: --partition {number}");
        return Failure::new(Code::Partition, message);
    }
    let what = match whole {
        Content::Other(what) => what.as_str(),
        _ => "no partition table and no known file system",
    };
    Failure::new(Code::ResizeFs, format!("{device} has {what}: it cannot be resized"))
        .hint("ploop grow makes the device larger, and nothing else")
}

/// Where the partition ends afterwards; `None` when it stays.
fn new_end(target: &Target, bytes: u64, state: &State) -> Result<Option<u64>> {
    let Some(part) = &target.part else { return Ok(None) };
    let end = target.table.end(bytes, state.cluster_bytes)?;
    let others = target.table.parts();
    let last = others.iter().all(|other| other.start <= part.start);
    Ok((last && end >= part.end()).then_some(end))
}

/// The device, the partition, the file system.
fn larger(
    client: &mut Client,
    target: &mut Target,
    bytes: u64,
    end: Option<u64>,
    before: u64,
    at: Option<&Path>,
) -> Result<()> {
    if bytes > before {
        client.grow(bytes)?;
    }
    if let (Some(part), Some(end)) = (&target.part, end) {
        let (device, number) = (&target.device, part.number);
        target.table.write(device, number, end)?;
        blkpg::resize(device, number, part.start, end - part.start).map_err(|error| {
            Failure::new(Code::Partition, format!("partition {number}: {error}"))
        })?;
    }
    target.kind.enlarge(&target.node.path, at)
}

/// The device keeps its size: what is behind the file system takes no space.
fn smaller(target: &Target, bytes: u64, before: u64) -> Result<()> {
    if target.kind != Kind::Ext {
        let message = format!("{}: only ext4 can be made smaller", target.node.path);
        return Err(Failure::new(Code::ResizeFs, message));
    }
    if let Some(mount) = &target.mount {
        let message = format!("a file system is made smaller only when it is not mounted: {mount}");
        return Err(Failure::new(Code::ResizeFs, message).hint("ploop umount it first"));
    }
    // Bytes of the device that are not in the partition.
    let around = target.part.as_ref().map_or(0, |part| before.saturating_sub(part.len));
    let inner = bytes.checked_sub(around).filter(|inner| *inner > 0).ok_or_else(|| {
        Failure::parameter(format!("{bytes} bytes leave no room for a file system"))
    })?;
    mkfs::shrink(&target.node.path, inner)
}
