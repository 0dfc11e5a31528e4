//! ploop disk images: bytes <-> types, no I/O.
//!
//! The format in words: docs/format.md.

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
