//! What requests are counted by: operation and route, in one table.
//!
//! The routes of an operation stand from the quickest to the slowest; a request of several pieces
//! counts as the last one in the table that a piece of it took.

use crate::front::Operation;
use crate::route::{PieceKind, Route};

/// A line of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    /// One of [`super::OPERATIONS`].
    pub operation: &'static str,
    /// The route.
    pub route: &'static str,
}

/// Index of a line of [`CLASSES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(transparent)]
pub struct ClassId(u8);

const fn class(operation: &'static str, route: &'static str) -> Class {
    Class { operation, route }
}

/// Every operation and route, in the order of [`super::QueueStats::classes`].
pub const CLASSES: [Class; 20] = [
    class("read", "hole"),
    class("read", "top"),
    class("read", "below"),
    class("write", "nothing"),
    class("write", "top"),
    class("write", "allocate"),
    class("write", "copy_up"),
    class("flush", "flush"),
    class("discard", "nothing"),
    class("discard", "punch"),
    class("discard", "unmap"),
    class("write_zeroes", "nothing"),
    class("write_zeroes", "top"),
    class("write_zeroes", "unmap"),
    class("write_zeroes", "allocate"),
    class("write_zeroes", "copy_up"),
    class("extents", "map"),
    class("merge", "nothing"),
    class("merge", "copy_up"),
    class("merge", "copy_down"),
];

const READ: u8 = 0;
const WRITE: u8 = 3;
const FLUSH: u8 = 7;
const DISCARD: u8 = 8;
const ZERO: u8 = 11;
const EXTENTS: u8 = 16;
const MERGE: u8 = 17;

impl ClassId {
    /// The first line of an operation: what a request counts as before a piece of it has a route.
    #[must_use]
    pub const fn first(operation: Operation) -> Self {
        Self(match operation {
            Operation::Read => READ,
            Operation::Write => WRITE,
            Operation::Flush => FLUSH,
            Operation::Discard => DISCARD,
            Operation::WriteZeroes => ZERO,
            Operation::Extents => EXTENTS,
            Operation::Merge => MERGE,
        })
    }

    /// The line of a piece that goes this way; `None` when the way says nothing about it (a page
    /// is loaded first, the piece fails).
    #[must_use]
    #[inline]
    pub const fn of(kind: PieceKind, way: Route, top: u8) -> Option<Self> {
        let line = match (kind, way) {
            (_, Route::Load | Route::Broken) => return None,
            (PieceKind::Read, Route::Read(level, _)) => READ + if level >= top { 1 } else { 2 },
            (PieceKind::Read, _) => READ,
            (PieceKind::Write, Route::Write(..)) => WRITE + 1,
            (PieceKind::Write, Route::Allocate) => WRITE + 2,
            // A cluster is claimed only while it is copied up: waiting is part of that.
            (PieceKind::Write, Route::CopyUp | Route::Wait) => WRITE + 3,
            (PieceKind::Write, _) => WRITE,
            (PieceKind::Discard, Route::Punch(..)) => DISCARD + 1,
            (PieceKind::Discard, Route::Unmap) => DISCARD + 2,
            (PieceKind::Discard, _) => DISCARD,
            (PieceKind::Zero, Route::Zero(..)) => ZERO + 1,
            (PieceKind::Zero, Route::Unmap) => ZERO + 2,
            (PieceKind::Zero, Route::MapClean) => ZERO + 3,
            (PieceKind::Zero, Route::CopyUpZero | Route::Wait) => ZERO + 4,
            (PieceKind::Zero, _) => ZERO,
            (PieceKind::Merge, Route::CopyUpWhole | Route::Wait) => MERGE + 1,
            (PieceKind::Merge, Route::CopyDown) => MERGE + 2,
            (PieceKind::Merge, _) => MERGE,
        };
        Some(Self(line))
    }

    /// Index in [`CLASSES`].
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::super::{OPERATIONS, operation_index};
    use super::*;
    use ploop_format::Sector;

    const ALL: [Operation; 7] = [
        Operation::Read,
        Operation::Write,
        Operation::Flush,
        Operation::Discard,
        Operation::WriteZeroes,
        Operation::Extents,
        Operation::Merge,
    ];

    #[test]
    fn an_operations_lines_stand_together_in_the_order_of_operations() {
        let mut next = 0;
        for operation in ALL {
            assert_eq!(ClassId::first(operation).index(), next, "{operation:?}");
            let name = OPERATIONS[operation_index(operation)];
            next += CLASSES[next..].iter().take_while(|class| class.operation == name).count();
        }
        assert_eq!(next, CLASSES.len());
    }

    fn name(kind: PieceKind, way: Route) -> (&'static str, &'static str) {
        let class = CLASSES[ClassId::of(kind, way, 2).unwrap().index()];
        (class.operation, class.route)
    }

    #[test]
    fn every_way_has_its_line() {
        const S: Sector = Sector(2048);
        use PieceKind::{Discard, Merge, Read, Write, Zero};
        assert_eq!(name(Read, Route::FillZeros), ("read", "hole"));
        assert_eq!(name(Read, Route::Read(2, S)), ("read", "top"));
        assert_eq!(name(Read, Route::Read(0, S)), ("read", "below"));
        assert_eq!(name(Write, Route::Nothing), ("write", "nothing"));
        assert_eq!(name(Write, Route::Write(2, S)), ("write", "top"));
        assert_eq!(name(Write, Route::Allocate), ("write", "allocate"));
        assert_eq!(name(Write, Route::CopyUp), ("write", "copy_up"));
        assert_eq!(name(Write, Route::Wait), ("write", "copy_up"));
        assert_eq!(name(Discard, Route::Nothing), ("discard", "nothing"));
        assert_eq!(name(Discard, Route::Wait), ("discard", "nothing"));
        assert_eq!(name(Discard, Route::Punch(2, S)), ("discard", "punch"));
        assert_eq!(name(Discard, Route::Unmap), ("discard", "unmap"));
        assert_eq!(name(Zero, Route::Nothing), ("write_zeroes", "nothing"));
        assert_eq!(name(Zero, Route::Zero(2, S)), ("write_zeroes", "top"));
        assert_eq!(name(Zero, Route::Unmap), ("write_zeroes", "unmap"));
        assert_eq!(name(Zero, Route::MapClean), ("write_zeroes", "allocate"));
        assert_eq!(name(Zero, Route::CopyUpZero), ("write_zeroes", "copy_up"));
        assert_eq!(name(Merge, Route::Nothing), ("merge", "nothing"));
        assert_eq!(name(Merge, Route::CopyUpWhole), ("merge", "copy_up"));
        assert_eq!(name(Merge, Route::CopyDown), ("merge", "copy_down"));
        for kind in [Read, Write, Discard, Zero, Merge] {
            assert_eq!(ClassId::of(kind, Route::Load, 2), None);
            assert_eq!(ClassId::of(kind, Route::Broken, 2), None);
        }
    }
}
