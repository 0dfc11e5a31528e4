//! `ploop stat`: what an open disk does, once or again and again.

use crate::host::server;
use crate::plan::StatPlan;
use crate::show::stat::{Heading, frame, report};
use crate::show::{self, Output, json};
use crate::{args, plan};
use ploop_daemon::control::types::StatReply;
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Failure, Result};
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Metrics {
    metrics: String,
}

/// A table, JSON or OpenMetrics text; with `--watch` until the disk is closed.
pub fn run(args: &args::Stat, output: Output) -> Result<()> {
    let plan = plan::stat(args)?;
    let entry = server::of_target(&plan.target)?.ok_or_else(|| not_open(&plan.target))?;
    if args.prometheus {
        let metrics = server::connect(&entry)?.metrics()?;
        if output.json {
            json::print(&Metrics { metrics });
        } else {
            show::line(metrics.trim_end());
        }
        return Ok(());
    }
    match plan.watch {
        None => {
            let mut client = server::connect(&entry)?;
            let (state, stat) = (client.info()?, client.stat()?);
            if output.json {
                json::print(&stat);
            } else {
                let heading = Heading::of(&state);
                report(&heading, &stat).iter().for_each(show::line);
            }
            Ok(())
        }
        Some(interval) => watch(&plan, &entry, interval, output),
    }
}

fn not_open(target: &Path) -> Failure {
    let target = target.display();
    Failure::new(Code::NotMounted, format!("{target} is not open: no server has it"))
        .hint("`ploop list` shows what is")
}

/// One line or table for each interval. Ends when nobody reads it any more.
fn watch(plan: &StatPlan, entry: &Entry, interval: Duration, output: Output) -> Result<()> {
    let mut client = server::connect(entry)?;
    let heading = Heading::of(&client.info()?);
    let mut before = client.stat()?;
    let mut next = Instant::now();
    for _ in 0..plan.count {
        // Late, as after a suspend: go on from now, do not catch up.
        next = (next + interval).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let now = again(plan, entry, &before)?;
        let since = now.since(&before);
        before = now;
        let said = if output.json {
            show::lines([json::text(&since)])
        } else {
            show::lines(frame(&heading, &since))
        };
        if !said {
            break;
        }
    }
    Ok(())
}

/// A new connection each time: between two looks it may be long.
fn again(plan: &StatPlan, entry: &Entry, before: &StatReply) -> Result<StatReply> {
    let now = server::of_target(&plan.target)?.filter(|now| now.pid == entry.pid);
    let gone = || {
        let target = plan.target.display();
        Failure::new(Code::NotMounted, format!("{target} is not open any more"))
    };
    let stat = server::connect(&now.ok_or_else(gone)?).and_then(|mut client| client.stat());
    match stat {
        Ok(stat) if stat.interval_ns < before.interval_ns => Err(gone()),
        Ok(stat) => Ok(stat),
        // Closing, or closed while it was asked.
        Err(failure) if failure.code == Code::NotMounted => Err(gone()),
        Err(_) if server::of_target(&plan.target)?.is_none() => Err(gone()),
        Err(failure) => Err(failure),
    }
}
