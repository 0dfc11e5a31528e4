//! Any bytes from an NBD client after the handshake: what is accepted lies inside the device.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ploop_nbd::fuzz::fuzz_requests(data));
