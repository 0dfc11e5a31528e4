//! From the kernel's bytes to a request.

use super::LONGEST;
use super::abi::{
    FallocateIn, FlushIn, InHeader, InitIn, LseekIn, OpenIn, SetattrIn, TransferIn, op,
};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes before a WRITE's payload: the header and what says where it goes. A READ is this long.
pub const HEAD: usize = size_of::<InHeader>() + size_of::<TransferIn>();
/// So many bytes after the first [`HEAD`] are enough for every operation that is looked at.
pub const ENOUGH: usize = 256;

/// What the kernel asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// The handshake.
    Init(InitIn),
    /// A name: there is none below a file.
    Lookup,
    /// No answer is wanted.
    Forget,
    /// Attributes.
    Getattr,
    /// Change attributes.
    Setattr(SetattrIn),
    /// Open, with the flags of open(2).
    Open(u32),
    /// Read.
    Read(TransferIn),
    /// Write; the payload follows.
    Write(TransferIn),
    /// Figures of the file system.
    Statfs,
    /// The last copy of a descriptor is closed.
    Release,
    /// A copy of a descriptor is closed.
    Flush(FlushIn),
    /// Make it durable.
    Fsync,
    /// Reserve, punch or zero.
    Fallocate(FallocateIn),
    /// Find data or a hole.
    Lseek(LseekIn),
    /// Somebody waits no longer.
    Interrupt,
    /// The end.
    Destroy,
    /// An ioctl.
    Ioctl,
    /// Anything else.
    Other(u32),
}

/// A message that is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// Whom to tell, when that much could be read.
    pub unique: Option<u64>,
    /// Its operation, 0 when unknown.
    pub opcode: u32,
    /// Bytes that came.
    pub len: usize,
}

/// Reads a message of `total` bytes: the first are in `head`, those that follow in `rest`, of which
/// [`ENOUGH`] are enough (a WRITE's payload is not looked at).
///
/// # Errors
/// Its lengths do not agree.
pub fn parse(
    head: &[u8; HEAD],
    rest: &[u8],
    total: usize,
) -> Result<(InHeader, Request), Malformed> {
    let here = &head[..total.min(HEAD)];
    let Ok((header, body)) = InHeader::read_from_prefix(here) else {
        return Err(Malformed { unique: None, opcode: 0, len: total });
    };
    let bad = Malformed { unique: Some(header.unique), opcode: header.opcode, len: total };
    if header.len as usize != total {
        return Err(bad);
    }
    let request = if total <= HEAD || header.opcode == op::WRITE {
        body_of(&header, body, total)
    } else {
        let mut whole = [0; HEAD + ENOUGH];
        let len = (total - HEAD).min(rest.len()).min(ENOUGH);
        whole[..HEAD].copy_from_slice(head);
        whole[HEAD..HEAD + len].copy_from_slice(&rest[..len]);
        body_of(&header, &whole[size_of::<InHeader>()..HEAD + len], total)
    };
    Ok((header, request.ok_or(bad)?))
}

fn body_of(header: &InHeader, body: &[u8], total: usize) -> Option<Request> {
    Some(match header.opcode {
        op::INIT => Request::Init(init(body)?),
        op::LOOKUP => Request::Lookup,
        op::FORGET | op::BATCH_FORGET => Request::Forget,
        op::GETATTR => Request::Getattr,
        op::SETATTR => Request::Setattr(take(body)?),
        op::OPEN => Request::Open(take::<OpenIn>(body)?.flags),
        op::READ => {
            let read: TransferIn = take(body)?;
            (read.size <= LONGEST).then_some(Request::Read(read))?
        }
        op::WRITE => {
            let write: TransferIn = take(body)?;
            let payload = total.checked_sub(HEAD)?;
            let same = write.size as usize == payload && write.size <= LONGEST;
            same.then_some(Request::Write(write))?
        }
        op::STATFS => Request::Statfs,
        op::RELEASE => Request::Release,
        op::FLUSH => Request::Flush(take(body)?),
        op::FSYNC => Request::Fsync,
        op::FALLOCATE => Request::Fallocate(take(body)?),
        op::LSEEK => Request::Lseek(take(body)?),
        op::INTERRUPT => Request::Interrupt,
        op::DESTROY => Request::Destroy,
        op::IOCTL => Request::Ioctl,
        other => Request::Other(other),
    })
}

