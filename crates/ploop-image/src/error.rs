//! What can go wrong with a disk directory, and the exit code the tool gives for it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

/// The class of an error. Each has one exit code of the original tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file cannot be created.
    Create,
    /// A file cannot be opened.
    Open,
    /// A read failed.
    Read,
    /// A write failed, or what must be written is not.
    Write,
    /// The image is not valid, or not usable as asked.
    BadImage,
    /// A name, size or other fact cannot be got from the system.
    System,
    /// A conversion of the format version was interrupted.
    Conversion,
    /// There is a descriptor already: a directory holds one disk.
    DescriptorExists,
    /// `fstat` failed.
    Stat,
    /// `fsync` failed.
    Sync,
    /// As `Sync`, of a name or of a file that nothing needs yet: the images are what they were.
    SyncNew,
    /// `ftruncate` failed.
    Truncate,
    /// `fallocate` failed.
    Reserve,
    /// Another tool holds the lock file of the disk.
    LockFile,
    /// `rename` failed.
    Rename,
    /// `unlink` failed.
    Unlink,
    /// The disk is open somewhere else.
    InUse,
    /// The caller asked for something that cannot be.
    Param,
    /// An image file with that name exists.
    ImageExists,
    /// The descriptor cannot be read or makes no sense.
    Descriptor,
    /// The gate refused a file outside the disk's directory.
    Gate,
    /// A file that is not the disk's alone would have to change.
    Shared,
    /// No such snapshot.
    NoSnapshot,
    /// The image has change tracking, which a writable open would lose.
    ChangeTracking,
    /// The device was closed with an error; the image keeps its in-use mark.
    NotClean,
    /// Stopped as asked.
    Cancelled,
    /// The content of the disk is encrypted.
    Encrypted,
}

impl ErrorKind {
    /// Every class.
    pub const ALL: &'static [Self] = &[
        Self::Create,
        Self::Open,
        Self::Read,
        Self::Write,
        Self::BadImage,
        Self::System,
        Self::Conversion,
        Self::DescriptorExists,
        Self::Stat,
        Self::Sync,
        Self::SyncNew,
        Self::Truncate,
        Self::Reserve,
        Self::LockFile,
        Self::Rename,
        Self::Unlink,
        Self::InUse,
        Self::Param,
        Self::ImageExists,
        Self::Descriptor,
        Self::Gate,
        Self::Shared,
        Self::NoSnapshot,
        Self::ChangeTracking,
        Self::NotClean,
        Self::Cancelled,
        Self::Encrypted,
    ];

    /// The exit code of the original tool for this class.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Create => 1,
            Self::Open | Self::Gate | Self::Shared => 4,
            Self::Read => 6,
            Self::Write | Self::NotClean => 7,
            Self::BadImage => 11,
            Self::System => 12,
            Self::Stat => 15,
            Self::Sync | Self::SyncNew => 16,
            Self::Conversion | Self::DescriptorExists => 17,
            Self::Truncate => 19,
            Self::Reserve => 20,
            Self::LockFile => 23,
            Self::Rename => 28,
            Self::Cancelled => 29,
            Self::Unlink => 35,
            Self::InUse => 37,
            Self::Param | Self::ImageExists => 38,
            Self::Descriptor => 39,
            Self::NoSnapshot => 43,
            Self::ChangeTracking => 44,
            Self::Encrypted => 45,
        }
    }

    /// A file would not take a change: nothing was changed, and nothing is in doubt.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Write | Self::Truncate | Self::Reserve)
    }

    /// The name used in JSON errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::BadImage => "bad_image",
            Self::System => "system",
            Self::Conversion => "conversion_in_progress",
            Self::DescriptorExists => "descriptor_exists",
            Self::Stat => "stat",
            Self::Sync | Self::SyncNew => "sync",
            Self::Truncate => "truncate",
            Self::Reserve => "allocate",
            Self::LockFile => "lock",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::InUse => "in_use",
            Self::Param => "parameter",
            Self::ImageExists => "image_exists",
            Self::Descriptor => "descriptor",
            Self::Gate => "gate",
            Self::Shared => "shared",
            Self::NoSnapshot => "no_snapshot",
            Self::ChangeTracking => "dirty_bitmap",
            Self::NotClean => "not_clean",
            Self::Cancelled => "cancelled",
            Self::Encrypted => "encryption",
        }
    }
}

/// An error with its class, what was done to what, and the cause.
#[derive(Debug)]
pub struct ImageError {
    kind: ErrorKind,
    context: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What most functions here return.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

impl ImageError {
    /// An error of a class with its text.
    #[must_use]
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), hint: None, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The class.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// It, or what caused it, is a refusal: see [`ErrorKind::is_refusal`].
    pub(crate) fn is_refused(&self) -> bool {
        let cause = self.source.as_ref().and_then(|source| source.downcast_ref::<Self>());
        cause.map_or(self.kind, Self::kind).is_refusal()
    }

    /// The text, without the cause.
    #[must_use]
    pub fn context(&self) -> &str {
        &self.context
    }

    /// What to do about it, when that is known.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The exit code of the original tool.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl StdError for ImageError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// Puts a class and a sentence before a system error.
pub(crate) trait IoContext<T> {
    /// `what` is a verb with its object: "cannot read the header of".
    fn at(self, kind: ErrorKind, what: &str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, kind: ErrorKind, what: &str, path: &Path) -> Result<T> {
        self.map_err(|e| {
            let hint = room(&e);
            let error = ImageError::new(kind, format!("{what} {}", path.display())).because(e);
            match hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
    }
}

/// What to do when the host does not let a file take more.
fn room(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            Some("make room on the host's file system: blocks, or inodes (df -i)")
        }
        io::ErrorKind::QuotaExceeded => {
            Some("the quota of the files' owner is used up: make room or raise it")
        }
        io::ErrorKind::FileTooLarge => Some(
            "the file has the greatest length that is allowed: raise the limit (ulimit -f, \
             LimitFSIZE=), or move the disk to a file system with larger files",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_says_whose_and_what_to_do() {
        // ENOSPC, EDQUOT, EFBIG: each is told apart.
        let hints = [28, 122, 27].map(|errno| {
            let failed: io::Result<()> = Err(io::Error::from_raw_os_error(errno));
            let error = failed.at(ErrorKind::Write, "cannot write", Path::new("/d/root.hds"));
            error.unwrap_err().hint_text().map(str::to_owned).unwrap_or_default()
        });
        for (hint, word) in hints.iter().zip(["inodes", "quota", "ulimit"]) {
            assert!(hint.contains(word), "{hint}");
        }
    }

    #[test]
    fn an_error_shows_what_where_and_why() {
        let failed: io::Result<()> = Err(io::Error::from(io::ErrorKind::PermissionDenied));
        let error = failed.at(ErrorKind::Open, "cannot open", Path::new("/d/root.hds"));
        let error = error.unwrap_err().hint("run it as the owner");
        assert_eq!(error.to_string(), "cannot open /d/root.hds: permission denied");
        assert_eq!(error.exit_code(), 4);
        assert_eq!(error.kind().name(), "open");
        assert!(error.source().is_some());
        assert_eq!(error.hint_text(), Some("run it as the owner"));
    }
}
