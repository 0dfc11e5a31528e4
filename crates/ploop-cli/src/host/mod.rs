//! The host around a disk: mounts, other programs, partition tables, servers.

pub mod btrfs;
pub mod command;
pub mod freeze;
pub mod gpt;
pub mod groups;
pub mod growing;
pub mod mkfs;
pub mod mounting;
pub mod mounts;
pub mod server;
pub mod stack;
pub mod statfs;
pub mod table;
