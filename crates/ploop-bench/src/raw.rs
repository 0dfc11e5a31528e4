//! The same load on a plain file: operations straight to the ring, no map, no keeper. What the
//! disk's figures are held against.

use crate::cost::{Cost, Instructions};
use crate::generator::{Generator, Kind, Order, Tally};
use crate::load::{Area, Load};
use crate::report::{Measured, Report};
use ploop_daemon::failure::OrFail;
use ploop_daemon::{Code, Failure, Result};
use ploop_io::{
    Clock, Completion, Dir, Engine, EngineChoice, File, FileId, Io, LockRange, Op, OpKind, OpenHow,
    RealClock, RealDir,
};
use std::io;
use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

/// Where images are locked by all who know how (T6).
const LOCKS: LockRange = LockRange { start: 100, len: 300 };
/// A load that ends by time looks at the clock at least this often.
const LOOK: Duration = Duration::from_millis(100);

/// Opens the file, loads it, syncs and closes it.
///
/// # Errors
/// Not a regular file, in use, or the load does not fit.
pub fn run(load: &Load, path: &Path) -> Result<Report> {
    let counter = Instructions::open();
    let file = open(load, path)?;
    let what = || path.display().to_string();
    let size = file.len().or_fail(Code::System, what())?;
    let area = load.area(size, u64::from(file.caps().offset_align))?;
    let before = file.allocated().or_fail(Code::System, what())?;
    let (tally, start, cost, engine) = threads(load, area, file.id(), counter.as_ref())
        .or_fail(Code::System, "the load on the file")?;
    let closing = RealClock.now();
    if load.mode.writes() {
        file.sync().or_fail(Code::Write, what())?;
    }
    let close = RealClock.now() - closing;
    let after = file.allocated().or_fail(Code::System, what())?;
    let syncs = tally.flushes;
    let allocated = (before, after);
    let measured = Measured { tally, start, cost, engine, syncs, close, allocated };
    Ok(Report::new(load, &measured, None))
}

fn open(load: &Load, path: &Path) -> Result<File> {
    let write = load.mode.writes();
    let what = path.display().to_string();
    let stat = RealDir.stat(path).or_fail(Code::System, &what)?;
    if !stat.is_file {
        return Err(Failure::parameter(format!("{what} is not a regular file")));
    }
    let how = OpenHow { write, direct: true, ..OpenHow::default() };
    let file = RealDir.open(path, how).or_fail(Code::System, &what)?;
    let free = if write { file.try_lock(LOCKS, true) } else { file.is_locked(LOCKS).map(|is| !is) };
    if !free.or_fail(Code::System, &what)? {
        return Err(Failure::new(Code::InUse, format!("{what} is in use by another process")));
    }
    Ok(file)
}

type Outcome = (Tally, u64, Cost, &'static str);

/// A thread for each queue, all begun at once.
fn threads(
    load: &Load,
    area: Area,
    file: FileId,
    counter: Option<&Instructions>,
) -> io::Result<Outcome> {
    let ready = Barrier::new(load.queues + 1);
    std::thread::scope(|scope| {
        let one = |n: usize| {
            let ready = &ready;
            scope.spawn(move || queue(load, area, file, n, ready))
        };
        let queues: Vec<_> = (0..load.queues).map(one).collect();
        ready.wait();
        // All are made and wait for the second signal.
        let cost = Cost::now(counter);
        let start = RealClock.now();
        ready.wait();
        let mut all = Tally::default();
        let mut engine = "none";
        for queue in queues {
            let gone = |_| io::Error::other("a thread of the load panicked");
            let (tally, name) = queue.join().map_err(gone)??;
            all.merge(&tally);
            engine = name;
        }
        Ok((all, start, Cost::now(counter).since(cost), engine))
    })
}

fn queue(
    load: &Load,
    area: Area,
    file: FileId,
    n: usize,
    ready: &Barrier,
) -> io::Result<(Tally, &'static str)> {
    let made = Engine::open(EngineChoice::from(load.engine))
        .and_then(|(engine, _)| Ok((Generator::new(load, area, n)?, engine)));
    // Both, or the others would wait for ever for one that failed.
    ready.wait();
    ready.wait();
    // The ring is declared last: it goes first, and waits for what still uses the memory.
    let (mut generator, mut engine) = made?;
    generator.ends_at(RealClock.now().saturating_add(load.nanos));
    let mut completions: Vec<Completion> = Vec::with_capacity(load.depth);
    let (mut next, mut reach) = (0, load.stride());
    loop {
        let now = RealClock.now();
        let rest = &completions[next..];
        let ended = &rest[..rest.len().min(reach)];
        reach = reach.saturating_mul(2);
        for c in ended {
            let kept = c.token >> 32;
            // What was asked for lies in the upper half: a short transfer is a failure here.
            let good = u64::try_from(c.result).is_ok_and(|result| result == kept);
            generator.ended(c.token as u32, good);
        }
        next += ended.len();
        generator.count(now);
        while let Some(order) = generator.order(now) {
            // SAFETY: the generator's memory and the file outlive the loop, which ends when
            // nothing is in flight, or by dropping the ring first.
            unsafe { engine.push(operation(order, file, load.block)) };
        }
        if generator.idle() {
            return Ok((generator.take_tally(), engine.name()));
        }
        if next < completions.len() {
            engine.submit()?;
            continue;
        }
        (next, reach) = (0, load.stride());
        completions.clear();
        engine.wait(Some(LOOK), &|| true)?;
        engine.reap(&mut completions);
    }
}

fn operation(order: Order, file: FileId, block: u64) -> Op {
    let (kind, len) = match order.kind {
        Kind::Read => (OpKind::Read, block),
        Kind::Write => (OpKind::Write, block),
        Kind::Flush => (OpKind::Datasync, 0),
    };
    let token = u64::from(order.place) | len << 32;
    let buf = if len == 0 { std::ptr::null_mut() } else { order.buf };
    Op { token, kind, file, offset: order.offset, len, buf, lent: None }
}
