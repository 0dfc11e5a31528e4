//! Stage 2: a request is cut into pieces that do not cross a cluster.

use ploop_format::{ClusterSize, GuestCluster};

/// One cluster's part of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The cluster.
    pub cluster: GuestCluster,
    /// First byte inside it.
    pub from: u64,
    /// Bytes.
    pub len: u64,
    /// All of the cluster that the device shows.
    pub whole: bool,
}

/// The first piece of `offset..offset+len` on a device of `size` bytes.
#[must_use]
pub fn first_piece(cluster: ClusterSize, size: u64, offset: u64, len: u64) -> Cut {
    let from = cluster.offset_in(offset);
    let shown = cluster.bytes().min(size - (offset - from));
    let len = len.min(cluster.bytes() - from);
    Cut { cluster: cluster.guest(offset), from, len, whole: from == 0 && len >= shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_cluster_borders() {
        let size = ClusterSize::from_sectors(64).unwrap();
        let kib = 1024;
        let cut = first_piece(size, 1 << 20, 31 * kib, 40 * kib);
        assert_eq!(cut, Cut { cluster: GuestCluster(0), from: 31 * kib, len: kib, whole: false });
        let cut = first_piece(size, 1 << 20, 32 * kib, 39 * kib);
        assert_eq!(cut, Cut { cluster: GuestCluster(1), from: 0, len: 32 * kib, whole: true });
    }

    #[test]
    fn the_last_cluster_may_be_partial() {
        let size = ClusterSize::from_sectors(64).unwrap();
        let device = (32 << 10) + 512;
        let cut = first_piece(size, device, 32 << 10, 512);
        assert_eq!(cut, Cut { cluster: GuestCluster(1), from: 0, len: 512, whole: true });
    }

    #[test]
    fn positions_above_two_tebibytes_are_exact() {
        let size = ClusterSize::from_sectors(2048).unwrap();
        let at = (3u64 << 41) + 4096;
        let cut = first_piece(size, 1 << 44, at, 4096);
        assert_eq!(cut.cluster, GuestCluster(at >> 20));
        assert_eq!(cut.from, 4096);
    }
}
