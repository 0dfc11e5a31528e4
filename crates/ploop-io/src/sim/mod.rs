//! A disk, a directory, a clock and random bytes that live in memory and obey a seed.
//!
//! The simulated disk can do everything the fault model allows a real one to do:
//!
//! - a ring operation takes effect at one moment and is reported at a later one, in any order;
//! - a host crash ([`SimWorld::crash`]) keeps any subset of what no completed sync covered, torn at
//!   512 bytes, with length, data and names independent of each other;
//! - a failed sync guarantees nothing and no later sync heals it;
//! - any operation may fail or be short ([`Rates`], [`SimWorld::set_hook`]);
//! - the process may be killed while the host lives on ([`SimWorld::kill`]); what it had in flight
//!   lands later or never ([`SimWorld::deliver_old_life`]).
//!
//! Nothing here looks at the real time, at addresses or at hash order: one seed is one history.
//!
//! | part | what |
//! |---|---|
//! | `world` | everything that belongs to one host, and its crash and kill |
//! | `file` | an open file |
//! | `inode` | a file: length, content and changes that no sync has covered |
//! | `content` | the bytes of a file |
//! | `dir` | names as a program sees them |
//! | `names` | directories, and changes of names that no sync has covered |
//! | `ring` | the simulated ring |
//! | `flight` | a ring operation from submit to report, also when its process dies |
//! | `fault` | which operation fails, is short or is slow |
//! | `survivors` | which changes survive a crash of the host |
//! | `locks` | open-file-description locks |
//! | `records` | records of the simulated host |
//! | `clock` | virtual time and seeded random bytes |
//! | `rng` | a small seeded generator |

mod clock;
mod content;
mod dir;
mod fault;
mod file;
mod flight;
mod inode;
mod locks;
mod names;
mod records;
mod ring;
mod rng;
mod survivors;
mod world;

pub use clock::{SimClock, SimEntropy};
pub use dir::SimDir;
pub use fault::{Attempt, Hook, Rates, Verdict};
pub use file::SimFile;
pub use records::SimRecords;
pub use ring::{IoProbe, SimIo};
pub use rng::Rng;
pub use survivors::{Crashed, Predicate, SurvivorPlan, Unsynced, UnsyncedKind};
pub use world::{SimOptions, SimWorld};

/// What every call answers once the simulated process is dead: after [`SimWorld::kill`], or after
/// the operation named by [`SimWorld::crash_after`].
pub const DEAD: i32 = libc::EOWNERDEAD;

/// The unit in which a write can be torn.
const SECTOR: u64 = 512;

fn dead() -> std::io::Error {
    std::io::Error::from_raw_os_error(DEAD)
}

fn errno(code: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(code)
}
