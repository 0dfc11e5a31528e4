//! The world: files, names, locks, time and everything in flight, behind one mutex.

use super::fault::{Attempt, Hook, Rates, Verdict};
use super::flight::{Flight, OldOp};
use super::inode::{Effect, Inode};
use super::locks::Locks;
use super::names::{Names, Node, normal};
use super::ring::Ring;
use super::rng::Rng;
use super::survivors::Watch;
use super::{SimClock, SimDir, SimEntropy, SimIo, dead, errno};
use crate::{Caps, OpKind, Words};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a world behaves.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// A ring operation takes effect, and is reported, after at least this many nanoseconds each.
    pub delay_min: u64,
    /// And at most this many.
    pub delay_max: u64,
    /// One of so many operations takes a thousand times as long; 0 = none does. Only with
    /// `reorder`.
    pub straggler: u64,
    /// Operations may overtake each other.
    pub reorder: bool,
    /// Words of a memory that survives a kill, at most; 0 = none can be made.
    pub record_words: usize,
    /// What fails by itself.
    pub rates: Rates,
    /// Bytes of space on the host; `None` = no limit.
    pub capacity: Option<u64>,
    /// What the file system can do; `direct` tells whether `O_DIRECT` works.
    pub caps: Caps,
    /// Fills the buffer of a read with garbage when it is submitted.
    pub poison_reads: bool,
    /// Seconds since 1970 at virtual time 0.
    pub wall: u64,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            delay_min: 1_000,
            delay_max: 200_000,
            straggler: 0,
            reorder: true,
            record_words: usize::MAX,
            rates: Rates::default(),
            capacity: None,
            caps: Caps {
                direct: true,
                mem_align: 512,
                offset_align: 512,
                block: 4096,
                punch: true,
                zero_range: true,
                reserve: true,
            },
            poison_reads: true,
            wall: 1_790_000_000,
        }
    }
}

/// An open file description.
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub(super) ino: u64,
    pub(super) path: PathBuf,
    pub(super) write: bool,
    pub(super) direct: bool,
    /// The alignment it was opened with.
    pub(super) told: u32,
    pub(super) closed: bool,
}

pub(super) struct World {
    pub(super) options: SimOptions,
    pub(super) rng: Rng,
    pub(super) now: u64,
    /// Counts events; orders reports and starts of syncs.
    pub(super) tick: u64,
    /// Counts changes.
    pub(super) seq: u64,
    pub(super) operations: u64,
    pub(super) limit: Option<u64>,
    pub(super) dead: bool,
    /// Counts processes: handles of a former life are dead.
    pub(super) life: u64,
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) locks: Locks,
    pub(super) open: BTreeMap<i32, Description>,
    pub(super) next_file: i32,
    pub(super) next_ino: u64,
    pub(super) rings: BTreeMap<u64, Ring>,
    pub(super) next_ring: u64,
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) next_flight: u64,
    /// When something happens: time, a random number, the flight.
    pub(super) events: BTreeSet<(u64, u64, u64)>,
    pub(super) old_life: Vec<OldOp>,
    pub(super) hook: Option<Hook>,
    pub(super) watch: Option<Watch>,
    /// The operation that landed last, for reports.
    pub(super) last: OpKind,
    pub(super) violations: Vec<String>,
    pub(super) trace: u64,
    /// Lost in a crash, kept by a kill (F2).
    pub(super) records: BTreeMap<String, Words>,
    /// Names the host's present life.
    pub(super) boot: u64,
}

/// A simulated host. Clones are handles on the same world.
#[derive(Clone)]
pub struct SimWorld {
    inner: Arc<Mutex<World>>,
}

impl std::fmt::Debug for SimWorld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let world = self.lock();
        write!(f, "SimWorld(time {}, operations {})", world.now, world.operations)
    }
}

impl SimWorld {
    /// An empty host: only the directory `/`.
    #[must_use]
    pub fn new(seed: u64, options: SimOptions) -> Self {
        Self::from_world(World {
            options,
            rng: Rng::new(seed),
            now: 0,
            tick: 0,
            seq: 0,
            operations: 0,
            limit: None,
            dead: false,
            life: 0,
            names: Names::new(),
            inodes: BTreeMap::new(),
            locks: Locks::default(),
            open: BTreeMap::new(),
            next_file: 3,
            next_ino: 2,
            rings: BTreeMap::new(),
            next_ring: 0,
            flights: BTreeMap::new(),
            next_flight: 0,
            events: BTreeSet::new(),
            old_life: Vec::new(),
            hook: None,
            watch: None,
            last: OpKind::Read,
            violations: Vec::new(),
            trace: 0,
            records: BTreeMap::new(),
            boot: seed | 1,
        })
    }

