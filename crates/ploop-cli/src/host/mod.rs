//! The host around a disk: mounts, other programs, partition tables, servers.
//!
//! | part | what |
//! |---|---|
//! | `btrfs` | what is read of a btrfs before it is mounted or grown |
//! | `choice` | which partition of an attached disk is mounted |
//! | `command` | other programs: finding, running and reporting them |
//! | `freeze` | file systems frozen while a snapshot is taken |
//! | `gpt` | the partition table of a new disk |
//! | `groups` | groups of users, by name and number |
//! | `growing` | what is on a device that is about to be grown |
//! | `mkfs` | making and checking file systems |
//! | `mounting` | every mount this tool makes, with the options of each file system |
//! | `mounts` | what is mounted from a device |
//! | `node` | the device of a partition that the kernel may not know yet |
//! | `server` | the servers of this host, and calls to them |
//! | `stack` | what lies on a block device, and what a device or a file lies on |
//! | `statfs` | the `.statfs` file beside an image: the space figures of its file system |
//! | `table` | reading a partition table and growing one partition |

pub mod btrfs;
pub mod choice;
pub mod command;
pub mod freeze;
pub mod gpt;
pub mod groups;
pub mod growing;
pub mod mkfs;
pub mod mounting;
pub mod mounts;
pub mod node;
pub mod server;
pub mod stack;
pub mod statfs;
pub mod table;
