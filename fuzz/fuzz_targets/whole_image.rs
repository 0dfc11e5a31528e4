//! A header, a BAT, a file length and operations: the image is checked, opened, used, crashed and
//! closed by the real image code and the real engine over the simulated disk.
//!
//! What a writable open takes holds what its BAT says, and keeps every promise to a guest from
//! then on; what it refuses stays as it was, and is still read, or answered with EIO.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ploop_engine::{Flags, Operation};
use ploop_format::{Header, Version};
use ploop_image::check::FindingKind;
use ploop_image::restore_descriptor;
use ploop_io::sim::{Rng, SimOptions, SimWorld, SurvivorPlan};
use ploop_sim::life::{Life, Opening};
use ploop_sim::model::Model;
use ploop_sim::recover;
use ploop_sim::stamp::{self, SECTOR, Value};
use ploop_sim::traffic::{Traffic, Wish};
use std::collections::BTreeMap;
use std::path::Path;

const LONE: &str = "/lone/root.hds";
const IMAGE: &str = "/disk/root.hds";
const DISK: &str = "/disk/DiskDescriptor.xml";
/// Longest file: what lies behind it is cut off.
const LONGEST: usize = 1 << 20;
/// Sectors of an operation at most.
const MOST: u64 = 200;
/// Operations at most.
const OPERATIONS: usize = 40;
/// Bytes of the input for one.
const OPERATION: usize = 5;

/// The image of an input, and what its BAT makes of it.
struct Image {
    bytes: Vec<u8>,
    header: Header,
    /// Guest clusters that the BAT maps, with the value of their sectors.
    mapped: BTreeMap<u64, Value>,
}

impl Image {
    /// The header alone says how long the BAT is; words behind it are not taken.
    fn new(data: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = data.split_first_chunk::<64>()?;
        let header = Header::parse(head).ok()?;
        let (numbers, rest) = rest.split_first_chunk::<6>()?;
        let sectors = u32::from_le_bytes(numbers[..4].try_into().ok()?) as usize;
        let count = usize::from(u16::from_le_bytes([numbers[4], numbers[5]]));
        let (words, ops) = rest.split_at((count * 4).min(rest.len() / 4 * 4));
        let words = &words[..words.len().min(header.entries().min(1 << 20) as usize * 4)];
        let mut bytes = vec![0; (sectors * SECTOR).min(LONGEST)];
        let mut mapped = BTreeMap::new();
        let cluster = u64::from(header.cluster().sectors());
        let entries = words.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let place = |entry: u32| match header.version() {
            Version::V1 => u64::from(entry),
            Version::V2 => u64::from(entry) * cluster,
        };
        let start = header.data_start() / SECTOR as u64;
        let ends = (bytes.len() / SECTOR) as u64;
        // Entries that cannot be right come first: they may lie over those that are.
        for right in [false, true] {
            for (guest, entry) in (0..).zip(entries.clone()).filter(|(_, entry)| *entry != 0) {
                let place = place(entry);
                let sound = place >= start && (place - start).is_multiple_of(cluster);
                if sound == right && place < ends {
                    let value = 1_000_000 + guest;
                    fill(&mut bytes, place, guest * cluster, cluster, value);
                    mapped.insert(guest, value);
                }
            }
        }
        // Last: an entry may have named the BAT.
        for (from, part) in [(0, &head[..]), (64, words)] {
            let end = bytes.len().min(from + part.len());
            if from < end {
                bytes[from..end].copy_from_slice(&part[..end - from]);
            }
        }
        Some((Self { bytes, header, mapped }, ops))
    }

    fn cluster(&self) -> u64 {
        self.header.cluster().sectors().into()
    }

    /// Clusters worth a look: the first, the mapped, the last.
    fn places(&self) -> Vec<u64> {
        let last = self.header.size().0.div_ceil(self.cluster()).saturating_sub(1);
        let mut places: Vec<u64> = (0..4).chain(self.mapped.keys().copied().take(8)).collect();
        places.push(last);
        places.retain(|place| *place <= last);
        places.dedup();
        places
    }

