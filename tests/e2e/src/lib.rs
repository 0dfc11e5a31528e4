//! Helpers of the end-to-end tests.

pub mod bin;
pub mod checks;
pub mod device;
pub mod flat;
pub mod host;
pub mod nbd_client;
pub mod qemu;
pub mod requests;
pub mod samples;
pub mod skip;
pub mod split;
pub mod stamps;
pub mod world;

pub use bin::{ploop, ploop_path};
pub use samples::{copy_sample, samples_dir};
pub use skip::skip;
pub use world::{World, can_attach, have};
