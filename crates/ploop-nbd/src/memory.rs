//! The memory of one queue's payloads: a part that all clients share, and a small part of each
//! client's own.
//!
//! A client is given shared memory only while it holds no more than its fair share and leaves at
//! least as much for the others as it holds. Nobody else can use a client's own part, so each
//! client goes on whatever the others hold: long requests are then done piece by piece.

use ploop_engine::Buffer;
use ploop_engine::arena::{Arena, Block};
use std::io;

/// Memory of each client's own, in bytes.
pub(crate) const OWN: usize = 128 << 10;
/// The shortest piece of a longer request.
const PIECE: usize = 16 << 10;
/// The smallest fair share is this part of the shared memory.
const SHARES: usize = 16;

/// A piece of a queue's memory. Goes back by [`Memory::free`].
#[derive(Debug)]
#[must_use = "a lease must be given back"]
pub(crate) struct Lease {
    block: Block,
    slot: u16,
    own: bool,
}

/// All memory of a queue.
pub(crate) struct Memory {
    shared: Arena,
    align: usize,
    /// By the client's slot. A request of a former client may still hold some of it.
    own: Vec<Arena>,
    /// Bytes of the shared part, by the client's slot.
    held: Vec<usize>,
    clients: usize,
    /// Something was given back since this was looked at last.
    pub(crate) freed: bool,
    /// Somebody within his fair share was refused.
    pub(crate) short: bool,
}

impl Memory {
    /// Maps the shared part.
    ///
    /// # Errors
    /// No room in the address space.
    pub(crate) fn new(shared: usize, align: usize) -> io::Result<Self> {
        let shared = Arena::new(shared, align)?;
        let (own, held) = (Vec::new(), Vec::new());
        Ok(Self { shared, align, own, held, clients: 0, freed: false, short: false })
    }

    /// Makes sure that the client of a slot has its own part.
    ///
    /// # Errors
    /// No room in the address space.
    pub(crate) fn enter(&mut self, slot: u16) -> io::Result<()> {
        while self.own.len() <= usize::from(slot) {
            self.own.push(Arena::new(OWN, self.align)?);
            self.held.push(0);
        }
        self.clients += 1;
        Ok(())
    }

    /// A client is gone.
    pub(crate) fn leave(&mut self) {
        self.clients = self.clients.saturating_sub(1);
        self.freed = true;
    }

    /// Memory for all `len` bytes.
    pub(crate) fn whole(&mut self, slot: u16, len: usize) -> Option<Lease> {
        self.of_shared(slot, len).or_else(|| self.of_own(slot, len))
    }

    /// Memory for the first of `len` bytes, and for how many: all of them while the client holds
    /// shared memory, which comes back when it takes its replies.
    pub(crate) fn piece(&mut self, slot: u16, len: usize) -> Option<(Lease, usize)> {
        if self.holds(slot) {
            return self.whole(slot, len).map(|lease| (lease, len));
        }
        let mut want = len;
        while want > OWN {
            if let Some(lease) = self.of_shared(slot, want) {
                return Some((lease, want));
            }
            want = want.next_power_of_two() / 2;
        }
        loop {
            if let Some(lease) = self.whole(slot, want) {
                return Some((lease, want));
            }
            if want <= PIECE {
                return None;
            }
            want = (want.next_power_of_two() / 2).max(PIECE);
        }
    }

    fn of_shared(&mut self, slot: u16, len: usize) -> Option<Lease> {
        let size = Arena::rounded(len);
        let held = self.held[usize::from(slot)] + size;
        if held > self.shared.capacity() / self.clients.clamp(2, SHARES) {
            return None;
        }
        let left = self.shared.capacity() - self.shared.used();
        let block = if held + size <= left { self.shared.alloc(len) } else { None };
        let Some(block) = block else {
            self.short = true;
            return None;
        };
        self.held[usize::from(slot)] = held;
        Some(Lease { block, slot, own: false })
    }

    fn of_own(&mut self, slot: u16, len: usize) -> Option<Lease> {
        let block = self.own[usize::from(slot)].alloc(len)?;
        Some(Lease { block, slot, own: true })
    }

    /// Takes memory back.
    pub(crate) fn free(&mut self, lease: Lease) {
        let slot = usize::from(lease.slot);
        if lease.own {
            self.own[slot].free(lease.block);
        } else {
            self.held[slot] -= self.shared.size(&lease.block);
            self.shared.free(lease.block);
        }
        self.freed = true;
    }

    /// Whether the client of a slot holds memory that others could have.
    pub(crate) fn holds(&self, slot: u16) -> bool {
        self.held.get(usize::from(slot)).is_some_and(|held| *held > 0)
    }

    fn arena(&self, lease: &Lease) -> &Arena {
        if lease.own { &self.own[usize::from(lease.slot)] } else { &self.shared }
    }

    /// Bytes `from..to` of a lease that no request is using.
    pub(crate) fn bytes(&self, lease: &Lease, from: usize, to: usize) -> &[u8] {
        self.arena(lease).bytes(&lease.block, from, to)
    }

    /// Bytes `from..to` of a lease that no request is using, to be filled.
    pub(crate) fn bytes_mut(&mut self, lease: &Lease, from: usize, to: usize) -> &mut [u8] {
        let own = lease.own;
        let arena = if own { &mut self.own[usize::from(lease.slot)] } else { &mut self.shared };
        arena.bytes_mut(&lease.block, from, to)
    }

    /// The same bytes for a request; as [`Arena::buffer`].
    pub(crate) fn buffer(&self, lease: &Lease, from: usize, to: usize) -> Buffer {
        self.arena(lease).buffer(&lease.block, from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 64 << 20;

    fn memory(clients: u16) -> Memory {
        let mut memory = Memory::new(ALL, 4096).unwrap();
        (0..clients).for_each(|slot| memory.enter(slot).unwrap());
        memory
    }

    #[test]
    fn what_one_client_holds_leaves_a_fair_share_for_each_other() {
        let mut memory = memory(9);
        let mut leases = Vec::new();
        for slot in 0..8 {
            while let Some(lease) = memory.of_shared(slot, 1 << 20) {
                leases.push(lease);
            }
        }
        assert_eq!(leases.len(), 56, "7 of 64 MiB for each of nine");
        assert_eq!(memory.piece(8, 4 << 20).unwrap().1, 4 << 20);
    }

    #[test]
    fn the_own_part_is_there_when_everything_else_is_held() {
        let mut memory = memory(300);
        let mut leases = Vec::new();
        for slot in 0..299 {
            while let Some((lease, _)) = memory.piece(slot, 32 << 20) {
                leases.push(lease);
            }
        }
        assert!(memory.short);
        let (long, len) = memory.piece(299, 32 << 20).unwrap();
        assert!(len >= PIECE, "{len}");
        memory.free(long);
        let small: Vec<_> = (0..32).map(|_| memory.whole(299, 4096).unwrap()).collect();
        small.into_iter().chain(leases).for_each(|lease| memory.free(lease));
        assert!((0..300).all(|slot| !memory.holds(slot)));
        assert_eq!(memory.shared.used(), 0);
        assert!(memory.own.iter().all(|own| own.used() == 0));
    }

    #[test]
    fn a_lone_client_has_half_of_it() {
        let mut memory = memory(1);
        let lease = memory.whole(0, 32 << 20).unwrap();
        assert!(!lease.own);
        assert!(memory.of_shared(0, 4096).is_none());
        assert!(!memory.short, "it is its own share that is used up");
        memory.free(lease);
    }
}