    /// What the guest reads in the beginning; the BAT may map more than the guest has.
    fn content(&self) -> Vec<(u64, Value)> {
        let whole = |(guest, value): (&u64, &Value)| {
            let (first, value) = (guest * self.cluster(), *value);
            (first..first + self.cluster()).map(move |sector| (sector, value))
        };
        let size = self.header.size().0;
        self.mapped.iter().flat_map(whole).filter(|(sector, _)| *sector < size).collect()
    }

    fn range(&self, cluster: u64, from: u64, count: u64) -> (u64, u64) {
        let size = self.header.size().0;
        let first = (cluster * self.cluster() + from % self.cluster()).min(size - 1);
        (first, count.clamp(1, MOST).min(size - first))
    }
}

fn fill(bytes: &mut [u8], place: u64, guest: u64, count: u64, value: Value) {
    for sector in 0..count {
        let at = (place + sector) as usize * SECTOR;
        let Some(out) = bytes.get_mut(at..at + SECTOR) else { return };
        stamp::fill(value, guest + sector, out);
    }
}

/// A disk in use.
struct Session {
    world: SimWorld,
    life: Option<Life>,
    traffic: Traffic,
    model: Model,
    rng: Rng,
    value: Value,
}

fn opening(rng: &mut Rng) -> Opening {
    Opening { queues: 2, depth: 8, metadata_delay_ms: 50, seed: rng.next_u64(), direct: true }
}

fn good<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|what| panic!("{what}"))
}

impl Session {
    fn give(&mut self, wish: Wish) -> u64 {
        let now = self.world.now();
        let lane = self.rng.below(2) as usize;
        let life = self.life.as_mut().expect("it is open between operations");
        self.traffic.give(life, lane, wish, now)
    }

    fn drain(&mut self) {
        let life = self.life.as_mut().expect("it is open between operations");
        good(recover::drain(life, &mut self.traffic, &mut self.model, &mut self.rng));
    }

    /// Reads the first and the last sectors of these clusters; every read is compared.
    fn look(&mut self, image: &Image) {
        for cluster in image.places() {
            for from in [0, image.cluster() - 8] {
                let (first, count) = image.range(cluster, from, 16);
                self.give(Wish::plain(Operation::Read, first, count));
            }
        }
        self.drain();
    }

    fn operate(&mut self, image: &Image, op: &[u8; OPERATION]) {
        let places = image.places();
        let place = places[usize::from(op[1]) % places.len()];
        let (first, count) = image.range(place, u64::from(op[2]) * 3, u64::from(op[3]) + 1);
        let fua = op[4] & 1 != 0;
        let flags = Flags { fua, no_unmap: op[4] & 2 != 0, ..Flags::default() };
        let whole = op[4] & 4 != 0 && image.cluster() <= 2 * MOST;
        let first = if whole { place * image.cluster() } else { first };
        let count = if whole { image.cluster().min(image.header.size().0 - first) } else { count };
        match op[0] % 10 {
            0..3 => {
                self.value += 1;
                self.give(Wish::write(first, count, self.value, fua));
            }
            3 => {
                self.give(Wish::plain(Operation::Read, first, count));
            }
            4 => {
                self.give(Wish { flags, ..Wish::plain(Operation::WriteZeroes, first, count) });
            }
            5 => {
                self.give(Wish { flags, ..Wish::plain(Operation::Discard, first, count) });
            }
            6 => {
                self.give(Wish::flush());
            }
            7 => {
                self.give(Wish::plain(Operation::Extents, first, count));
            }
            8 => {
                self.close();
                self.open();
                self.look(image);
            }
            _ => self.crash(u64::from(op[4]), image),
        }
        // Several in flight now and then.
        if op[4] & 8 == 0 {
            self.drain();
        }
    }

    fn open(&mut self) {
        let opening = opening(&mut self.rng);
        let opened = Life::open(&self.world, Path::new(DISK), opening);
        self.life = Some(opened.unwrap_or_else(|error| panic!("it was open before: {error}")));
    }

