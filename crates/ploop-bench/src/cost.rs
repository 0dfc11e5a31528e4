//! What a load cost: processor time and instructions of this process. Workers of the kernel that
//! serve its rings are threads of the process, so their time is in it.

use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::read;

/// The processor time of all threads so far, in nanoseconds.
#[must_use]
pub fn cpu_nanos() -> u64 {
    let clock = rustix::time::ClockId::ProcessCPUTime;
    let time = rustix::time::clock_gettime(clock);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// The most memory this process had, in bytes; 0 where /proc does not tell.
#[must_use]
pub fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Counts instructions of all threads started after it was made.
#[derive(Debug)]
pub struct Instructions(OwnedFd);

/// The first version of the kernel's `perf_event_attr`.
#[repr(C)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample: u64,
    format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    address: u64,
}

const HARDWARE: u32 = 0;
const INSTRUCTIONS: u64 = 1;
const INHERIT: u64 = 1 << 1;
const NO_KERNEL: u64 = 1 << 5;
const NO_HYPERVISOR: u64 = 1 << 6;

impl Instructions {
    /// A counter, where the processor has one and the host lets us: with the kernel's
    /// instructions if possible, else without.
    #[must_use]
    pub fn open() -> Option<Self> {
        Self::with(INHERIT).or_else(|| Self::with(INHERIT | NO_KERNEL | NO_HYPERVISOR))
    }

    fn with(flags: u64) -> Option<Self> {
        let size = u32::try_from(size_of::<Attr>()).ok()?;
        let attr = Attr {
            kind: HARDWARE,
            size,
            config: INSTRUCTIONS,
            period: 0,
            sample: 0,
            format: 0,
            flags,
            wakeup: 0,
            breakpoint: 0,
            address: 0,
        };
        let close_on_exec = 8;
        // SAFETY: the attributes are valid for the call; the others are plain numbers.
        let fd = unsafe {
            libc::syscall(libc::SYS_perf_event_open, &raw const attr, 0, -1, -1, close_on_exec)
        };
        let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
        // SAFETY: a new descriptor that nobody else knows.
        Some(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Instructions so far.
    #[must_use]
    pub fn now(&self) -> Option<u64> {
        let mut count = [0; 8];
        let got = read(&self.0, &mut count).ok()?;
        (got == count.len()).then(|| u64::from_ne_bytes(count))
    }
}

/// A point in time, by cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Processor time in nanoseconds.
    pub cpu: u64,
    /// Instructions, where they are counted.
    pub instructions: Option<u64>,
}

impl Cost {
    /// Now.
    #[must_use]
    pub fn now(counter: Option<&Instructions>) -> Self {
        Self { cpu: cpu_nanos(), instructions: counter.and_then(Instructions::now) }
    }

    /// From an earlier point to this.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let instructions = self.instructions.zip(earlier.instructions);
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            instructions: instructions.map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cpu_nanos;

    #[test]
    fn work_costs_time() {
        let before = cpu_nanos();
        let sum: u64 = (0..5_000_000).map(std::hint::black_box).sum();
        assert!(sum > 0 && cpu_nanos() > before);
    }
}
