//! `ploop detach`: stops the server of a device.

use crate::args;
use crate::host::server;
use ploop_daemon::{Code, Failure, Result};

/// Refuses while the device is mounted. Of a killed server it takes away what is left.
pub fn run(args: &args::Detach) -> Result<()> {
    let target = args.target.display();
    // Asked first: whoever looks for a living one clears away what he can.
    let dead = server::dead_of_target(&args.target)?;
    let Some(entry) = server::of_target(&args.target)? else {
        if let Some(dead) = dead {
            server::clear(&dead, args.force)?;
            return super::leftovers::after(&dead);
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
        return server::connect(&entry)?.leave();
    }
    server::stop(&entry, args.force)?;
    super::leftovers::after(&entry)
}
