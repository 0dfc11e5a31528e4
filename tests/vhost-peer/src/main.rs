//! `vhost-peer`: load on a vhost-user-blk server, as JSON.

#![allow(clippy::print_stdout, reason = "a program's output")]

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vhost_peer::{IN, OK, OUT, Options, Peer, Queue, Wish};

const USAGE: &str = "usage: vhost-peer SOCKET [--rw randread|randwrite|read|write] [--bs BYTES]
                   [--depth N] [--queues N] [--seconds S]";

struct Load {
    socket: PathBuf,
    rw: String,
    options: Options,
    time: Duration,
}

fn parse() -> Result<Load> {
    let mut args = std::env::args().skip(1);
    let socket = args.next().context(USAGE)?.into();
    let options = Options { bytes: 4096, ..Options::default() };
    let mut load = Load { socket, rw: "randread".into(), options, time: Duration::from_secs(5) };
    while let Some(arg) = args.next() {
        let value = args.next().context(USAGE)?;
        match arg.as_str() {
            "--rw" => load.rw = value,
            "--bs" => load.options.bytes = value.parse()?,
            "--depth" => load.options.depth = value.parse()?,
            "--queues" => load.options.queues = value.parse()?,
            "--seconds" => load.time = Duration::from_secs_f64(value.parse()?),
            _ => bail!(USAGE),
        }
    }
    Ok(load)
}

/// What one ring did.
struct Sum {
    done: u64,
    kicks: u64,
    waits: u64,
}

fn drive(mut queue: Queue, load: &Load, blocks: u64, seed: u64) -> Result<Sum> {
    let bytes = load.options.bytes as u32;
    let kind = if load.rw.ends_with("read") { IN } else { OUT };
    let random = load.rw.starts_with("rand");
    let mut state = seed | 1;
    let mut at = seed % blocks;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        at = if random { state % blocks } else { (at + 1) % blocks };
        Wish::new(kind, at * u64::from(bytes) / 512, bytes)
    };
    for slot in 0..load.options.depth {
        queue.data(slot).fill(slot as u8 | 1);
        queue.submit(slot, &next());
    }
    queue.kick()?;
    let end = Instant::now() + load.time;
    let mut sum = Sum { done: 0, kicks: 0, waits: 0 };
    let mut under_way = u64::from(load.options.depth);
    while under_way > 0 {
        let more = Instant::now() < end;
        let mut any = false;
        while let Some(done) = queue.reap() {
            any = true;
            if done.status != OK {
                bail!("status {} of a request", done.status);
            }
            sum.done += u64::from(more);
            match more {
                true => queue.submit(done.slot, &next()),
                false => under_way -= 1,
            }
        }
        queue.kick()?;
        if !any && !queue.wait(Duration::from_secs(10))? {
            bail!("no answer for ten seconds");
        }
    }
    (sum.kicks, sum.waits) = (queue.kicks, queue.waits);
    Ok(sum)
}

fn main() -> Result<()> {
    let load = parse()?;
    let mut peer = Peer::connect(&load.socket, load.options)?;
    let blocks = peer.sectors()? * 512 / load.options.bytes as u64;
    let queues = std::mem::take(&mut peer.queues);
    let begin = Instant::now();
    let sums: Vec<Result<Sum>> = std::thread::scope(|scope| {
        let load = &load;
        let drive = |(n, queue)| {
            let seed = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(n as u64 + 1);
            scope.spawn(move || drive(queue, load, blocks, seed))
        };
        let threads: Vec<_> = queues.into_iter().enumerate().map(drive).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Sum>>| match thread.join() {
            Ok(sum) => sum,
            Err(_) => bail!("a thread panicked"),
        };
        threads.into_iter().map(join).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    let (mut done, mut kicks, mut waits) = (0, 0, 0);
    for sum in sums {
        let sum = sum?;
        (done, kicks, waits) = (done + sum.done, kicks + sum.kicks, waits + sum.waits);
    }
    let iops = done as f64 / seconds;
    println!(
        "{{\"iops\": {iops:.0}, \"mb_per_s\": {:.1}, \"done\": {done}, \"kicks\": {kicks}, \
         \"waits\": {waits}}}",
        iops * load.options.bytes as f64 / 1e6
    );
    Ok(())
}
