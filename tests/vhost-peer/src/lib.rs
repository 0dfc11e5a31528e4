//! A virtual machine's side of vhost-user-blk: guest memory, rings and a driver, in an ordinary
//! process. It drives our server and that of others.

mod peer;
mod queue;

pub use peer::{Options, Peer};
pub use queue::{Done, Queue, Wish};

/// Read sectors.
pub const IN: u32 = 0;
/// Write sectors.
pub const OUT: u32 = 1;
/// Make what was written durable.
pub const FLUSH: u32 = 4;
/// The text that names the disk.
pub const GET_ID: u32 = 8;
/// Give sectors back.
pub const DISCARD: u32 = 11;
/// Make sectors zero.
pub const WRITE_ZEROES: u32 = 13;

/// Done.
pub const OK: u8 = 0;
/// It failed.
pub const IOERR: u8 = 1;
/// Not known to the device.
pub const UNSUPP: u8 = 2;
