//! A virtual machine's disk over vhost-user-blk: every request in every shape, broken guests,
//! machines and servers that come and go under load.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use ploop_e2e::World;
use ploop_e2e::checks::{seed, wants_clean, wants_in_use_only};
use ploop_e2e::stamps::Random;
use ploop_e2e::world::Server;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vhost_peer::{
    DISCARD, FLUSH, GET_ID, IN, IOERR, OK, OUT, Options, Peer, UNSUPP, WRITE_ZEROES, Wish,
};

const DISK: u64 = 64 << 20;

fn disk(world: &World) {
    let image = world.disk("a").unwrap();
    world.ploop_ok(&["init", "-s", "64M", "-t", "none", &image]);
}

fn serve(world: &World, more: &[&str]) -> (Server, PathBuf) {
    let socket = world.path("vm");
    let socket_text = world.text("vm");
    let mut args = vec!["a", "--vhost-user", &socket_text];
    args.extend(more);
    (world.serve(&args, 1), socket)
}

fn fill(random: &mut Random, bytes: &mut [u8]) {
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&(random.below(u64::MAX) | 1).to_le_bytes());
    }
}

/// Writes a range in one shape and reads it in all others.
fn shapes(peer: &mut Peer, random: &mut Random) {
    const BYTES: u32 = 96 << 10;
    let shapes = [(1, 0), (2, 0), (3, 0), (24, 0), (1, 7), (6, 512), (12, 4095), (192, 0)];
    let queue = &mut peer.queues[0];
    let mut expected = vec![0; BYTES as usize];
    for (n, (pieces, shift)) in shapes.into_iter().enumerate() {
        let sector = 77 + 8 * n as u64;
        let wish = Wish { pieces, shift, ..Wish::new(OUT, sector, BYTES) };
        fill(random, &mut expected);
        let places = queue.places(&wish);
        for (place, part) in
            places.into_iter().zip(expected.chunks(BYTES as usize / usize::from(pieces)))
        {
            queue.data(0)[place].copy_from_slice(part);
        }
        let done = queue.one(0, &wish).unwrap();
        assert_eq!((done.status, done.written), (OK, 1), "{wish:?}");
        for (pieces, shift) in shapes {
            let wish = Wish { pieces, shift, ..Wish::new(IN, sector, BYTES) };
            queue.data(1).fill(0xee);
            let done = queue.one(1, &wish).unwrap();
            assert_eq!((done.status, done.written), (OK, BYTES + 1), "{wish:?}");
            let places = queue.places(&wish);
            let found: Vec<u8> =
                places.into_iter().flat_map(|p| queue.data(1)[p].to_vec()).collect();
            assert!(found == expected, "{wish:?} reads something else");
        }
    }
}

