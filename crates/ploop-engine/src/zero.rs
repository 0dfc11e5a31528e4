//! Whether bytes are all zero.

/// True when every byte is zero. Stops at the first block that is not.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // SAFETY: any bytes are a valid u64.
    let (head, words, tail) = unsafe { bytes.align_to::<u64>() };
    head.iter().all(|b| *b == 0)
        && tail.iter().all(|b| *b == 0)
        && words.chunks(64).all(|block| block.iter().fold(0, |all, w| all | w) == 0)
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
