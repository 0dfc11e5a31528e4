//! One process per open disk: threads, exports, control socket, registry.
//!
//! | part | what |
//! |---|---|
//! | [`runtime`] | a disk opened and served: threads, front ends, stop sequence |
//! | [`registry`] | who serves what on this host, by files (T7) |
//! | [`remains`] | what a killed server leaves, and taking it away |
//! | [`users`], [`mountinfo`] | who has a block device open or mounted |
//! | [`control`] | the control socket: varlink server and client |
//! | [`stats`] | what was counted: read, summed up, as OpenMetrics text and over HTTP |
//! | [`background`] | the same, in a process of its own that outlives the tool |
//! | [`code`], [`failure`] | exit codes of the tool, and errors that carry one |
//! | `everybody` | the open disks of all users, for root to list |

pub mod background;
pub mod code;
pub mod control;
mod everybody;
pub mod failure;
pub mod mountinfo;
pub mod registry;
pub mod remains;
pub mod runtime;
pub mod stats;
pub mod users;

pub use code::Code;
pub use failure::{Failure, Result};
pub use ploop_nbd::NbdAddr;
