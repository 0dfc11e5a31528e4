//! What a sector holds in a simulation: zeros, or a pattern that names its write and its place.
//!
//! A reader can tell a torn sector, a foreign sector and a stale one from each other.

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// The value of a sector: 0 for zeros, else the number of the write that filled it.
pub type Value = u64;

/// What was found in a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Zeros, or this sector as that write left it.
    Value(Value),
    /// A whole sector of another place: another cluster's bytes (I1).
    Foreign {
        /// The write.
        value: Value,
        /// The place it was written for.
        sector: u64,
    },
    /// Nothing any write ever put into a sector.
    Garbage,
}

fn word(value: Value, sector: u64, index: u64) -> u64 {
    let mixed = value.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ sector.rotate_left(32);
    mixed.wrapping_add(index.wrapping_mul(0xD6E8_FEB8_6659_FD93))
}

/// Fills one sector.
pub fn fill(value: Value, sector: u64, out: &mut [u8]) {
    if value == 0 {
        out.fill(0);
        return;
    }
    for (index, chunk) in out.chunks_exact_mut(8).enumerate() {
        let word = match index {
            0 => value,
            1 => sector,
            _ => word(value, sector, index as u64),
        };
        chunk.copy_from_slice(&word.to_le_bytes());
    }
}

/// Reads one sector that was read at `sector`.
#[must_use]
pub fn parse(bytes: &[u8], sector: u64) -> Found {
    let words = bytes.chunks_exact(8).map(|c| c.iter().fold(0u8, |all, b| all | b));
    if bytes[0] == 0 && words.fold(0u8, |all, b| all | b) == 0 {
        return Found::Value(0);
    }
    let read = |index: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
        u64::from_le_bytes(word)
    };
    let (value, place) = (read(0), read(1));
    let wrong = |index: usize| read(index) ^ word(value, place, index as u64);
    let whole = (2..SECTOR / 8).fold(0, |all, index| all | wrong(index)) == 0;
    match (whole && value != 0, place == sector) {
        (false, _) => Found::Garbage,
        (true, true) => Found::Value(value),
        (true, false) => Found::Foreign { value, sector: place },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_names_its_write_and_its_place() {
        let mut bytes = [1; SECTOR];
        fill(7, 99, &mut bytes);
        assert_eq!(parse(&bytes, 99), Found::Value(7));
        assert_eq!(parse(&bytes, 98), Found::Foreign { value: 7, sector: 99 });
        bytes[300] ^= 1;
        assert_eq!(parse(&bytes, 99), Found::Garbage);
        fill(0, 99, &mut bytes);
        assert_eq!(parse(&bytes, 99), Found::Value(0));
    }
}
