//! Runs of pages of the map that no level has anything in, known when the device is made: they are
//! filled in without a read. A few bytes of file may claim the longest BAT there is.

use crate::chain::{Chain, Level};
use crate::pieces::Pieces;
use crate::spec::{LevelKind, LevelSpec};
use ploop_format::BatPage;
use ploop_format::units::PAGE_WORDS;
use std::ops::Range;

/// The runs, by page of the map, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bare {
    runs: Vec<Range<u64>>,
}

impl Bare {
    /// What all levels of each piece have in common; `specs` are those that `chain` is made of.
    #[must_use]
    pub fn new(chain: &Chain, specs: &[LevelSpec], pieces: &Pieces) -> Self {
        let mut runs = Vec::new();
        for piece in 0..pieces.count() {
            let pages = pieces.pages(piece);
            let all = std::iter::once(0..pages.end - pages.start).collect();
            let common = chain.levels_of(piece).fold(all, |common: Vec<_>, (n, level)| {
                both(&common, &of_level(level, &specs[n], chain))
            });
            runs.extend(common.iter().map(|run| pages.start + run.start..pages.start + run.end));
        }
        Self { runs }
    }

    /// The rest of the run from this page on; empty when the page is in none.
    #[must_use]
    pub fn from(&self, page: BatPage) -> Range<u64> {
        let next = self.runs.partition_point(|run| run.end <= page.0);
        let run = self.runs.get(next).filter(|run| run.start <= page.0);
        page.0..run.map_or(page.0, |run| run.end)
    }

    /// Where the next run behind a page begins, which is in none itself.
    #[must_use]
    pub fn after(&self, page: BatPage) -> u64 {
        let next = self.runs.partition_point(|run| run.end <= page.0);
        self.runs.get(next).map_or(u64::MAX, |run| run.start)
    }
}

/// Pages, numbered as in the files of the piece, that a level has nothing in.
fn of_level(level: &Level, spec: &LevelSpec, chain: &Chain) -> Vec<Range<u64>> {
    let behind = match level.kind {
        LevelKind::Raw => chain.cluster.count(level.len),
        LevelKind::Ploop { entries, .. } => entries,
    };
    let behind = (behind + ploop_format::units::HEADER_WORDS).div_ceil(PAGE_WORDS);
    let own = match level.kind {
        LevelKind::Raw => &[][..],
        LevelKind::Ploop { .. } => &spec.bare,
    };
    let inside = own.iter().map(|run| run.start..run.end.min(behind));
    let rest = std::iter::once(behind..u64::MAX);
    inside.filter(|run| run.start < run.end).chain(rest).collect()
}

/// What two lists of runs, each in order, have in common.
fn both(a: &[Range<u64>], b: &[Range<u64>]) -> Vec<Range<u64>> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut common = Vec::new();
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        let run = x.start.max(y.start)..x.end.min(y.end);
        if x.end <= y.end {
            a.next()
        } else {
            b.next()
        };
        if run.start < run.end {
            common.push(run);
        }
    }
    common
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
mod tests {
    use super::*;

    #[test]
    fn what_two_lists_have_in_common() {
        let common = both(&[0..4, 6..10, 12..13], &[2..7, 8..9, 12..u64::MAX]);
        assert_eq!(common, [2..4, 6..7, 8..9, 12..13]);
        assert_eq!(both(&[], &[0..1]), []);
    }

    #[test]
    fn the_rest_of_a_run() {
        let bare = Bare { runs: vec![2..5, 9..10] };
        let from = |n| bare.from(BatPage(n));
        assert_eq!([from(0), from(2), from(4), from(5)], [0..0, 2..5, 4..5, 5..5]);
        assert_eq!([from(9), from(10)], [9..10, 10..10]);
        assert_eq!([0, 5, 10].map(|n| bare.after(BatPage(n))), [2, 9, u64::MAX]);
    }
}