fn take<T: FromBytes>(body: &[u8]) -> Option<T> {
    T::read_from_prefix(body).ok().map(|(value, _)| value)
}

/// Kernels before 7.36 send 16 bytes: the rest are zeros.
fn init(body: &[u8]) -> Option<InitIn> {
    if body.len() < 16 {
        return None;
    }
    let mut whole = InitIn::default();
    let bytes = whole.as_mut_bytes();
    let len = body.len().min(bytes.len());
    bytes[..len].copy_from_slice(&body[..len]);
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(opcode: u32, body: &[u8], len: usize) -> Vec<u8> {
        let header = InHeader { len: len as u32, opcode, unique: 77, ..InHeader::default() };
        [header.as_bytes(), body].concat()
    }

    fn parse(bytes: &[u8], total: usize) -> Result<(InHeader, Request), Malformed> {
        let mut head = [0; HEAD];
        let here = bytes.len().min(HEAD);
        head[..here].copy_from_slice(&bytes[..here]);
        super::parse(&head, &bytes[here..], total)
    }

    fn transfer(size: u32) -> TransferIn {
        TransferIn { offset: 4096, size, flags: 2, ..TransferIn::default() }
    }

    #[test]
    fn reads_and_writes() {
        let bytes = message(op::READ, transfer(512).as_bytes(), HEAD);
        assert_eq!(parse(&bytes, HEAD).unwrap().1, Request::Read(transfer(512)));
        let bytes = message(op::WRITE, transfer(512).as_bytes(), HEAD + 512);
        assert_eq!(parse(&bytes, HEAD + 512).unwrap().1, Request::Write(transfer(512)));
    }

    #[test]
    fn a_write_is_as_long_as_it_says() {
        for (size, total) in [(512, 511), (512, 513), (0, 1), (u32::MAX, 100), (LONGEST + 1, 0)] {
            let total = if total == 0 { size as usize } else { total } + HEAD;
            let bytes = message(op::WRITE, transfer(size).as_bytes(), total);
            let refused = Malformed { unique: Some(77), opcode: op::WRITE, len: total };
            assert_eq!(parse(&bytes, total), Err(refused), "{size} {total}");
        }
    }

    #[test]
    fn no_read_is_longer_than_agreed() {
        let bytes = message(op::READ, transfer(LONGEST).as_bytes(), HEAD);
        assert!(parse(&bytes, HEAD).is_ok());
        let bytes = message(op::READ, transfer(LONGEST + 1).as_bytes(), HEAD);
        assert!(parse(&bytes, HEAD).is_err());
    }

    #[test]
    fn short_messages_are_refused() {
        let needs = [
            (op::INIT, 16),
            (op::SETATTR, 88),
            (op::OPEN, 8),
            (op::READ, 40),
            (op::FLUSH, 24),
            (op::FALLOCATE, 32),
            (op::LSEEK, 24),
        ];
        for (opcode, need) in needs {
            for len in 0..need {
                let bytes = message(opcode, &vec![0; len], 40 + len);
                assert!(parse(&bytes, 40 + len).is_err(), "{opcode} with {len}");
            }
            let bytes = message(opcode, &vec![0; need], 40 + need);
            assert!(parse(&bytes, 40 + need).is_ok(), "{opcode}");
        }
        for len in 0..40 {
            let bytes = &message(op::GETATTR, &[], 40)[..len];
            let refused = Malformed { unique: None, opcode: 0, len };
            assert_eq!(parse(bytes, len), Err(refused));
        }
    }

    #[test]
    fn the_header_tells_the_length() {
        for told in [0, 39, 41, u32::MAX as usize] {
            let bytes = message(op::GETATTR, &[], told);
            assert_eq!(parse(&bytes, 40).unwrap_err().unique, Some(77));
        }
    }

    #[test]
    fn a_short_init_has_no_upper_flags() {
        let bytes = message(op::INIT, &[7; 16], 56);
        let Request::Init(init) = parse(&bytes, 56).unwrap().1 else { panic!("no INIT") };
        assert_eq!((init.major, init.flags2), (0x0707_0707, 0));
    }

    #[test]
    fn unknown_operations_are_named() {
        let bytes = message(4711, &[1, 2, 3], 43);
        assert_eq!(parse(&bytes, 43).unwrap().1, Request::Other(4711));
    }
}
