//! `cargo xtask bench`: our numbers beside others', in pairs one after the other, so that what the
//! machine does besides meets both alike.
//!
//! | part | what |
//! |---|---|
//! | `rows` | the comparisons in process |
//! | `served` | the comparisons over a transport |
//! | `fuse` | FUSE exports, ours and QEMU's |
//! | `vhost` | vhost-user exports, without a virtual machine |
//! | `peers` | servers that are measured, ours and others' |
//! | `lab` | working folders, images in them, and `ploop bench` on those |
//! | `targets` | what is wanted of each comparison |
//! | `stats` | medians and quartiles |
//! | `report` | what is written down |
//! | `svg` | two curves as a picture |

mod fuse;
mod lab;
mod peers;
mod report;
mod rows;
mod served;
mod stats;
mod svg;
mod targets;
mod vhost;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::{setup, sh};
use lab::{Lab, Place};
use report::{Outcome, Run};
use rows::Row;

struct Plan {
    only: Vec<String>,
    seconds: f64,
    pairs: usize,
}

fn plan(words: &[String]) -> Result<Plan> {
    let mut plan = Plan { only: Vec::new(), seconds: 5.0, pairs: 9 };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--quick" => (plan.seconds, plan.pairs) = (1.0, 1),
            "--only" => plan.only = value()?.split(';').map(|name| name.trim().into()).collect(),
            "--seconds" => plan.seconds = value()?.parse()?,
            "--pairs" => plan.pairs = value()?.parse()?,
            other => bail!(
                "bench takes --quick, --only 'NAME;NAME', --seconds S, --pairs N, not {other}"
            ),
        }
    }
    ensure!(plan.seconds > 0.0 && plan.pairs > 0, "nothing to measure");
    Ok(plan)
}

pub fn run(words: &[String]) -> Result<()> {
    if words == ["--profile"] {
        return profile();
    }
    let plan = plan(words)?;
    setup::for_bench();
    vhost::build()?;
    let lab = Lab::new(plan.seconds)?;
    let wanted = |row: &Row| {
        plan.only.is_empty() || plan.only.iter().any(|part| row.name.contains(part.as_str()))
    };
    let mut outcomes = Vec::new();
    for row in rows::all().into_iter().filter(wanted) {
        outcomes.push(measure(&lab, row, &plan)?);
    }
    ensure!(!outcomes.is_empty(), "no row has a name like that");
    let dir = Path::new("benches/results");
    let run = Run {
        date: sh::text(sh::program("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned(),
        commit: commit()?,
        counts: plan.pairs >= 9 && plan.seconds >= 5.0,
    };
    sh::say(&report::write(dir, &run, &outcomes)?);
    if plan.only.is_empty() || plan.only.iter().any(|part| part == "pictures") {
        let title = "random reads per second over the depth";
        report::picture(dir, "depth.svg", title, ["disk", "raw file"], &depths(&lab)?)?;
        let title = "requests per second over the queues, no I/O";
        report::picture(dir, "scaling.svg", title, ["read", "write"], &scaling(&lab)?)?;
    }
    Ok(())
}

/// What is built: the commit, and whether the tree has other changes.
fn commit() -> Result<String> {
    let git = |args: &[&str]| sh::text(sh::program("git").args(args));
    let head = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", "crates"])?;
    Ok(format!("{}{}", head.trim(), if changed.trim().is_empty() { "" } else { "+" }))
}

fn measure(lab: &Lab, row: Row, plan: &Plan) -> Result<Outcome> {
    let target = targets::of(&row.name).with_context(|| format!("{} has no target", row.name))?;
    let Row { name, ours, peer } = row;
    let seconds = plan.seconds;
    let mut outcome = Outcome { name, target, pairs: Vec::new(), failed: None, seconds };
    for pair in 0..plan.pairs {
        // Who goes first changes: a cache warmed by one must not always help the other.
        let both = if pair % 2 == 0 {
            ours(lab).and_then(|ours| Ok((ours, peer.as_ref().map(|peer| peer(lab)).transpose()?)))
        } else {
            let peer = peer.as_ref().map(|peer| peer(lab)).transpose();
            peer.and_then(|peer| Ok((ours(lab)?, peer)))
        };
        match both {
            Ok(both) => outcome.pairs.push(both),
            Err(error) => {
                sh::complain(&format!("bench: {}: {error:#}", outcome.name));
                outcome.failed = Some(format!("{error:#}"));
                break;
            }
        }
    }
    sh::say(&format!("bench: {}: {} pairs", outcome.name, outcome.pairs.len()));
    Ok(outcome)
}

fn depths(lab: &Lab) -> Result<Vec<(f64, f64, f64)>> {
    let mut points = Vec::new();
    for depth in [1u8, 2, 4, 8, 16, 32, 64, 128] {
        let word = depth.to_string();
        let ours = lab.figure(&lab.mapped(Place::Disk)?, &["--warm", "--depth", &word], "iops")?;
        let raw = lab.figure(&lab.raw(Place::Disk)?, &["--raw", "--depth", &word], "iops")?;
        points.push((f64::from(depth), ours.value, raw.value));
    }
    Ok(points)
}

fn scaling(lab: &Lab) -> Result<Vec<(f64, f64, f64)>> {
    let mut points = Vec::new();
    for queues in [1u8, 2, 4, 8] {
        let word = queues.to_string();
        let iops = |rw: &str| {
            let words = ["--io", "null", "--warm", "--rw", rw, "--queues", &word];
            lab.figure(&lab.mapped(Place::Shm)?, &words, "iops")
        };
        points.push((f64::from(queues), iops("randread")?.value, iops("randwrite")?.value));
    }
    Ok(points)
}

/// Instructions for each mapped read, by the difference of two counts; those of the same load
/// without a map are taken off.
fn profile() -> Result<()> {
    vhost::build()?;
    let lab = Lab::new(600.0)?;
    let (disk, file) = (lab.mapped(Place::Shm)?, lab.raw(Place::Shm)?);
    let per_io = |words: &[&str], target: &Path| -> Result<u64> {
        let few = instructions(&lab, words, target, "20000")?;
        let many = instructions(&lab, words, target, "120000")?;
        Ok(many.saturating_sub(few) / 100_000)
    };
    let all = per_io(&["--warm"], &disk)?;
    let load = per_io(&["--raw"], &file)?;
    sh::say(&format!("{all} instructions per mapped read, {load} of them the load's own"));
    ensure!(all - load.min(all) <= MOST, "at most {MOST} are allowed: what made reads dearer?");
    Ok(())
}

/// Instructions a mapped read may cost, without the load's own; counted with some room.
const MOST: u64 = 1300;

fn instructions(lab: &Lab, words: &[&str], target: &Path, count: &str) -> Result<u64> {
    let mut command = sh::program("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(&lab.ploop);
    command.args(["bench", "--io", "null", "--time", "600", "--count", count]).args(words);
    command.arg(target);
    let output = sh::output(&mut command)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // A program that died under it has a count too.
    ensure!(output.status.success(), "`{}` failed: {said}", sh::words(&command));
    let line = said.lines().find_map(|line| line.split_once("Collected :"));
    let number = line.and_then(|(_, number)| number.trim().parse().ok());
    number.with_context(|| format!("callgrind said {said}"))
}
