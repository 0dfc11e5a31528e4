//! Options of the handshake: what a client asks for before it gets the device.

use super::{OPTION_MAGIC, OPTION_REPLY_MAGIC, take, take_slice};

/// Bytes of an option's header.
pub const OPTION_HEADER: usize = 16;
/// Longest option we read; longer ones are skipped and refused.
pub const MAX_OPTION: u32 = 4096;
/// Longest option we skip; a client that sends more is cut off.
pub const MAX_SKIPPED: u32 = 64 << 10;
/// Longest export name.
pub const MAX_NAME: usize = 256;

/// What an option asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionKind {
    /// Take an export, the old way: no error can be told.
    ExportName,
    /// Leave.
    Abort,
    /// Name the exports.
    List,
    /// TLS, which we do not have.
    StartTls,
    /// Describe an export.
    Info,
    /// Describe an export and take it.
    Go,
    /// Structured replies from now on.
    StructuredReply,
    /// Name the metadata contexts.
    ListMetaContext,
    /// Select metadata contexts.
    SetMetaContext,
    /// A number we do not know.
    Unknown(u32),
}

impl OptionKind {
    /// From the number on the wire.
    #[must_use]
    pub const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            other => Self::Unknown(other),
        }
    }
}

/// The header of an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionHeader {
    /// The number on the wire, repeated in the answer.
    pub code: u32,
    /// Bytes that follow.
    pub len: u32,
}

impl OptionHeader {
    /// Reads a header; `None` when the magic is wrong.
    #[must_use]
    pub fn parse(bytes: &[u8; OPTION_HEADER]) -> Option<Self> {
        let mut rest = &bytes[..];
        let magic = u64::from_be_bytes(take(&mut rest)?);
        let code = u32::from_be_bytes(take(&mut rest)?);
        let len = u32::from_be_bytes(take(&mut rest)?);
        (magic == OPTION_MAGIC).then_some(Self { code, len })
    }
}

/// How an option is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Done.
    Ack,
    /// An export.
    Server,
    /// A fact about an export.
    Info,
    /// A metadata context.
    MetaContext,
    /// Unknown or not offered.
    Unsupported,
    /// Not allowed here.
    Policy,
    /// Malformed.
    Invalid,
    /// No such export.
    UnknownExport,
    /// Too long.
    TooBig,
}

impl Answer {
    const fn code(self) -> u32 {
        const ERROR: u32 = 1 << 31;
        match self {
            Self::Ack => 1,
            Self::Server => 2,
            Self::Info => 3,
            Self::MetaContext => 4,
            Self::Unsupported => ERROR + 1,
            Self::Policy => ERROR + 2,
            Self::Invalid => ERROR + 3,
            Self::UnknownExport => ERROR + 6,
            Self::TooBig => ERROR + 9,
        }
    }
}

/// Appends an answer to option `code`. An error's data is a message for people.
pub fn answer(out: &mut Vec<u8>, code: u32, answer: Answer, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&answer.code().to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Why an option's content was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Lengths and content do not agree.
    Invalid,
    /// The name is longer than [`MAX_NAME`].
    NameTooLong,
}

/// The facts a client wants from INFO or GO, besides the export itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The name.
    pub name: bool,
    /// The description.
    pub description: bool,
    /// Block sizes; a client that asks promises to keep them.
    pub block_size: bool,
}

/// Kinds of facts on the wire.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// The name.
    pub const NAME: u16 = 1;
    /// The description.
    pub const DESCRIPTION: u16 = 2;
    /// Block sizes.
    pub const BLOCK_SIZE: u16 = 3;
}

fn name<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = take(rest).map(u32::from_be_bytes).ok_or(Malformed::Invalid)?;
    let len = usize::try_from(len).map_err(|_| Malformed::Invalid)?;
    let name = take_slice(rest, len).ok_or(Malformed::Invalid)?;
    if len > MAX_NAME { Err(Malformed::NameTooLong) } else { Ok(name) }
}

/// Reads the content of INFO and GO: the export's name and the facts wanted.
///
/// # Errors
/// See [`Malformed`].
pub fn parse_info(data: &[u8]) -> Result<(&[u8], Wanted), Malformed> {
    let mut rest = data;
    let name = name(&mut rest)?;
    let count = take(&mut rest).map(u16::from_be_bytes).ok_or(Malformed::Invalid)?;
    if rest.len() != usize::from(count) * 2 {
        return Err(Malformed::Invalid);
    }
    let mut wanted = Wanted::default();
    while let Some(kind) = take(&mut rest).map(u16::from_be_bytes) {
        match kind {
            info::NAME => wanted.name = true,
            info::DESCRIPTION => wanted.description = true,
            info::BLOCK_SIZE => wanted.block_size = true,
            _ => {}
        }
    }
    Ok((name, wanted))
}