    fn close(&mut self) {
        self.drain();
        let life = self.life.take().expect("it is open between operations");
        good(recover::close(life, &mut self.rng));
        self.model.closed();
        good(recover::no_misuse(&self.world));
    }

    /// The host crashes; everything that may have been lost is as the model allows.
    fn crash(&mut self, seed: u64, image: &Image) {
        let next = self.world.crash(&SurvivorPlan::Random(seed)).world;
        self.life = None;
        self.traffic = Traffic::default();
        self.world = next;
        self.model.abandon();
        self.open();
        let mut found = Vec::new();
        let mut anything = Model::anything();
        self.traffic.keep_seen = true;
        for (first, count) in runs(self.model.touched()) {
            self.give(Wish::plain(Operation::Read, first, count));
            let life = self.life.as_mut().expect("just opened");
            good(recover::drain(life, &mut self.traffic, &mut anything, &mut self.rng));
            found.append(&mut self.traffic.seen);
        }
        self.traffic.keep_seen = false;
        assert_eq!(self.traffic.failed, 0, "a read failed after a crash");
        assert_eq!(found.len(), self.model.touched().count(), "every sector was read");
        good(recover::compare(&self.model, &found));
        self.model.restart(&found);
        self.look(image);
    }
}

/// Sectors in ascending order as ranges.
fn runs(sectors: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for sector in sectors {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == sector && *count < 4 * MOST => *count += 1,
            _ => runs.push((sector, 1)),
        }
    }
    runs
}

/// The lone image, read only: what is read is what the BAT says.
fn read_alone(world: &SimWorld, image: &Image, rng: &mut Rng) {
    let Ok(life) = Life::open(world, Path::new(LONE), opening(rng)) else { return };
    let mut model = Model::new();
    model.restart(&image.content());
    let (world, traffic) = (world.clone(), Traffic::default());
    let mut session =
        Session { world, life: Some(life), traffic, model, rng: rng.fork(), value: 0 };
    session.look(image);
    session.close();
}

/// Nothing wrong but what was there from the beginning: words that no entry is, a size that
/// differs from the BAT's.
fn assert_sound(world: &SimWorld) {
    let report = good(recover::look(world, Path::new(DISK)));
    let found = report.images.iter().flat_map(|image| &image.findings).chain(&report.findings);
    let old = [FindingKind::Garbage, FindingKind::Size, FindingKind::Descriptor];
    let mut bad = found.filter(|finding| !old.contains(&finding.kind));
    assert!(bad.next().is_none(), "{report:#?}");
}

fuzz_target!(|data: &[u8]| {
    let Some((image, ops)) = Image::new(data) else { return };
    let mut rng = Rng::new(data.len() as u64);
    let world = SimWorld::new(rng.next_u64(), SimOptions::default());
    for (dir, file) in [("/lone", LONE), ("/disk", IMAGE)] {
        world.mkdir(Path::new(dir));
        world.put_file(Path::new(file), &image.bytes);
    }
    let _ = recover::look(&world, Path::new(LONE));
    read_alone(&world, &image, &mut rng);
    assert!(world.read_file(Path::new(LONE)).unwrap() == image.bytes, "a lone image is read only");

    let (dir, entropy) = (world.dir(), world.entropy(1));
    let made = restore_descriptor(&dir, &entropy, Path::new("/disk"), Path::new(IMAGE), None, None);
    if made.is_err() {
        return;
    }
    let opened = Life::open(&world, Path::new(DISK), opening(&mut rng));
    let Ok(life) = opened else {
        assert!(world.read_file(Path::new(IMAGE)).unwrap() == image.bytes, "refused and changed");
        return;
    };
    let mut model = Model::new();
    model.restart(&image.content());
    let traffic = Traffic::default();
    let mut session = Session { world, life: Some(life), traffic, model, rng, value: 0 };
    session.look(&image);
    for op in ops.as_chunks::<OPERATION>().0.iter().take(OPERATIONS) {
        session.operate(&image, op);
    }
    session.look(&image);
    session.close();
    assert_sound(&session.world);
    session.open();
    session.look(&image);
    session.close();
});
