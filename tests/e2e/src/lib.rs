//! Helpers of the end-to-end tests.

pub mod samples;
pub mod skip;

pub use samples::{copy_sample, samples_dir};
pub use skip::skip;
