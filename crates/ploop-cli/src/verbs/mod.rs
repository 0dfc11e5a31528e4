//! The verbs, one file each: done by the libraries, shown by [`crate::show`].

pub mod attach;
pub mod bench;
pub mod check;
pub mod detach;
pub mod export;
pub mod external;
pub mod generate;
pub mod info;
pub mod init;
pub mod layers;
pub mod leftovers;
pub mod list;
pub mod map;
pub mod mount;
pub mod online;
pub mod resize;
pub mod restore_descriptor;
pub mod serve;
pub mod snapshot;
pub mod snapshot_list;
pub mod stat;
pub mod tsnapshot;
pub mod umount;
mod undo;
