//! A disk measured: opened, loaded and closed as a server does it.

use crate::cost::{Cost, Instructions};
use crate::front::{Gate, LoadFront};
use crate::generator::{Generator, Tally};
use crate::load::{Area, Load};
use crate::report::{DiskPart, Measured, Report};
use ploop_daemon::failure::OrFail;
use ploop_daemon::runtime::session::MakeFront;
use ploop_daemon::runtime::{ServeSpec, Session, open};
use ploop_daemon::{Code, Failure, Result};
use ploop_engine::{FrontEnd, Limits};
use ploop_io::{AlignedBuf, Clock, RealClock, Waker};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Entries of a BAT page; one read for each loads the map.
const PAGE_ENTRIES: u64 = 1024;

/// Opens the disk, loads it, closes it.
///
/// # Errors
/// The load does not fit; or as opening and closing.
pub fn run(load: &Load, spec: &ServeSpec) -> Result<Report> {
    // Before any thread: it counts those that come.
    let counter = Instructions::open();
    let begun = RealClock.now();
    let disk = open(spec)?;
    let top = disk.paths().pop().unwrap_or_default();
    let before = blocks(&top);
    let gate = Arc::new(Gate::default());
    let (wakers, woken) = channel();
    let (tallies, told) = channel();
    let mut area = None;
    let session = Session::start(disk, spec, |limits, _| {
        let found = load.area(limits.size, u64::from(limits.block))?;
        check_transfer(load, limits)?;
        area = Some(found);
        Ok(fronts(load, found, &gate, &wakers, &tallies))
    })?;
    drop((wakers, tallies));
    let opened = RealClock.now() - begun;
    let area = area.unwrap_or(Area { start: 0, blocks: 0 });
    let outcome = warm(load, area, &session).and_then(|()| {
        let wakers: Vec<Waker> = woken.try_iter().collect();
        measure(load, &session, &gate, &wakers, &told, counter.as_ref())
    });
    if let Some(lacks) = session.lacks() {
        tracing::warn!("{lacks}");
    }
    let engine = session.engine();
    let device = session.device().clone();
    let closing = RealClock.now();
    let closed = session.stop();
    let close = RealClock.now() - closing;
    // The first error is the one to tell.
    let (tally, start, cost, syncs, allocated_clusters, copied_up) = outcome?;
    closed?;
    let part = DiskPart {
        cluster_bytes: device.limits().cluster,
        allocated_clusters,
        copied_up,
        pages_written: device.keeper_stats().pages_written.get(),
        open_ms: millis(opened),
        peak_rss_bytes: crate::cost::peak_rss(),
    };
    let allocated = (before, blocks(&top));
    let measured = Measured { tally, start, cost, engine, syncs, close, allocated };
    Ok(Report::new(load, &measured, Some(part)))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// Disk space of a file; a figure only, so a file that is gone has none.
fn blocks(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

fn check_transfer(load: &Load, limits: Limits) -> Result<()> {
    let most = u64::from(limits.max_transfer);
    if load.block > most {
        return Err(Failure::parameter(format!("--bs {}: at most {most} bytes", load.block)));
    }
    Ok(())
}

fn fronts(
    load: &Load,
    area: Area,
    gate: &Arc<Gate>,
    wakers: &Sender<Waker>,
    tallies: &Sender<Tally>,
) -> Vec<Vec<MakeFront>> {
    let one = |n: usize| {
        let (load, gate) = (load.clone(), Arc::clone(gate));
        let (wakers, tallies) = (wakers.clone(), tallies.clone());
        let make: MakeFront = Box::new(move |waker| {
            // The other end waits for it.
            let _ = wakers.send(Arc::clone(&waker));
            let generator = Generator::new(&load, area, n)?;
            let front = LoadFront::new(generator, &load, gate, waker, tallies);
            Ok(Box::new(front) as Box<dyn FrontEnd>)
        });
        vec![make]
    };
    (0..load.queues).map(one).collect()
}

/// Reads one block under each page of the map.
fn warm(load: &Load, area: Area, session: &Session) -> Result<()> {
    if !load.warm {
        return Ok(());
    }
    let limits = session.device().limits();
    let mut block = AlignedBuf::new(limits.block as usize).or_fail(Code::System, "a buffer")?;
    let end = area.start + area.blocks * load.block;
    let step = limits.cluster.saturating_mul(PAGE_ENTRIES);
    let mut at = area.start;
    while at < end {
        session.remotes()[0].read(at, &mut block).map_err(|errno| {
            Failure::new(Code::System, format!("reading {} bytes at {at}: {errno}", block.len()))
        })?;
        // The header takes some entries of the first page: whole steps from the start of the
        // device meet every page all the same.
        at = (at / step + 1) * step;
    }
    Ok(())
}

type Outcome = (Tally, u64, Cost, u64, u64, u64);

fn measure(
    load: &Load,
    session: &Session,
    gate: &Gate,
    wakers: &[Waker],
    told: &Receiver<Tally>,
    counter: Option<&Instructions>,
) -> Result<Outcome> {
    let device = session.device();
    let stats = device.keeper_stats();
    let own = || (0..device.queues()).map(|n| device.queue_stats(n).syncs.get()).sum::<u64>();
    let counts = || [stats.syncs.get() + own(), stats.allocated.get(), stats.copied_up.get()];
    let before = counts();
    let cost = Cost::now(counter);
    let start = RealClock.now();
    gate.open(start.saturating_add(load.nanos));
    wakers.iter().for_each(|waker| waker.wake());
    let mut all = Tally::default();
    for _ in 0..load.queues {
        let gone = |_| Failure::new(Code::Internal, "a queue ended before its load");
        all.merge(&told.recv().map_err(gone)?);
    }
    let cost = Cost::now(counter).since(cost);
    let after = counts();
    let [syncs, allocated, copied] = [0, 1, 2].map(|n| after[n] - before[n]);
    Ok((all, start, cost, syncs, allocated, copied))
}
