//! The partition table of a new disk: GPT, one partition from the second cluster to the last but
//! one (spec/ploop-tools.md 3.1).

use ploop_daemon::failure::OrFail;
use ploop_daemon::runtime::cursor::Cursor;
use ploop_daemon::runtime::{ServeSpec, Session, open};
use ploop_daemon::{Code, Failure, Result};
use std::io::Write;
use std::path::Path;
use uuid::Uuid;

/// "Linux filesystem data" as stored: the first three fields little-endian.
const LINUX: [u8; 16] = *b"\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4";

/// First and last block of the partition.
pub fn range(size: u64, cluster: u64, block: u64) -> Option<(u64, u64)> {
    let first = cluster;
    // Rounded down to a cluster, which is a multiple of 8 sectors.
    let end = size.checked_sub(cluster)? / cluster * cluster;
    // The table's backup takes 33 blocks of the rest.
    (end > first && size - end >= 34 * block).then(|| (first / block, end / block - 1))
}

/// Writes the table through the disk's own path: opened, written, closed clean.
///
/// # Errors
/// The disk is too small for it, or cannot be written.
pub fn write(disk: &Path) -> Result<()> {
    let spec = ServeSpec::private(disk.to_owned(), false);
    let session = Session::start(open(&spec)?, &spec, |_, _| Ok(Vec::new()))?;
    let written = table(&session);
    let stopped = session.stop();
    written.and(stopped)
}

fn table(session: &Session) -> Result<()> {
    let limits = session.device().limits();
    let (block, cluster) = (u64::from(limits.block), limits.cluster);
    let Some((first, last)) = range(limits.size, cluster, block) else {
        let message = format!(
            "{} bytes with clusters of {cluster} leave no room for a partition",
            limits.size
        );
        return Err(Failure::new(Code::Partition, message).hint("-P makes no partition table"));
    };
    let mut cursor = Cursor::new(session).or_fail(Code::Memory, "partition table")?;
    let put = |cursor: &mut Cursor| -> Result<(), gptman::Error> {
        let mut gpt = gptman::GPT::new_from(cursor, block, Uuid::new_v4().to_bytes_le())?;
        gpt[1] = gptman::GPTPartitionEntry {
            partition_type_guid: LINUX,
            unique_partition_guid: Uuid::new_v4().to_bytes_le(),
            starting_lba: first,
            ending_lba: last,
            attribute_bits: 0,
            partition_name: "primary".into(),
        };
        gpt.write_into(cursor)?;
        gptman::GPT::write_protective_mbr_into(cursor, block)
    };
    put(&mut cursor)
        .map_err(|error| Failure::new(Code::Partition, format!("partition table: {error}")))?;
    cursor.flush().or_fail(Code::Sync, "partition table")
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn the_partition_leaves_a_cluster_at_both_ends() {
        let mib = 1 << 20;
        assert_eq!(range(64 * mib, mib, 512), Some((2048, 63 * 2048 - 1)));
        assert_eq!(range(64 * mib, mib, 4096), Some((256, 63 * 256 - 1)));
        // 32 KiB clusters: one of them has room for the backup of the table.
        assert_eq!(range(mib, 32768, 512), Some((64, 1983)));
        assert_eq!(range(2 * mib, mib, 512), None);
        assert_eq!(range(mib, mib, 512), None);
        assert_eq!(range(0, mib, 512), None);
    }
}
