//! Any bytes from the kernel's FUSE: what is accepted lies inside the device.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ploop_fuse::fuzz::fuzz_request(data));
