//! ploop disks as ublk devices: `/dev/ublkbN`, served by the queues over their own rings.
//!
//! | part | what |
//! |---|---|
//! | `abi` | the driver's structures as bytes |
//! | `copies` | how data moves: not at all, by us, by the driver |
//! | `control` | commands about devices, on a ring and a thread of their own (D8) |
//! | `device` | add or take over, start, stop, remove |
//! | `front` | the front end of one queue |
//! | `descriptors` | the requests of a queue, in the driver's memory, mapped to be read |
//! | `error` | what can go wrong with a ublk device |

mod abi;
mod control;
mod copies;
mod descriptors;
mod device;
mod error;
mod front;

pub use copies::Copies;
pub use device::{Options, UblkDevice, waiting_for};
pub use error::Error;
pub use front::UblkFront;
