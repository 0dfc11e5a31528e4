//! A split disk: its pieces, each with files of its own, in one map.
//!
//! A piece begins at a page of the map, so that pages of the map mirror BAT pages of its files. The
//! map therefore has gaps, and a cluster has two numbers: the guest's, and its place in the map.
//! Everything behind the split of a request (`queue/start.rs`) knows the second one only. Of a disk
//! in one piece both are the same.
//!
//! Levels are numbered by depth first: the bases of all pieces, then the images on them, at last
//! the tops. So "a top" and "written in place" stay comparisons of numbers.

use ploop_format::units::PAGE_WORDS;
use ploop_format::{BatPage, ClusterSize, GuestCluster};
use std::ops::Range;

/// The range of a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    /// First cluster for the guest.
    guest: u64,
    /// Its place in the map.
    place: u64,
    /// Clusters.
    clusters: u64,
}

/// Where each piece is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pieces {
    spans: Vec<Span>,
}

impl Pieces {
    /// Lays the pieces of a device of `size` bytes out; `starts` are those behind the first.
    #[must_use]
    pub fn new(cluster: ClusterSize, size: u64, starts: &[GuestCluster]) -> Self {
        let end = cluster.count(size);
        let mut spans: Vec<Span> = Vec::with_capacity(starts.len() + 1);
        for n in 0..=starts.len() {
            let guest = n.checked_sub(1).map_or(0, |n| starts[n].0);
            let clusters = starts.get(n).map_or(end, |next| next.0).saturating_sub(guest);
            // A page stays free between two: neighbours are written together (P4).
            let place = spans.last().map_or(0, |last| {
                let pages = GuestCluster(last.clusters.saturating_sub(1)).slot().page.0 + 2;
                last.place + pages * PAGE_WORDS
            });
            spans.push(Span { guest, place, clusters });
        }
        Self { spans }
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.spans.len()
    }

    /// The disk is split.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.spans.len() > 1
    }

    /// Clusters that the map has room for.
    #[must_use]
    pub fn places(&self) -> u64 {
        self.spans.last().map_or(0, |last| last.place + last.clusters)
    }

    /// The place in the map of a guest's cluster.
    #[must_use]
    pub fn place(&self, guest: GuestCluster) -> GuestCluster {
        match &self.spans[..] {
            [_] => guest,
            spans => {
                let n = spans.partition_point(|span| span.guest <= guest.0).saturating_sub(1);
                GuestCluster(guest.0 - spans[n].guest + spans[n].place)
            }
        }
    }

    /// The guest's cluster at a place in the map.
    #[must_use]
    pub fn guest(&self, place: GuestCluster) -> GuestCluster {
        let span = self.spans[self.of(place)];
        GuestCluster(place.0 - span.place + span.guest)
    }

    /// The piece of a place in the map.
    #[must_use]
    pub fn of(&self, place: GuestCluster) -> usize {
        match &self.spans[..] {
            [_] => 0,
            spans => spans.partition_point(|span| span.place <= place.0).saturating_sub(1),
        }
    }

    /// The piece of a page of the map.
    #[must_use]
    pub fn of_page(&self, page: BatPage) -> usize {
        self.of(GuestCluster(page.0 * PAGE_WORDS))
    }

    /// The cluster's number in its piece: that of its BAT entry.
    #[must_use]
    pub fn own(&self, place: GuestCluster) -> GuestCluster {
        GuestCluster(place.0 - self.spans[self.of(place)].place)
    }

    /// The page's number in the files of its piece.
    #[must_use]
    pub fn own_page(&self, page: BatPage) -> BatPage {
        BatPage(page.0 - self.first_page(self.of_page(page)).0)
    }

    /// The page of the map that a piece begins at; the end of the map for the one behind the last.
    #[must_use]
    pub fn first_page(&self, n: usize) -> BatPage {
        BatPage(self.spans.get(n).map_or(u64::MAX, |span| span.place / PAGE_WORDS))
    }

    /// The pages of the map that a piece has.
    #[must_use]
    pub fn pages(&self, n: usize) -> Range<u64> {
        let span = self.spans[n];
        let last = GuestCluster(span.clusters.saturating_sub(1)).slot().page.0;
        let first = span.place / PAGE_WORDS;
        first..first + last + 1
    }

    /// How many clusters of its piece there are from a place in the map on.
    #[must_use]
    pub fn rest(&self, place: GuestCluster) -> u64 {
        let span = self.spans[self.of(place)];
        (span.place + span.clusters).saturating_sub(place.0)
    }

    /// Clusters of a piece.
    #[must_use]
    pub fn clusters(&self, n: usize) -> u64 {
        self.spans[n].clusters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_in_one_piece_has_one_number_for_a_cluster() {
        let size = ClusterSize::from_sectors(64).unwrap();
        let one = Pieces::new(size, 5000 << 15, &[]);
        assert_eq!((one.count(), one.places(), one.is_split()), (1, 5000, false));
        for n in [0, 1, 1008, 4999] {
            let cluster = GuestCluster(n);
            assert_eq!(
                (one.place(cluster), one.own(cluster), one.of(cluster)),
                (cluster, cluster, 0)
            );
        }
        assert_eq!(one.own_page(BatPage(3)), BatPage(3));
    }

    #[test]
    fn pieces_begin_at_pages_with_a_free_one_between() {
        let size = ClusterSize::from_sectors(64).unwrap();
        let starts = [GuestCluster(1008), GuestCluster(1010)];
        let three = Pieces::new(size, (3000 << 15) - 512, &starts);
        // 1008 clusters and the header fill one page, 1990 and the header two.
        assert_eq!([0, 1, 2].map(|n| three.first_page(n).0), [0, 2, 4]);
        assert_eq!([0, 1, 2].map(|n| three.clusters(n)), [1008, 2, 1990]);
        assert_eq!(three.places(), 4 * 1024 + 1990);
        assert_eq!([0, 1, 2].map(|n| three.pages(n)), [0..1, 2..3, 4..6]);
        let rest = |n| three.rest(three.place(GuestCluster(n)));
        assert_eq!([0, 1007, 1008, 1009, 1010, 2999].map(rest), [1008, 1, 2, 1, 1990, 1]);
        let place = |n| three.place(GuestCluster(n));
        assert_eq!([0, 1007, 1008, 1009].map(|n| place(n).0), [0, 1007, 2048, 2049]);
        assert_eq!(place(1010), GuestCluster(4096));
        for guest in [0, 1007, 1008, 1009, 1010, 2999] {
            let (place, start) = (place(guest), [0, 1008, 1010][three.of(place(guest))]);
            assert_eq!(three.own(place).0, guest - start);
            assert_eq!(three.of_page(place.slot().page), three.of(place));
            let slot = GuestCluster(guest - start).slot();
            assert_eq!(place.slot().index, slot.index);
            assert_eq!(three.own_page(place.slot().page), slot.page);
            assert_eq!(three.guest(place).0, guest);
        }
    }
}