fn other_requests(peer: &mut Peer) {
    let queue = &mut peer.queues[0];
    assert_eq!(queue.one(0, &Wish::new(FLUSH, 0, 0)).unwrap().status, OK);
    let done = queue.one(0, &Wish::new(GET_ID, 0, 20)).unwrap();
    assert_eq!((done.status, done.written), (OK, 21));
    assert!(queue.data(0).starts_with(b"ploop"), "{:?}", &queue.data(0)[..20]);
    // Whole clusters and parts of them, kept or given back.
    for (kind, flags) in [(WRITE_ZEROES, 0), (WRITE_ZEROES, 1), (DISCARD, 0)] {
        queue.data(0).fill(5);
        assert_eq!(queue.one(0, &Wish::new(OUT, 4096, 64 << 10)).unwrap().status, OK);
        let wish = Wish { flags, ..Wish::new(kind, 4100, 2 << 20) };
        assert_eq!(queue.one(0, &wish).unwrap().status, OK, "{wish:?}");
        assert_eq!(queue.one(0, &Wish::new(IN, 4096, 64 << 10)).unwrap().status, OK);
        assert!(queue.data(0)[..2048].iter().all(|b| *b == 5), "{wish:?} reached too far");
        let zero = queue.data(0)[2048..4096].iter().all(|b| *b == 0);
        assert!(zero || kind == DISCARD, "{wish:?}");
        // The cluster in the middle is gone in any case.
        queue.data(0).fill(5);
        assert_eq!(queue.one(0, &Wish::new(OUT, 6144, 64 << 10)).unwrap().status, OK);
        assert_eq!(queue.one(0, &wish).unwrap().status, OK, "{wish:?}");
        assert_eq!(queue.one(0, &Wish::new(IN, 6144, 64 << 10)).unwrap().status, OK);
        assert!(queue.data(0)[..64 << 10].iter().all(|b| *b == 0), "{wish:?} left data");
    }
    let odd = [
        (Wish::new(99, 0, 0), UNSUPP),
        (Wish { flags: 1, ..Wish::new(DISCARD, 0, 4096) }, UNSUPP),
        (Wish { flags: 8, ..Wish::new(WRITE_ZEROES, 0, 4096) }, UNSUPP),
        (Wish::new(OUT, DISK / 512, 512), IOERR),
        (Wish::new(IN, u64::MAX, 512), IOERR),
        (Wish::new(IN, u64::MAX / 512, 512), IOERR),
        (Wish::new(WRITE_ZEROES, DISK / 512 - 1, 1024), IOERR),
        (Wish::new(IN, 0, 100), IOERR),
        (Wish::new(OUT, 0, 0), IOERR),
    ];
    for (wish, status) in odd {
        assert_eq!(queue.one(0, &wish).unwrap().status, status, "{wish:?}");
    }
}

