//! Any bytes in a guest's memory: what its chain asks for lies inside of it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ploop_vhost_user::fuzz::fuzz_chain(data));
