//! A front end without a protocol: requests go in from a list, answers come out as events.

use ploop_engine::{FrontEnd, Intake, Outcome, Request, Stride};
use std::collections::VecDeque;

/// What happened at a front end, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The queue took a request.
    Received(u64),
    /// The queue answered.
    Answered(u64, Outcome),
}

/// The front end of one simulated queue.
#[derive(Debug, Default)]
pub struct SimFront {
    waiting: VecDeque<Request>,
    inside: usize,
    events: Vec<Event>,
    /// Tags answered that were not inside: a request answered twice.
    strange: Vec<u64>,
    tags: Vec<u64>,
    stopping: bool,
}

impl SimFront {
    /// Gives it a request to hand in at its next poll.
    pub fn give(&mut self, request: Request) {
        self.waiting.push_back(request);
    }

    /// Requests not handed in yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What happened since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Answers nobody asked for.
    #[must_use]
    pub fn strange(&self) -> &[u64] {
        &self.strange
    }
}

impl FrontEnd for SimFront {
    fn poll(&mut self, intake: &mut dyn Intake) {
        self.stopping |= intake.stopping();
        while intake.room() > 0 {
            let Some(request) = self.waiting.pop_front() else { break };
            self.events.push(Event::Received(request.tag));
            self.tags.push(request.tag);
            self.inside += 1;
            intake.push(request);
        }
    }

    fn ready(&mut self, _key: u32, _events: i32) {}

    fn complete(&mut self, tag: u64, outcome: Outcome) {
        match self.tags.iter().position(|t| *t == tag) {
            Some(at) => {
                self.tags.swap_remove(at);
                self.inside -= 1;
                self.events.push(Event::Answered(tag, outcome));
            }
            None => self.strange.push(tag),
        }
    }

    /// Small, so that the queue stops half way and goes on in another turn.
    fn stride(&self) -> Stride {
        Stride { completions: 3, requests: 4, give_way: false }
    }

    fn finished(&self) -> bool {
        self.stopping && self.waiting.is_empty() && self.inside == 0
    }
}
