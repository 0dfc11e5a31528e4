//! `cargo xtask vm`: a test machine in software emulation, for what this machine's kernel lacks.
//!
//! Kernels and qemu come from the machine's own Debian mirror and stay under `target/vm`; a
//! suite runs inside and its console becomes a table. Without options the kernels for CI take
//! turns, one each day.
//!
//! | part | what |
//! |---|---|
//! | `plan` | what the machine is made of: `packages.txt` |
//! | `fetch` | packages from a Debian mirror, kept under `target/vm` |
//! | `modules` | kernel modules and what they need, in order |
//! | `initramfs` | the guest's root file system |
//! | `cpio` | the archive that a kernel unpacks into its first root |
//! | `boot` | one boot in software emulation |
//! | `served` | the machine's second disk, served by ploop on the host |
//! | `report` | what the suite said, as a table and a verdict |
//! | `log_writes` | the log of the kernel's `dm-log-writes` |
//! | `replay` | what the machine recorded below our images, replayed to any point |
//! | `varlink` | the control socket, spoken to by another's client |

mod boot;
mod cpio;
pub mod fetch;
mod initramfs;
mod log_writes;
mod modules;
mod plan;
mod replay;
mod report;
mod served;
mod varlink;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail, ensure};

use crate::sh;
use fetch::Store;
use plan::Kernel;
use served::Served;

const USAGE: &str = "vm takes nothing, --all, --fetch or --kernel SERIES; --steps A,B; --points N";
/// Points of a recorded device that are looked at, unless said otherwise.
const POINTS: usize = 300;

/// Which kernels were asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Turn,
    All,
    Fetch,
    Series(String),
}

fn wish(args: &[String]) -> Result<Wish> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Ok(match args.as_slice() {
        [] => Wish::Turn,
        ["--all"] => Wish::All,
        ["--fetch"] => Wish::Fetch,
        ["--kernel", series] => Wish::Series((*series).to_owned()),
        _ => bail!("{USAGE}"),
    })
}

/// The kernels of a wish on a day.
fn chosen<'a>(kernels: &'a [Kernel], wish: &Wish, day: u64) -> Vec<&'a Kernel> {
    match wish {
        Wish::All | Wish::Fetch => kernels.iter().collect(),
        Wish::Series(series) => kernels.iter().filter(|k| k.series == *series).collect(),
        Wish::Turn => {
            let ci: Vec<_> = kernels.iter().filter(|k| k.ci).collect();
            let turn = usize::try_from(day).unwrap_or(0) % ci.len().max(1);
            ci.get(turn).copied().into_iter().collect()
        }
    }
}

/// The `ploop` to test: `$PLOOP_BIN`, else a development build of this tree.
fn tool() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PLOOP_BIN") {
        return Ok(path.into());
    }
    sh::run(sh::cargo().args(["build", "--quiet", "--package", "ploop-cli"]))?;
    Ok(sh::target_dir()?.join("debug/ploop"))
}

