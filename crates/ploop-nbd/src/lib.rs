//! The NBD server: a front end of the engine for `nbdcopy`, `qemu`, `nbd-client` and the like.
//!
//! | file | does |
//! |---|---|
//! | `protocol/` | bytes to types and back: handshake, options, requests, replies |
//! | `addr.rs`, `listen.rs` | `unix:PATH` and `tcp:HOST:PORT`, the listening sockets |
//! | `accept.rs` | one thread: accepts and shakes hands, then gives the socket to a queue |
//! | `front.rs` | [`NbdFront`] on a queue's thread: turns, watches, stopping |
//! | `receive.rs` | the way in: socket to engine request; payloads go into aligned memory |
//! | `inflight.rs` | requests on their way, cut into what the engine takes |
//! | `answer.rs` | the way out: outcome to reply, many replies in one `sendmsg` |
//! | `connection.rs` | one socket: partial headers, payloads and replies |
//! | `memory.rs` | memory for payloads: fair shares, and some of each client's own |
//! | `kernel.rs`, `netlink.rs` | the kernel's own client on sockets of ours: `/dev/nbdN` |
//! | `server.rs` | [`NbdServer`], what a daemon uses |
//! | `export` | what is served: name, size, limits |
//! | `block_status` | the engine's extents as `base:allocation` |
//! | `error` | what can go wrong before the first client comes |
//! | `fuzz` | the bodies of the fuzz targets |
//!
//! What is absent: no request is copied in user space (see `connection.rs` for the one bounded
//! exception), no thread per client, no TLS, no name of another export, no cache (CACHE succeeds
//! and does nothing). A flush on one connection covers all others because the engine's does (I3),
//! therefore CAN_MULTI_CONN.

mod accept;
mod addr;
mod answer;
mod block_status;
mod connection;
mod error;
mod export;
mod front;
#[doc(hidden)]
pub mod fuzz;
mod inflight;
pub mod kernel;
mod listen;
mod memory;
mod netlink;
pub mod protocol;
mod receive;
mod server;

pub use addr::{DEFAULT_PORT, NbdAddr};
pub use error::{Error, Result};
pub use export::ExportInfo;
pub use front::NbdFront;
pub use listen::Listener;
pub use server::{Adopter, NbdOptions, NbdServer};
