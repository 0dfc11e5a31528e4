//! How long operations on layers run: several copies at a time, at the rate that was asked for.

use ploop_image::layers::{Copier, Move};
use ploop_io::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Copies on several threads: a disk reads and writes at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Together(pub usize);

impl Default for Together {
    fn default() -> Self {
        Self(4)
    }
}

impl Copier for Together {
    fn run(&self, moves: &[Move], to: &File) -> io::Result<Vec<bool>> {
        let next = AtomicUsize::new(0);
        let work = || -> io::Result<Vec<(usize, bool)>> {
            let mut buffer = Move::buffer();
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(one) = moves.get(at) else { return Ok(done) };
                done.push((at, one.run(&**to, &mut buffer)?));
            }
        };
        let threads = self.0.clamp(1, moves.len().max(1));
        let results: Vec<_> = thread::scope(|scope| {
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|_| Err(io::Error::other("panic"))))
                .collect()
        });
        let mut zeros = vec![false; moves.len()];
        for result in results {
            for (at, zero) in result? {
                zeros[at] = zero;
            }
        }
        Ok(zeros)
    }
}

/// Holds a rate, and knows when it will be over.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    began: Instant,
    /// Bytes per second; none: as fast as it goes.
    rate: Option<u64>,
}

impl Pace {
    /// A pace that begins now.
    #[must_use]
    pub fn new(rate: Option<u64>) -> Self {
        Self { began: Instant::now(), rate }
    }

    /// How much too early `done` bytes are done.
    #[must_use]
    pub fn ahead(&self, done: u64) -> Duration {
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else { return Duration::ZERO };
        let due = Duration::from_secs_f64(done as f64 / rate as f64);
        due.saturating_sub(self.began.elapsed())
    }

    /// How long the rest takes when it goes on like this.
    #[must_use]
    pub fn left(&self, done: u64, total: u64) -> Option<Duration> {
        let spent = self.began.elapsed();
        (done > 0 && total >= done).then(|| spent.mul_f64((total - done) as f64 / done as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ploop_io::{Dir, OpenHow, RealDir};

    #[test]
    fn copies_together_give_what_copies_in_turn_give() {
        let home = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let how = OpenHow { write: true, create: true, ..OpenHow::default() };
            RealDir.open(&home.path().join(name), how).unwrap()
        };
        let (from, to) = (open("from"), open("to"));
        let len = 64 << 10;
        let of = |n: u64| {
            if n.is_multiple_of(3) { vec![0; len as usize] } else { vec![n as u8; len as usize] }
        };
        for n in 0..40 {
            from.write_at(&of(n), n * len).unwrap();
        }
        let moves: Vec<_> = (0..40)
            .map(|n| Move {
                from: from.clone(),
                from_at: n * len,
                from_len: len,
                to_at: (39 - n) * len,
                len,
                fresh: true,
                skip_zero: n % 2 == 0,
                thin: true,
            })
            .collect();
        to.set_len(40 * len).unwrap();
        let zeros = Together(3).run(&moves, &to).unwrap();
        for n in 0..40u64 {
            assert_eq!(zeros[n as usize], n % 6 == 0, "{n}");
            let mut found = vec![1; len as usize];
            to.read_at(&mut found, (39 - n) * len).unwrap();
            assert_eq!(found, of(n), "{n}");
        }
    }

    #[test]
    fn a_pace_waits_for_what_is_early() {
        let pace = Pace::new(Some(1 << 20));
        assert!(pace.ahead(10 << 20) > Duration::from_secs(9));
        assert_eq!(pace.ahead(0), Duration::ZERO);
        assert_eq!(Pace::new(None).ahead(u64::MAX), Duration::ZERO);
        assert_eq!(pace.left(0, 5), None);
    }
}
