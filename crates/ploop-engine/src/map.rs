//! Stage 3: guest cluster -> where it is. Lock-free to read; written by the keeper alone.
//!
//! One `AtomicU64` per guest cluster, in pages that mirror the BAT pages on disk. Level numbers
//! are stable ids of open deltas, so the cost of a lookup does not grow with the chain. Pages that
//! no level has anything in are one and the same until one of their cells changes: what was never
//! written costs no memory.

use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use ploop_format::units::PAGE_WORDS;
use ploop_format::{BatPage, GuestCluster, Sector};
use std::ptr;

const POSITION_BITS: u32 = 48;
const POSITION: u64 = (1 << POSITION_BITS) - 1;
const LEVEL_SHIFT: u32 = POSITION_BITS;
const MAPPED: u64 = 1 << 56;
const CLAIMED: u64 = 1 << 57;
const HAS_LOWER: u64 = 1 << 58;
const BAD: u64 = 1 << 59;

/// What a cell says, unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Where the cluster is.
    pub place: Place,
    /// The keeper works on it: writes, discards and zeroing wait (F4). Reads pass.
    pub claimed: bool,
    /// A level below the one named may have it too; stale true is allowed, stale false is not
    /// (F11).
    pub has_lower: bool,
}

/// Where a cluster is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// No level has it.
    Hole,
    /// In the level with this id, at this position of its file.
    At {
        /// Stable id of the level.
        level: u8,
        /// Start of the cluster in the level's file.
        at: Sector,
    },
    /// Its entry is broken: reads and writes give `EIO` (F23), never a hole.
    Bad,
}

impl Cell {
    /// No level has it, nobody works on it.
    pub const HOLE: Self = Self { place: Place::Hole, claimed: false, has_lower: false };

    /// A cluster in a level.
    #[must_use]
    pub const fn at(level: u8, at: Sector, has_lower: bool) -> Self {
        Self { place: Place::At { level, at }, claimed: false, has_lower }
    }

    fn pack(self) -> u64 {
        let mut word = match self.place {
            Place::Hole => 0,
            Place::At { level, at } => {
                debug_assert!(at.0 <= POSITION);
                MAPPED | (u64::from(level) << LEVEL_SHIFT) | (at.0 & POSITION)
            }
            Place::Bad => BAD,
        };
        if self.claimed {
            word |= CLAIMED;
        }
        if self.has_lower {
            word |= HAS_LOWER;
        }
        word
    }

    fn unpack(word: u64) -> Self {
        let place = if word & BAD != 0 {
            Place::Bad
        } else if word & MAPPED != 0 {
            Place::At { level: (word >> LEVEL_SHIFT) as u8, at: Sector(word & POSITION) }
        } else {
            Place::Hole
        };
        Self { place, claimed: word & CLAIMED != 0, has_lower: word & HAS_LOWER != 0 }
    }
}

/// The cells of one BAT page, and whether that page is durable.
pub struct Page {
    cells: Box<[AtomicU64]>,
    /// 0 when every change of the page is durable (F3); set before a changed cell is visible.
    dirty: AtomicU64,
}

impl Page {
    /// A page with these cells.
    #[must_use]
    pub fn new(cells: impl Iterator<Item = Cell>) -> Self {
        let cells: Box<[AtomicU64]> = cells.map(|c| AtomicU64::new(c.pack())).collect();
        debug_assert_eq!(cells.len() as u64, PAGE_WORDS);
        Self { cells, dirty: AtomicU64::new(0) }
    }

    /// Reads a cell. A reader that means to do I/O registers with [`crate::grace`] first (F9).
    #[must_use]
    pub fn get(&self, index: usize) -> Cell {
        Cell::unpack(self.cells[index].load(Ordering::Acquire))
    }

    /// Writes a cell: the keeper only.
    pub fn set(&self, index: usize, cell: Cell) {
        self.cells[index].store(cell.pack(), Ordering::Release);
    }

    /// Marks the page as not durable; before the cell that changes is set.
    pub fn mark_dirty(&self) {
        self.dirty.store(1, Ordering::Release);
    }

    /// Every change of the page is durable.
    pub fn mark_durable(&self) {
        self.dirty.store(0, Ordering::Release);
    }

    /// F3: a FUA operation may be acknowledged without the keeper only when this says `true`
    /// after its data was durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.dirty.load(Ordering::Acquire) == 0
    }
}

/// All pages; each appears when it is first touched, and stays where it is.
pub struct Map {
    pages: Box<[AtomicPtr<Page>]>,
    /// Stands for every page of holes.
    holes: Box<Page>,
    /// Pages with cells of their own: counted by the keeper alone.
    resident: AtomicU64,
}

impl Map {
    /// A map for `clusters` guest clusters, with no page loaded.
    #[must_use]
    pub fn new(clusters: u64) -> Self {
        let last = GuestCluster(clusters.saturating_sub(1)).slot().page;
        let pages = (0..=last.0).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        let holes = Box::new(Page::new((0..PAGE_WORDS).map(|_| Cell::HOLE)));
        Self { pages, holes, resident: AtomicU64::new(0) }
    }

