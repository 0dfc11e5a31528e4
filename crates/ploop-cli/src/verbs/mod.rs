//! The verbs: done by the libraries, shown by [`crate::show`].
//!
//! | part | what |
//! |---|---|
//! | `init` | `ploop init` |
//! | `undo` | an unfinished new disk is removed |
//! | `attach` | `ploop attach` |
//! | `detach` | `ploop detach` |
//! | `mount` | `ploop mount` |
//! | `umount` | `ploop umount` |
//! | `serve` | `ploop serve` |
//! | `export` | `ploop export` |
//! | `list` | `ploop list` |
//! | `info` | `ploop info` |
//! | `map` | `ploop map` |
//! | `stat` | `ploop stat` |
//! | `check` | `ploop check` |
//! | `snapshot` | `ploop snapshot` |
//! | `snapshot_list` | `ploop snapshot-list` |
//! | `layers` | `snapshot-switch`, `snapshot-delete`, `snapshot-merge`, `grow` on a closed disk |
//! | `online` | the same on an open disk |
//! | `tsnapshot` | `ploop tsnapshot` |
//! | `resize` | `ploop resize` |
//! | `convert` | `ploop convert` |
//! | `restore_descriptor` | `ploop restore-descriptor` |
//! | `leftovers` | what killed servers and interrupted backups left of a disk is taken away |
//! | `bench` | `ploop bench` |
//! | `generate` | `ploop generate`: man pages and completions |
//! | `external` | verbs of the original that are not built |

pub mod attach;
pub mod bench;
pub mod check;
pub mod convert;
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
