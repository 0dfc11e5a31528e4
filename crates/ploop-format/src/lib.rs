//! ploop disk images: bytes <-> types, no I/O.
//!
//! The format in words: docs/format.md.
//!
//! | part | what |
//! |---|---|
//! | `header` | the first 64 bytes of an image |
//! | `bat` | the block allocation table: what an entry says, pages of entries |
//! | `extension` | the format extension, which holds the bitmap of changed blocks |
//! | `descriptor` | `DiskDescriptor.xml` |
//! | `geometry` | numbers of a new or growing image |
//! | `version` | the two versions of the format, and how each writes a position |
//! | `units` | sectors, clusters and pages as types |
//! | `guid` | names of snapshots and bitmaps |
//! | `size` | sizes on a command line |
//! | `zero` | whether bytes are all zero |
//! | `error` | what can be wrong with a header, a size or an entry |

pub mod bat;
pub mod descriptor;
pub mod error;
pub mod extension;
pub mod geometry;
pub mod guid;
pub mod header;
pub mod size;
pub mod units;
mod version;
mod zero;

pub use bat::{BatPageView, Bounds, entry_at, put_entry};
pub use descriptor::{Descriptor, DescriptorError, ImageRef, ImageType, Shot, Temporary};
pub use error::{BadEntry, EntryFault, FormatError};
pub use extension::{DirtyBitmap, Extension, ExtensionError};
pub use geometry::Chs;
pub use guid::{Guid, GuidError};
pub use header::{BELOW, CONVERTING, EMPTY, FileLen, HEADER_BYTES, Header, InUse};
pub use size::{SizeError, parse_bytes, parse_sectors};
pub use units::{BatPage, ClusterSize, FileCluster, GuestCluster, Sector, Slot};
pub use version::Version;
pub use zero::is_zero;
