//! What is wanted of each comparison: one table.

/// Which side of the number is good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    AtLeast,
    AtMost,
    /// Told, with nothing to reach.
    Told,
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

const fn told(row: &'static str, unit: &'static str) -> Target {
    Target { row, want: Want::Told, value: 0.0, unit }
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
    least("NBD randwrite, disk, vs qemu raw", 1.5),
    least("NBD randread, shm, vs qemu raw", 2.0),
    least("NBD randwrite, shm, vs qemu raw", 2.0),
    least("NBD randread, shm, vs nbdkit file", 1.2),
    least("NBD randwrite, shm, vs nbdkit file", 1.2),
    told("NBD randread, shm, vs a null server", "iops"),
    least("NBD 1M read, shm, vs socketpair", 0.8),
    told("NBD randread, disk, depth 1, vs qemu parallels", "iops"),
    told("NBD randread, disk, depth 32, vs qemu parallels", "iops"),
    told("NBD randwrite, disk, depth 1, vs qemu parallels", "iops"),
    told("NBD randwrite, disk, depth 32, vs qemu parallels", "iops"),
    told("NBD randread, disk, depth 1, vs qemu qcow2", "iops"),
    told("NBD randread, disk, depth 32, vs qemu qcow2", "iops"),
    told("NBD randwrite, disk, depth 1, vs qemu qcow2", "iops"),
    told("NBD randwrite, disk, depth 32, vs qemu qcow2", "iops"),
    told("NBD randread, disk, depth 32, vs qemu qcow2 1M", "iops"),
    told("NBD randwrite, disk, depth 32, vs qemu qcow2 1M", "iops"),
    told("NBD randread, disk, depth 32, vs qemu qcow2 ext_l2", "iops"),
    told("NBD randwrite, disk, depth 32, vs qemu qcow2 ext_l2", "iops"),
    told("NBD 64k randread, disk, vs qemu raw", "iops"),
    told("NBD randread, 2 jobs, disk, vs qemu raw", "iops"),
    told("NBD randread, 2 jobs, shm, vs qemu raw", "iops"),
    least("FUSE randread, disk, vs qemu raw", 1.3),
    least("FUSE randwrite, disk, vs qemu raw", 1.3),
    least("FUSE randread, shm, vs qemu raw", 1.3),
    least("FUSE randwrite, shm, vs qemu raw", 1.3),
    told("FUSE randread, disk, vs kernel loop on raw", "iops"),
    told("FUSE randread, shm, vs kernel loop on raw", "iops"),
    least("vhost-user randread, shm, vs qemu parallels", 1.5),
    least("vhost-user randwrite, shm, vs qemu parallels", 1.5),
    told("vhost-user randread, disk, vs qemu parallels", "iops"),
    told("vhost-user randwrite, disk, vs qemu parallels", "iops"),
    most("vhost-user randread, shm: server cpu vs qemu parallels", 0.6, "us/io"),
    most("vhost-user randwrite, shm: server cpu vs qemu parallels", 0.6, "us/io"),
    least("vhost-user randread, disk, vs the raw file", 0.95),
    least("vhost-user randwrite, disk, vs the raw file", 0.95),
    least("write + flush, allocating, NBD, vs qcow2", 2.0),
    least("copy-up 64k, NBD, vs qcow2 1M", 1.0),
    told("copy-up 4k, NBD, vs qcow2 1M", "iops"),
    least("allocating 4K, cluster 64K, vs raw", 0.95),
    least("allocating 4K, cluster 1M, vs raw", 0.95),
    most("allocating 4K: space beyond touched clusters", 256.0, "MiB"),
    least("allocating 64K, vs raw", 0.95),
    least("allocating 1M sequential, vs raw", 0.95),
    least("write + flush, 1 lane, mapped, vs raw", 0.95),
    least("write + flush, 16 lanes, mapped, vs raw", 0.95),
    most("write + flush, 16 lanes: syncs per write", 0.2, "syncs"),
    told("random read, 8 deltas, warm, vs 1", "iops"),
    told("random read, 8 deltas, cold, vs 1", "iops"),
    told("random read, 32 deltas, warm, vs 1", "iops"),
    told("random read, 32 deltas, cold, vs 1", "iops"),
    least("random read, 128 deltas, warm, vs 1", 0.95),
    least("random read, 128 deltas, cold, vs 1", 0.8),
    most("open 16 TiB, empty: time", 200.0, "ms"),
    most("open 16 TiB, empty: memory", 100.0, "MiB"),
    most("open 16 TiB, 1,000,000 entries: time", 200.0, "ms"),
    most("open 16 TiB, 1,000,000 entries: memory", 100.0, "MiB"),
    told("16 TiB, 1,000,000 entries, 100k reads: memory", "MiB"),
];

/// Comparisons that are not made yet, with the reason; shown in the report.
pub const ABSENT: &[(&str, &str)] =
    &[("FUSE over io_uring", "not measured: it wants a kernel of 6.14 or newer on real hardware")];

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
