//! `ploop export`: one more NBD address for an open disk, or for a snapshot of it.

use crate::host::server;
use crate::show::{self, Output, json};
use crate::{args, plan};
use ploop_daemon::control::types::{ExportCall, UnexportCall};
use ploop_daemon::registry::{Entry, Registry};
use ploop_daemon::runtime::{Export, ServeSpec};
use ploop_daemon::{Code, Failure, Result};
use ploop_io::RealDir;
use serde::Serialize;

#[derive(Serialize)]
struct Exported {
    export: String,
}

#[derive(Serialize)]
struct Removed {
    removed: String,
}

/// Prints `ready EXPORT` when it answers.
pub fn run(args: &args::Export, output: Output) -> Result<()> {
    // Every address of ours is one of this host.
    let address = plan::local_address(&args.address)?;
    if args.remove {
        let removed = format!("nbd {address}");
        remove(args, address)?;
        if output.json {
            json::print(&Removed { removed });
        }
        return Ok(());
    }
    let entry = open(args)?;
    let export = match &args.uuid {
        Some(uuid) => snapshot(&entry, uuid, address, args, output)?,
        None => {
            let name = Some(args.export_name.clone());
            let call = ExportCall { address, name, read_only: Some(args.ro) };
            server::connect(&entry)?.export_add(&call)?
        }
    };
    if output.json {
        json::print(&Exported { export });
    } else {
        show::line(format!("ready {export}"));
    }
    Ok(())
}

fn open(args: &args::Export) -> Result<Entry> {
    server::of_target(&args.target)?.ok_or_else(|| {
        let target = args.target.display();
        Failure::new(Code::NotMounted, format!("{target} is not open: no server has it"))
            .hint("`ploop serve --nbd` opens a disk and exports it")
    })
}

/// A snapshot has a server of its own beside the one of the disk.
fn snapshot(
    entry: &Entry,
    uuid: &str,
    address: String,
    args: &args::Export,
    output: Output,
) -> Result<String> {
    let image = ploop_image::layers::image_of(&RealDir, &entry.disk, plan::guid(uuid)?)?;
    let mut spec = ServeSpec { snapshot: true, ..ServeSpec::private(image, true) };
    // What its disk may have it may have.
    spec.allow_outside = entry.allow_outside;
    spec.exports = vec![Export::Nbd { address, name: args.export_name.clone() }];
    let started = server::start(&spec, output)?.entry;
    Ok(started.exports.into_iter().next().unwrap_or_default())
}

fn remove(args: &args::Export, address: String) -> Result<()> {
    let word = format!("nbd {address}");
    let entries = Registry::of_user().entries()?;
    let has = |entry: &&Entry| entry.exports.contains(&word);
    let Some(entry) = entries.iter().find(has) else {
        return Err(Failure::new(Code::NotMounted, format!("nothing is exported at {address}"))
            .hint("`ploop list --long` shows what is"));
    };
    let disk = open(args)?;
    let same = entry.id == disk.id;
    let of_snapshot = entry.read_only && entry.exports.len() == 1 && entry.device.is_none();
    if !same && of_snapshot && named(&disk, entry) {
        return server::stop(entry, args.force);
    }
    if !same {
        let message = format!("{address} is an address of {}", entry.disk.display());
        return Err(Failure::parameter(message));
    }
    let call = UnexportCall { address, force: Some(args.force) };
    server::connect(entry)?.export_remove(&call)
}

/// The disk's descriptor names the image that the other server shows.
fn named(disk: &Entry, other: &Entry) -> bool {
    let Some(home) = disk.disk.parent() else { return false };
    let is = |file: &str| std::fs::canonicalize(home.join(file)).is_ok_and(|p| p == other.disk);
    ploop_image::layers::describe(&RealDir, &disk.disk)
        .is_ok_and(|parsed| parsed.images.iter().any(|image| is(&image.file)))
}
