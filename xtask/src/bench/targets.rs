//! What is wanted of each comparison: one table.

/// Which side of the number is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    AtLeast,
    AtMost,
}

/// A target by the name of its row: the ratio ours / peer, or ours alone where there is no peer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub row: &'static str,
    pub want: Want,
    pub value: f64,
    pub unit: &'static str,
}

const fn least(row: &'static str, value: f64) -> Target {
    Target { row, want: Want::AtLeast, value, unit: "iops" }
}

const fn most(row: &'static str, value: f64, unit: &'static str) -> Target {
    Target { row, want: Want::AtMost, value, unit }
}

pub const TARGETS: &[Target] = &[
    least("mapped randread, disk, vs raw", 0.97),
    least("mapped randwrite, disk, vs raw", 0.97),
    least("mapped randread, disk, vs fio", 0.95),
    least("mapped randwrite, disk, vs fio", 0.95),
    most("mapped randread, null: cpu", 0.3, "us/io"),
    least("randread, null, 2 queues vs 1", 1.8),
    least("randwrite, null, 2 queues vs 1", 1.8),
    least("allocating, null, 2 queues vs 1", 1.3),
    least("mapped randread, shm, vs raw", 0.8),
    least("mapped randwrite, shm, vs raw", 0.8),
    Target { unit: "times", ..least("2 jobs / 1 job, shm, vs raw", 0.95) },
    least("NBD randread, disk, vs qemu raw", 1.5),
    most("NBD randread, disk: server cpu vs qemu raw", 0.6, "us/io"),
    least("NBD randread, shm, vs qemu raw", 2.0),
    least("NBD randwrite, shm, vs qemu raw", 2.0),
    least("NBD randread, shm, vs nbdkit file", 1.2),
    least("NBD 1M read, shm, vs socketpair", 0.8),
    least("allocating 4K, cluster 64K, vs raw", 0.95),
    least("allocating 4K, cluster 1M, vs raw", 0.95),
    most("allocating 4K: space beyond touched clusters", 256.0, "MiB"),
    least("allocating 64K, vs raw", 0.95),
    least("allocating 1M sequential, vs raw", 0.95),
    least("write + flush, 1 lane, mapped, vs raw", 0.95),
    least("write + flush, 16 lanes, mapped, vs raw", 0.95),
    most("write + flush, 16 lanes: syncs per write", 0.2, "syncs"),
    least("random read, 128 deltas, warm, vs 1", 0.95),
    least("random read, 128 deltas, cold, vs 1", 0.8),
    most("open 16 TiB, empty: time", 200.0, "ms"),
    most("open 16 TiB, empty: memory", 100.0, "MiB"),
];

/// Comparisons that are not made yet, with the reason; shown in the report.
pub const ABSENT: &[(&str, &str)] = &[
    ("FUSE vs qemu 10.0.13", "not measured: the FUSE export of this suite's QEMU is older"),
    ("NBD, the ceiling of a null server", "not measured yet"),
    ("allocating write + flush vs qcow2", "not measured yet"),
    ("copy-up 64K vs qcow2 1M", "not measured yet"),
    ("open 16 TiB with 1,000,000 entries", "not measured yet"),
];

/// The target of a row.
pub fn of(row: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.row == row)
}

#[cfg(test)]
mod tests {
    use super::TARGETS;

    #[test]
    fn every_row_has_one_target() {
        let mut names: Vec<_> = TARGETS.iter().map(|t| t.row).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TARGETS.len());
    }
}
