//! What was said -> what it means: sizes, names and choices as values, or an error with code 38.

use crate::args;
use crate::host::groups;
use ploop_bench::{Load, Mode};
use ploop_daemon::registry::Registry;
use ploop_daemon::runtime::{Export, OnFull, RingChoice, ServeSpec, UblkCopies, check_name};
use ploop_daemon::stats::scrape;
use ploop_daemon::{Code, Failure, NbdAddr, Result};
use ploop_format::Guid;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How an image stores its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// A BAT, clusters as they are written.
    Expanded,
    /// A BAT, every cluster there from the start.
    Preallocated,
    /// The bytes of the disk.
    Raw,
}

/// A file system to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FsType {
    /// ext4
    Ext4,
    /// xfs
    Xfs,
}

/// What `init` will do.
#[derive(Clone, Debug)]
pub struct InitPlan {
    /// The image file.
    pub image: PathBuf,
    /// Size of the disk in sectors.
    pub sectors: u64,
    /// How it stores its data.
    pub format: Format,
    /// 1 or 2.
    pub version: u8,
    /// Cluster size in sectors.
    pub cluster_sectors: u32,
    /// The file system, if any.
    pub fs: Option<FsPlan>,
    /// A raw image as a sparse file.
    pub sparse: bool,
}

/// The file system `init` makes.
#[derive(Clone, Debug)]
pub struct FsPlan {
    /// Which.
    pub kind: FsType,
    /// In a partition of a GPT, else on the bare device.
    pub partition: bool,
    /// Its block size.
    pub block_bytes: u32,
    /// Its label.
    pub label: Option<String>,
    /// Inode tables are initialized by the kernel later.
    pub lazy: bool,
}

/// A SIZE of the original tool, in sectors (T1).
pub fn size(text: &str) -> Result<u64> {
    let sectors = ploop_format::parse_sectors(text);
    sectors.map(|sectors| sectors.0).map_err(|error| {
        Failure::parameter(format!("size `{text}`: {error}"))
            .hint("a number with K, M, G or T behind it; without one it counts sectors")
    })
}

/// Bytes per second.
pub fn rate(text: &str) -> Result<u64> {
    match ploop_format::parse_bytes(text) {
        Ok(0) => Err(Failure::parameter("a rate of 0 never ends")),
        Ok(rate) => Ok(rate),
        Err(error) => Err(Failure::parameter(format!("rate `{text}`: {error}"))),
    }
}

/// A UUID with or without braces.
pub fn guid(text: &str) -> Result<Guid> {
    text.parse::<Guid>().map_err(|error| Failure::parameter(error.to_string()))
}

/// FORMAT of the original.
pub fn format(text: &str) -> Result<Format> {
    match text {
        "ploop1" | "expanded" => Ok(Format::Expanded),
        "preallocated" => Ok(Format::Preallocated),
        "raw" => Ok(Format::Raw),
        _ => Err(Failure::parameter(format!("unknown format `{text}`"))
            .hint("ploop1 (= expanded), preallocated or raw")),
    }
}

/// A cluster size in sectors.
pub fn cluster(text: &str) -> Result<u32> {
    let sectors =
        ploop_format::size::parse_number(text).and_then(|sectors| u32::try_from(sectors).ok());
    sectors
        .filter(|&sectors| ploop_format::ClusterSize::from_sectors(sectors).is_some())
        .ok_or_else(|| {
            Failure::parameter(format!("cluster size `{text}` is not possible"))
                .hint("a power of two from 64 to 131072 sectors")
        })
}

/// An option of the original that is not built (T18).
pub fn not_yet(verb: &str, options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Failure::parameter(format!(
            "option `{option}` of `{verb}` is not available in this version"
        ))),
    }
}

/// The meaning of `init`.
pub fn init(args: &args::Init) -> Result<InitPlan> {
    let foreign = args.kind.as_deref().is_some_and(|kind| kind != "ploop");
    not_yet("init", &[("-k", args.key.is_some()), ("-T", foreign)])?;
    let sectors = size(&args.size)?;
    if sectors == 0 {
        return Err(Failure::parameter("a disk of size 0 is not possible"));
    }
    let format = format(&args.format)?;
    let version = match args.version.as_str() {
        "1" => 1,
        "2" => 2,
        other => {
            return Err(Failure::parameter(format!("unknown version `{other}`")).hint("1 or 2"));
        }
    };
    if args.sparse && format != Format::Raw {
        return Err(Failure::parameter("-S is for raw images only"));
    }
    let fs = fs_plan(args)?;
    let image = absolute(&args.image)?;
    let cluster_sectors = cluster(&args.blocksize)?;
    Ok(InitPlan { image, sectors, format, version, cluster_sectors, fs, sparse: args.sparse })
}