    pub(super) fn from_world(world: World) -> Self {
        Self { inner: Arc::new(Mutex::new(world)) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a directory and its parents, durable at once.
    pub fn mkdir(&self, path: &Path) {
        let mut world = self.lock();
        for dir in normal(path).ancestors() {
            world.names.live.insert(dir.to_path_buf(), Node::Dir);
            world.names.base.insert(dir.to_path_buf(), Node::Dir);
        }
    }

    /// A ring for one queue; the seed orders its operations.
    #[must_use]
    pub fn io(&self, seed: u64) -> SimIo {
        let mut world = self.lock();
        let ring = world.next_ring;
        world.next_ring += 1;
        let state = Ring::new(seed);
        let woken = state.woken();
        world.rings.insert(ring, state);
        SimIo::new(self.clone(), ring, world.life, woken)
    }

    /// The directories of this world.
    #[must_use]
    pub fn dir(&self) -> SimDir {
        SimDir::new(self.clone(), self.lock().life)
    }

    /// The virtual clock.
    #[must_use]
    pub fn clock(&self) -> SimClock {
        SimClock::new(self.clone())
    }

    /// Random bytes from a seed.
    #[must_use]
    pub fn entropy(&self, seed: u64) -> SimEntropy {
        SimEntropy::new(seed)
    }

    /// Virtual time in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.lock().now
    }

    /// When the next thing happens to an operation in flight; `None` when nothing will.
    #[must_use]
    pub fn next_event(&self) -> Option<u64> {
        let world = self.lock();
        if world.dead { None } else { world.events.first().map(|e| e.0) }
    }

    /// Lets time pass, with everything that happens until then.
    pub fn advance_to(&self, time: u64) {
        self.lock().advance_to(time);
    }

    /// Lets the next event happen; `false` when there is none.
    pub fn advance(&self) -> bool {
        let mut world = self.lock();
        match world.events.first() {
            Some(&(time, _, _)) if !world.dead => {
                world.now = world.now.max(time);
                world.run_one();
                true
            }
            _ => false,
        }
    }

    /// Lets everything in flight happen, held operations excepted.
    pub fn settle(&self) {
        while self.advance() {}
    }

    /// Operations so far: each is a point where a crash makes a difference.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The operation that makes [`SimWorld::operations`] reach `count` is the last one: everything
    /// later fails with [`super::DEAD`] and nothing in flight moves any more. For a driver that
    /// then calls [`SimWorld::crash`]. `None` takes it back.
    pub fn crash_after(&self, count: Option<u64>) {
        let mut world = self.lock();
        world.limit = count;
        world.dead = count.is_some_and(|count| world.operations >= count);
    }

    /// Whether the point of [`SimWorld::crash_after`] was reached.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Sets the caller's own rule for faults and delays.
    pub fn set_hook(&self, hook: Option<Hook>) {
        self.lock().hook = hook;
    }

    /// From now on direct I/O takes transfers of this alignment only.
    pub fn set_offset_align(&self, bytes: u32) {
        self.lock().options.caps.offset_align = bytes;
    }

    /// Changes the rates of faults from now on.
    pub fn set_rates(&self, rates: Rates) {
        self.lock().options.rates = rates;
    }

    /// Changes the host's space from now on.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.lock().options.capacity = capacity;
    }

