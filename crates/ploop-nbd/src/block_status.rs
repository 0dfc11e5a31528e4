//! The engine's extents as `base:allocation`.

use crate::protocol::reply::{Extent, STATE_HOLE, STATE_ZERO};
use ploop_engine::ExtentRecord;

/// Turns records into extents of at most `len` bytes together: neighbours of one status become
/// one, and with `one` only the first is told. At most as many extents as records.
pub(crate) fn extents(records: &[u8], len: u32, one: bool) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    let mut left = len;
    for record in ExtentRecord::parse(records) {
        let take = u32::try_from(record.len).unwrap_or(u32::MAX).min(left);
        if take == 0 {
            continue;
        }
        left -= take;
        let hole = record.level == ExtentRecord::HOLE;
        let status = if hole { STATE_HOLE | STATE_ZERO } else { 0 };
        match out.last_mut() {
            Some(last) if last.status == status => last.len += take,
            Some(_) if one => break,
            _ => out.push(Extent { len: take, status }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(records: &[(u64, u32)]) -> Vec<u8> {
        let record =
            |(len, level): &(u64, u32)| ExtentRecord { len: *len, level: *level, reserved: 0 };
        records.iter().flat_map(|r| record(r).to_bytes()).collect()
    }

    const HOLE: u32 = ExtentRecord::HOLE;

    #[test]
    fn levels_are_one_run_of_data() {
        let records = bytes(&[(512, 0), (1024, 3), (512, HOLE), (512, 1)]);
        let expect = [
            Extent { len: 1536, status: 0 },
            Extent { len: 512, status: 3 },
            Extent { len: 512, status: 0 },
        ];
        assert_eq!(extents(&records, 1 << 20, false), expect);
        assert_eq!(extents(&records, 1 << 20, true), expect[..1]);
    }

    #[test]
    fn never_past_the_request() {
        let records = bytes(&[(512, 0), (1 << 40, HOLE), (512, 0)]);
        let got = extents(&records, 4096, false);
        assert_eq!(got, [Extent { len: 512, status: 0 }, Extent { len: 3584, status: 3 }]);
        assert!(extents(&[], 4096, false).is_empty());
    }
}
