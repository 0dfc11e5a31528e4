//! Generic netlink, as far as the kernel's NBD client wants it: one request, one answer.
//!
//! ```text
//! message:   length, type, flags, sequence, port | command, version, 0 | attributes
//! attribute: length, type | payload | up to three zeros
//! ```

use rustix::io::Errno;
use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with, sockopt,
};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Bytes of the header of a message, and of generic netlink behind it.
const HEAD: usize = 16;
const GENERIC_HEAD: usize = 4;
/// Types of messages.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flags of a request: it is one, and it wants to be acknowledged.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// An attribute of attributes.
const NESTED: u16 = 1 << 15;
/// The family of families, its one command, and two attributes of it.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// A kernel that is busy with the device answers late.
const PATIENCE: Duration = Duration::from_secs(30);

/// Attributes of a message, in its order.
#[derive(Clone, Default, Debug)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub fn bytes(mut self, kind: u16, payload: &[u8]) -> Self {
        self.0.extend(((4 + payload.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// The payload of the first attribute of a kind.
    fn find(&self, wanted: u16) -> Option<&[u8]> {
        let mut rest = self.0.as_slice();
        while let Some((head, _)) = rest.split_first_chunk::<4>() {
            let [a, b, c, d] = *head;
            let len = usize::from(u16::from_ne_bytes([a, b]));
            let payload = rest.get(4..len)?;
            if u16::from_ne_bytes([c, d]) & !NESTED == wanted {
                return Some(payload);
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        None
    }

    pub fn get_u32(&self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.find(kind)?.try_into().ok()?))
    }

    fn get_u16(&self, kind: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(self.find(kind)?.try_into().ok()?))
    }
}

/// A socket to one family.
pub(crate) struct Family {
    socket: OwnedFd,
    id: u16,
    sequence: u32,
}

impl Family {
    /// Finds a family. `ENOENT`: its module is not loaded.
    pub fn open(name: &str) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(GENERIC))?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        let mut control = Self { socket, id: CONTROL, sequence: 0 };
        let answer = control.call(GET_FAMILY, Attributes::default().text(FAMILY_NAME, name))?;
        control.id = answer.get_u16(FAMILY_ID).ok_or(Errno::PROTO)?;
        Ok(control)
    }

    /// Sends a command and waits for its answer: attributes, if there are some.
    pub fn call(&mut self, command: u8, attributes: Attributes) -> Result<Attributes, Errno> {
        self.sequence += 1;
        let message = message(self.id, command, self.sequence, &attributes);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut answer = Attributes::default();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let (_, got) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            for part in parts(&buffer[..got]) {
                match part {
                    Part { sequence, .. } if sequence != self.sequence => {}
                    Part { kind: ERROR, payload, .. } => {
                        let code = payload.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b));
                        return match code {
                            Some(0) => Ok(answer),
                            Some(code) => Err(Errno::from_raw_os_error(-code)),
                            None => Err(Errno::PROTO),
                        };
                    }
                    Part { kind: DONE, .. } => return Ok(answer),
                    Part { payload, .. } => {
                        let attributes = payload.get(GENERIC_HEAD..).unwrap_or_default();
                        answer = Attributes(attributes.to_vec());
                    }
                }
            }
        }
    }
}

fn message(family: u16, command: u8, sequence: u32, attributes: &Attributes) -> Vec<u8> {
    let len = HEAD + GENERIC_HEAD + attributes.0.len();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend((len as u32).to_ne_bytes());
    bytes.extend(family.to_ne_bytes());
    bytes.extend((REQUEST | ACK).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(&attributes.0);
    bytes
}

/// A message of an answer.
struct Part<'a> {
    kind: u16,
    sequence: u32,
    payload: &'a [u8],
}

fn parts(mut bytes: &[u8]) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    while let Some(head) = bytes.first_chunk::<HEAD>() {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|n| head[at + n]));
        let len = word(0) as usize;
        let Some(payload) = bytes.get(HEAD..len) else { break };
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        parts.push(Part { kind, sequence: word(8), payload });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found() {
        let inner = Attributes::default().u32(1, 7);
        let all = Attributes::default().text(2, "nbd").u64(3, 9).nested(4, &inner).u32(5, 6);
        assert_eq!(all.0.len(), 8 + 12 + 12 + 8);
        assert_eq!(all.get_u32(5), Some(6));
        assert_eq!(all.find(4), Some(&inner.0[..]));
        assert_eq!(all.find(2), Some(&b"nbd\0"[..]));
        assert_eq!(all.get_u32(3), None, "of another size");
        assert_eq!(Attributes(vec![200, 0, 1, 0, 0]).find(1), None, "cut off");
        assert_eq!(Attributes(vec![0, 0, 9, 0]).find(1), None, "no length");
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let bytes = message(33, 2, 5, &Attributes::default().u32(1, 8));
        let parts = parts(&bytes);
        let [Part { kind: 33, sequence: 5, payload }] = parts.as_slice() else { panic!("parts") };
        assert_eq!(payload[..4], [2, 1, 0, 0]);
        assert_eq!(Attributes(payload[4..].to_vec()).get_u32(1), Some(8));
    }

    #[test]
    fn a_family_that_is_not_there_is_an_error() {
        let missing = Family::open("no-such-family-x").err();
        assert!(missing.is_some(), "the kernel has it");
    }
}
