//! The host around a disk: mounts, other programs, partition tables, servers.

pub mod command;
pub mod freeze;
pub mod gpt;
pub mod mkfs;
pub mod mounts;
pub mod server;
pub mod statfs;