/// What the queries of a metadata option come to, for the one context we have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MetaQuery<'a> {
    /// The export asked about.
    pub name: &'a [u8],
    /// Number of queries.
    pub queries: u32,
    /// `base:allocation` was named.
    pub exact: bool,
    /// The whole namespace `base:` was named (means something only when listing).
    pub namespace: bool,
}

/// The one metadata context.
pub const ALLOCATION: &[u8] = b"base:allocation";

/// Reads the content of LIST_META_CONTEXT and SET_META_CONTEXT.
///
/// # Errors
/// See [`Malformed`].
pub fn parse_meta(data: &[u8]) -> Result<MetaQuery<'_>, Malformed> {
    let mut rest = data;
    let name = name(&mut rest)?;
    let queries = take(&mut rest).map(u32::from_be_bytes).ok_or(Malformed::Invalid)?;
    let mut found = MetaQuery { name, queries, exact: false, namespace: false };
    // Each query takes at least four bytes, so the data bounds the loop whatever `queries` says.
    for _ in 0..queries {
        let len = take(&mut rest).map(u32::from_be_bytes).ok_or(Malformed::Invalid)?;
        let len = usize::try_from(len).map_err(|_| Malformed::Invalid)?;
        let query = take_slice(&mut rest, len).ok_or(Malformed::Invalid)?;
        found.exact |= query == ALLOCATION;
        found.namespace |= query == b"base:";
    }
    if rest.is_empty() { Ok(found) } else { Err(Malformed::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &[u8], kinds: &[u16]) -> Vec<u8> {
        let mut out = (name.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(name);
        out.extend_from_slice(&(kinds.len() as u16).to_be_bytes());
        out.extend(kinds.iter().flat_map(|k| k.to_be_bytes()));
        out
    }

    fn meta(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
        let mut out = (name.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(name);
        out.extend_from_slice(&(queries.len() as u32).to_be_bytes());
        for query in queries {
            out.extend_from_slice(&(query.len() as u32).to_be_bytes());
            out.extend_from_slice(query);
        }
        out
    }

    #[test]
    fn option_header() {
        let mut bytes = [0; OPTION_HEADER];
        bytes[..8].copy_from_slice(b"IHAVEOPT");
        bytes[11] = 7;
        bytes[15] = 6;
        assert_eq!(OptionHeader::parse(&bytes), Some(OptionHeader { code: 7, len: 6 }));
        bytes[0] = b'i';
        assert_eq!(OptionHeader::parse(&bytes), None);
    }

    #[test]
    fn answers() {
        let mut out = Vec::new();
        answer(&mut out, 7, Answer::TooBig, b"no");
        assert_eq!(out[..8], [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9]);
        assert_eq!(out[8..], [0, 0, 0, 7, 0x80, 0, 0, 9, 0, 0, 0, 2, b'n', b'o']);
    }

    #[test]
    fn info_options() {
        let data = info(b"disk", &[info::BLOCK_SIZE, 77, info::NAME]);
        let (name, wanted) = parse_info(&data).unwrap();
        assert_eq!(name, b"disk");
        assert_eq!(wanted, Wanted { name: true, block_size: true, description: false });
        for cut in 0..data.len() {
            assert_eq!(parse_info(&data[..cut]), Err(Malformed::Invalid), "cut at {cut}");
        }
        let long = info(&[b'x'; MAX_NAME + 1], &[]);
        assert_eq!(parse_info(&long), Err(Malformed::NameTooLong));
        let mut trailing = info(b"", &[]);
        trailing.push(0);
        assert_eq!(parse_info(&trailing), Err(Malformed::Invalid));
    }

    #[test]
    fn meta_options() {
        let data = meta(b"", &[b"base:allocation", b"qemu:dirty-bitmap:x"]);
        let found = parse_meta(&data).unwrap();
        assert_eq!((found.queries, found.exact, found.namespace), (2, true, false));
        for cut in 0..data.len() {
            assert_eq!(parse_meta(&data[..cut]), Err(Malformed::Invalid), "cut at {cut}");
        }
        assert!(parse_meta(&meta(b"", &[b"base:"])).unwrap().namespace);
        let mut lie = meta(b"", &[]);
        lie[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(parse_meta(&lie), Err(Malformed::Invalid));
    }
}
