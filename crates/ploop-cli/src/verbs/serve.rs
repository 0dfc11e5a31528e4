//! `ploop serve`: a disk served in the foreground, ready lines on stdout (T3).

use crate::show::{self, Output, json};
use crate::{args, plan};
use ploop_daemon::Result;
use ploop_daemon::registry::Entry;
use ploop_daemon::runtime;
use serde::Serialize;
use std::path::Path;

#[derive(Serialize)]
struct Ready<'a> {
    exports: &'a [String],
    read_only: bool,
    pid: u32,
}

/// Serves until a signal or a control client stops it. Who cannot be told that it is ready would
/// wait for ever, so then it ends.
pub fn run(args: &args::Serve, output: Output) -> Result<()> {
    let spec = plan::serve(args)?;
    super::leftovers::before(&spec.disk, !spec.read_only, spec.allow_outside);
    runtime::serve(&spec, &mut |entry: &Entry, _log: &Path| {
        let Entry { exports, read_only, pid, .. } = entry;
        if output.json {
            json::print(&Ready { exports, read_only: *read_only, pid: *pid });
        } else {
            exports.iter().for_each(|export| show::line(format!("ready {export}")));
        }
        show::lost().map_or(Ok(()), Err)
    })
}