pub fn run(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let steps = taken(&mut args, "--steps")?.unwrap_or_default();
    let most = taken(&mut args, "--points")?.map_or(Ok(POINTS), |n| n.parse())?;
    let wish = wish(&args)?;
    ensure!(cfg!(target_arch = "x86_64"), "the test machine is an x86-64 one, as its host");
    let start = Instant::now();
    let mut store = Store::open()?;
    let day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() / 86_400;
    let kernels: Vec<_> = chosen(&store.plan().kernels, &wish, day)
        .into_iter()
        .map(|k| Kernel { series: k.series.clone(), ci: k.ci })
        .collect();
    ensure!(!kernels.is_empty(), "no such kernel in xtask/src/vm/packages.txt");
    store.programs()?;
    let mut dirs = Vec::new();
    for kernel in &kernels {
        dirs.push(store.kernel(kernel)?);
    }
    took("fetch", start.elapsed());
    if wish == Wish::Fetch {
        return Ok(());
    }
    let ploop = tool()?;
    let mut failures = Vec::new();
    if steps.is_empty() {
        by_varlinkctl(&mut store, &ploop, &mut failures)?;
    }
    for (kernel, dir) in kernels.iter().zip(&dirs) {
        let vm = Vm { store: &store, series: &kernel.series, dir, ploop: &ploop };
        vm.test(&steps, most, &mut failures)?;
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// A disk of this host, asked by another's client.
fn by_varlinkctl(store: &mut Store, ploop: &Path, failures: &mut Vec<String>) -> Result<()> {
    let served = Served::start(ploop, &store.path("served"))?;
    match varlink::check(store, &served.run_dir()) {
        Ok(told) => sh::say(&format!("{:<8} {told}", "host")),
        Err(error) => failures.push(format!("varlinkctl: {error:#}")),
    }
    served.end().map(drop)
}

/// One kernel and what is tested under it.
struct Vm<'a> {
    store: &'a Store,
    series: &'a str,
    dir: &'a Path,
    ploop: &'a Path,
}

impl Vm<'_> {
    /// The suite; what it recorded; a machine whose file system is our disk; the disk's check.
    fn test(&self, steps: &str, most: usize, failures: &mut Vec<String>) -> Result<()> {
        let start = Instant::now();
        let root = initramfs::build(self.store, self.dir, self.ploop)?;
        took(&format!("root of {} MiB", root.len() >> 20), start.elapsed());
        let mut served = Served::start(self.ploop, &self.store.path("served"))?;
        let console = self.boot("", steps, &root, &mut served, failures)?;
        self.replay(most, failures);
        if console.contains("\nok vhost_root ") {
            self.boot("-root", "root boot=disk", &root, &mut served, failures)?;
        }
        for name in boot::LOGS {
            let _ = fs::remove_file(self.store.path(&format!("log-{name}")));
        }
        match served.end() {
            Ok(told) => sh::say(&format!("{:<8} vhost-user: {told}", self.series)),
            Err(error) => failures.push(format!("kernel {}: {error:#}", self.series)),
        }
        Ok(())
    }

    fn boot(
        &self,
        suffix: &str,
        steps: &str,
        root: &[u8],
        served: &mut Served,
        failures: &mut Vec<String>,
    ) -> Result<String> {
        let name = format!("{}{suffix}", self.series);
        let booted = boot::boot(self.store, self.dir, root, (&name, steps), served)?;
        took(&format!("kernel {name}, boot and suite"), booted.took);
        let console = String::from_utf8_lossy(&fs::read(&booted.log)?).into_owned();
        if let Err(error) = report::show(&name, &console) {
            let late = if booted.end.is_none() { " (ended by the time limit)" } else { "" };
            failures.push(format!("{error:#}{late}; see {}", booted.log.display()));
        }
        Ok(console)
    }

    fn replay(&self, most: usize, failures: &mut Vec<String>) {
        for name in boot::LOGS {
            let start = Instant::now();
            let log = self.store.path(&format!("log-{name}"));
            match replay::replay(self.ploop, name, &log, most) {
                Ok(Some(told)) => {
                    sh::say(&format!("{:<8} {name} below the images: {told}", self.series));
                    took("replay", start.elapsed());
                }
                Ok(None) => {}
                Err(error) => failures.push(format!("kernel {}: {error:#}", self.series)),
            }
        }
    }
}

/// Takes an option and its value out.
fn taken(args: &mut Vec<String>, name: &str) -> Result<Option<String>> {
    let Some(at) = args.iter().position(|arg| arg == name) else { return Ok(None) };
    ensure!(at + 1 < args.len(), "{name} wants a value; {USAGE}");
    args.remove(at);
    Ok(Some(args.remove(at)))
}

fn took(what: &str, time: Duration) {
    sh::say(&format!("vm: {what}: {:.1} s", time.as_secs_f64()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_take_turns() {
        let kernel = |series: &str, ci| Kernel { series: series.to_owned(), ci };
        let all = [kernel("1", true), kernel("2", true), kernel("newest", false)];
        let names = |wish, day| -> Vec<&str> {
            chosen(&all, &wish, day).into_iter().map(|k| k.series.as_str()).collect()
        };
        assert_eq!(names(Wish::Turn, 4), ["1"]);
        assert_eq!(names(Wish::Turn, 5), ["2"]);
        assert_eq!(names(Wish::All, 5), ["1", "2", "newest"]);
        assert_eq!(names(Wish::Series("newest".into()), 0), ["newest"]);
        assert!(names(Wish::Series("9".into()), 0).is_empty());
        assert!(wish(&["--kernel".to_owned()]).is_err());
    }
}
