//! Structures and numbers of the kernel's FUSE interface, version 7.31 and later, in the native
//! byte order. Names of fields follow `linux/fuse.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The protocol's major version.
pub const MAJOR: u32 = 7;
/// Minor versions taken: from the first that tells 88 bytes of setattr and 64 of init ...
pub const MINOR_MIN: u32 = 31;
/// ... to the last whose words are known here.
pub const MINOR_MAX: u32 = 45;
/// Node of the root, which is the one file.
pub const ROOT: u64 = 1;

/// `_IOR(229, 0, u32)`: makes this descriptor of /dev/fuse one more of another's connection.
pub const DEV_IOC_CLONE: u32 = 0x8004_e500;
/// Code of an unasked message: forget the attributes (and pages) of a node.
pub const NOTIFY_INVAL_INODE: i32 = 2;

/// Operations that are looked at; all others are answered with `ENOSYS`.
pub mod op {
    #![allow(missing_docs, reason = "the names of linux/fuse.h")]
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const NOTIFY_REPLY: u32 = 41;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const LSEEK: u32 = 46;
}

/// Bits of [`SetattrIn::valid`].
pub mod fattr {
    #![allow(missing_docs, reason = "the names of linux/fuse.h")]
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
}

/// Bits of [`OpenOut::open_flags`].
pub mod fopen {
    #![allow(missing_docs, reason = "the names of linux/fuse.h")]
    pub const DIRECT_IO: u32 = 1;
    pub const NOFLUSH: u32 = 1 << 5;
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

macro_rules! wire {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[allow(missing_docs, reason = "fields as in linux/fuse.h")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type),* }
    )*};
}

wire! {
    /// Before every request.
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        total_extlen: u16, padding: u16,
    }
    /// Before every answer.
    OutHeader { len: u32, error: i32, unique: u64 }
    /// INIT, as the kernel sends it since 7.36; shorter before, the rest reads as zeros.
    InitIn {
        major: u32, minor: u32, max_readahead: u32, flags: u32, flags2: u32, unused: [u32; 11],
    }
    /// The answer to INIT.
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, max_background: u16,
        congestion_threshold: u16, max_write: u32, time_gran: u32, max_pages: u16,
        map_alignment: u16, flags2: u32, unused: [u32; 7],
    }
    /// SETATTR.
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64,
        ctime: u64, atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32,
        uid: u32, gid: u32, unused5: u32,
    }
    /// OPEN.
    OpenIn { flags: u32, open_flags: u32 }
    /// The answer to OPEN.
    OpenOut { fh: u64, open_flags: u32, backing_id: i32 }
    /// READ, and WRITE before its payload.
    TransferIn {
        fh: u64, offset: u64, size: u32, how: u32, lock_owner: u64, flags: u32, padding: u32,
    }
    /// The answer to WRITE.
    WriteOut { size: u32, padding: u32 }
    /// FLUSH.
    FlushIn { fh: u64, unused: u32, padding: u32, lock_owner: u64 }
    /// FALLOCATE.
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    /// LSEEK.
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    /// The answer to LSEEK.
    LseekOut { offset: u64 }
    /// Attributes of a file.
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32,
        mtimensec: u32, ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32,
        blksize: u32, flags: u32,
    }
    /// The answer to GETATTR and SETATTR.
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: Attr }
    /// The answer to STATFS.
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32,
        frsize: u32, padding: u32, spare: [u32; 6],
    }
    /// Payload of [`NOTIFY_INVAL_INODE`].
    InvalInodeOut { ino: u64, off: i64, len: i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        let sizes = [
            size_of::<InHeader>(),
            size_of::<OutHeader>(),
            size_of::<InitIn>(),
            size_of::<InitOut>(),
            size_of::<SetattrIn>(),
            size_of::<OpenOut>(),
            size_of::<TransferIn>(),
            size_of::<FallocateIn>(),
            size_of::<LseekIn>(),
            size_of::<AttrOut>(),
            size_of::<StatfsOut>(),
        ];
        assert_eq!(sizes, [40, 16, 64, 64, 88, 16, 40, 32, 24, 104, 80]);
    }
}
