//! The simulated ring: an [`Io`] whose completions come in virtual time.

use super::dead;
use super::rng::Rng;
use super::world::SimWorld;
use crate::{Completion, Interest, Io, Op, Wake, Waker};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the world knows of a ring.
pub(super) struct Ring {
    pub(super) rng: Rng,
    pub(super) ready: Vec<Completion>,
    /// One of them is a sync that failed.
    pub(super) unheard: bool,
    /// When the last operation takes effect, for rings that keep the order.
    pub(super) last: u64,
    woken: Arc<AtomicBool>,
    watches: BTreeMap<u64, i32>,
}

impl Ring {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            ready: Vec::new(),
            unheard: false,
            last: 0,
            woken: Arc::new(AtomicBool::new(false)),
            watches: BTreeMap::new(),
        }
    }

    pub(super) fn woken(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.woken)
    }
}

/// A ring in a [`SimWorld`].
///
/// `wait` never sleeps: it moves the virtual time to the next event. Time also moves when a driver
/// says so ([`SimWorld::advance`]); it never moves by itself.
pub struct SimIo {
    world: SimWorld,
    ring: u64,
    life: u64,
    pushed: Vec<Op>,
    woken: Arc<AtomicBool>,
}

/// Tells a scheduler whether a ring has something for its thread.
#[derive(Clone)]
pub struct IoProbe {
    world: SimWorld,
    ring: u64,
    woken: Arc<AtomicBool>,
}

struct SimWake(Arc<AtomicBool>);

impl Wake for SimWake {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl IoProbe {
    /// A completion is there, or somebody woke the thread.
    #[must_use]
    pub fn runnable(&self) -> bool {
        self.woken.load(Ordering::SeqCst) || self.ready() > 0
    }

    /// Completions that can be reaped.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.world.lock().rings.get(&self.ring).map_or(0, |ring| ring.ready.len())
    }

    /// Takes the wake back, as a `wait` that returned because of it does.
    pub fn clear_wake(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }

    /// The descriptor `fd` is ready: every watch on it completes. Returns how many.
    pub fn fire(&self, fd: i32, events: i32) -> usize {
        let mut world = self.world.lock();
        let Some(ring) = world.rings.get_mut(&self.ring) else { return 0 };
        let tokens: Vec<u64> =
            ring.watches.iter().filter(|(_, w)| **w == fd).map(|(token, _)| *token).collect();
        for token in &tokens {
            ring.watches.remove(token);
            ring.ready.push(Completion { token: *token, result: events });
        }
        tokens.len()
    }
}

impl SimIo {
    pub(super) fn new(world: SimWorld, ring: u64, life: u64, woken: Arc<AtomicBool>) -> Self {
        Self { world, ring, life, pushed: Vec::new(), woken }
    }

    /// The scheduler's view of this ring; get it before the ring goes to its queue.
    #[must_use]
    pub fn probe(&self) -> IoProbe {
        IoProbe { world: self.world.clone(), ring: self.ring, woken: Arc::clone(&self.woken) }
    }

    fn has_ready(&self) -> bool {
        self.world.lock().rings.get(&self.ring).is_some_and(|ring| !ring.ready.is_empty())
    }
}

impl Io for SimIo {
    unsafe fn push(&mut self, op: Op) {
        self.pushed.push(op);
    }

    fn submit(&mut self) -> io::Result<()> {
        let mut world = self.world.lock();
        if world.dead || world.life != self.life {
            return Err(dead());
        }
        for op in self.pushed.drain(..) {
            world.launch(self.ring, op);
        }
        Ok(())
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        let mut world = self.world.lock();
        if world.dead || world.life != self.life {
            return;
        }
        if let Some(ring) = world.rings.get_mut(&self.ring) {
            out.append(&mut ring.ready);
            ring.unheard = false;
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, idle: &dyn Fn() -> bool) -> io::Result<()> {
        self.submit()?;
        let deadline = timeout.map(|timeout| {
            let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            self.world.now().saturating_add(nanos)
        });
        loop {
            if self.woken.swap(false, Ordering::SeqCst) || self.has_ready() || !idle() {
                return Ok(());
            }
            match (self.world.next_event(), deadline) {
                (Some(next), Some(deadline)) if next > deadline => {
                    self.world.advance_to(deadline);
                    return Ok(());
                }
                (Some(_), _) => {
                    self.world.advance();
                }
                (None, Some(deadline)) => {
                    self.world.advance_to(deadline);
                    return if self.world.is_dead() { Err(dead()) } else { Ok(()) };
                }
                (None, None) => return if self.world.is_dead() { Err(dead()) } else { Ok(()) },
            }
        }
    }

    fn waker(&self) -> Waker {
        Arc::new(SimWake(Arc::clone(&self.woken)))
    }

    fn watch(&mut self, fd: i32, _interest: Interest, token: u64) {
        if let Some(ring) = self.world.lock().rings.get_mut(&self.ring) {
            ring.watches.insert(token, fd);
        }
    }

    fn unwatch(&mut self, token: u64) {
        if let Some(ring) = self.world.lock().rings.get_mut(&self.ring) {
            ring.watches.remove(&token);
        }
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        if world.life != self.life {
            return;
        }
        let mut left = 0;
        for flight in world.flights.values_mut().filter(|f| f.ring == self.ring) {
            flight.owned = false;
            left += 1;
        }
        world.rings.remove(&self.ring);
        if left > 0 && !world.dead {
            world.violations.push(format!("a ring was dropped with {left} operations in flight"));
        }
    }
}
