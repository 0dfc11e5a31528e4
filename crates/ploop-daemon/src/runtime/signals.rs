//! SIGTERM, SIGINT and SIGHUP ask for a clean stop.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;

/// Calls `on_signal` on a thread of its own for every stop signal, with how many there were.
///
/// # Errors
/// The handlers cannot be installed.
pub fn on_stop_signal(mut on_signal: impl FnMut(u32) + Send + 'static) -> io::Result<()> {
    let (mut receiver, sender) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
    }
    std::thread::Builder::new().name("ploop-signals".into()).spawn(move || {
        let mut byte = [0];
        let mut count = 0;
        while receiver.read_exact(&mut byte).is_ok() {
            count += 1;
            on_signal(count);
        }
    })?;
    Ok(())
}
