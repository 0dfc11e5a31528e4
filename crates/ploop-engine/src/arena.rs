//! A front end's memory for payloads on one queue: one mapping, cut by halves (a buddy allocator).
//!
//! Pages are taken from the system when first touched and kept; a daemon that locks its memory
//! has all of them from the start, so that no payload waits for memory (D7). Nothing here grows:
//! when the arena is full its owner reads no more requests until blocks come back.

use crate::front::Buffer;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

/// Smallest block.
const UNIT: usize = 4096;

/// A piece of an [`Arena`]. Must go back by [`Arena::free`]; it is no pointer by itself.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a block must be given back to its arena"]
pub struct Block {
    unit: u32,
    order: u8,
}

/// Free blocks of one size: one bit per place.
struct Order {
    bits: Vec<u64>,
    free: u32,
    /// No free block in a word before this one.
    hint: usize,
}

impl Order {
    fn take_any(&mut self) -> Option<usize> {
        if self.free == 0 {
            return None;
        }
        let word = (self.hint..self.bits.len()).find(|w| self.bits[*w] != 0)?;
        let bit = self.bits[word].trailing_zeros() as usize;
        self.hint = word;
        self.bits[word] &= !(1 << bit);
        self.free -= 1;
        Some(word * 64 + bit)
    }

    fn take(&mut self, place: usize) -> bool {
        let (word, bit) = (place / 64, 1u64 << (place % 64));
        let there = self.bits[word] & bit != 0;
        if there {
            self.bits[word] &= !bit;
            self.free -= 1;
        }
        there
    }

    fn put(&mut self, place: usize) {
        self.bits[place / 64] |= 1 << (place % 64);
        self.hint = self.hint.min(place / 64);
        self.free += 1;
    }
}

/// The memory of one queue's payloads.
pub struct Arena {
    map: NonNull<c_void>,
    mapped: usize,
    base: NonNull<u8>,
    len: usize,
    orders: Vec<Order>,
    used: usize,
}

