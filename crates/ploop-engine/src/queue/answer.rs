//! What follows the keeper's answer, and requests held because the host has no space.

use super::Queue;
use super::slots::{Job, Stage};
use crate::front::{Errno, Outcome, is_no_space, why_no_space};
use crate::message::Answer;
use crate::route::PieceKind;
use crate::spec::OnEnospc;
use ploop_io::Io;

impl<I: Io> Queue<I> {
    /// The keeper answered a piece.
    pub(super) fn answered(&mut self, index: u32, answer: Answer) {
        let stage = self.slots.pieces[index as usize].stage;
        let outcome = match (answer, stage) {
            (_, Stage::Allocating | Stage::AwaitMap) => self.allocating_answered(index, answer),
            (Answer::Retry, _) if self.pausing => {
                let bounce = self.slots.pieces[index as usize].bounce.take();
                self.bounces.give(bounce);
                self.given_back.push_back(index);
                None
            }
            (Answer::Retry, _) => self.begin_again(index),
            (Answer::WriteAt(at), _) => {
                self.write_copy_up(index, at);
                None
            }
            (Answer::Done, Stage::Settling) => Some(Ok(0)),
            (Answer::Done, _) => self.changed(index),
            (Answer::Failed(Errno::INVAL), Stage::Asked | Stage::Changing) => self.misfit(index),
            (Answer::Failed(errno), Stage::Asked | Stage::Changing) if is_no_space(errno) => {
                if self.plainly(index) { self.begin_again(index) } else { self.park(index, errno) }
            }
            (Answer::Failed(errno), _) => Some(Err(errno)),
        };
        if let Some(outcome) = outcome {
            self.end_and_advance(index, outcome);
        }
    }

    /// F17: holds a piece that found no space; it is not registered and holds no claim. At most
    /// half of the queue's depth is held, so that reads, FLUSH and the guest's own trim get in.
    pub(super) fn park(&mut self, index: u32, errno: Errno) -> Option<Outcome> {
        let full = self.parked.len() >= (self.shared.options.depth / 2).max(1);
        let fail = self.shared.options.on_enospc == OnEnospc::Fail;
        // A merge is told at once: whoever began it can wait, give up, or make room.
        let merge = self.slots.pieces[index as usize].job == Job::Data(PieceKind::Merge);
        if self.last_try && !fail && !merge {
            self.shared.queue_stats[self.lane].abandoned.add(1);
        }
        if full || fail || self.last_try || merge {
            // Clients know this one for all three; a block device takes others for a broken disk.
            return Some(Err(Errno::NOSPC));
        }
        if self.parked.is_empty() {
            let retry_ms = self.shared.options.enospc_retry_ms;
            let retry_ns = retry_ms * 1_000_000;
            // Said when it begins: what was held a moment ago and found no space again goes on.
            if self.parked_until == 0 || self.now > self.parked_until + retry_ns {
                tracing::warn!(
                    "no space left for {}, {}: requests are held, tried again every {retry_ms} ms",
                    self.shared.chain.top().file.path().display(),
                    why_no_space(errno),
                );
            }
            // One fixed timer, never pushed back.
            self.parked_until = self.now + retry_ns;
        }
        self.count_held(index);
        self.slots.pieces[index as usize].stage = Stage::Parked;
        self.slots.pieces[index as usize].plain = false;
        self.parked.push_back(index);
        None
    }

    /// Counts a request that is held for the first time, and the episode it begins.
    fn count_held(&mut self, index: u32) {
        let request = self.slots.pieces[index as usize].request;
        let slot = &mut self.slots.requests[request as usize];
        if slot.held {
            return;
        }
        slot.held = true;
        let stats = &self.shared.queue_stats[self.lane];
        stats.held.add(1);
        if self.holding == 0 {
            stats.full_episodes.add(1);
        }
        self.holding += 1;
    }

    /// Tries held pieces again when their timer is over, and once more when the device ends.
    pub(super) fn unpark(&mut self) {
        if self.pausing {
            return;
        }
        let last = self.shared.gives_up();
        let begins = last && !self.last_try;
        self.last_try = last;
        if !begins && (self.parked.is_empty() || self.now < self.parked_until) {
            return;
        }
        for _ in 0..self.parked.len() {
            let Some(index) = self.parked.pop_front() else { break };
            if let Some(outcome) = self.begin_again(index) {
                self.end_and_advance(index, outcome);
            }
        }
    }
}