fn fs_plan(args: &args::Init) -> Result<Option<FsPlan>> {
    let kind = match args.fstype.as_str() {
        "none" => return Ok(None),
        "ext4" => FsType::Ext4,
        "xfs" => FsType::Xfs,
        other => {
            return Err(Failure::parameter(format!("file system `{other}` cannot be made"))
                .hint("none, ext4 or xfs; make another one on an attached `-t none` disk"));
        }
    };
    let block_bytes = ploop_format::size::parse_number(&args.fs_block)
        .and_then(|bytes| u32::try_from(bytes).ok())
        .filter(|bytes| bytes.is_power_of_two() && (1024..=65536).contains(bytes))
        .ok_or_else(|| {
            let message = format!("file system block size `{}` is not possible", args.fs_block);
            Failure::parameter(message).hint("a power of two from 1024 to 65536 bytes")
        })?;
    Ok(Some(FsPlan {
        kind,
        partition: !args.no_partition,
        block_bytes,
        label: args.label.clone(),
        lazy: !args.nolazy,
    }))
}

/// An absolute path that does not depend on where the server process runs.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Failure::io(Code::Parameter, path.display().to_string(), &error))
}

/// The meaning of the options all serving verbs share.
pub fn serving(disk: &Path, args: &args::Serving, exports: Vec<Export>) -> Result<ServeSpec> {
    let on_full = match args.on_enospc.as_str() {
        "hold" => OnFull::Hold,
        "error" => OnFull::Fail,
        other => {
            return Err(Failure::parameter(format!("--on-enospc `{other}`")).hint("hold or error"));
        }
    };
    let ring = match args.io_engine.as_str() {
        "auto" => RingChoice::Auto,
        "uring" => RingChoice::Uring,
        "threads" => RingChoice::Threads,
        other => {
            return Err(
                Failure::parameter(format!("--io-engine `{other}`")).hint("auto, uring or threads")
            );
        }
    };
    let queues = match args.queues {
        Some(queues) if (1..=64).contains(&queues) => queues,
        Some(queues) => {
            return Err(Failure::parameter(format!("--queues {queues}: 1 to 64 are possible")));
        }
        None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4),
    };
    Ok(ServeSpec {
        disk: absolute(disk)?,
        read_only: args.ro,
        exports,
        queues,
        on_full,
        ring,
        metadata_delay_ms: args.metadata_delay,
        prealloc_bytes: prealloc(&args.prealloc)?,
        drop_cbt: args.drop_cbt,
        allow_outside: args.files.allow_outside,
        change_shared: args.files.change_shared,
        insecure_listen: args.insecure_listen,
        metrics: args
            .metrics
            .as_deref()
            .map(|text| metrics(text, args.insecure_listen))
            .transpose()?,
        name: None,
        to_mount: false,
        visible_to: args.visible_to.as_deref().map(visible_to).transpose()?,
        for_a_moment: false,
        snapshot: false,
    })
}

/// The number of a group, when its members can be let see this user's disks.
fn visible_to(group: &str) -> Result<u32> {
    let number = groups::number(group)?;
    Registry::of_user().check_visible(number)?;
    Ok(number)
}

fn prealloc(text: &str) -> Result<u64> {
    ploop_format::parse_bytes(text)
        .map_err(|error| Failure::parameter(format!("--prealloc: {error}")))
}

fn metrics(text: &str, insecure: bool) -> Result<String> {
    let parsed = scrape::address(text)?;
    listen(parsed, insecure, "metrics have")
}

/// The meaning of `serve`.
pub fn serve(args: &args::Serve) -> Result<ServeSpec> {
    let mut exports = Vec::new();
    for address in &args.nbd {
        exports.push(nbd(address, &args.export_name, args.serving.insecure_listen)?);
    }
    for file in &args.fuse {
        exports.push(Export::Fuse { file: absolute(file)? });
    }
    for path in &args.vhost_user {
        exports.push(Export::VhostUser { path: absolute(path)? });
    }
    if exports.is_empty() {
        return Err(Failure::parameter("nothing to serve: no --nbd, no --fuse, no --vhost-user")
            .hint("`ploop attach` makes a block device"));
    }
    serving(&args.disk, &args.serving, exports)
}

fn nbd(address: &str, name: &str, insecure: bool) -> Result<Export> {
    let address = listen(NbdAddr::parse(address)?, insecure, "NBD here has")?;
    Ok(Export::Nbd { address, name: name.to_owned() })
}

/// An NBD address of this host, in the words of a server that runs elsewhere.
pub fn local_address(text: &str) -> Result<String> {
    listen(NbdAddr::parse(text)?, false, "NBD here has")
}

