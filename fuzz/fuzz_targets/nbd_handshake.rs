//! Any bytes from an NBD client during the handshake: no panic, nothing read too early.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ploop_nbd::fuzz::fuzz_handshake(data));
