//! Stage 4: `(operation, mapping) -> Route`, a pure function with every arm tested.

use crate::map::{Cell, Place};
use ploop_format::Sector;
use ploop_io::planted::{Bug, on};

/// What a piece does to its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PieceKind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Discard.
    Discard,
    /// Write zeroes.
    Zero,
    /// Bring to where a merge wants it.
    Merge,
}

/// What else the decision depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The piece is the whole cluster.
    pub whole: bool,
    /// Blocks must stay (NOUNMAP), or the disk is preallocated (C8).
    pub keep_blocks: bool,
    /// The id of the top level; the lowest of a split disk's tops.
    pub top: u8,
    /// The lowest level that a merge takes clusters from.
    pub floor: u8,
    /// The lowest level that writes change in place.
    pub in_place: u8,
    /// The top goes down into the plain file under it, which is written in place.
    pub down: bool,
    /// The top is a plain file: its mapping never changes.
    pub raw_top: bool,
}

/// What happens to a piece next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Route {
    /// The BAT page is not in memory: the keeper loads it.
    Load,
    /// The entry is broken: `EIO`.
    Broken,
    /// The keeper works on the cluster: wait for it.
    Wait,
    /// Nothing to do; the piece is done.
    Nothing,
    /// Fill the buffer with zeros.
    FillZeros,
    /// Read from a level.
    Read(u8, Sector),
    /// Overwrite in this level, nearly always the top.
    Write(u8, Sector),
    /// A hole, and data: the keeper maps a clean cluster (unless the data is all zeros).
    Allocate,
    /// A lower level has it: copy-up, also when the write covers it whole (F4).
    CopyUp,
    /// Zeros over a part of a cluster that a lower level has: copy-up with zeros merged.
    CopyUpZero,
    /// A merge: copy-up of a whole cluster, nothing changed.
    CopyUpWhole,
    /// A merge: the top's cluster goes to its place in the plain file.
    CopyDown,
    /// Zeros over a whole cluster that a lower level has: map a clean cluster.
    MapClean,
    /// Zeros over a mapped cluster that no lower level has: unmap it.
    Unmap,
    /// Zeros at this place of a level, nearly always the top, by punching or writing.
    Zero(u8, Sector),
    /// Give blocks back at this place of a level, nearly always the top; edges stay.
    Punch(u8, Sector),
}

impl Route {
    /// The names of the routes, by [`Route::number`].
    pub const NAMES: [&'static str; 16] = [
        "Load",
        "Broken",
        "Wait",
        "Nothing",
        "FillZeros",
        "Read",
        "Write",
        "Allocate",
        "CopyUp",
        "CopyUpZero",
        "MapClean",
        "Unmap",
        "Zero",
        "Punch",
        "CopyUpWhole",
        "CopyDown",
    ];

    /// Its place in [`Route::NAMES`].
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Load => 0,
            Self::Broken => 1,
            Self::Wait => 2,
            Self::Nothing => 3,
            Self::FillZeros => 4,
            Self::Read(..) => 5,
            Self::Write(..) => 6,
            Self::Allocate => 7,
            Self::CopyUp => 8,
            Self::CopyUpZero => 9,
            Self::MapClean => 10,
            Self::Unmap => 11,
            Self::Zero(..) => 12,
            Self::Punch(..) => 13,
            Self::CopyUpWhole => 14,
            Self::CopyDown => 15,
        }
    }
}

/// Whether some state of a cluster sends an operation on the route of this number.
#[must_use]
pub const fn route_possible(kind: PieceKind, number: u16) -> bool {
    match kind {
        PieceKind::Read => matches!(number, 0 | 1 | 4 | 5),
        PieceKind::Write => matches!(number, 0..=2 | 6..=8),
        PieceKind::Discard => matches!(number, 0..=3 | 11 | 13),
        PieceKind::Zero => matches!(number, 0..=3 | 9..=12),
        PieceKind::Merge => matches!(number, 0..=3 | 14..=15),
    }
}

