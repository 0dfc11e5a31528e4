//! Requests of the transmission phase: 28 bytes each, a payload after WRITE.

use super::{MAX_PAYLOAD, NbdError, REQUEST_MAGIC, take};

/// Bytes of a request header.
pub const HEADER: usize = 28;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Bytes of the device.
    Read,
    /// A payload for the device.
    Write,
    /// The client is done.
    Disconnect,
    /// Make acknowledged writes durable.
    Flush,
    /// The range may lose its content.
    Trim,
    /// Read ahead.
    Cache,
    /// The range becomes zeros.
    WriteZeroes,
    /// Which ranges are stored.
    BlockStatus,
    /// A number we do not know.
    Unknown(u16),
}

/// Modifiers of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CommandFlags(pub u16);

impl CommandFlags {
    /// Durable before the reply.
    pub const FUA: u16 = 1;
    /// Keep the blocks when zeroing.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk for the whole read.
    pub const DF: u16 = 1 << 2;
    /// One extent only.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail rather than write zeros.
    pub const FAST_ZERO: u16 = 1 << 4;

    /// Whether a flag is set.
    #[must_use]
    pub const fn has(self, flag: u16) -> bool {
        self.0 & flag != 0
    }
}

/// A request header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Modifiers.
    pub flags: CommandFlags,
    /// What to do.
    pub command: Command,
    /// The client's own; comes back in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// The stream is out of step: nothing after this can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMagic(
    /// What stood in the place of the magic.
    pub u32,
);

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// The magic is wrong.
    pub fn parse(bytes: &[u8; HEADER]) -> Result<Self, BadMagic> {
        let mut rest = &bytes[..];
        let (Some(magic), Some(flags), Some(kind), Some(cookie), Some(offset), Some(len)) = (
            take(&mut rest).map(u32::from_be_bytes),
            take(&mut rest).map(u16::from_be_bytes),
            take(&mut rest).map(u16::from_be_bytes),
            take(&mut rest).map(u64::from_be_bytes),
            take(&mut rest).map(u64::from_be_bytes),
            take(&mut rest).map(u32::from_be_bytes),
        ) else {
            return Err(BadMagic(0));
        };
        if magic != REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        let command = match kind {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            other => Command::Unknown(other),
        };
        Ok(Self { flags: CommandFlags(flags), command, cookie, offset, len })
    }

    /// The header as bytes: what a client sends.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let kind: u16 = match self.command {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::Cache => 5,
            Command::WriteZeroes => 6,
            Command::BlockStatus => 7,
            Command::Unknown(other) => other,
        };
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.0.to_be_bytes());
        out[6..8].copy_from_slice(&kind.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    /// Bytes that follow the header on the wire.
    #[must_use]
    pub fn payload(&self) -> u32 {
        if self.command == Command::Write { self.len } else { 0 }
    }
}

/// What the connection agreed on and the device takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// Structured replies were asked for.
    pub structured: bool,
    /// `base:allocation` was selected.
    pub block_status: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// Device size in bytes.
    pub size: u64,
}

impl Header {
    /// Whether the request may go to the device.
    ///
    /// # Errors
    /// The error to answer with, and why in words.
    pub fn check(&self, agreed: &Agreed) -> Result<(), (NbdError, &'static str)> {
        self.check_flags(agreed)?;
        match self.command {
            Command::Unknown(_) => return Err((NbdError::Inval, "unknown command")),
            Command::Disconnect => return Ok(()),
            Command::Flush if self.offset != 0 || self.len != 0 => {
                return Err((NbdError::Inval, "a flush has no offset and no length"));
            }
            Command::Flush => return Ok(()),
            _ => {}
        }
        let writes = matches!(self.command, Command::Write | Command::Trim | Command::WriteZeroes);
        if writes && agreed.read_only {
            return Err((NbdError::Perm, "the export is read-only"));
        }
        let carries = matches!(self.command, Command::Read | Command::Write);
        if carries && self.len > MAX_PAYLOAD {
            return Err((NbdError::Inval, "longer than the maximum of 32 MiB"));
        }
        let end = self.offset.checked_add(u64::from(self.len));
        if end.is_none_or(|end| end > agreed.size) {
            let adds = matches!(self.command, Command::Write | Command::WriteZeroes);
            let error = if adds { NbdError::NoSpc } else { NbdError::Inval };
            return Err((error, "past the end of the export"));
        }
        if self.command == Command::BlockStatus && self.len == 0 {
            return Err((NbdError::Inval, "block status of an empty range"));
        }
        Ok(())
    }

