//! `ploop serve`: a disk served in the foreground, ready lines on stdout (T3).

use crate::{args, plan, show};
use ploop_daemon::Result;
use ploop_daemon::registry::Entry;
use ploop_daemon::runtime;
use std::path::Path;

/// Serves until a signal or a control client stops it.
pub fn run(args: &args::Serve) -> Result<()> {
    let spec = plan::serve(args)?;
    super::leftovers::before(&spec.disk, !spec.read_only, spec.allow_outside);
    runtime::serve(&spec, &mut |entry: &Entry, _log: &Path| {
        for export in &entry.exports {
            show::line(format!("ready {export}"));
        }
        Ok(())
    })
}