/// An address to listen on, in the words of a server that runs elsewhere (T3).
fn listen(address: NbdAddr, insecure: bool, what: &str) -> Result<String> {
    if !address.is_local() && !insecure {
        let message = format!("{address} can be reached from other hosts");
        return Err(Failure::parameter(message).hint(format!(
            "{what} no password and no encryption; --insecure-listen if that is all right"
        )));
    }
    let address = match address {
        NbdAddr::Unix(path) => NbdAddr::Unix(absolute(&path)?),
        tcp @ NbdAddr::Tcp(_) => tcp,
    };
    Ok(address.to_string())
}

/// A disk that a verb opens in its own process.
pub fn private(disk: PathBuf, read_only: bool, files: args::Files) -> ServeSpec {
    let args::Files { allow_outside, change_shared } = files;
    ServeSpec { allow_outside, change_shared, ..ServeSpec::private(disk, read_only) }
}

/// The same for a verb that only reads.
pub fn reading(disk: PathBuf, files: args::Reading) -> ServeSpec {
    let args::Reading { allow_outside } = files;
    private(disk, true, args::Files { allow_outside, change_shared: false })
}

/// The meaning of `attach`; `--via` picks the transport (T10).
pub fn attach(disk: &Path, via: &str, args: &args::Serving) -> Result<ServeSpec> {
    let ublk = |or_loop, copies| serving(disk, args, vec![Export::Ublk { or_loop, copies }]);
    match via {
        "auto" => ublk(true, UblkCopies::Best),
        "ublk" => ublk(false, UblkCopies::Best),
        "ublk-zero-copy" => ublk(false, UblkCopies::Zero),
        "ublk-user-copy" => ublk(false, UblkCopies::User),
        "ublk-copy" => ublk(false, UblkCopies::Driver),
        "loop" => serving(disk, args, vec![Export::Loop]),
        "nbd" => serving(disk, args, vec![Export::KernelNbd]),
        other => Err(Failure::parameter(format!("unknown transport `{other}`"))
            .hint("auto, ublk, nbd or loop; ublk-copy, ublk-user-copy or ublk-zero-copy")),
    }
}

/// The name of a device: the given one, else that of the disk's directory.
pub fn device_name(given: &str, disk: &Path) -> Result<String> {
    let dir = if disk.is_dir() { Some(disk) } else { disk.parent() };
    let own = dir.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let name = if given.is_empty() { own.unwrap_or_default() } else { given.to_owned() };
    check_name(&name)?;
    Ok(name)
}

/// What `stat` shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatPlan {
    /// A device or a disk.
    pub target: PathBuf,
    /// Between two looks.
    pub watch: Option<Duration>,
    /// How many looks.
    pub count: u64,
}

/// The meaning of `stat`. `--watch` takes a word only if that is a number: else the word is the
/// target.
pub fn stat(args: &args::Stat) -> Result<StatPlan> {
    let mut targets: Vec<PathBuf> = args.device.iter().chain(&args.target).cloned().collect();
    let mut watch = args.watch.as_ref().map(|_| Duration::from_secs(1));
    if let Some(Some(word)) = &args.watch {
        match word.parse::<f64>() {
            Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => {
                watch = Some(Duration::from_secs_f64(seconds));
            }
            Err(_) if targets.is_empty() => targets.push(word.into()),
            _ => {
                return Err(Failure::parameter(format!("--watch `{word}`"))
                    .hint("seconds, from 0.1 to 86400"));
            }
        }
    }
    if args.count == Some(0) {
        return Err(Failure::parameter("--count 0 shows nothing"));
    }
    let count = args.count.unwrap_or(u64::MAX);
    match <[PathBuf; 1]>::try_from(targets) {
        Ok([target]) => Ok(StatPlan { target, watch, count }),
        Err(none) if none.is_empty() => Err(Failure::parameter("which device or disk?")),
        Err(_) => Err(Failure::parameter("one device or disk at a time")),
    }
}

/// A size of our own options, in bytes (T1).
fn bytes(option: &str, text: &str) -> Result<u64> {
    ploop_format::parse_bytes(text).map_err(|error| {
        Failure::parameter(format!("{option} `{text}`: {error}"))
            .hint("a number of bytes, or with K, M, G or T behind it")
    })
}

