//! Virtual time and seeded random bytes.

use super::rng::Rng;
use super::world::SimWorld;
use crate::{Clock, Entropy};
use std::sync::{Mutex, PoisonError};

/// The clock of a [`SimWorld`]: moves only when the world does.
#[derive(Clone, Debug)]
pub struct SimClock {
    world: SimWorld,
}

impl SimClock {
    pub(super) fn new(world: SimWorld) -> Self {
        Self { world }
    }
}

impl Clock for SimClock {
    fn now(&self) -> u64 {
        self.world.now()
    }

    fn wall(&self) -> u64 {
        let world = self.world.lock();
        world.options.wall + world.now / 1_000_000_000
    }
}

/// Random bytes from a seed.
#[derive(Debug)]
pub struct SimEntropy {
    rng: Mutex<Rng>,
}

impl SimEntropy {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Mutex::new(Rng::new(seed)) }
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, buf: &mut [u8]) {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill(buf);
    }
}