/// Decides. `None` for the cell means that its page is not loaded.
#[must_use]
pub fn route(kind: PieceKind, cell: Option<Cell>, facts: Facts) -> Route {
    let Some(cell) = cell else { return Route::Load };
    if cell.place == Place::Bad {
        return Route::Broken;
    }
    if kind == PieceKind::Read {
        return match cell.place {
            Place::At { level, at } => Route::Read(level, at),
            _ => Route::FillZeros,
        };
    }
    if cell.claimed {
        return Route::Wait;
    }
    let Place::At { level, at } = cell.place else {
        return match kind {
            PieceKind::Write => Route::Allocate,
            _ => Route::Nothing,
        };
    };
    let in_top = level >= facts.top;
    let in_place = in_top || level >= facts.in_place;
    let unmap = facts.whole && !facts.keep_blocks && !facts.raw_top;
    let unmap = unmap && (!cell.has_lower || on(Bug::UnmapAll));
    match (kind, in_top) {
        (PieceKind::Discard | PieceKind::Zero, true) if unmap => Route::Unmap,
        (PieceKind::Discard, _) if facts.keep_blocks => Route::Nothing,
        (PieceKind::Write, _) if in_place => Route::Write(level, at),
        // F11: unmapping would bring the lower level's bytes back.
        (PieceKind::Discard, _) if in_place => Route::Punch(level, at),
        (PieceKind::Zero, _) if in_place => Route::Zero(level, at),
        (PieceKind::Write, _) => Route::CopyUp,
        // F11: a discard of what only the frozen levels have changes nothing.
        (PieceKind::Discard, _) => Route::Nothing,
        (PieceKind::Zero, _) if facts.whole => Route::MapClean,
        (PieceKind::Zero, _) => Route::CopyUpZero,
        (PieceKind::Merge, true) if facts.down => Route::CopyDown,
        (PieceKind::Merge, _) if facts.down => Route::Nothing,
        (PieceKind::Merge, false) if level >= facts.floor => Route::CopyUpWhole,
        (PieceKind::Merge, _) => Route::Nothing,
        (PieceKind::Read, _) => Route::FillZeros,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts = Facts {
        whole: false,
        keep_blocks: false,
        top: 2,
        floor: 1,
        in_place: 2,
        down: false,
        raw_top: false,
    };
    const WHOLE: Facts = Facts { whole: true, ..FACTS };
    const S: Sector = Sector(2048);

    fn top(has_lower: bool) -> Option<Cell> {
        Some(Cell::at(2, S, has_lower))
    }

    fn below() -> Option<Cell> {
        Some(Cell::at(1, S, false))
    }

    #[test]
    fn reads() {
        use PieceKind::Read;
        assert_eq!(route(Read, None, FACTS), Route::Load);
        assert_eq!(route(Read, Some(Cell::HOLE), FACTS), Route::FillZeros);
        assert_eq!(route(Read, top(false), FACTS), Route::Read(2, S));
        assert_eq!(route(Read, below(), FACTS), Route::Read(1, S));
        let claimed = Cell { claimed: true, ..Cell::at(1, S, false) };
        assert_eq!(route(Read, Some(claimed), FACTS), Route::Read(1, S), "reads pass (F4)");
    }

    #[test]
    fn a_merge_takes_what_its_levels_have() {
        use PieceKind::Merge;
        assert_eq!(route(Merge, None, FACTS), Route::Load);
        assert_eq!(route(Merge, below(), FACTS), Route::CopyUpWhole);
        assert_eq!(route(Merge, Some(Cell::at(0, S, false)), FACTS), Route::Nothing);
        assert_eq!(route(Merge, top(true), FACTS), Route::Nothing);
        assert_eq!(route(Merge, Some(Cell::HOLE), FACTS), Route::Nothing);
        let claimed = Cell { claimed: true, ..Cell::at(1, S, false) };
        assert_eq!(route(Merge, Some(claimed), FACTS), Route::Wait);
    }

    #[test]
    fn a_top_goes_down_into_a_plain_file() {
        use PieceKind::{Discard, Merge, Write, Zero};
        let down = Facts { top: 1, floor: 0, in_place: 0, down: true, ..FACTS };
        let whole = Facts { whole: true, ..down };
        let (top, base) = (Some(Cell::at(1, S, true)), Some(Cell::at(0, S, false)));
        assert_eq!(route(Merge, top, down), Route::CopyDown);
        assert_eq!(route(Merge, base, down), Route::Nothing);
        // Nothing new comes to the top, and nothing in it may show what lies below.
        assert_eq!(route(Write, base, whole), Route::Write(0, S));
        assert_eq!(route(Zero, base, whole), Route::Zero(0, S));
        assert_eq!(route(Zero, base, down), Route::Zero(0, S));
        assert_eq!(route(Discard, base, whole), Route::Punch(0, S));
        assert_eq!(route(Write, top, down), Route::Write(1, S));
        assert_eq!(route(Zero, top, whole), Route::Zero(1, S));
        assert_eq!(route(Discard, top, whole), Route::Punch(1, S));
        let claimed = Cell { claimed: true, ..Cell::at(1, S, true) };
        assert_eq!(route(Merge, Some(claimed), down), Route::Wait);
    }

    #[test]
    fn writes() {
        use PieceKind::Write;
        assert_eq!(route(Write, None, FACTS), Route::Load);
        assert_eq!(route(Write, Some(Cell::HOLE), WHOLE), Route::Allocate);
        assert_eq!(route(Write, top(true), FACTS), Route::Write(2, S));
        let merging = Facts { in_place: 1, ..FACTS };
        assert_eq!(route(Write, below(), merging), Route::Write(1, S), "it was the top");
        let claimed = Cell { claimed: true, ..Cell::at(1, S, false) };
        assert_eq!(route(Write, Some(claimed), merging), Route::Wait);
        assert_eq!(route(Write, below(), FACTS), Route::CopyUp);
        assert_eq!(route(Write, below(), WHOLE), Route::CopyUp, "covering too (F4)");
    }

    #[test]
    fn discards() {
        use PieceKind::Discard;
        assert_eq!(route(Discard, Some(Cell::HOLE), WHOLE), Route::Nothing);
        assert_eq!(route(Discard, below(), WHOLE), Route::Nothing);
        assert_eq!(route(Discard, top(false), WHOLE), Route::Unmap);
        assert_eq!(route(Discard, top(true), WHOLE), Route::Punch(2, S));
        assert_eq!(route(Discard, top(false), FACTS), Route::Punch(2, S));
        let merging = Facts { in_place: 1, ..WHOLE };
        assert_eq!(route(Discard, below(), merging), Route::Punch(1, S), "it was the top");
        let prealloc = Facts { keep_blocks: true, ..WHOLE };
        assert_eq!(route(Discard, top(false), prealloc), Route::Nothing, "C8");
        let raw = Facts { raw_top: true, ..WHOLE };
        assert_eq!(route(Discard, top(false), raw), Route::Punch(2, S));
    }

    #[test]
    fn zeroes() {
        use PieceKind::Zero;
        assert_eq!(route(Zero, Some(Cell::HOLE), WHOLE), Route::Nothing);
        assert_eq!(route(Zero, below(), WHOLE), Route::MapClean);
        assert_eq!(route(Zero, below(), FACTS), Route::CopyUpZero);
        assert_eq!(route(Zero, top(false), WHOLE), Route::Unmap);
        assert_eq!(route(Zero, top(true), WHOLE), Route::Zero(2, S));
        assert_eq!(route(Zero, top(false), FACTS), Route::Zero(2, S));
        let merging = Facts { in_place: 1, ..WHOLE };
        assert_eq!(route(Zero, below(), merging), Route::Zero(1, S), "it was the top");
        let keep = Facts { keep_blocks: true, ..WHOLE };
        assert_eq!(route(Zero, top(false), keep), Route::Zero(2, S));
    }

    #[test]
    fn claims_and_broken_entries() {
        for kind in [PieceKind::Write, PieceKind::Discard, PieceKind::Zero] {
            let claimed = Cell { claimed: true, ..Cell::at(1, S, false) };
            assert_eq!(route(kind, Some(claimed), FACTS), Route::Wait);
            let claimed = Cell { claimed: true, ..Cell::HOLE };
            assert_eq!(route(kind, Some(claimed), FACTS), Route::Wait);
        }
        let bad = Cell { place: Place::Bad, claimed: false, has_lower: false };
        for kind in [PieceKind::Read, PieceKind::Write, PieceKind::Discard, PieceKind::Zero] {
            assert_eq!(route(kind, Some(bad), FACTS), Route::Broken);
        }
    }
}