    /// Bytes of space in use by all files.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.lock().allocated()
    }

    /// Lets operations go that a hook holds, newest first when `reverse`. Returns how many.
    pub fn release_held(&self, reverse: bool) -> usize {
        self.lock().release_held(reverse)
    }

    /// Operations that a hook holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lock().flights.values().filter(|f| f.held).count()
    }

    /// Operations submitted and not yet reported.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lock().flights.len()
    }

    /// Misuse seen so far: files closed under an operation, rings dropped with work in flight.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// A hash of the whole history: equal for equal seeds.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.lock().trace
    }

    /// The process dies, the host lives on: all handles are dead, what completed stays, what was
    /// in flight waits for [`SimWorld::deliver_old_life`]. Locks of descriptions with something in
    /// flight stay until it has landed or was dropped (F7).
    ///
    /// Call it while the buffers of the operations in flight still exist.
    pub fn kill(&self) {
        self.lock().kill();
    }

    /// A sync has failed, and its process has not heard of it yet. When it dies now nobody ever
    /// will: what the page cache holds is not what is on the disk, and no call tells (F5).
    #[must_use]
    pub fn unheard(&self) -> bool {
        self.lock().rings.values().any(|ring| ring.unheard)
    }

    /// Operations of former processes that have not landed yet.
    #[must_use]
    pub fn old_life(&self) -> usize {
        self.lock().old_life.len()
    }

    /// Lets up to `count` operations of former processes land, in a random order. Returns how many
    /// did.
    pub fn deliver_old_life(&self, count: usize) -> usize {
        self.lock().deliver_old_life(count)
    }

    /// The rest of the former processes' operations never lands.
    pub fn drop_old_life(&self) {
        self.lock().drop_old_life();
    }

    /// The live content of a file, for tests and models.
    ///
    /// # Errors
    /// No such file.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let world = self.lock();
        let inode = world.file(path)?;
        let mut bytes = vec![0; inode.live.len as usize];
        inode.live.read(0, &mut bytes);
        Ok(bytes)
    }

    /// A hash of the live content of a file.
    ///
    /// # Errors
    /// No such file.
    pub fn hash_file(&self, path: &Path) -> io::Result<u64> {
        self.lock().file(path).map(|inode| inode.live.hash())
    }

    /// Gives a file another length, durable at once: for setting a scene.
    ///
    /// # Errors
    /// No such file.
    pub fn cut_file(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut world = self.lock();
        let Some(Node::File(ino)) = world.names.live.get(&normal(path)).copied() else {
            return Err(errno(libc::ENOENT));
        };
        if let Some(inode) = world.inodes.get_mut(&ino) {
            inode.live.set_len(len);
            inode.base.set_len(len);
        }
        Ok(())
    }

    /// What the newest operation was.
    #[must_use]
    pub fn last_kind(&self) -> OpKind {
        self.lock().last
    }

    /// Makes a file with this content, durable at once: for setting a scene.
    pub fn put_file(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.lock();
        let path = normal(path);
        let ino = world.new_inode();
        let mut inode = Inode::default();
        inode.live.write(0, bytes);
        inode.live.set_len(bytes.len() as u64);
        inode.base = inode.live.clone();
        world.inodes.insert(ino, inode);
        world.names.live.insert(path.clone(), Node::File(ino));
        world.names.base.insert(path, Node::File(ino));
    }
}

