//! `ploop list`: the disks that are open on this host (T11).

use crate::args;
use crate::host::{mounts, server};
use crate::show::{self, Output, json, table};
use ploop_daemon::Result;
use ploop_daemon::registry::{Entry, Registry};
use ploop_daemon::stats::types::QueueStat;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Listed {
    disks: Vec<Disk>,
}

#[derive(Serialize)]
struct Disk {
    #[serde(flatten)]
    entry: Entry,
    /// Number of the user whose server it is.
    uid: u32,
    /// Images of each piece.
    levels: usize,
    mounts: Vec<String>,
    /// Nothing when the server did not answer.
    #[serde(flatten)]
    now: Option<Now>,
}

/// What a server says of this moment.
#[derive(Serialize)]
struct Now {
    queues: usize,
    in_flight: u64,
}

/// Asks a server. One that does not answer is listed all the same.
fn ask(entry: &Entry) -> Option<Now> {
    let stat = server::connect(entry).and_then(|mut client| client.stat()).ok()?;
    let of = |queue: &QueueStat| queue.counters.get("in_flight").copied().unwrap_or(0);
    Some(Now { queues: stat.queues.len(), in_flight: stat.queues.iter().map(of).sum() })
}

/// TAB columns as the original; `--long` and `--json` have the rest.
pub fn run(args: &args::List, output: Output) -> Result<()> {
    let mut disks = Vec::new();
    let registry = Registry::of_user();
    let me = rustix::process::geteuid().as_raw();
    for entry in registry.entries()? {
        let mounts = mounts::of_entry(&entry)?;
        let mounts = mounts.iter().map(|mount| mount.target.display().to_string()).collect();
        // The plain list asks nobody: scripts call it often.
        let now = if args.long || output.json { ask(&entry) } else { None };
        disks.push(Disk { uid: me, levels: entry.levels(), mounts, now, entry });
    }
    for (uid, entry) in registry.of_others() {
        let mounts = mounts::of_entry(&entry)?;
        let mounts = mounts.iter().map(|mount| mount.target.display().to_string()).collect();
        // A stranger's server is not asked: it need not answer.
        disks.push(Disk { uid, levels: entry.levels(), mounts, now: None, entry });
    }
    if output.json {
        json::print(&Listed { disks });
    } else if args.long {
        long(&disks);
    } else {
        disks.iter().for_each(|disk| short(disk, args));
    }
    Ok(())
}

/// For the rule of udev: what is known of a device, a property a line. Nothing of ours: nothing.
pub fn udev(device: &Path) -> Result<()> {
    let registry = Registry::of_user();
    let known = device.to_str().map(|name| registry.by_device(name)).transpose()?.flatten();
    if let Some(entry) = known {
        if let Some(name) = &entry.name {
            show::line(format!("PLOOP_NAME={name}"));
        }
        show::line(format!("PLOOP_DISK={}", entry.disk.display()));
    }
    Ok(())
}

fn name(entry: &Entry) -> &str {
    let device = entry.device.as_deref().unwrap_or("-");
    device.strip_prefix("/dev/").unwrap_or(device)
}

fn short(disk: &Disk, args: &args::List) {
    let mut images = disk.entry.images.iter().map(|image| image.display().to_string());
    let base = images.next().unwrap_or_default();
    let mut line = format!("{}\t{base}", name(&disk.entry));
    if args.all
        && let Some(mount) = disk.mounts.first()
    {
        line.push('\t');
        line.push_str(mount);
    }
    show::line(line);
    if args.files {
        images.for_each(|image| show::line(format!("\t\t{image}")));
    }
}

fn long(disks: &[Disk]) {
    let header = [
        "DEVICE",
        "VIA",
        "MODE",
        "DELTAS",
        "QUEUES",
        "IN FLIGHT",
        "PID",
        "MOUNTED",
        "EXPORTS",
        "USER",
        "PIECES",
        "DISK",
    ];
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let rows = disks.iter().map(|disk| {
        let entry = &disk.entry;
        vec![
            name(entry).to_owned(),
            or_dash(entry.transport.clone().unwrap_or_default()),
            if entry.read_only { "ro" } else { "rw" }.to_owned(),
            disk.levels.to_string(),
            or_dash(disk.now.as_ref().map(|now| now.queues.to_string()).unwrap_or_default()),
            or_dash(disk.now.as_ref().map(|now| now.in_flight.to_string()).unwrap_or_default()),
            entry.pid.to_string(),
            or_dash(disk.mounts.join(",")),
            or_dash(entry.exports.join(", ")),
            disk.uid.to_string(),
            entry.pieces.to_string(),
            entry.disk.display().to_string(),
        ]
    });
    table::print(&header, &[3, 4, 5, 6], rows.collect());
}
