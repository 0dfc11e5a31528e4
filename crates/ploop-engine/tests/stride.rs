//! A queue goes no further at a time than its front end says, and forgets nothing in between.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Geometry, make_image, spec};
use ploop_engine::*;
use ploop_io::{AlignedBuf, Null};

const READS: usize = 32;

/// Hands all reads in at once and notes how many answers came between two polls.
struct Burst {
    buffers: Vec<AlignedBuf>,
    given: usize,
    taken: Vec<usize>,
    answers: Vec<usize>,
}

impl FrontEnd for Burst {
    fn poll(&mut self, intake: &mut dyn Intake) {
        let before = self.given;
        while self.given < READS && intake.room() > 0 {
            let memory = &mut self.buffers[self.given];
            // SAFETY: the buffer lives as long as this front end, which outlives the queue's work.
            let buffer = unsafe { Buffer::new(memory.as_mut_ptr(), memory.len()) };
            intake.push(Request {
                tag: self.given as u64,
                operation: Operation::Read,
                flags: Flags::default(),
                offset: 4096 * self.given as u64,
                len: 4096,
                buffer,
            });
            self.given += 1;
        }
        self.taken.push(self.given - before);
        self.answers.push(0);
    }

    fn ready(&mut self, _key: u32, _events: i32) {}

    fn complete(&mut self, _tag: u64, outcome: Outcome) {
        assert_eq!(outcome, Ok(0));
        *self.answers.last_mut().unwrap() += 1;
    }

    fn stride(&self) -> Stride {
        Stride { completions: 4, requests: 16, give_way: true }
    }

    fn finished(&self) -> bool {
        true
    }
}

#[test]
fn completions_and_requests_go_in_strides() {
    let dir = tempfile::tempdir().unwrap();
    let geometry = Geometry::new(128, 4 << 20);
    let path = dir.path().join("top.hds");
    make_image(&path, geometry, &[(0, vec![1; 64 << 10]), (1, vec![2; 64 << 10])]);
    let options = DeviceOptions { queues: 1, depth: READS, ..DeviceOptions::default() };
    let device = Device::new(spec(geometry, &[path], false), options).unwrap();
    let mut keeper = device.keeper(Null::that_reads().unwrap()).unwrap();
    let mut queue = device.queue(0, Null::new().unwrap());
    let mut burst = Burst {
        buffers: (0..READS).map(|_| AlignedBuf::new(4096).unwrap()).collect(),
        given: 0,
        taken: Vec::new(),
        answers: vec![0],
    };
    let mut ways = 0;
    for now in 0..64 {
        let turn = queue.step(&mut burst, now);
        ways += u32::from(turn.give_way);
        assert!(!turn.give_way || turn.busy, "there is more to do");
        let _ = keeper.step(now);
    }
    assert!(burst.answers.iter().all(|answers| *answers <= 16), "{:?}", burst.answers);
    assert!(burst.answers.contains(&4), "a batch begins with four: {:?}", burst.answers);
    assert!(burst.taken.iter().all(|taken| *taken <= 16), "{:?}", burst.taken);
    assert_eq!(burst.answers.iter().sum::<usize>(), READS);
    assert!(ways >= 2, "completions waited {ways} times");
}
