//! Whether bytes are all zero.

/// Whether every byte is zero. Stops at the first block of 256 bytes that is not; the compiler
/// makes wide loads of a block.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<256>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_is_seen() {
        let mut bytes = vec![0u8; 4099];
        assert!(is_zero(&bytes));
        assert!(is_zero(&[]));
        for at in [0, 1, 7, 8, 511, 2048, 4095, 4098] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }
}