    /// The page, when it is loaded.
    #[must_use]
    pub fn page(&self, page: BatPage) -> Option<&Page> {
        let slot = self.pages.get(usize::try_from(page.0).ok()?)?;
        let page = slot.load(Ordering::Acquire);
        // SAFETY: a non-null pointer came from `Box::into_raw` in `install` or `own`, or points to
        // `holes`; what it points to is freed only when the map is dropped, which needs
        // `&mut self`.
        unsafe { page.as_ref() }
    }

    /// The cell of a cluster, when its page is loaded.
    #[must_use]
    pub fn get(&self, cluster: GuestCluster) -> Option<Cell> {
        let slot = cluster.slot();
        self.page(slot.page).map(|page| page.get(slot.index))
    }

    /// Makes a page appear: the keeper only, once per page.
    pub fn install(&self, at: BatPage, page: Page) {
        let slot = &self.pages[at.0 as usize];
        debug_assert!(slot.load(Ordering::Relaxed).is_null());
        slot.store(Box::into_raw(Box::new(page)), Ordering::Release);
        self.one_more();
    }

    /// Makes a page of holes appear, which costs nothing: the keeper only, once per page.
    pub fn install_holes(&self, at: BatPage) {
        let slot = &self.pages[at.0 as usize];
        debug_assert!(slot.load(Ordering::Relaxed).is_null());
        slot.store(self.shared_holes(), Ordering::Release);
    }

    /// Gives a page cells of its own, before one changes: the keeper only. Who looked the page up
    /// before sees a hole, as it was then.
    pub fn own(&self, at: BatPage) {
        let slot = &self.pages[at.0 as usize];
        if ptr::eq(slot.load(Ordering::Relaxed), &*self.holes) {
            let page = Page::new((0..PAGE_WORDS).map(|_| Cell::HOLE));
            slot.store(Box::into_raw(Box::new(page)), Ordering::Release);
            self.one_more();
        }
    }

    /// Whether a page is loaded and all of it holes, told without looking at its cells.
    #[must_use]
    pub fn is_holes(&self, at: BatPage) -> bool {
        let slot = usize::try_from(at.0).ok().and_then(|n| self.pages.get(n));
        slot.is_some_and(|slot| ptr::eq(slot.load(Ordering::Acquire), &*self.holes))
    }

    fn one_more(&self) {
        self.resident.store(self.resident.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    fn shared_holes(&self) -> *mut Page {
        ptr::from_ref(&*self.holes).cast_mut()
    }

    /// Number of pages, loaded or not.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Whether there is no page: never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Pages that are loaded.
    #[must_use]
    pub fn loaded(&self) -> usize {
        self.pages.iter().filter(|p| !p.load(Ordering::Relaxed).is_null()).count()
    }

    /// Pages with cells of their own: 8 KiB of memory each.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.resident.load(Ordering::Relaxed) as usize
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        for slot in &self.pages {
            let page = slot.load(Ordering::Relaxed);
            if !page.is_null() && !ptr::eq(page, &*self.holes) {
                // SAFETY: made by `Box::into_raw` in `install` or `own`, dropped once, here.
                drop(unsafe { Box::from_raw(page) });
            }
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn cells_survive_packing() {
        let cells = [
            Cell::HOLE,
            Cell::at(0, Sector(0), false),
            Cell::at(253, Sector(POSITION), true),
            Cell { place: Place::Bad, claimed: false, has_lower: false },
            Cell { claimed: true, ..Cell::at(7, Sector(1 << 32), true) },
            Cell { claimed: true, ..Cell::HOLE },
        ];
        for cell in cells {
            assert_eq!(Cell::unpack(cell.pack()), cell);
        }
    }

    #[test]
    fn a_page_appears_once_and_is_found() {
        let map = Map::new(5000);
        assert!(map.get(GuestCluster(1008)).is_none());
        map.install(BatPage(1), Page::new((0..1024).map(|i| Cell::at(1, Sector(i), false))));
        assert_eq!(map.get(GuestCluster(1010)), Some(Cell::at(1, Sector(2), false)));
        assert!(map.get(GuestCluster(0)).is_none());
        assert!(map.page(BatPage(99)).is_none());
        assert_eq!(map.loaded(), 1);
    }

    #[test]
    fn pages_of_holes_share_their_cells_until_one_changes() {
        let map = Map::new(10_000);
        for page in 0..5 {
            map.install_holes(BatPage(page));
        }
        assert_eq!((map.loaded(), map.resident()), (5, 0));
        map.own(BatPage(2));
        map.own(BatPage(2));
        map.page(BatPage(2)).unwrap().set(7, Cell::at(1, Sector(8), false));
        assert_eq!((map.loaded(), map.resident()), (5, 1));
        assert_eq!(map.page(BatPage(2)).unwrap().get(7), Cell::at(1, Sector(8), false));
        assert_eq!(map.page(BatPage(3)).unwrap().get(7), Cell::HOLE);
        assert_eq!([1, 2, 9, 99].map(|n| map.is_holes(BatPage(n))), [true, false, false, false]);
    }
}