// SAFETY: the arena owns its mapping; the pointers are to that mapping only and nothing about
// them belongs to a thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Maps `len` bytes (a power of two of at least 4 KiB) whose blocks are aligned to `align`.
    ///
    /// # Errors
    /// No room in the address space.
    pub fn new(len: usize, align: usize) -> io::Result<Self> {
        let len = len.next_power_of_two().max(UNIT);
        let align = align.next_power_of_two().max(UNIT);
        let mapped = len + align;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let map = unsafe {
            mmap_anonymous(std::ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        let map = NonNull::new(map).ok_or(io::ErrorKind::OutOfMemory)?;
        let skip = map.cast::<u8>().align_offset(align).min(align);
        // SAFETY: `skip <= align`, and the mapping is `align` bytes longer than `len`.
        let base = unsafe { map.cast::<u8>().add(skip) };
        let top = (len / UNIT).ilog2() as usize;
        let order = |n: usize| {
            let places = (len / UNIT) >> n;
            Order { bits: vec![0; places.div_ceil(64)], free: 0, hint: 0 }
        };
        let mut orders: Vec<Order> = (0..=top).map(order).collect();
        orders[top].put(0);
        Ok(Self { map, mapped, base, len, orders, used: 0 })
    }

    /// Bytes of all blocks.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.len
    }

    /// Bytes of blocks that are out.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// The size of the block that `len` bytes get.
    #[must_use]
    pub fn rounded(len: usize) -> usize {
        UNIT << order_of(len)
    }

    /// A block of at least `len` bytes, unless none is free.
    pub fn alloc(&mut self, len: usize) -> Option<Block> {
        let order = order_of(len);
        let from = (order..self.orders.len()).find(|n| self.orders[*n].free > 0)?;
        let mut place = self.orders[from].take_any()?;
        for n in (order..from).rev() {
            place *= 2;
            self.orders[n].put(place + 1);
        }
        self.used += UNIT << order;
        Some(Block { unit: (place << order) as u32, order: order as u8 })
    }

    /// Takes a block back.
    pub fn free(&mut self, block: Block) {
        let mut order = usize::from(block.order);
        let mut place = block.unit as usize >> order;
        self.used -= UNIT << order;
        while order + 1 < self.orders.len() && self.orders[order].take(place ^ 1) {
            place /= 2;
            order += 1;
        }
        self.orders[order].put(place);
    }

    /// Keeps the first `len` bytes of a block and takes the rest back.
    pub fn shrink(&mut self, block: Block, len: usize) -> Block {
        let order = order_of(len) as u8;
        let mut kept = block;
        while kept.order > order {
            kept.order -= 1;
            let half = Block { unit: kept.unit + (1 << kept.order), order: kept.order };
            self.free(half);
        }
        kept
    }

    /// Bytes of a block.
    #[must_use]
    pub fn size(&self, block: &Block) -> usize {
        UNIT << block.order
    }

    /// Writes to every page, so that the system has given them all before they are needed. No
    /// block may be out.
    pub fn touch(&mut self) {
        if let Some(whole) = self.alloc(self.len) {
            self.bytes_mut(&whole, 0, self.len).fill(0);
            self.free(whole);
        }
    }

    fn range(&self, block: &Block, from: usize, to: usize) -> (*mut u8, usize) {
        let len = UNIT << block.order;
        let to = to.min(len);
        let from = from.min(to);
        // SAFETY: blocks lie inside the arena by construction, and `from <= to <= len` of it.
        let start = unsafe { self.base.as_ptr().add(block.unit as usize * UNIT + from) };
        (start, to.saturating_sub(from))
    }

    /// Bytes `from..to` of a block that no request is using.
    #[must_use]
    pub fn bytes(&self, block: &Block, from: usize, to: usize) -> &[u8] {
        let (start, len) = self.range(block, from, to);
        // SAFETY: inside the mapping, which is readable from the start (zeros); the caller owns
        // the block and no request that could write it is in flight.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Bytes `from..to` of a block that no request is using, to be filled.
    pub fn bytes_mut(&mut self, block: &Block, from: usize, to: usize) -> &mut [u8] {
        let (start, len) = self.range(block, from, to);
        // SAFETY: as in `bytes`; `&mut self` keeps other slices of the arena away.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// All bytes of two blocks that no request is using, to be filled.
    pub fn pair_mut(&mut self, first: &Block, second: &Block) -> (&mut [u8], &mut [u8]) {
        let ((a, first), (b, second)) =
            (self.range(first, 0, usize::MAX), self.range(second, 0, usize::MAX));
        // SAFETY: as in `bytes_mut`; there are no two values of one block, so these are disjoint.
        unsafe {
            (std::slice::from_raw_parts_mut(a, first), std::slice::from_raw_parts_mut(b, second))
        }
    }

    /// The same bytes for a request. The block must not be freed before the request completed, and
    /// the arena must be leaked rather than dropped while one is in flight.
    #[must_use]
    pub fn buffer(&self, block: &Block, from: usize, to: usize) -> Buffer {
        let (start, len) = self.range(block, from, to);
        // SAFETY: the block is kept in the in-flight table until `complete`, and the arena is
        // leaked rather than unmapped while anything is in flight (its owner's `drop`).
        unsafe { Buffer::new(start, len) }
    }
}

/// The power of two of units that `len` bytes need.
fn order_of(len: usize) -> usize {
    len.max(1).div_ceil(UNIT).next_power_of_two().ilog2() as usize
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no slice of it outlives the arena.
        let result = unsafe { munmap(self.map.as_ptr(), self.mapped) };
        debug_assert!(result.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_do_not_overlap() {
        let mut arena = Arena::new(1 << 20, 16384).unwrap();
        let mut taken = Vec::new();
        for (n, len) in [1, 4096, 4097, 65536, 10_000, 512, 131_072].into_iter().enumerate() {
            let block = arena.alloc(len).unwrap();
            assert!(arena.buffer(&block, 0, len).ptr().addr().is_multiple_of(4096));
            arena.bytes_mut(&block, 0, len).fill(n as u8 + 1);
            taken.push((block, len, n as u8 + 1));
        }
        for (block, len, mark) in &taken {
            assert!(arena.bytes(block, 0, *len).iter().all(|b| b == mark));
        }
        for (block, ..) in taken {
            arena.free(block);
        }
        assert_eq!(arena.used(), 0);
        let whole = arena.alloc(1 << 20).unwrap();
        assert!(arena.alloc(1).is_none());
        arena.free(whole);
    }

    #[test]
    fn the_base_keeps_a_large_alignment() {
        let mut arena = Arena::new(1 << 20, 1 << 16).unwrap();
        let block = arena.alloc(1 << 16).unwrap();
        assert!(arena.buffer(&block, 0, 1).ptr().addr().is_multiple_of(1 << 16));
        arena.free(block);
    }

    #[test]
    fn random_use_always_merges_back() {
        let mut arena = Arena::new(1 << 22, 4096).unwrap();
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize
        };
        let mut taken = Vec::new();
        for _ in 0..20_000 {
            if next() % 2 == 0 {
                taken.extend(arena.alloc(1 << (next() % 20)));
            } else if !taken.is_empty() {
                let n = next() % taken.len();
                arena.free(taken.swap_remove(n));
            }
            let sum: usize = taken.iter().map(|b| UNIT << b.order).sum();
            assert_eq!(arena.used(), sum);
        }
        taken.into_iter().for_each(|b| arena.free(b));
        assert!(arena.alloc(1 << 22).is_some());
    }

    #[test]
    fn a_shrunk_block_gives_the_rest_back() {
        let mut arena = Arena::new(1 << 20, 4096).unwrap();
        let block = arena.alloc(1 << 20).unwrap();
        arena.bytes_mut(&block, 0, 4096).fill(9);
        let block = arena.shrink(block, 5000);
        assert_eq!((arena.size(&block), arena.used()), (8192, 8192));
        let other = arena.alloc(1 << 19).unwrap();
        arena.bytes_mut(&other, 0, 1 << 19).fill(1);
        assert!(arena.bytes(&block, 0, 4096).iter().all(|b| *b == 9));
        let (a, b) = arena.pair_mut(&block, &other);
        assert_eq!((a.len(), b.len()), (8192, 1 << 19));
        arena.free(block);
        arena.free(other);
        arena.touch();
        let whole = arena.alloc(1 << 20).unwrap();
        assert!(arena.bytes(&whole, 0, 1 << 20).iter().all(|b| *b == 0));
        arena.free(whole);
    }

    #[test]
    fn too_long_is_refused() {
        let mut arena = Arena::new(1 << 20, 1).unwrap();
        assert_eq!(arena.alloc((1 << 20) + 1), None);
        assert_eq!(arena.capacity(), 1 << 20);
    }
}
