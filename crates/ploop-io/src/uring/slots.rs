//! What is on the ring, by name: a slab whose keys are never used twice.

use crate::{Command, Interest, Op};

/// The `user_data` of a submission: generation and index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    pub(super) fn from_u64(data: u64) -> Self {
        Self { index: data as u32, generation: (data >> 32) as u32 }
    }
}

/// One submission.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// An operation and how often it was tried again.
    Op { op: Op, retries: u16 },
    /// A one-shot poll.
    Watch { fd: i32, interest: Interest, token: u64 },
    /// A driver's command.
    Command(Command),
    /// A poll that was taken back: its completion is swallowed.
    Silenced,
    /// The order to take a poll back.
    Cancel(Key),
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    work: Option<Work>,
}

/// The slab.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Slots {
    #[expect(clippy::cast_possible_truncation, reason = "fewer than 2^32 - 1 slots fit memory")]
    pub(super) fn insert(&mut self, work: Work) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, work: None });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.work = Some(work);
        Key { index, generation: slot.generation }
    }

    pub(super) fn get(&mut self, key: Key) -> Option<&mut Work> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation == key.generation { slot.work.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Work> {
        self.get(key)?;
        let slot = &mut self.slots[key.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        slot.work.take()
    }
}
