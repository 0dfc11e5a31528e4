//! `ploop init`: image, descriptor, file system.

use super::undo::Undo;
use crate::args;
use crate::host::{gpt, mkfs, server};
use crate::plan::{self, Format, FsPlan, FsType, InitPlan};
use crate::show::progress::Progress;
use crate::show::{self, Output, json};
use ploop_daemon::runtime::{Export, ServeSpec};
use ploop_daemon::{Code, Failure, Result};
use ploop_format::{ClusterSize, Sector, Version};
use ploop_image::{CreateOptions, Created, Kind};
use ploop_io::{RealDir, RealEntropy};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Serialize)]
struct Shown {
    image: PathBuf,
    descriptor: PathBuf,
    size_bytes: u64,
    cluster_bytes: u64,
    version: Option<u8>,
    file_system: Option<&'static str>,
    partition: bool,
}

/// What was made is removed again when a step fails.
pub fn run(args: &args::Init, output: Output) -> Result<()> {
    let plan = plan::init(args)?;
    let progress = Progress::new(format!("creating {}", plan.image.display()));
    let home = directory(&plan.image)?;
    // Made here, so nothing of anybody else is in it; else it stays.
    let leave = |failure| {
        home.into_iter().for_each(|home| drop(std::fs::remove_dir(home)));
        failure
    };
    let undo = Undo::of(&plan.image);
    undo.on_signals(output)?;
    let created = create(&plan, &progress).map_err(leave)?;
    if let Some(fs) = &plan.fs {
        let made = file_system(fs, &created, &progress, output);
        if let Err(failure) = made {
            // The first error is the one to tell.
            undo.take_back();
            return Err(leave(failure));
        }
    }
    undo.done();
    drop(progress);
    let version = (plan.format != Format::Raw).then_some(plan.version);
    if output.json {
        json::print(&Shown {
            image: created.image,
            descriptor: created.descriptor,
            size_bytes: created.size.bytes(),
            cluster_bytes: u64::from(plan.cluster_sectors) << 9,
            version,
            file_system: plan.fs.as_ref().map(|fs| fs_name(fs.kind)),
            partition: plan.fs.is_some_and(|fs| fs.partition),
        });
    } else {
        let format = version.map_or("raw".to_owned(), |version| format!("v{version}"));
        show::line(format!(
            "Creating delta {} bs={} size={} sectors {format}",
            created.image.display(),
            plan.cluster_sectors,
            created.size.0
        ));
    }
    Ok(())
}

/// The directory of the image, when it had to be made.
fn directory(image: &Path) -> Result<Option<&Path>> {
    let Some(home) = image.parent().filter(|home| !home.as_os_str().is_empty()) else {
        return Ok(None);
    };
    match std::fs::create_dir(home) {
        Ok(()) => Ok(Some(home)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => {
            let what = format!("cannot make the directory {}", home.display());
            Err(Failure::io(Code::Mkdir, what, &error))
        }
    }
}

const fn fs_name(kind: FsType) -> &'static str {
    match kind {
        FsType::Ext4 => "ext4",
        FsType::Xfs => "xfs",
    }
}

fn create(plan: &InitPlan, progress: &Progress) -> Result<Created> {
    let kind = match plan.format {
        Format::Expanded => Kind::Expanded,
        Format::Preallocated => Kind::Preallocated,
        Format::Raw => Kind::Raw { sparse: plan.sparse },
    };
    let cluster = ClusterSize::from_sectors(plan.cluster_sectors)
        .ok_or_else(|| Failure::parameter("cluster size"))?;
    let version = if plan.version == 1 { Version::V1 } else { Version::V2 };
    let options = CreateOptions { size: Sector(plan.sectors), version, cluster, kind };
    let what = format!("creating {}", plan.image.display());
    let mut report = |done: u64, all: u64| {
        if let Some(percent) = (done * 100).checked_div(all) {
            progress.say(format!("{what}: {percent}%"));
        }
    };
    Ok(ploop_image::create(&RealDir, &RealEntropy, &plan.image, &options, &mut report)?)
}

/// Partition table through the disk's own path, then mkfs on an attached device.
fn file_system(fs: &FsPlan, created: &Created, progress: &Progress, output: Output) -> Result<()> {
    if fs.partition {
        progress.say("writing the partition table");
        gpt::write(&created.descriptor)?;
    }
    progress.say("attaching");
    let spec = ServeSpec {
        exports: vec![Export::Loop],
        for_a_moment: true,
        ..ServeSpec::private(created.descriptor.clone(), false)
    };
    let without = "`-t none` makes a disk without a file system, which needs no device";
    let server = server::start(&spec, output).map_err(|failure| server::or(failure, without))?;
    let entry = server.entry.clone();
    let made = device(fs, &entry).and_then(|device| {
        progress.say(format!("mkfs.{} {device}", fs_name(fs.kind)));
        mkfs::mkfs(fs, device, created.size.bytes())
    });
    let stopped = server::stop(&entry, made.is_err());
    let ended = server.wait();
    made.and(stopped).and(ended)
}

fn device<'a>(fs: &FsPlan, entry: &'a ploop_daemon::registry::Entry) -> Result<&'a str> {
    let device = if fs.partition { &entry.partition } else { &entry.device };
    device.as_deref().ok_or_else(|| {
        Failure::new(Code::Partition, "the partition has no device")
            .hint("-P makes no partition table")
    })
}
