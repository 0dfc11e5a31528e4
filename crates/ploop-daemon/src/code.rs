//! Exit codes of the original tool; control errors map to them one to one (T16).

macro_rules! codes {
    ($($name:ident = $value:literal, $kind:literal, $doc:literal;)*) => {
        /// Why something failed: the exit code of the tool.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum Code {
            $(#[doc = $doc] $name = $value,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The word used as `kind` in JSON.
            #[must_use]
            pub const fn kind(self) -> &'static str {
                match self { $(Self::$name => $kind,)* }
            }

            /// The name of the error on the control socket, without the interface.
            #[must_use]
            pub const fn error_name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

codes! {
    Create = 1, "create", "A file could not be created.";
    Device = 2, "device", "No device, or it could not be made.";
    DeviceIoctl = 3, "device_ioctl", "A device refused a request.";
    Open = 4, "open", "A file could not be opened.";
    Memory = 5, "memory", "Out of memory.";
    Read = 6, "read", "A file could not be read.";
    Write = 7, "write", "A file could not be written, or a stop lost requests (T17).";
    Sysfs = 9, "sysfs", "sysfs does not say what was expected.";
    BadImage = 11, "bad_image", "An image is damaged or not a ploop image.";
    System = 12, "system", "A system call failed.";
    Protocol = 13, "protocol", "The other side does not speak as agreed.";
    NoProgress = 14, "no_progress", "A copy does not converge.";
    Examine = 15, "stat", "A file could not be examined.";
    Sync = 16, "sync", "A file could not be synced.";
    Busy = 17, "busy", "In use, or already there.";
    Flock = 18, "flock", "A lock failed.";
    Truncate = 19, "truncate", "A file could not be cut or extended.";
    Allocate = 20, "allocate", "Space could not be reserved.";
    Mount = 21, "mount", "A file system could not be mounted.";
    Umount = 22, "umount", "A file system could not be unmounted.";
    Lock = 23, "lock", "The disk is locked by another process.";
    Mkfs = 24, "mkfs", "A file system could not be made.";
    ResizeFs = 26, "resize_fs", "A file system could not be resized.";
    Mkdir = 27, "mkdir", "A directory could not be made.";
    Rename = 28, "rename", "A file could not be renamed.";
    Internal = 29, "internal", "Something that cannot be was seen.";
    Relocate = 30, "relocate", "A cluster could not be moved.";
    Partition = 33, "partition", "A partition table could not be read or changed.";
    Unlink = 35, "unlink", "A file could not be removed.";
    Mknod = 36, "mknod", "A device node could not be made.";
    InUse = 37, "in_use", "The image is marked in use, or in use.";
    Parameter = 38, "parameter", "A bad option or argument.";
    Descriptor = 39, "descriptor", "DiskDescriptor.xml is damaged or does not fit the images.";
    NotMounted = 40, "not_mounted", "The disk is not mounted or attached.";
    Fsck = 41, "fsck", "A file system check failed.";
    NoSnapshot = 43, "no_snapshot", "No such snapshot.";
    DirtyBitmap = 44, "dirty_bitmap", "The dirty bitmap forbids it, or there is none.";
    Encryption = 45, "encryption", "Encryption failed.";
    DeviceBusy = 46, "device_busy", "The device is mounted or open.";
}

impl Code {
    /// The exit code.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The code with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| u64::from(code.number()) == number)
    }

    /// The code a control error stands for.
    #[must_use]
    pub fn from_error_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.error_name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn numbers_and_names_lead_back() {
        for &code in Code::ALL {
            assert_eq!(Code::from_number(u64::from(code.number())), Some(code));
            assert_eq!(Code::from_error_name(code.error_name()), Some(code));
        }
        assert_eq!(Code::from_number(0), None);
        assert_eq!(Code::from_number(8), None);
    }
}