impl World {
    pub(super) fn file(&self, path: &Path) -> io::Result<&Inode> {
        match self.names.live.get(&normal(path)) {
            Some(Node::File(ino)) => self.inodes.get(ino).ok_or_else(|| errno(libc::ENOENT)),
            Some(Node::Dir) => Err(errno(libc::EISDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }

    pub(super) fn new_inode(&mut self) -> u64 {
        self.next_ino += 1;
        self.next_ino
    }

    pub(super) fn allocated(&self) -> u64 {
        self.inodes.values().map(|inode| inode.live.allocated()).sum()
    }

    /// Mixes a word into the hash of the history.
    pub(super) fn note(&mut self, word: u64) {
        let mixed = (self.trace ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.trace = mixed ^ (mixed >> 29);
    }

    /// An operation has ended its effect: counts it, and stops the world when it was the last.
    pub(super) fn boundary(&mut self) {
        self.operations += 1;
        if let Some(mut watch) = self.watch.take() {
            watch.look(self);
            self.watch = Some(watch);
        }
        if self.limit == Some(self.operations) {
            self.dead = true;
        }
    }

    /// What the hook, or else the rates, want to happen.
    pub(super) fn judge(&mut self, attempt: &Attempt) -> Verdict {
        let verdict = self.hook.as_mut().map_or(Verdict::Normal, |hook| hook(attempt));
        match verdict {
            Verdict::Normal => self.draw(attempt),
            other => other,
        }
    }

    fn draw(&mut self, attempt: &Attempt) -> Verdict {
        let unit = u64::from(self.options.caps.offset_align.max(512));
        self.options.rates.draw(&mut self.rng, attempt, unit)
    }

    /// A copy of an image shares its blocks: from now on direct I/O takes whole pages only.
    pub(super) fn maybe_realign(&mut self) {
        let rate = u64::from(self.options.rates.realign);
        if rate > 0 && self.rng.chance(rate, 65536) {
            self.options.caps.offset_align = self.options.caps.offset_align.max(4096);
        }
    }

    /// Starts a blocking operation: is the process alive, and does the operation fail? A failing
    /// one is counted here.
    pub(super) fn start_blocking(&mut self, life: u64, attempt: &Attempt) -> io::Result<Verdict> {
        self.last = attempt.kind;
        if self.dead || life != self.life {
            return Err(dead());
        }
        self.note(attempt.offset ^ attempt.len.rotate_left(32) ^ attempt.kind as u64);
        match self.judge(attempt) {
            Verdict::Die => {
                self.dead = true;
                Err(dead())
            }
            verdict => Ok(verdict),
        }
    }

    /// Records a change of a file and shows it to readers.
    pub(super) fn change(&mut self, ino: u64, done: Option<u64>, effect: Effect) -> u64 {
        self.seq += 1;
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.change(self.seq, done, effect);
        }
        self.seq
    }

    /// Whether `blocks` more blocks fit the host.
    fn fits(&self, blocks: u64) -> bool {
        let more = blocks * super::content::BLOCK;
        self.options
            .capacity
            .is_none_or(|capacity| blocks == 0 || self.allocated() + more <= capacity)
    }

    /// Does a write. Returns the changes it made.
    pub(super) fn write(
        &mut self,
        ino: u64,
        at: u64,
        data: &[u8],
        done: Option<u64>,
    ) -> Result<Vec<u64>, i32> {
        let Some(inode) = self.inodes.get(&ino) else { return Err(libc::EBADF) };
        if data.is_empty() {
            return Ok(Vec::new());
        }
        let from = inode.live.len;
        let missing = inode.live.missing(at, data.len() as u64);
        if !self.fits(missing) {
            return Err(libc::ENOSPC);
        }
        let mut seqs = vec![self.change(ino, done, Effect::Write { at, data: data.into() })];
        let to = at + data.len() as u64;
        if to > from {
            seqs.push(self.change(ino, done, Effect::Extend { from, to }));
        }
        Ok(seqs)
    }

    /// Reserves space; stops in the middle when the host is full.
    pub(super) fn reserve(
        &mut self,
        ino: u64,
        at: u64,
        len: u64,
        done: Option<u64>,
    ) -> Result<Vec<u64>, i32> {
        let Some(inode) = self.inodes.get(&ino) else { return Err(libc::EBADF) };
        let mut fitting = len;
        while !self.fits(inode.live.missing(at, fitting)) {
            fitting /= 2;
        }
        let seqs = match fitting {
            0 => Vec::new(),
            len => vec![self.change(ino, done, Effect::Reserve { at, len })],
        };
        if fitting < len { Err(libc::ENOSPC) } else { Ok(seqs) }
    }

    /// Does what an operation without guest data does.
    pub(super) fn act(
        &mut self,
        ino: u64,
        kind: OpKind,
        at: u64,
        len: u64,
        done: Option<u64>,
    ) -> Result<Vec<u64>, i32> {
        match kind {
            OpKind::Punch => {
                Ok(vec![self.change(ino, done, Effect::Zero { at, len, keep: false })])
            }
            OpKind::ZeroRange => self.zero_range(ino, at, len, done),
            OpKind::Reserve => self.reserve(ino, at, len, done),
            OpKind::Truncate => Ok(vec![self.change(ino, done, Effect::Len(at))]),
            OpKind::Read | OpKind::Write | OpKind::WriteDsync | OpKind::Datasync | OpKind::Sync => {
                Ok(Vec::new())
            }
        }
    }

    fn zero_range(
        &mut self,
        ino: u64,
        at: u64,
        len: u64,
        done: Option<u64>,
    ) -> Result<Vec<u64>, i32> {
        let missing = self.inodes.get(&ino).map_or(0, |inode| inode.live.missing(at, len));
        if !self.fits(missing) {
            return Err(libc::ENOSPC);
        }
        Ok(vec![self.change(ino, done, Effect::Zero { at, len, keep: true })])
    }

    /// A part of a failed write reaches the file all the same.
    pub(super) fn write_torn(
        &mut self,
        ino: u64,
        at: u64,
        data: &[u8],
        done: Option<u64>,
    ) -> Vec<u64> {
        let sectors = data.len() as u64 / super::SECTOR;
        let keep = (self.rng.below(sectors + 1) * super::SECTOR) as usize;
        let written = if self.rng.chance(1, 2) {
            self.write(ino, at, &data[..keep], done)
        } else {
            self.write(ino, at + keep as u64, &data[keep..], done)
        };
        written.unwrap_or_default()
    }
}
