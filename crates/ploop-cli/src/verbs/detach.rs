//! `ploop detach`: stops the server of a device.

use crate::args;
use crate::host::server;
use crate::show::{Output, json};
use ploop_daemon::registry::Entry;
use ploop_daemon::{Code, Failure, Result};
use serde::Serialize;
use std::path::Path;

/// Refuses while the device is mounted. Of a killed server it takes away what is left.
pub fn run(args: &args::Detach, output: Output) -> Result<()> {
    let target = args.target.display();
    // Asked first: whoever looks for a living one clears away what he can.
    let dead = server::dead_of_target(&args.target)?;
    let Some(entry) = server::of_target(&args.target)? else {
        if let Some(dead) = dead {
            server::clear(&dead, args.force)?;
            super::leftovers::after(&dead)?;
            return told(&dead, output);
        }
        return Err(Failure::new(Code::NotMounted, format!("{target} is not attached"))
            .hint("`ploop list` shows what is"));
    };
    if entry.device.is_none() {
        let message = format!("{target} is served, not attached: {}", entry.exports.join(", "));
        return Err(Failure::new(Code::NotMounted, message)
            .hint(format!("stop the server with: kill {}", entry.pid)));
    }
    if args.keep {
        server::connect(&entry)?.leave()?;
        return told(&entry, output);
    }
    server::stop(&entry, args.force)?;
    super::leftovers::after(&entry)?;
    told(&entry, output)
}

fn told(entry: &Entry, output: Output) -> Result<()> {
    #[derive(Serialize)]
    struct Detached<'a> {
        device: Option<&'a str>,
        disk: &'a Path,
    }
    if output.json {
        json::print(&Detached { device: entry.device.as_deref(), disk: &entry.disk });
    }
    Ok(())
}
