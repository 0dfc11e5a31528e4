//! Records of the simulated host: a kill leaves them, a crash of the host does not.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::world::SimWorld;
use super::{dead, errno};
use crate::{Records, Words};

/// The records of a world, for one process of it.
#[derive(Clone, Debug)]
pub struct SimRecords {
    world: SimWorld,
    life: u64,
}

impl SimWorld {
    /// The memory that survives a kill.
    #[must_use]
    pub fn records(&self) -> SimRecords {
        SimRecords { world: self.clone(), life: self.lock().life }
    }
}

impl Records for SimRecords {
    fn open(&self, name: &str) -> io::Result<Option<Words>> {
        let world = self.world.lock();
        if world.life != self.life || world.dead {
            return Err(dead());
        }
        Ok(world.records.get(name).cloned())
    }

    fn create(&self, name: &str, words: usize) -> io::Result<Words> {
        let mut world = self.world.lock();
        if world.life != self.life || world.dead {
            return Err(dead());
        }
        let words = words.min(world.options.record_words);
        if words == 0 {
            return Err(errno(libc::EROFS));
        }
        let memory: Arc<[AtomicU64]> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let words = Words::new(memory);
        world.records.insert(name.to_owned(), words.clone());
        Ok(words)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        if world.life != self.life || world.dead {
            return Err(dead());
        }
        world.records.remove(name);
        Ok(())
    }

    fn boot(&self) -> io::Result<u128> {
        Ok(u128::from(self.world.lock().boot))
    }

    fn session(&self) -> u64 {
        let world = self.world.lock();
        world.operations ^ (world.life << 48)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SimOptions, SimWorld, SurvivorPlan};
    use crate::Records;
    use std::sync::atomic::Ordering::SeqCst;

    #[test]
    fn a_kill_keeps_them_and_a_crash_does_not() {
        let world = SimWorld::new(1, SimOptions::default());
        let records = world.records();
        records.create("x", 3).unwrap()[2].store(9, SeqCst);
        world.kill();
        assert!(records.open("x").is_err(), "the dead process");
        let later = world.records();
        assert_eq!(later.open("x").unwrap().unwrap()[2].load(SeqCst), 9);
        let crashed = world.crash(&SurvivorPlan::All).world;
        assert!(crashed.records().open("x").unwrap().is_none());
        assert_ne!(crashed.records().boot().unwrap(), later.boot().unwrap());
    }
}
