//! vhost-user-blk: a virtual machine's disk. The machine's monitor (QEMU, cloud-hypervisor,
//! Firecracker, ...) hands over its memory and its virtqueues through a unix socket; from then on
//! the queue threads of the engine read requests from the rings and move data straight between the
//! images and the guest's memory.
//!
//! | file | what |
//! |---|---|
//! | `server.rs` | one monitor at a time: its messages, and the end of its connection |
//! | `handler.rs` | the messages of the protocol: memory, rings, configuration |
//! | `back.rs` | what a monitor is told unasked: another size |
//! | `memory.rs` | the guest's memory in this process |
//! | `ring.rs` | a split virtqueue: heads in, used heads out, notifications |
//! | `inflight.rs` | the page a monitor keeps for us: what a dead server had taken |
//! | `chain.rs` | a descriptor chain as a request of the device |
//! | `front.rs` | the front end on a queue's thread: rings to requests, outcomes to rings |
//! | `parts.rs` | a request in pieces the engine takes; memory for odd ones |
//! | `fuzz.rs` | the body of the fuzz target |
//! | `config.rs` | features, and the configuration space of the device |
//! | `error` | what can go wrong with a monitor |
//!
//! The guest is not trusted: what a ring says is read once and checked, memory outside the regions
//! does not exist. A monitor is trusted with its own memory only: one that makes its memory file
//! shorter under us ends this server with SIGBUS, as it would end any other.

mod back;
mod chain;
mod config;
mod error;
mod front;
#[doc(hidden)]
pub mod fuzz;
mod handler;
mod inflight;
mod memory;
mod parts;
mod ring;
mod server;

pub use config::Identity;
pub use error::{Error, Result};
pub use front::VhostFront;
pub use server::VhostServer;