    /// FUA is legal on every command; the others belong to one command each.
    fn check_flags(&self, agreed: &Agreed) -> Result<(), (NbdError, &'static str)> {
        let mut legal = CommandFlags::FUA;
        match self.command {
            Command::Read if agreed.structured => legal |= CommandFlags::DF,
            Command::WriteZeroes => legal |= CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
            Command::BlockStatus => {
                if !agreed.block_status {
                    return Err((NbdError::Inval, "no metadata context was selected"));
                }
                legal |= CommandFlags::REQ_ONE;
            }
            _ => {}
        }
        if self.flags.0 & !legal != 0 {
            return Err((NbdError::Inval, "a flag this command does not have"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGREED: Agreed =
        Agreed { structured: true, block_status: true, read_only: false, size: 1 << 20 };

    fn header(command: Command, flags: u16, offset: u64, len: u32) -> Header {
        Header { flags: CommandFlags(flags), command, cookie: 7, offset, len }
    }

    fn error(command: Command, flags: u16, offset: u64, len: u32) -> Option<NbdError> {
        header(command, flags, offset, len).check(&AGREED).err().map(|e| e.0)
    }

    #[test]
    fn every_command_survives_the_wire() {
        for kind in 0..20u16 {
            let mut bytes = header(Command::Unknown(kind), 3, 0x1122_3344_5566, 99).to_bytes();
            let parsed = Header::parse(&bytes).unwrap();
            assert_eq!(parsed.to_bytes(), bytes);
            assert_eq!(parsed.payload(), if kind == 1 { 99 } else { 0 });
            bytes[0] ^= 1;
            assert_eq!(Header::parse(&bytes), Err(BadMagic(REQUEST_MAGIC ^ 0x0100_0000)));
        }
    }

    #[test]
    fn bytes_are_where_the_protocol_says() {
        let bytes = header(Command::Trim, CommandFlags::FUA, 512, 1024).to_bytes();
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 4]);
        assert_eq!(bytes[8..16], [0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(bytes[16..], [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 0]);
    }

    #[test]
    fn ranges_outside_the_device_are_refused() {
        let end = 1 << 20;
        assert_eq!(error(Command::Read, 0, end - 512, 512), None);
        assert_eq!(error(Command::Read, 0, end, 512), Some(NbdError::Inval));
        assert_eq!(error(Command::Trim, 0, end, 512), Some(NbdError::Inval));
        assert_eq!(error(Command::Cache, 0, end, 512), Some(NbdError::Inval));
        assert_eq!(error(Command::Write, 0, end, 512), Some(NbdError::NoSpc));
        assert_eq!(error(Command::WriteZeroes, 0, end, 512), Some(NbdError::NoSpc));
        assert_eq!(error(Command::Read, 0, u64::MAX - 511, 512), Some(NbdError::Inval));
        assert_eq!(error(Command::Write, 0, u64::MAX - 511, 512), Some(NbdError::NoSpc));
        assert_eq!(error(Command::Read, 0, 0, MAX_PAYLOAD + 512), Some(NbdError::Inval));
    }

    #[test]
    fn any_byte_range_is_taken_inside_the_device() {
        for command in [Command::Read, Command::Write, Command::Trim, Command::WriteZeroes] {
            assert_eq!(error(command, 0, 1, 512), None);
            assert_eq!(error(command, 0, 0, 511), None);
            assert_eq!(error(command, 0, 7, 0), None, "an empty one does nothing");
            assert!(error(command, 0, (1 << 20) - 511, 512).is_some(), "past the end");
        }
        assert_eq!(error(Command::Flush, 0, 512, 0), Some(NbdError::Inval));
        assert_eq!(error(Command::Flush, 0, 0, 0), None);
    }

    #[test]
    fn flags_belong_to_their_command() {
        use CommandFlags as F;
        for command in [Command::Read, Command::Write, Command::Trim, Command::Cache] {
            assert_eq!(error(command, F::FUA, 0, 512), None, "FUA is legal everywhere");
            assert_eq!(error(command, F::NO_HOLE, 0, 512), Some(NbdError::Inval));
            assert_eq!(error(command, F::REQ_ONE, 0, 512), Some(NbdError::Inval));
            assert_eq!(error(command, 1 << 9, 0, 512), Some(NbdError::Inval));
        }
        assert_eq!(error(Command::Read, F::DF, 0, 512), None);
        assert_eq!(error(Command::Write, F::DF, 0, 512), Some(NbdError::Inval));
        assert_eq!(error(Command::WriteZeroes, F::NO_HOLE | F::FAST_ZERO, 0, 512), None);
        assert_eq!(error(Command::BlockStatus, F::REQ_ONE, 0, 512), None);
        assert_eq!(error(Command::Unknown(9), 0, 0, 0), Some(NbdError::Inval));
        let simple = Agreed { structured: false, block_status: false, ..AGREED };
        assert!(header(Command::Read, F::DF, 0, 512).check(&simple).is_err());
        assert!(header(Command::BlockStatus, 0, 0, 512).check(&simple).is_err());
    }

    #[test]
    fn a_read_only_export_takes_no_write() {
        let agreed = Agreed { read_only: true, ..AGREED };
        for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
            let answer = header(command, 0, 0, 512).check(&agreed);
            assert_eq!(answer.err().map(|e| e.0), Some(NbdError::Perm));
        }
        for command in [Command::Read, Command::Cache, Command::BlockStatus] {
            assert_eq!(header(command, 0, 0, 512).check(&agreed), Ok(()));
        }
    }
}
