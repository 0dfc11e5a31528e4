//! What can be wrong with a descriptor.

use crate::error::FormatError;
use crate::guid::{Guid, GuidError};

/// Why a descriptor cannot be read, or a change of it made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// Longer than a descriptor can be.
    #[error("{have} bytes are more than a descriptor can have: {max}")]
    TooLong {
        /// Bytes.
        have: usize,
        /// Limit.
        max: usize,
    },
    /// Elements inside elements inside elements.
    #[error("elements are nested deeper than {0} levels")]
    TooDeep(usize),
    /// Too many elements, attributes and texts.
    #[error("more than {0} elements, attributes and texts")]
    TooMany(usize),
    /// Another encoding than UTF-8, or broken UTF-8.
    #[error("not UTF-8: {0}")]
    Encoding(String),
    /// Not well-formed.
    #[error("byte {at}: {what}")]
    Syntax {
        /// About where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// A DTD could name other files; a descriptor has none.
    #[error("byte {at}: a document type declaration")]
    DocType {
        /// About where.
        at: u64,
    },
    /// An entity that is not one of the five of XML.
    #[error("byte {at}: unknown entity `{name}`")]
    Entity {
        /// About where.
        at: u64,
        /// Its name.
        name: String,
    },
    /// An element that must be there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A piece of a split disk does not begin where the one before it ends.
    #[error("storage {piece} begins at sector {start}, expected {expected}")]
    PieceStart {
        /// Which, from 0.
        piece: usize,
        /// Its first sector.
        start: u64,
        /// Where the one before it ends.
        expected: u64,
    },
    /// A piece without a sector.
    #[error("storage {piece} begins at sector {start} and ends at {end}")]
    PieceEmpty {
        /// Which, from 0.
        piece: usize,
        /// Its first sector.
        start: u64,
        /// The sector behind its last.
        end: u64,
    },
    /// The pieces are not all of the disk.
    #[error("storage {piece}, the last one, ends at sector {end}, `Disk_size` is {size}")]
    PieceEnd {
        /// Which, from 0.
        piece: usize,
        /// The sector behind its last.
        end: u64,
        /// Size of the disk.
        size: u64,
    },
    /// A piece begins in the middle of a cluster.
    #[error("storage {piece} begins at sector {start}, no multiple of a cluster of {cluster}")]
    PieceAlign {
        /// Which, from 0.
        piece: usize,
        /// Its first sector.
        start: u64,
        /// Sectors.
        cluster: u32,
    },
    /// Two cluster sizes.
    #[error("storage {piece} has a `Blocksize` of {have} sectors, storage 0 of {first}")]
    PieceCluster {
        /// Which, from 0.
        piece: usize,
        /// Its own.
        have: u32,
        /// That of the first one.
        first: u32,
    },
    /// A snapshot that some piece does not have.
    #[error("storage {piece} has no image for {guid}, another storage has one")]
    PieceImage {
        /// Which, from 0.
        piece: usize,
        /// The snapshot.
        guid: Guid,
    },
    /// One piece is not a descriptor.
    #[error("one piece of a split disk is not written alone")]
    Part,
    /// No disk has such sectors.
    #[error("`LogicSectorSize` is {0}: 512, 1024, 2048 and 4096 are possible")]
    SectorSize(u64),
    /// Text that is no number.
    #[error("`{element}` is `{text}`, not a number")]
    Number {
        /// Which element.
        element: &'static str,
        /// Its text.
        text: String,
    },
    /// Blocksize is no legal cluster size.
    #[error("`Blocksize` is {0} sectors, expected a power of two from 64 to 131072")]
    Blocksize(u64),
    /// Text that is no GUID.
    #[error("`{element}`: {error}")]
    Guid {
        /// Which element.
        element: &'static str,
        /// Why not.
        error: GuidError,
    },
    /// An image type other than Plain and Compressed.
    #[error("image type `{0}`, expected `Compressed` or `Plain`")]
    ImageType(String),
    /// A file name no descriptor can hold.
    #[error("file name `{0}` cannot be written in a descriptor")]
    FileName(String),
    /// Preallocated together with Plain.
    #[error("a raw disk cannot be preallocated")]
    PreallocatedPlain,
    /// Images and shots do not belong together.
    #[error("{images} images but {shots} snapshots")]
    Count {
        /// `Image` elements.
        images: usize,
        /// `Shot` elements.
        shots: usize,
    },
    /// Two images or shots of one name.
    #[error("{0} is there twice")]
    Duplicate(Guid),
    /// Two images in one file.
    #[error("file `{0}` is there twice")]
    DuplicateFile(String),
    /// A shot without image.
    #[error("snapshot {0} has no image")]
    NoImage(Guid),
    /// No shot of this name.
    #[error("there is no snapshot {0}")]
    NoShot(Guid),
    /// A parent that is no shot.
    #[error("snapshot {child} has the parent {parent}, which does not exist")]
    NoParent {
        /// Whose parent.
        child: Guid,
        /// The name.
        parent: Guid,
    },
    /// A snapshot that is its own ancestor.
    #[error("snapshot {0} is its own ancestor")]
    Cycle(Guid),
    /// Two shots without parent.
    #[error("{first} and {second} both have no parent")]
    TwoBases {
        /// One.
        first: Guid,
        /// The other.
        second: Guid,
    },
    /// Neither TopGUID nor the well-known name.
    #[error("no top: `TopGUID` is missing and no snapshot has its well-known name")]
    NoTop,
    /// The top is marked temporary.
    #[error("the top {0} is a temporary snapshot")]
    TemporaryTop(Guid),
    /// A name with a meaning of its own.
    #[error("{0} is reserved")]
    Reserved(Guid),
    /// The top cannot be removed.
    #[error("{0} is the top")]
    IsTop(Guid),
    /// Only a leaf can be removed, only a single child merged.
    #[error("snapshot {guid} has {children} children")]
    HasChildren {
        /// Which.
        guid: Guid,
        /// How many.
        children: usize,
    },
    /// What it holds is not what was frozen, or will not be kept.
    #[error("snapshot {0} waits to be merged")]
    Temporary(Guid),
    /// The base has no parent to merge into.
    #[error("{0} is the base")]
    IsBase(Guid),
    /// A size or cluster size that cannot be.
    #[error(transparent)]
    Format(#[from] FormatError),
}
