//! Helpers of the end-to-end tests.

pub mod bin;
pub mod samples;
pub mod skip;

pub use bin::{ploop, ploop_path};
pub use samples::{copy_sample, samples_dir};
pub use skip::skip;
