//! Sizes on a command line: the original's rule, and the one of every new option (T1).

use crate::units::{SECTOR, Sector};

/// Largest size of the original's rule.
const MAX_SECTORS: u64 = 0xFFFF_FFFF << 9;

/// Text that is no size.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SizeError {
    /// Not a number with at most one suffix.
    #[error("`{0}` is no size: a number and at most one of K, M, G, T")]
    Syntax(String),
    /// More than can be.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// SIZE of the original's options: decimal, hex (`0x`) or octal (leading 0); K, M, G, T are powers
/// of 1024 bytes; no suffix means sectors.
///
/// # Errors
/// Not a size, or above 2^41 sectors.
pub fn parse_sectors(text: &str) -> Result<Sector, SizeError> {
    let (number, unit) = split(text)?;
    let sectors = unit.map_or(1, |unit| unit / SECTOR);
    number
        .checked_mul(sectors)
        .filter(|&size| size <= MAX_SECTORS)
        .map(Sector)
        .ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

/// A size of our own options: as above, but no suffix means bytes.
///
/// # Errors
/// Not a size, or above 2^64.
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    let (number, unit) = split(text)?;
    number.checked_mul(unit.unwrap_or(1)).ok_or_else(|| SizeError::TooLarge(text.to_owned()))
}

/// A number with the base its prefix says: `0x` hex, `0` octal, else decimal. No sign, no spaces.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    let (digits, base) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then(|| u64::from_str_radix(digits, base).ok()).flatten()
}

/// The number, and the bytes its suffix stands for.
fn split(text: &str) -> Result<(u64, Option<u64>), SizeError> {
    let bad = || SizeError::Syntax(text.chars().take(64).collect());
    let shift = match text.bytes().last().ok_or_else(bad)?.to_ascii_uppercase() {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        _ => 0,
    };
    let number = if shift == 0 { text } else { &text[..text.len() - 1] };
    let value = parse_number(number).ok_or_else(bad)?;
    Ok((value, (shift != 0).then_some(1 << shift)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_originals_rule_counts_sectors() {
        for (text, sectors) in [
            ("131072", 131_072),
            ("0x20000", 131_072),
            ("0400000", 131_072),
            ("64m", 131_072),
            ("64M", 131_072),
            ("1k", 2),
            ("0x10K", 32),
            ("10G", 0x140_0000),
            ("1T", 1 << 31),
            ("0", 0),
            ("0xffffffff", 0xffff_ffff),
        ] {
            assert_eq!(parse_sectors(text), Ok(Sector(sectors)), "{text}");
        }
        assert!(matches!(parse_sectors("1025T"), Err(SizeError::TooLarge(_))));
        assert!(matches!(parse_sectors("99999999999999999T"), Err(SizeError::TooLarge(_))));
    }

    #[test]
    fn our_rule_counts_bytes() {
        for (text, bytes) in [("50M", 50 << 20), ("512", 512), ("0x200", 512), ("2t", 2 << 40)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        assert!(matches!(parse_bytes("17179869184G"), Err(SizeError::TooLarge(_))));
    }

    #[test]
    fn everything_else_is_refused() {
        for bad in
            ["", "k", "M", "1KB", "1.5G", "-1", "+1", " 1", "1 ", "0x", "09", "1e3", "1\u{212a}"]
        {
            assert!(matches!(parse_sectors(bad), Err(SizeError::Syntax(_))), "{bad}");
            assert!(matches!(parse_bytes(bad), Err(SizeError::Syntax(_))), "{bad}");
        }
    }
}
