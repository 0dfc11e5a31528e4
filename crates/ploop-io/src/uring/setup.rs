//! Making a ring: the best kind the kernel has, step by step down to a plain one.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// What the kernel's ring can do beyond the minimum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    /// `fallocate` on the ring.
    pub(super) fallocate: bool,
    /// `ftruncate` on the ring (since 6.9).
    pub(super) ftruncate: bool,
}

/// Flags in the order of preference, with the kernel that brought the newest of them.
pub(super) const STEPS: [Step; 4] =
    [Step::Deferred, Step::Cooperative, Step::SubmitAll, Step::Plain];

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// 6.1: completions are posted only when this thread asks.
    Deferred,
    /// 5.19: no interrupt of this thread for task work.
    Cooperative,
    /// 5.18: a bad entry does not stop the batch.
    SubmitAll,
    Plain,
}

/// A ring of `entries` submissions and four times as many completions, and what it can do.
pub(super) fn open(entries: u32, workers: u32) -> io::Result<(IoUring, Abilities)> {
    finish(build(entries)?, workers)
}

/// As [`open`], of one kind.
#[cfg(test)]
pub(super) fn open_step(
    entries: u32,
    workers: u32,
    step: Step,
) -> io::Result<(IoUring, Abilities)> {
    finish(attempt(entries, step)?, workers)
}

/// Refuses a ring that lacks what the engine needs; asks for the rest.
fn finish(ring: IoUring, workers: u32) -> io::Result<(IoUring, Abilities)> {
    let params = ring.params();
    if !params.is_feature_ext_arg() || !params.is_feature_nodrop() {
        return Err(too_old("a wait with a timeout (Linux 5.11)"));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::PollAdd::CODE,
        opcode::PollRemove::CODE,
    ];
    if needed.iter().any(|&code| !probe.is_supported(code)) {
        return Err(too_old("read, write, fsync and poll operations"));
    }
    // A cap on workers bounds the threads a burst of punches makes (D10); older kernels (before
    // 5.15) have none.
    let _ = ring.submitter().register_iowq_max_workers(&mut [workers, 0]);
    let abilities = Abilities {
        fallocate: probe.is_supported(opcode::Fallocate::CODE),
        ftruncate: probe.is_supported(opcode::Ftruncate::CODE),
    };
    Ok((ring, abilities))
}

fn build(entries: u32) -> io::Result<IoUring> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for step in STEPS {
        match attempt(entries, step) {
            Ok(ring) => {
                tracing::debug!(?step, entries, "ring made");
                return Ok(ring);
            }
            // EINVAL: this kernel does not know a flag.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn attempt(entries: u32, step: Step) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_cqsize(entries.saturating_mul(4));
    match step {
        Step::Deferred => {
            builder
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_coop_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all();
        }
        Step::Cooperative => {
            builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
        }
        Step::SubmitAll => {
            builder.setup_submit_all();
        }
        Step::Plain => {}
    }
    builder.build(entries)
}

fn too_old(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("the kernel's io_uring has no {what}"))
}
