//! What a descriptor says.

use super::tree::{Document, Element};
use crate::guid::Guid;
use crate::units::{ClusterSize, Sector};

/// A disk as its descriptor describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Size of the device in sectors; 0 when the descriptor does not say. The top's header rules.
    pub size_sectors: u64,
    /// Cylinders, informative.
    pub cylinders: u64,
    /// Heads, informative.
    pub heads: u64,
    /// Sectors per track, informative.
    pub sectors: u64,
    /// Cluster size of every image.
    pub cluster: ClusterSize,
    /// All space was reserved when the disk was made.
    pub preallocated: bool,
    /// Limit of the top delta in sectors.
    pub max_delta_size: Option<u64>,
    /// Name of the key of an encrypted disk.
    pub key_id: Option<String>,
    /// GUID of what encrypted it, zeros when it is plain. Only read: a change is not written.
    pub engine: Option<String>,
    /// Place in a tree of volumes. Only read: a change of it is not written.
    pub volume: Option<Volume>,
    /// The image files, in the order of the descriptor; of a split disk those of its first piece.
    pub images: Vec<ImageRef>,
    /// The pieces behind the first one of a split disk; none of any other.
    pub more: Vec<Piece>,
    /// The snapshots, the top among them, in the order of the descriptor.
    pub shots: Vec<Shot>,
    /// Name of the top.
    pub top: Guid,
    pub(super) document: Document,
    /// It is one piece of a split disk, and not to be written.
    pub(super) part: bool,
}

/// An image file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageRef {
    /// Its snapshot.
    pub guid: Guid,
    /// What it is said to be; only a base can be raw.
    pub kind: ImageType,
    /// Path, relative to the descriptor or absolute. Untrusted.
    pub file: String,
    pub(super) node: Element,
}

/// What an image file is said to be. The original marks every image of a disk with a raw base
/// `Plain`, so only the base's word means something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ImageType {
    /// Raw.
    Plain,
    /// A ploop image.
    Compressed,
}

/// A snapshot, or the top.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shot {
    /// Its name.
    pub guid: Guid,
    /// What it lies on; [`Guid::NONE`] for the base.
    pub parent: Guid,
    /// Whether it waits to be merged.
    pub temporary: Temporary,
    pub(super) node: Element,
}

/// State of a snapshot that is on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum Temporary {
    /// A snapshot like any other.
    #[default]
    No,
    /// To be merged when nobody uses it.
    Yes,
    /// Two-delta merge: the base's entries that the top has are being zeroed.
    Zero,
    /// Two-delta merge: the files have changed places.
    ZeroSwap,
}

/// Place of a disk in a tree of volumes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Volume {
    /// Path of the parent volume.
    pub parent: Option<String>,
    /// The parent's snapshot this volume begins at.
    pub snapshot: Option<Guid>,
    /// Whether it is only read.
    pub read_only: bool,
}

impl ImageType {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Plain => "Plain",
            Self::Compressed => "Compressed",
        }
    }
}

impl Temporary {
    /// The marks, and the elements that stand for them.
    pub(super) const MARKS: [(Self, &'static str); 3] = [
        (Self::Yes, "Temporary"),
        (Self::Zero, "TemporaryZero"),
        (Self::ZeroSwap, "TemporaryZeroSwap"),
    ];
}

impl ImageRef {
    /// An image file.
    #[must_use]
    pub fn new(guid: Guid, kind: ImageType, file: &str) -> Self {
        Self { guid, kind, file: file.to_owned(), node: Element::new("Image") }
    }
}

impl Shot {
    /// A snapshot.
    #[must_use]
    pub fn new(guid: Guid, parent: Guid) -> Self {
        Self { guid, parent, temporary: Temporary::No, node: Element::new("Shot") }
    }
}

impl Descriptor {
    /// Size of the device.
    #[must_use]
    pub const fn size(&self) -> Sector {
        Sector(self.size_sectors)
    }

    /// Name of the root element: `Parallels_disk_image` or `Virtuozzo_disk_image`.
    #[must_use]
    pub fn dialect(&self) -> &str {
        &self.document.root.name
    }

    /// What the content was encrypted with, in words; `None`: it is plain.
    #[must_use]
    pub fn encryption(&self) -> Option<String> {
        let shown = |text: &str| text.chars().take(64).collect::<String>();
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        // Zeros stand for no engine; what is no GUID at all is not taken for that.
        let engine = given(&self.engine).filter(|engine| engine.parse() != Ok(Guid::NONE));
        let engine = engine.map(|engine| format!("engine {}", shown(&engine)));
        engine.or_else(|| given(&self.key_id).map(|key| format!("key {}", shown(&key))))
    }

    /// The shot of a name.
    #[must_use]
    pub fn shot(&self, guid: Guid) -> Option<&Shot> {
        self.shots.iter().find(|shot| shot.guid == guid)
    }

    /// The image of a name.
    #[must_use]
    pub fn image(&self, guid: Guid) -> Option<&ImageRef> {
        self.images.iter().find(|image| image.guid == guid)
    }

    /// Shots that lie on the one of this name.
    pub fn children(&self, guid: Guid) -> impl Iterator<Item = &Shot> {
        self.shots.iter().filter(move |shot| shot.parent == guid)
    }
}

/// A piece behind the first one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its first sector; it ends where the next one begins, the last one with the disk.
    pub start: u64,
    /// Its image files: one for each snapshot, in the order of the descriptor.
    pub images: Vec<ImageRef>,
}