#[test]
fn every_request_in_every_shape() {
    let world = World::new("vhost-shapes").unwrap();
    disk(&world);
    let (server, socket) = serve(&world, &["--queues", "2"]);
    let mut random = Random::new(seed());
    for (event_idx, indirect) in [(true, false), (false, false), (true, true)] {
        let options = Options { queues: 2, depth: 4, bytes: 1 << 20, event_idx, indirect };
        let mut peer = Peer::connect(&socket, options).unwrap();
        assert_eq!(peer.sectors().unwrap(), DISK / 512);
        shapes(&mut peer, &mut random);
        other_requests(&mut peer);
        // Its cache can be turned off and on; a stopped ring says where it goes on.
        peer.set_writeback(false).unwrap();
        assert_eq!(peer.config(32, 1).unwrap(), [0]);
        shapes(&mut peer, &mut random);
        let used = peer.queues[0].used();
        assert_eq!(peer.stop(0).unwrap(), u32::from(used));
    }
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

#[test]
fn a_disk_that_only_reads() {
    let world = World::new("vhost-ro").unwrap();
    disk(&world);
    let (server, socket) = serve(&world, &["--ro"]);
    let mut peer = Peer::connect(&socket, Options::default()).unwrap();
    assert_ne!(peer.features & 1 << 5, 0, "VIRTIO_BLK_F_RO");
    let queue = &mut peer.queues[0];
    for (kind, status) in [(IN, OK), (OUT, IOERR), (DISCARD, IOERR), (FLUSH, OK)] {
        assert_eq!(queue.one(0, &Wish::new(kind, 0, 4096)).unwrap().status, status, "{kind}");
    }
    assert_eq!(server.end("-TERM"), 0);
}

/// Chains that cannot be are answered with an error, or not at all; the server lives.
#[test]
fn a_guest_may_write_anything_into_its_rings() {
    let world = World::new("vhost-hostile").unwrap();
    disk(&world);
    let (server, socket) = serve(&world, &[]);
    let mut random = Random::new(seed());
    let options = Options { depth: 16, ..Options::default() };
    for round in 0..60 {
        let mut peer = Peer::connect(&socket, options).unwrap();
        let queue = &mut peer.queues[0];
        match round % 3 {
            0 => {
                // Loops, memory that is none, tables in tables, no room for a status.
                queue.submit_raw(0, &[(0, 16, 1, 0)]);
                queue.submit_raw(1, &[(u64::MAX - 7, 16, 0, 0)]);
                queue.submit_raw(2, &[(0, 4096, 4, 0)]);
                queue.submit_raw(3, &[(0, 17, 4, 0)]);
                queue.submit_raw(4, &[(0, u32::MAX, 2, 0)]);
                queue.submit_raw(5, &[(0, 16, 1, 60000)]);
            }
            1 => queue.scribble(|| random.below(u64::MAX)),
            // Small numbers: more of it is nearly right.
            _ => queue.scribble(|| {
                random.below(1 << 12) | random.below(64) << 48 | random.below(8) << 32
            }),
        }
        queue.kick().unwrap();
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            let _ = queue.reap();
        }
    }
    let mut peer = Peer::connect(&socket, options).unwrap();
    assert_eq!(peer.queues[0].one(0, &Wish::new(IN, 0, 4096)).unwrap().status, OK);
    drop(peer);
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 4096;

/// What a machine knows of its disk.
struct Machine {
    peer: Peer,
    random: Random,
    /// Last answered value of a block.
    known: Vec<u64>,
    /// What is under way, by queue and slot: the block, and the value when it is a write.
    under_way: HashMap<(usize, u16), (u64, Option<u64>)>,
    next: u64,
    answered: u64,
    again: usize,
}

impl Machine {
    fn start(&mut self, queue: usize, slot: u16) {
        let block = loop {
            let block = self.random.below(BLOCKS);
            if self.under_way.values().all(|(busy, _)| *busy != block) {
                break block;
            }
        };
        let write = self.random.below(10) < 7;
        let kind = if write { OUT } else { IN };
        let queue_ref = &mut self.peer.queues[queue];
        if write {
            self.next += 1;
            for word in queue_ref.data(slot)[..BLOCK as usize].chunks_exact_mut(8) {
                word.copy_from_slice(&self.next.to_le_bytes());
            }
        }
        queue_ref.submit(slot, &Wish::new(kind, block * BLOCK / 512, BLOCK as u32));
        self.under_way.insert((queue, slot), (block, write.then_some(self.next)));
    }

    /// Sees to what was answered; `more`: puts something new in its place.
    fn reap(&mut self, more: bool) {
        for n in 0..self.peer.queues.len() {
            while let Some(done) = self.peer.queues[n].reap() {
                let under_way = self.under_way.remove(&(n, done.slot));
                let Some((block, wrote)) = under_way else { panic!("answered twice: {done:?}") };
                assert_eq!(done.status, OK, "block {block}");
                self.answered += 1;
                match wrote {
                    Some(value) => self.known[block as usize] = value,
                    None => {
                        let data = &self.peer.queues[n].data(done.slot)[..BLOCK as usize];
                        let expected = self.known[block as usize].to_le_bytes();
                        let right = data.chunks_exact(8).all(|word| word == expected);
                        assert!(right, "block {block} holds {:?}, not {expected:?}", &data[..8]);
                    }
                }
                if more {
                    self.start(n, done.slot);
                }
            }
            self.peer.queues[n].kick().unwrap();
        }
    }

    fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.reap(true);
            self.peer.queues[0].wait(Duration::from_micros(500)).unwrap();
        }
    }

    fn finish(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.under_way.is_empty() {
            assert!(Instant::now() < end, "never answered: {:?}", self.under_way);
            self.reap(false);
        }
    }
}

