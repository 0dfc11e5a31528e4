//! A pause: a queue ends what is under way and begins nothing new, then another device takes the
//! place of the one it served. Requests wait in the front ends, and a few in here: those that were
//! not cut to their end, those held because the host has no space (F17), and those whose cluster
//! the keeper had not begun to copy.

use super::Queue;
use crate::device::Device;
use crate::front::{Errno, FrontEnd};
use ploop_io::Io;

/// Why [`Queue::run`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The device has stopped.
    Stopped,
    /// The device pauses: nothing is under way.
    Paused,
}

impl<I: Io> Queue<I> {
    /// Serves another device from now on, after [`Ended::Paused`].
    pub fn renew<F: FrontEnd + ?Sized>(&mut self, device: &Device, front: &mut F) {
        debug_assert!(self.is_drained());
        self.shared = device.shared();
        self.shared.queues[self.lane].set_waker(self.io.waker());
        let caps = self.shared.chain.top().file.caps();
        (self.no_punch, self.no_zero_range) = (!caps.punch, !caps.zero_range);
        self.pausing = false;
        front.renewed(self.shared.limits);
    }

    /// There is no other device: every request fails from now on.
    pub fn fail_all(&mut self) {
        (self.dead, self.pausing) = (true, false);
        while let Some(index) = self.parked.pop_front() {
            self.end_and_advance(index, Err(Errno::IO));
        }
        while let Some(index) = self.given_back.pop_front() {
            self.end_and_advance(index, Err(Errno::IO));
        }
        for n in std::mem::take(&mut self.resume) {
            let slot = &mut self.slots.requests[n as usize];
            slot.error = slot.error.or(Some(Errno::IO));
            self.advance(n);
        }
    }

    /// Keeps a request that is not cut to its end for after the pause.
    pub(super) fn hold(&mut self, n: u32) {
        let slot = &self.slots.requests[n as usize];
        let cut = slot.opened && slot.cursor >= slot.request.len;
        if slot.active && !cut && slot.error.is_none() && !self.resume.contains(&n) {
            self.resume.push_back(n);
        }
    }

    /// Begins again what the keeper gave back, in a pause that is over.
    pub(super) fn take_up(&mut self) {
        if self.pausing {
            return;
        }
        while let Some(index) = self.given_back.pop_front() {
            if let Some(outcome) = self.begin_again(index) {
                self.end_and_advance(index, outcome);
            }
        }
    }

    /// Nothing but held pieces is under way.
    pub(super) fn is_drained(&self) -> bool {
        let outstanding = |slot: &super::slots::Slot| u64::from(slot.outstanding);
        let active = self.slots.requests.iter().filter(|slot| slot.active);
        active.map(outstanding).sum::<u64>() == (self.parked.len() + self.given_back.len()) as u64
    }
}
