//! `ploop list`: the disks that are open on this host (T11).

use crate::args;
use crate::host::mounts;
use crate::show::{self, Output, json, table};
use ploop_daemon::Result;
use ploop_daemon::registry::{Entry, Registry};
use serde::Serialize;

#[derive(Serialize)]
struct Listed {
    disks: Vec<Disk>,
}

#[derive(Serialize)]
struct Disk {
    #[serde(flatten)]
    entry: Entry,
    mounts: Vec<String>,
}

/// TAB columns as the original; `--long` and `--json` have the rest.
pub fn run(args: &args::List, output: Output) -> Result<()> {
    let mut disks = Vec::new();
    for entry in Registry::of_user().entries()? {
        let mounts = mounts::of_entry(&entry)?;
        let mounts = mounts.iter().map(|mount| mount.target.display().to_string()).collect();
        disks.push(Disk { entry, mounts });
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
    let header = ["DEVICE", "MODE", "DELTAS", "PID", "MOUNTED", "EXPORTS", "DISK"];
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let rows = disks.iter().map(|disk| {
        let entry = &disk.entry;
        vec![
            name(entry).to_owned(),
            if entry.read_only { "ro" } else { "rw" }.to_owned(),
            entry.images.len().to_string(),
            entry.pid.to_string(),
            or_dash(disk.mounts.join(",")),
            or_dash(entry.exports.join(", ")),
            entry.disk.display().to_string(),
        ]
    });
    table::print(&header, &[2, 3], rows.collect());
}