/// The load of `bench`. One that writes wants to be told that it may (T15).
pub fn load(args: &args::Bench) -> Result<Load> {
    let mode = Mode::named(&args.rw)?;
    if mode.writes() && !args.destroy {
        return Err(Failure::parameter(format!("--rw {} overwrites the disk", args.rw))
            .hint("--destroy says that what is stored may be lost"));
    }
    let engine = match args.io.as_str() {
        "auto" => RingChoice::Auto,
        "uring" => RingChoice::Uring,
        "threads" => RingChoice::Threads,
        "null" => RingChoice::Null,
        other => {
            return Err(
                Failure::parameter(format!("--io `{other}`")).hint("auto, uring, threads or null")
            );
        }
    };
    let depth = args.lanes.unwrap_or(args.depth);
    for (name, n, most) in [("depth", depth, 128), ("queues", args.queues, 64)] {
        if !(1..=most).contains(&n) {
            return Err(Failure::parameter(format!("--{name} {n}: 1 to {most} are possible")));
        }
    }
    let nanos = std::time::Duration::try_from_secs_f64(args.time)
        .ok()
        .and_then(|time| u64::try_from(time.as_nanos()).ok())
        .ok_or_else(|| Failure::parameter(format!("--time {}: not seconds", args.time)))?;
    let block = bytes("--bs", &args.bs)?;
    if !(1..=1 << 30).contains(&block) {
        return Err(Failure::parameter(format!("--bs {block}: 1 byte to 1 GiB are possible")));
    }
    Ok(Load {
        mode,
        block,
        depth,
        queues: args.queues,
        nanos,
        count: args.count,
        flush_every: args.flush_every.unwrap_or(u32::from(args.lanes.is_some())),
        offset: bytes("--offset", &args.offset)?,
        range: args.range.as_deref().map(|text| bytes("--range", text)).transpose()?,
        seed: args.seed,
        warm: args.warm,
        engine,
    })
}

/// The disk of `bench`: a load that only reads opens it so.
pub fn bench(args: &args::Bench, load: &Load) -> Result<ServeSpec> {
    let mut spec = private(absolute(&args.disk)?, !load.mode.writes(), args.files);
    spec.queues = load.queues;
    spec.ring = load.engine;
    spec.prealloc_bytes = prealloc(&args.prealloc)?;
    spec.metadata_delay_ms = args.metadata_delay;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::{cluster, metrics, nbd, size, stat};
    use crate::args;
    use std::path::Path;
    use std::time::Duration;

    fn watched(word: Option<&str>, target: Option<&str>) -> args::Stat {
        args::Stat {
            device: None,
            watch: Some(word.map(str::to_owned)),
            count: None,
            prometheus: false,
            target: target.map(Into::into),
        }
    }

    #[test]
    fn watch_takes_a_number_and_leaves_a_target() {
        let plan = stat(&watched(Some("0.5"), Some("/d"))).unwrap();
        assert_eq!((plan.watch, &*plan.target), (Some(Duration::from_millis(500)), "/d".as_ref()));
        let plan = stat(&watched(Some("/dev/loop3"), None)).unwrap();
        assert_eq!(plan.watch, Some(Duration::from_secs(1)));
        assert_eq!(plan.target, Path::new("/dev/loop3"));
        assert_eq!(stat(&watched(None, Some("/d"))).unwrap().count, u64::MAX);
        for bad in ["0", "-1", "nan", "inf", "1e9", "/dev/loop3"] {
            assert!(stat(&watched(Some(bad), Some("/d"))).is_err(), "{bad}");
        }
        assert!(stat(&watched(Some("2"), None)).is_err());
        assert!(stat(&args::Stat { count: Some(0), ..watched(None, Some("/d")) }).is_err());
        let two = args::Stat { device: Some("/e".into()), ..watched(None, Some("/d")) };
        assert!(stat(&two).is_err());
    }

    #[test]
    fn a_size_without_suffix_counts_sectors() {
        assert_eq!(size("262144").unwrap(), 262_144);
        assert_eq!(size("1k").unwrap(), 2);
        assert_eq!(size("10G").unwrap(), 10 << 21);
        assert_eq!(size("0x10M").unwrap(), 16 << 11);
        assert_eq!(size("010").unwrap(), 8);
        for bad in ["", "G", "10X", "-1", "+1", "1.5G", "99999999T"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn clusters_are_powers_of_two() {
        assert_eq!(cluster("64").unwrap(), 64);
        for bad in ["0", "63", "65", "262144", "x"] {
            assert!(cluster(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listening_to_the_world_must_be_said() {
        assert!(nbd("tcp:127.0.0.1", "", false).is_ok());
        assert!(nbd("tcp:[::1]:1", "", false).is_ok());
        assert!(nbd("tcp:localhost:1", "", false).is_ok());
        assert!(nbd("tcp:0.0.0.0:1", "", false).is_err());
        assert!(nbd("tcp:0.0.0.0:1", "", true).is_ok());
        assert!(nbd("udp:1", "", true).is_err());
        assert_eq!(metrics("tcp:127.0.0.1:9100", false).unwrap(), "tcp:127.0.0.1:9100");
        assert!(metrics("tcp:0.0.0.0:9100", false).is_err());
        assert!(metrics("tcp:0.0.0.0:9100", true).is_ok());
        assert!(metrics("unix:m", false).unwrap().starts_with("unix:/"));
    }
}
