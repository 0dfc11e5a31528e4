//! The request path and the keeper of a ploop disk.
//!
//! ```text
//! request -> split -> map -> route -> submit -> complete            (queue threads)
//!                            \-> keeper: allocate, copy up, discard, write back, flush
//! ```
//! | stage | file | what it decides |
//! |---|---|---|
//! | 1 request | `front.rs` | what a front end hands in; completed exactly once |
//! | 2 split | `split.rs` | pieces that do not cross a cluster |
//! | 3 map | `map.rs`, `grace.rs` | guest cluster -> place; lock-free, register first |
//! | 4 route | `route.rs` | pure function `(operation, mapping) -> Route` |
//! | 5 submit | `queue/disk.rs` | route -> operations on this queue's ring |
//! | 6 complete | `queue/disk.rs`, `queue/answer.rs` | completion -> next step, or the end |
//! | 7 write back | `keeper/pages.rs`, `keeper/sync.rs` | dirty BAT pages -> disk, in order |
//! | odd sizes | `queue/odd.rs`, `queue/rewrite.rs`, `keeper/patch.rs` | read, then written whole |
//! | flush | `queue/flush.rs`, `sync_slot.rs` | nothing dirty: one sync on the queue's own ring |
//!
//! Two kinds of thread: queues (many; read the map) and the keeper (one; the only writer of the
//! map, the free set and the metadata on disk). Nothing here spawns a thread, opens a file or
//! reads a clock: `Queue::step` and `Keeper::step` are driven from outside.
//!
//! | beside the stages | what |
//! |---|---|
//! | `align` | what direct I/O needs of a transfer |
//! | `arena` | memory of a front end for payloads on one queue |
//! | `bare` | runs of pages of the map that no level has anything in |
//! | `blocks` | what both ways of rewriting parts of blocks share |
//! | `chain` | the open images, by a number that stays the same |
//! | `device` | a device: queues and keeper made from a spec, paused, replaced, ended |
//! | `limits` | every limit of the engine, stated once (D3, D4, D9, P4) |
//! | `memory` | buffers of the engine |
//! | `message` | what queues and keeper send each other |
//! | `pieces` | a split disk: which piece has a sector |
//! | `record` | changes that no page write holds yet, in memory that outlives us (F2) |
//! | `remote` | the front end for code on other threads |
//! | `spec` | what a device is made of |
//! | `stats` | counters of a queue and of the keeper |
//! | `sync` | atomics behind one name, so that a model checker can take their place |

pub mod align;
pub mod arena;
pub mod bare;
mod blocks;
pub mod chain;
pub mod device;
pub mod front;
pub mod grace;
pub mod keeper;
pub mod limits;
pub mod map;
pub mod memory;
pub mod message;
pub mod pieces;
pub mod queue;
pub mod record;
pub mod remote;
pub mod route;
pub mod spec;
pub mod split;
pub mod stats;
pub mod sync;
pub mod sync_slot;

pub use device::{Device, DeviceError};
pub use front::{
    Buffer, Errno, ExtentRecord, Flags, FrontEnd, Intake, Limits, Operation, Outcome, Request,
    Stride, is_no_space,
};
pub use keeper::{Keeper, Spare};
pub use queue::{Ended, Queue, Turn};
pub use spec::{
    CloseReport, DeviceOptions, DeviceSpec, GiveUp, LevelKind, LevelSpec, OnEnospc, PieceEnd,
    PieceSpec,
};
