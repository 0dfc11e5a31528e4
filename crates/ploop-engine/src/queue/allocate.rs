//! A hole is written without waiting for the keeper: the data goes to a clean cluster that the
//! keeper has handed out ahead, while the keeper maps it. The request ends when both are done, so
//! nothing is acknowledged before it is mapped and on record (F2, F4).
//!
//! The piece is registered from before its lookup until its write has ended: when another request
//! was first, the cluster goes through the quarantine and is cleaned after the write (I11, I18).

use super::Queue;
use super::slots::Stage;
use crate::front::{Errno, Outcome, is_no_space};
use crate::grace::Ticket;
use crate::limits::LOST_PAUSE;
use crate::message::{Answer, ToKeeper};
use ploop_format::{FileCluster, GuestCluster};
use ploop_io::Io;
use ploop_io::planted::{Bug, on};

/// Clusters that this queue is allocating so.
pub(super) struct Allocating {
    clusters: Vec<GuestCluster>,
    /// Another queue was first lately: so many allocations go by the keeper alone.
    pause: u32,
}

impl Allocating {
    pub fn new(pieces: usize) -> Self {
        Self { clusters: Vec::with_capacity(pieces), pause: 0 }
    }

    /// No piece of this queue does so for the cluster, and other queues do not get in the way.
    fn may_begin(&mut self, cluster: GuestCluster) -> bool {
        self.pause = self.pause.saturating_sub(1);
        self.pause == 0 && !self.clusters.contains(&cluster)
    }

    fn end(&mut self, cluster: GuestCluster) {
        if let Some(n) = self.clusters.iter().position(|c| *c == cluster) {
            self.clusters.swap_remove(n);
        }
    }
}

impl<I: Io> Queue<I> {
    /// A clean cluster for a piece that may write at once.
    pub(super) fn clean_at_hand(&mut self, index: u32) -> Option<FileCluster> {
        let piece = self.slots.pieces[index as usize];
        // FUA wants its page too: that is the keeper's work anyway.
        // The blocks of an odd one may be another's too, as soon as the cluster is mapped (F19).
        if piece.dsync || piece.odd || !self.allocating.may_begin(piece.cluster) {
            return None;
        }
        let of = self.shared.pieces.of(piece.cluster);
        self.shared.stock(self.lane, of).pop().map(FileCluster)
    }

    /// Writes to a cluster at hand and asks the keeper to map it.
    pub(super) fn write_and_map(&mut self, index: u32, to: FileCluster, ticket: Ticket) {
        let piece = &mut self.slots.pieces[index as usize];
        (piece.ticket, piece.answer, piece.failed) = (Some(ticket), None, None);
        let cluster = piece.cluster;
        self.allocating.clusters.push(cluster);
        let start = self.shared.chain.cluster.file_start(to);
        self.write_part(index, start, Stage::Allocating);
        self.shared.keeper.send(ToKeeper::AllocateAt(self.caller(index), cluster, to));
        if on(Bug::AllocateUnregistered) {
            self.release(index);
        }
    }

    /// The write has ended.
    pub(super) fn allocating_written(
        &mut self,
        index: u32,
        result: Result<(), Errno>,
    ) -> Option<Outcome> {
        self.release(index);
        let piece = &mut self.slots.pieces[index as usize];
        piece.failed = result.err();
        match piece.answer {
            Some(answer) => self.allocated(index, answer),
            None => {
                piece.stage = Stage::AwaitMap;
                None
            }
        }
    }

    /// The keeper has answered; the write may still be under way.
    pub(super) fn allocating_answered(&mut self, index: u32, answer: Answer) -> Option<Outcome> {
        let piece = &mut self.slots.pieces[index as usize];
        if piece.stage == Stage::AwaitMap {
            return self.allocated(index, answer);
        }
        piece.answer = Some(answer);
        None
    }

    fn allocated(&mut self, index: u32, answer: Answer) -> Option<Outcome> {
        let piece = self.slots.pieces[index as usize];
        self.allocating.end(piece.cluster);
        match answer {
            Answer::Failed(errno) => Some(Err(errno)),
            Answer::Retry => {
                self.allocating.pause = LOST_PAUSE;
                self.begin_again(index)
            }
            _ => match piece.failed {
                Some(errno) if is_no_space(errno) => self.park(index, errno),
                Some(Errno::INVAL) => self.misfit(index),
                Some(errno) => Some(Err(errno)),
                None => self.settle(index),
            },
        }
    }
}
