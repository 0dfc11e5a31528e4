//! The kernel's side of FUSE in bytes: what a request looks like, what an answer looks like.
//!
//! Everything here is pure. What comes from the kernel is parsed with every length checked, as if
//! it came from a stranger: no panic, no read past the end.

pub mod abi;
pub mod init;
pub mod reply;
pub mod request;

/// Longest request the kernel makes (`fs.fuse.max_pages_limit` allows 256 pages of 4 KiB).
pub const LONGEST: u32 = 1 << 20;