/// I14 over vhost-user: the page of requests in flight lets a new server do again what a dead one
/// had taken; the machine sees no error and no answer twice.
#[test]
fn a_machine_does_not_notice_that_its_server_was_killed_20_times() {
    let world = World::new("vhost-kill").unwrap();
    disk(&world);
    let seed = seed();
    let (mut server, socket) = serve(&world, &["--queues", "2"]);
    let options = Options { queues: 2, depth: 32, bytes: BLOCK as usize, ..Options::default() };
    let peer = Peer::connect(&socket, options).unwrap();
    let mut machine = Machine {
        peer,
        random: Random::new(seed),
        known: vec![0; BLOCKS as usize],
        under_way: HashMap::new(),
        next: 0,
        answered: 0,
        again: 0,
    };
    for queue in 0..2 {
        (0..32).for_each(|slot| machine.start(queue, slot));
    }
    // Requests are short: now and then a kill finds none that was taken.
    let mut kills = 0;
    while kills < 20 || (machine.again == 0 && kills < 100) {
        kills += 1;
        let time = 20 + machine.random.below(150);
        machine.run(Duration::from_millis(time));
        assert_eq!(server.end("-KILL"), -1);
        machine.reap(true);
        machine.again += machine.peer.taken().unwrap();
        wants_in_use_only(&world, "a");
        server = serve(&world, &["--queues", "2"]).0;
        machine.peer.reconnect(&socket).unwrap();
    }
    machine.run(Duration::from_millis(100));
    machine.finish();
    for block in 0..BLOCKS {
        let queue = &mut machine.peer.queues[1];
        let done = queue.one(0, &Wish::new(IN, block * BLOCK / 512, BLOCK as u32)).unwrap();
        assert_eq!(done.status, OK);
        let value = machine.known[block as usize];
        assert_eq!(queue.data(0)[..8], value.to_le_bytes(), "block {block}");
    }
    println!(
        "{kills} kills, {} answered, {} taken and done again",
        machine.answered, machine.again
    );
    assert!(machine.again > 0, "no request was under way at a kill");
    drop(machine);
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

/// Machines that vanish with requests under way leave nothing behind.
#[test]
fn machines_come_and_go() {
    let world = World::new("vhost-machines").unwrap();
    disk(&world);
    let (server, socket) = serve(&world, &[]);
    for round in 0..30 {
        let options = Options { depth: 32, bytes: 64 << 10, ..Options::default() };
        let mut peer = Peer::connect(&socket, options).unwrap();
        let queue = &mut peer.queues[0];
        for slot in 0..32 {
            let kind = if slot % 2 == 0 { OUT } else { IN };
            queue.submit(slot, &Wish::new(kind, u64::from(slot) * 128, 64 << 10));
        }
        queue.kick().unwrap();
        if round % 3 == 0 {
            queue.wait(Duration::from_secs(1)).unwrap();
        }
    }
    let mut peer = Peer::connect(&socket, Options::default()).unwrap();
    assert_eq!(peer.queues[0].one(3, &Wish::new(FLUSH, 0, 0)).unwrap().status, OK);
    // The server ends with a machine connected, and cleanly.
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}

#[test]
fn a_machine_hears_that_its_disk_has_grown() {
    let world = World::new("vhost-grow").unwrap();
    disk(&world);
    let (server, socket) = serve(&world, &[]);
    let mut peer = Peer::connect(&socket, Options::default()).unwrap();
    let old = DISK / 512;
    assert_eq!(peer.queues[0].one(0, &Wish::new(IN, old, 4096)).unwrap().status, IOERR);
    assert!(peer.wait_for_config_change(Duration::ZERO).is_err(), "a notice of nothing");
    for (size, sectors) in [("80M", 160 << 10), ("96M", 192 << 10)] {
        world.ploop_ok(&["grow", "-s", size, "a"]);
        peer.wait_for_config_change(Duration::from_secs(30)).unwrap();
        assert_eq!(peer.sectors().unwrap(), sectors);
        let last = Wish::new(OUT, sectors - 8, 4096);
        assert_eq!(peer.queues[0].one(0, &last).unwrap().status, OK);
    }
    // A machine that does not care any more does not hold up the next grow.
    drop(peer);
    world.ploop_ok(&["grow", "-s", "128M", "a"]);
    assert_eq!(server.end("-TERM"), 0);
    wants_clean(&world, "a");
}
