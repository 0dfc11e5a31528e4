//! The simulator: the real engine and the real image code over the simulated disk, driven by a
//! seed, crashed and killed at every step, and compared with a flat model.
//!
//! ```text
//! seed -> profile -> disk -> open -> requests, crash points -> close | crash | kill -> open ...
//! ```
//! | part | what |
//! |---|---|
//! | [`run`](fn@run) | one history of one seed |
//! | [`Profile`] | sizes, rates, which faults |
//! | [`model`] | for each sector the values it may hold, now and after a crash |
//! | [`life`] | an open device, turned step by step |
//! | [`traffic`] | requests in flight, told to the model |
//! | [`explore`] | crash points: a boundary and a set of survivors |
//! | [`layers`] | operations on a closed disk, as a table |
//! | [`cover`] | routes and states that were seen, alone and right before a crash |
//! | [`bugbase`], [`shrink`](fn@shrink::shrink) | failing seeds, made small and kept |
//! | [`recover`] | after a crash: check, open, read everything, compare |
//! | [`scenario`] | a history told by a test |
//! | [`stamp`] | what sectors hold, so that a foreign or torn one is known |
//! | `profile` | what a run does: sizes, rates, faults |
//! | `workload` | which requests a run makes |
//! | `front` | a front end without a protocol |
//! | `scene` | the disk a run works on |
//! | `failure` | what a run says at its end |
//! | `hunt` | the planted bugs, each of which must be found |

pub mod bugbase;
pub mod cover;
pub mod explore;
pub mod failure;
pub mod front;
#[cfg(feature = "planted")]
pub mod hunt;
pub mod layers;
pub mod life;
pub mod model;
pub mod profile;
pub mod recover;
mod run;
pub mod scenario;
pub mod scene;
pub mod shrink;
pub mod stamp;
pub mod traffic;
pub mod workload;

pub use failure::{Failure, Report};
pub use profile::Profile;
pub use run::{run, run_once};
