//! Body of the fuzz target: guest memory full of any bytes, no panic, and nothing outside of it.

use crate::memory::{Memory, Piece};
use crate::parts::{Next, Open};
use ploop_engine::arena::Arena;
use ploop_engine::{Limits, Operation};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::cell::RefCell;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{Bytes, GuestAddress};

/// Two regions with a hole between them: guest address and bytes.
const REGIONS: [(u64, u64); 2] = [(0, 0x8000), (0x1_0000, 0x4000)];
/// Descriptors of the ring, whose table is at 0.
const SIZE: u16 = 64;

/// A guest, made once.
struct Guest {
    memory: Memory,
    arena: Arena,
    open: Open,
}

impl Guest {
    fn new() -> Option<Self> {
        let mut regions = Vec::new();
        let mut files = Vec::new();
        for (guest, len) in REGIONS {
            let fd = memfd_create("guest", MemfdFlags::CLOEXEC).ok()?;
            ftruncate(&fd, len).ok()?;
            regions.push(VhostUserMemoryRegion::new(guest, len, guest, 0));
            files.push(fd.into());
        }
        let memory = Memory::of(&regions, files).ok()?;
        let arena = Arena::new(1 << 20, 512).ok()?;
        Some(Self { memory, arena, open: Open::default() })
    }

    fn is_inside(&self, piece: &Piece) -> bool {
        REGIONS.iter().any(|(guest, len)| {
            let mut whole = Vec::new();
            let found = self.memory.pieces(*guest, *len as u32, &mut whole);
            let start = whole.first().map_or(0, |whole| whole.ptr.as_ptr().addr());
            let at = piece.ptr.as_ptr().addr();
            found && at >= start && at + piece.len <= start + *len as usize
        })
    }

    fn serve(&mut self, head: u16) {
        let limits = Limits {
            size: 1 << 20,
            block: 512,
            physical_block: 4096,
            cluster: 1 << 20,
            buffer_align: 512,
            max_transfer: 64 << 10,
            max_zero: 1 << 30,
            read_only: false,
        };
        let mut open = std::mem::take(&mut self.open);
        let read = open.parsed.read(&self.memory, 0, SIZE, head);
        assert!(open.parsed.status.iter().all(|status| self.is_inside(status)));
        assert!(open.parsed.data.iter().all(|piece| self.is_inside(piece)) || read.is_err());
        if read.is_ok() && open.begin(&limits).is_ok() {
            let mut bytes = 0;
            while !open.is_given() {
                let Next::Part(part, request) = open.next(0, &limits, &mut self.arena) else {
                    unreachable!("one part at a time always fits")
                };
                assert!(request.buffer.len() <= limits.max_transfer as usize);
                bytes += request.buffer.len() as u64;
                open.came_back(part, Ok(0), &mut self.arena);
            }
            let moves = matches!(open.parsed.operation, Some(Operation::Read | Operation::Write));
            assert!(!moves || bytes == open.parsed.len());
            assert!(open.is_done() && self.arena.used() == 0);
        }
        self.open = open;
    }
}

/// A guest whose memory begins with these bytes; the first one is the head that it offers.
pub fn fuzz_chain(data: &[u8]) {
    thread_local!(static GUEST: RefCell<Option<Guest>> = RefCell::new(Guest::new()));
    GUEST.with_borrow_mut(|guest| {
        let (Some(guest), Some((head, bytes))) = (guest, data.split_first()) else { return };
        let len = bytes.len().min(0x8000);
        if guest.memory.map().write_slice(&bytes[..len], GuestAddress(0)).is_ok() {
            guest.serve(u16::from(*head));
        }
    });
}
