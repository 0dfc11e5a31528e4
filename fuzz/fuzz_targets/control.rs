//! Any bytes from a client of the control socket: each message is answered or ends the connection.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ploop_daemon::control::fuzz::fuzz_calls(data));
