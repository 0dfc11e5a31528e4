//! `DiskDescriptor.xml`: which files a disk has, and which snapshot lies on which.
//!
//! The document is kept as a tree; the model below is read from it, changed, and put back into a
//! copy of the tree when it is written, so that elements of other tools survive.
//!
//! | part | what |
//! |---|---|
//! | `model` | what a descriptor says |
//! | `read` | from the tree to the model |
//! | `write` | from the model to text, in the layout of the original |
//! | `edit` | changes: a snapshot added, deleted, merged |
//! | `chain` | which images lie under which |
//! | `pieces` | a disk that is split into pieces |
//! | `xml` | bytes to a tree, within limits |
//! | `tree` | an XML document as an owned tree |
//! | `error` | what can be wrong with a descriptor |

mod chain;
mod edit;
mod error;
mod model;
mod pieces;
mod read;
mod tree;
mod write;
mod xml;

pub use error::DescriptorError;
pub use model::{Descriptor, ImageRef, ImageType, Piece, Shot, Temporary, Volume};

/// Result of reading or changing a descriptor.
pub type Result<T> = core::result::Result<T, DescriptorError>;

#[cfg(test)]
mod tests;
