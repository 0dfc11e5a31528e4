//! `ploop bench`: load on a disk in this process, or the same load on a plain file.

use crate::show::{self, Output, json};
use crate::{args, plan};
use ploop_bench::Report;
use ploop_daemon::{Code, Failure, Result};

/// Runs the load and shows what came of it.
pub fn run(args: &args::Bench, output: Output) -> Result<()> {
    let load = plan::load(args)?;
    let report = if args.raw {
        ploop_bench::raw::run(&load, &plan::absolute(&args.disk)?)?
    } else {
        ploop_bench::image::run(&load, &plan::bench(args, &load)?)?
    };
    if output.json {
        json::print(&report);
    } else {
        print(&report);
    }
    if report.errors > 0 {
        let what = format!("{} requests failed", report.errors);
        return Err(Failure::new(Code::Read, what));
    }
    Ok(())
}

fn print(report: &Report) {
    let Report { rw, bs_bytes, depth, queues, engine, seconds, .. } = report;
    show::line(format!(
        "{rw} {bs_bytes} bytes, depth {depth}, queues {queues}, {engine}, {seconds:.1} s"
    ));
    show::line(format!("iops      {:.0}", report.iops));
    show::line(format!("MB/s      {:.1}", report.mb_per_s));
    let lat = report.lat_us;
    show::line(format!(
        "latency   {:.1} us median, {:.1} p99, {:.1} p99.9, {:.1} max",
        lat.p50, lat.p99, lat.p999, lat.max
    ));
    show::line(format!("cpu       {:.3} us per I/O", report.cpu_us_per_io));
    if let Some(instructions) = report.instructions_per_io {
        show::line(format!("instr.    {instructions:.0} per I/O"));
    }
    show::line(format!("flushes   {}, syncs {}", report.flushes, report.syncs));
    show::line(format!(
        "close     {:.1} ms; {:.0} iops with it",
        report.close_ms, report.iops_with_close
    ));
}
