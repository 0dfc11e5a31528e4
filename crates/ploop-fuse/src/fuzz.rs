//! Body of the fuzz target: any bytes from the kernel, no panic, and what was accepted keeps its
//! promises.

use crate::file::{File, Owner, Plan};
use crate::protocol::init::{Handshake, negotiate};
use crate::protocol::request::{HEAD, Request, parse};
use crate::protocol::{LONGEST, abi};
use ploop_engine::Limits;

/// A kernel that sends these bytes, on a device of 1 MiB. The first two are the message's length.
pub fn fuzz_request(data: &[u8]) {
    let Some((shape, data)) = data.split_first_chunk::<3>() else { return };
    let mut head = [0; HEAD];
    let here = data.len().min(HEAD);
    head[..here].copy_from_slice(&data[..here]);
    let total = usize::from(u16::from_le_bytes([shape[0], shape[1]]));
    let Ok((header, request)) = parse(&head, &data[here..], total) else { return };
    assert_eq!(header.len as usize, total);
    if let Request::Init(asked) = request
        && let Handshake::Agreed(out) = negotiate(&asked, 256, 4096)
    {
        assert_eq!(out.flags & !asked.flags, 0);
        assert!(out.minor >= abi::MINOR_MIN && out.max_write == LONGEST);
    }
    let read_only = shape[2] & 1 != 0;
    let limits = Limits {
        size: 1 << 20,
        block: if shape[2] & 2 == 0 { 512 } else { 4096 },
        physical_block: 4096,
        cluster: 1 << 20,
        buffer_align: 512,
        max_transfer: 1 << 20,
        max_zero: 1 << 30,
        read_only,
    };
    let file = File::new(limits, read_only, Owner { uid: 0, gid: 0, mode: 0o600 }, None, 0);
    let inside = |range: &std::ops::Range<u64>| range.start < range.end && range.end <= 1 << 20;
    match file.plan(header.unique, &request) {
        Plan::Read(range) => assert!(inside(&range)),
        Plan::Write { range, .. } => {
            assert!(!read_only && inside(&range));
            assert!(range.end - range.start <= (total - HEAD) as u64);
        }
        Plan::Zero { range, .. } | Plan::Empty(range) => {
            assert!(!read_only && inside(&range));
        }
        Plan::Seek { at, .. } => assert!(at < 1 << 20),
        Plan::Answer(reply) => assert!(reply.bytes().len() >= 16),
        Plan::Flush | Plan::Nothing => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_survived() {
        let mut seed = 7u64;
        let mut byte = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        for len in 0..4000usize {
            let mut data: Vec<u8> = (0..3 + len % 300).map(|_| byte()).collect();
            fuzz_request(&data);
            // The same with agreeing lengths and an operation there is.
            if data.len() > 48 {
                let total = (data.len() - 3) as u16;
                data[..2].copy_from_slice(&total.to_le_bytes());
                data[3..7].copy_from_slice(&u32::from(total).to_le_bytes());
                data[7..11].copy_from_slice(&((len % 60) as u32).to_le_bytes());
                fuzz_request(&data);
            }
        }
    }
}
