//! Names of snapshots and bitmaps: braced, lower case when printed, any case when read.

use core::fmt;
use core::str::FromStr;
use uuid::Uuid;

/// A GUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Guid(Uuid);

/// Text that is no GUID.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no UUID: 36 characters, hex and dashes, or the same in braces")]
pub struct GuidError(String);

impl Guid {
    /// Parent of the base.
    pub const NONE: Self = Self(Uuid::nil());
    /// The writable top of every disk ploop wrote.
    pub const TOP: Self = Self(Uuid::from_u128(0x5fbaabe3_6958_40ff_92a7_860e329aab41));
    /// Reserved by backup software of Parallels; never a snapshot of ours.
    pub const BACKUP: Self = Self(Uuid::from_u128(0x704718e1_2314_44c8_9087_d78ed36b0f4e));

    /// A new one (version 4) from 16 random bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// From the 16 bytes of its text order, as a bitmap stores it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes in text order.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// Whether this name has a meaning of its own and cannot be given to a snapshot.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        [Self::NONE, Self::TOP, Self::BACKUP].contains(&self)
    }
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, GuidError> {
        let bare = match text.len() {
            36 => Some(text),
            38 => text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')),
            _ => None,
        };
        // The length is checked above: forms without dashes or with a URN do not pass.
        bare.and_then(|bare| Uuid::try_parse(bare).ok())
            .map(Self)
            .ok_or_else(|| GuidError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.0.hyphenated())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: &str = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";

    #[test]
    fn prints_braced_lower_case_and_reads_any_case() {
        assert_eq!(Guid::TOP.to_string(), TOP);
        assert_eq!(TOP.to_uppercase().parse(), Ok(Guid::TOP));
        assert_eq!(TOP.trim_matches(['{', '}']).parse(), Ok(Guid::TOP));
        assert_eq!(Guid::NONE.to_string(), "{00000000-0000-0000-0000-000000000000}");
        assert_eq!(Guid::BACKUP.to_string(), "{704718e1-2314-44c8-9087-d78ed36b0f4e}");
    }

    #[test]
    fn refuses_other_forms() {
        // As long as a GUID in bytes.
        let wide = "\u{e9}".repeat(18);
        for bad in [
            wide.as_str(),
            "",
            "{}",
            "5fbaabe3695840ff92a7860e329aab41",
            "urn:uuid:5fbaabe3-6958-40ff-92a7-860e329aab41",
            "{5fbaabe3-6958-40ff-92a7-860e329aab41",
            "(5fbaabe3-6958-40ff-92a7-860e329aab41)",
            "{5fbaabe3-6958-40ff-92a7-860e329aab4g}",
        ] {
            assert!(bad.parse::<Guid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_ones_are_version_4() {
        let guid = Guid::from_random([0xff; 16]);
        assert_eq!(guid.to_string(), "{ffffffff-ffff-4fff-bfff-ffffffffffff}");
        assert_eq!(Guid::from_bytes(guid.to_bytes()), guid);
        assert!(!guid.is_reserved() && Guid::TOP.is_reserved());
    }
}
