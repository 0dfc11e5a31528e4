//! `ploop check`: reports, writes nothing (T4).

use crate::plan;
use crate::show::{self, Output, json};
use crate::{args, host::server};
use ploop_daemon::runtime::open;
use ploop_daemon::{Code, Failure, Result};
use ploop_image::check::ImageReport;
use ploop_image::{CheckOptions, CheckReport};
use ploop_io::RealDir;
use serde::Serialize;

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a CheckReport,
    code: u8,
}

/// The exit code of 7.x.
pub fn run(args: &args::Check, output: Output) -> Result<u8> {
    plan::not_yet(
        "check",
        &[
            ("-F", args.hard_force),
            ("-d", args.drop_inuse),
            ("-R", args.raw),
            ("-b", args.blocksize.is_some()),
            ("-S", args.repair_sparse),
            ("-D", args.defrag),
            ("-u", args.uuid.is_some()),
        ],
    )?;
    let disk = plan::absolute(&args.disk)?;
    if let Some(entry) = server::of_disk(&disk)?.filter(|entry| !entry.read_only) {
        let message = format!("{} is open: pid {}", args.disk.display(), entry.pid);
        return Err(Failure::new(Code::InUse, message).hint("stop its server first"));
    }
    let options = CheckOptions { force: args.force, duplicates: args.check, read_only: args.ro };
    let how = open::options(&plan::reading(disk.clone(), args.files));
    let report = ploop_image::check(&RealDir, &disk, &options, &how)?;
    let code = report.exit_code();
    if output.json {
        json::print(&Shown { report: &report, code });
    } else if !args.silent {
        print(&report);
    }
    Ok(code)
}

fn print(report: &CheckReport) {
    for image in &report.images {
        for finding in &image.findings {
            let severity = if finding.fatal { "error: " } else { "" };
            show::line(format!("{}: {severity}{}", image.image, finding.detail));
        }
        if image.findings_omitted > 0 {
            show::line(format!("{}: and {} more", image.image, image.findings_omitted));
        }
        if let Some(text) = summary(image) {
            show::line(text);
        }
    }
    for finding in &report.findings {
        let severity = if finding.fatal { "error: " } else { "" };
        show::line(format!("{severity}{}", finding.detail));
    }
}

/// What was counted; nothing about an image that could not be looked at.
fn summary(image: &ImageReport) -> Option<String> {
    if image.raw {
        return Some(format!("{}: raw", image.image));
    }
    if !image.counted {
        return None;
    }
    let ImageReport { image: path, version, allocated, clusters, .. } = image;
    let mut text = format!("{path}: v{version}, {allocated} of {clusters} clusters in use");
    if image.skipped {
        text += ", closed properly (-f looks closer)";
    }
    if image.leaks > 0 {
        text += &format!(", {} unused in the file", image.leaks);
    }
    if image.in_use {
        text += ", marked in use";
    }
    Some(text)
}
