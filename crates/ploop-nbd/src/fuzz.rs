//! Bodies of the fuzz targets: any bytes, no panic, and what was accepted keeps its promises.

use crate::block_status;
use crate::protocol::handshake::{Handshake, Offer, Status};
use crate::protocol::request::{Agreed, Command, HEADER, Header};

/// A client that sends these bytes during the handshake.
pub fn fuzz_handshake(data: &[u8]) {
    let offer = Offer {
        name: String::new(),
        description: "fuzz".into(),
        size: 1 << 30,
        read_only: false,
        block: 512,
        preferred: 4096,
    };
    let mut out = Vec::new();
    let mut handshake = Handshake::new(&mut out);
    let mut rest = data;
    while let Status::Need(need) = handshake.status() {
        assert!(need > 0, "the handshake waits for nothing");
        if rest.is_empty() {
            return;
        }
        let (now, later) = rest.split_at(need.min(rest.len()));
        handshake.input(now, &offer, &mut out);
        rest = later;
    }
}

/// A client that sends these bytes after the handshake, on a device of 1 MiB.
pub fn fuzz_requests(data: &[u8]) {
    let Some((shape, mut rest)) = data.split_first() else { return };
    let agreed = Agreed {
        structured: shape & 1 != 0,
        block_status: shape & 2 != 0,
        read_only: shape & 4 != 0,
        size: 1 << 20,
    };
    while let Some((bytes, later)) = rest.split_first_chunk::<HEADER>() {
        rest = later;
        let Ok(header) = Header::parse(bytes) else { return };
        assert_eq!(header.to_bytes(), *bytes);
        let payload = (header.payload() as usize).min(rest.len());
        rest = &rest[payload..];
        let moves = !matches!(header.command, Command::Flush | Command::Disconnect);
        if header.check(&agreed).is_ok() && moves {
            assert!(header.offset + u64::from(header.len) <= agreed.size);
        }
    }
    let len = u32::from(*shape) << 12;
    let total: u64 = block_status::extents(rest, len, shape & 1 != 0)
        .iter()
        .map(|extent| u64::from(extent.len))
        .sum();
    assert!(total <= u64::from(len));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_survived() {
        let mut seed = 7u64;
        for len in 0..2000usize {
            let mut data: Vec<u8> = (0..len % 300)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8
                })
                .collect();
            fuzz_handshake(&data);
            fuzz_requests(&data);
            // The same with the magics in place.
            if data.len() > 60 {
                data[..4].copy_from_slice(&3u32.to_be_bytes());
                data[4..12].copy_from_slice(b"IHAVEOPT");
                data[12..20].copy_from_slice(&[0, 0, 0, (len % 13) as u8, 0, 0, 0, 40]);
                fuzz_handshake(&data);
                data[1..5].copy_from_slice(&0x2560_9513u32.to_be_bytes());
                data[7] = 0;
                data[8] = (len % 9) as u8;
                fuzz_requests(&data);
            }
        }
    }
}
