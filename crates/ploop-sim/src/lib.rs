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
//! | [`recover`] | after a crash: check, open, read everything, compare |
//! | [`scenario`] | a history told by a test |
//! | [`stamp`] | what sectors hold, so that a foreign or torn one is known |

pub mod failure;
pub mod front;
pub mod life;
pub mod model;
pub mod profile;
pub mod recover;
mod run;
pub mod scenario;
pub mod scene;
pub mod stamp;
pub mod traffic;
pub mod workload;

pub use failure::{Failure, Report};
pub use profile::Profile;
pub use run::run;
