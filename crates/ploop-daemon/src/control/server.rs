//! The server side: accepts clients, one thread each, and calls [`Methods`].
//!
//! Its threads are none of the data path: a method may wait (D8).

use super::places::{Places, Taken};
use super::types::{
    DeleteCall, DeleteReply, ExportCall, ExportReply, GrowCall, GrowReply, InfoReply, Job, JobCall,
    JobState, JobsReply, MapCall, MapReply, MergeCall, MetricsReply, MountpointCall, PauseCall,
    RateCall, SnapshotCall, SnapshotReply, StatReply, StopCall, UnexportCall, WatchReply,
};
use super::wire::{Call, MAX_CALL, Reply, Wire};
use super::{DESCRIPTION, INTERFACE, SERVICE, SERVICE_DESCRIPTION};
use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A client that says nothing for this long is dropped.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A client that has said nothing at all is dropped sooner.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// What the methods of `org.ploop.Disk` do.
pub trait Methods: Send + Sync + 'static {
    /// `Info`.
    ///
    /// # Errors
    /// Sent to the client.
    fn info(&self) -> Result<InfoReply>;
    /// `Stat`.
    ///
    /// # Errors
    /// Sent to the client.
    fn stat(&self) -> Result<StatReply>;
    /// `Metrics`.
    ///
    /// # Errors
    /// Sent to the client.
    fn metrics(&self) -> Result<MetricsReply>;
    /// `Stop`; returns when the disk is closed.
    ///
    /// # Errors
    /// Sent to the client.
    fn stop(&self, call: StopCall) -> Result<()>;
    /// `ExportAdd`.
    ///
    /// # Errors
    /// Sent to the client.
    fn export_add(&self, call: ExportCall) -> Result<ExportReply>;
    /// `ExportRemove`.
    ///
    /// # Errors
    /// Sent to the client.
    fn export_remove(&self, call: UnexportCall) -> Result<()>;
    /// `Map`.
    ///
    /// # Errors
    /// Sent to the client.
    fn map(&self, call: MapCall) -> Result<MapReply>;
    /// `SetMountpoint`.
    ///
    /// # Errors
    /// Sent to the client.
    fn set_mountpoint(&self, call: MountpointCall) -> Result<()>;
    /// `Snapshot`.
    ///
    /// # Errors
    /// Sent to the client.
    fn snapshot(&self, call: SnapshotCall) -> Result<SnapshotReply>;
    /// `SnapshotDelete`.
    ///
    /// # Errors
    /// Sent to the client.
    fn snapshot_delete(&self, call: DeleteCall) -> Result<DeleteReply>;
    /// `Merge`.
    ///
    /// # Errors
    /// Sent to the client.
    fn merge(&self, call: MergeCall) -> Result<JobCall>;
    /// `Grow`.
    ///
    /// # Errors
    /// Sent to the client.
    fn grow(&self, call: GrowCall) -> Result<GrowReply>;
    /// `Pause`; returns its number.
    ///
    /// # Errors
    /// Sent to the client.
    fn pause(&self, call: PauseCall) -> Result<u64>;
    /// The client of the pause with this number is gone: it ends, if it is still held.
    fn abandon(&self, pause: u64);
    /// `Resume`.
    ///
    /// # Errors
    /// Sent to the client.
    fn resume(&self) -> Result<()>;
    /// `UndoSnapshot`.
    ///
    /// # Errors
    /// Sent to the client.
    fn undo_snapshot(&self) -> Result<()>;
    /// `Flush`.
    ///
    /// # Errors
    /// Sent to the client.
    fn flush(&self) -> Result<()>;
    /// `Jobs`.
    ///
    /// # Errors
    /// Sent to the client.
    fn jobs(&self) -> Result<JobsReply>;
    /// `Watch`: the job when it differs from `seen`, or after a while.
    ///
    /// # Errors
    /// Sent to the client.
    fn watch(&self, call: JobCall, seen: Option<&Job>) -> Result<WatchReply>;
    /// `Cancel`.
    ///
    /// # Errors
    /// Sent to the client.
    fn cancel(&self, call: JobCall) -> Result<()>;
    /// `SetRate`.
    ///
    /// # Errors
    /// Sent to the client.
    fn set_rate(&self, call: RateCall) -> Result<()>;
}

/// A bound control socket. The socket file is removed by its owner (the registry's claim).
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    calls: Arc<AtomicUsize>,
}

impl Server {
    /// Binds `path` (whatever is there is a dead server's) and serves from a thread.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn start(path: &Path, methods: Arc<dyn Methods>) -> Result<Self> {
        let listener = bind(path).or_fail(Code::System, format!("socket {}", path.display()))?;
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let accept = move || accept_all(&listener, &methods, &counted);
        let thread = std::thread::Builder::new().name("ploop-control".into()).spawn(accept);
        thread.or_fail(Code::System, "cannot start the control thread")?;
        Ok(Self { path: path.to_owned(), calls })
    }

    /// Waits until every call taken so far was answered, but not longer than this.
    pub fn settle(&self, limit: Duration) {
        let until = Instant::now() + limit;
        while self.calls.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The socket appears under its name only when it is the owner's alone (0600).
fn bind(path: &Path) -> io::Result<UnixListener> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".tmp");
    let staged = PathBuf::from(staged);
    let _ = fs::remove_file(&staged);
    let listener = UnixListener::bind(&staged)?;
    fs::set_permissions(&staged, Permissions::from_mode(0o600))?;
    fs::rename(&staged, path)?;
    Ok(listener)
}

fn accept_all(listener: &UnixListener, methods: &Arc<dyn Methods>, calls: &Arc<AtomicUsize>) {
    let places = Places::default();
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Out of descriptors or the like: do not spin.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let Some(place) = peer(&stream).and_then(|uid| places.take(&stream, uid)) else { continue };
        let (methods, calls) = (Arc::clone(methods), Arc::clone(calls));
        let serve = move || {
            let mut caller = Caller { place, pause: None };
            if let Err(error) = serve_client(stream, &*methods, &calls, &mut caller) {
                tracing::debug!(%error, "a control client was dropped");
            }
            if let Some(pause) = caller.pause {
                methods.abandon(pause);
            }
        };
        // Without a thread the place is given back at once.
        let _ = std::thread::Builder::new().name("ploop-client".into()).spawn(serve);
    }
}

/// The user of the other side, if that is root or this server's: the mode of the socket says so
/// already, but it can be changed.
fn peer(stream: &UnixStream) -> Option<u32> {
    let uid = rustix::net::sockopt::socket_peercred(stream).ok()?.uid;
    (uid.is_root() || uid == rustix::process::geteuid()).then(|| uid.as_raw())
}

/// What a client has here.
struct Caller {
    place: Taken,
    pause: Option<u64>,
}

fn serve_client(
    stream: UnixStream,
    methods: &dyn Methods,
    calls: &AtomicUsize,
    caller: &mut Caller,
) -> io::Result<()> {
    let mut wire = Wire::new(stream, MAX_CALL)?;
    let mut idle = FIRST_TIMEOUT;
    while let Some(message) = wire.receive(Some(idle))? {
        caller.place.asks();
        let served = serve_one(&message, methods, calls, &mut wire, &mut caller.pause);
        caller.place.answered(caller.pause.is_some());
        served?;
        idle = IDLE_TIMEOUT;
    }
    Ok(())
}

/// A message, and its answers.
fn serve_one(
    message: &[u8],
    methods: &dyn Methods,
    calls: &AtomicUsize,
    wire: &mut Wire,
    pause: &mut Option<u64>,
) -> io::Result<()> {
    calls.fetch_add(1, Ordering::SeqCst);
    let served = match streams(message) {
        Some(call) => watch(call, methods, wire),
        None => serve_message(message, methods, pause).and_then(|(oneway, reply)| match oneway {
            true => Ok(()),
            false => wire.send(&reply),
        }),
    };
    calls.fetch_sub(1, Ordering::SeqCst);
    served
}
/// The call of a method that has several replies, when several are wanted.
fn streams(message: &[u8]) -> Option<Call> {
    let call: Call = serde_json::from_slice(message).ok()?;
    let method = call.method.strip_prefix(INTERFACE)?;
    (call.more && !call.oneway && method == ".Watch").then_some(call)
}

/// Replies whenever the job has changed, until it has ended.
fn watch(call: Call, methods: &dyn Methods, wire: &mut Wire) -> io::Result<()> {
    let mut seen: Option<Job> = None;
    loop {
        let told = parse::<JobCall>(call.parameters.clone())
            .and_then(|call| Ok(methods.watch(call, seen.as_ref())?));
        let job = told.as_ref().ok().map(|told| told.job.clone());
        let continues = job.as_ref().is_some_and(|job| job.state == JobState::Running);
        let reply = Reply { continues, ..reply(told.map(|told| object(&told))) };
        wire.send(&reply)?;
        if !continues {
            return Ok(());
        }
        seen = job;
    }
}

/// The answer to one message, and whether nobody waits for it.
pub(super) fn serve_message(
    message: &[u8],
    methods: &dyn Methods,
    pause: &mut Option<u64>,
) -> io::Result<(bool, Reply)> {
    let call: Call = serde_json::from_slice(message)?;
    let oneway = call.oneway;
    Ok((oneway, reply(dispatch(call, methods, pause))))
}

/// A reply, or an error of the service itself.
type Answer = std::result::Result<Map<String, Value>, Refusal>;

enum Refusal {
    Service { name: &'static str, key: &'static str, value: String },
    Failed(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn reply(answer: Answer) -> Reply {
    match answer {
        Ok(parameters) => Reply { parameters, ..Reply::default() },
        Err(Refusal::Service { name, key, value }) => {
            let error = Some(format!("{SERVICE}.{name}"));
            Reply { error, parameters: object(&json!({ key: value })), continues: false }
        }
        Err(Refusal::Failed(failure)) => Reply {
            error: Some(format!("{INTERFACE}.{}", failure.code.error_name())),
            parameters: object(&json!({
                "code": failure.code.number(),
                "kind": failure.kind,
                "message": failure.message,
                "hint": failure.hint,
            })),
            continues: false,
        },
    }
}

/// `pause` is the number of the one that the client holds.
fn dispatch(call: Call, methods: &dyn Methods, pause: &mut Option<u64>) -> Answer {
    let parameters = call.parameters;
    let Some((interface, method)) = call.method.rsplit_once('.') else {
        return Err(refuse("MethodNotFound", "method", call.method));
    };
    let reply = match (interface, method) {
        (SERVICE, "GetInfo") => service_info(),
        (SERVICE, "GetInterfaceDescription") => describe(&parameters)?,
        (INTERFACE, "Info") => object(&methods.info()?),
        (INTERFACE, "Stat") => object(&methods.stat()?),
        (INTERFACE, "Metrics") => object(&methods.metrics()?),
        (INTERFACE, "Stop") => {
            methods.stop(parse(parameters)?)?;
            Map::new()
        }
        (INTERFACE, "Map") => object(&methods.map(parse(parameters)?)?),
        (INTERFACE, "SetMountpoint") => {
            methods.set_mountpoint(parse(parameters)?)?;
            Map::new()
        }
        (INTERFACE, "Pause") => {
            *pause = Some(methods.pause(parse(parameters)?)?);
            Map::new()
        }
        (INTERFACE, name) => match layers(name, parameters, methods) {
            Some(answer) => answer?,
            None => return Err(refuse("MethodNotFound", "method", call.method)),
        },
        (SERVICE, _) => {
            return Err(refuse("MethodNotFound", "method", call.method));
        }
        _ => return Err(refuse("InterfaceNotFound", "interface", interface.to_owned())),
    };
    Ok(reply)
}

/// The methods that change layers or exports, and their jobs; `None`: there is no such method.
fn layers(name: &str, parameters: Map<String, Value>, methods: &dyn Methods) -> Option<Answer> {
    type Layer = fn(Map<String, Value>, &dyn Methods) -> Answer;
    fn nothing(done: Result<()>) -> Answer {
        Ok(done.map(|()| Map::new())?)
    }
    let method: Layer = match name {
        "Snapshot" => |p, m| Ok(object(&m.snapshot(parse(p)?)?)),
        "SnapshotDelete" => |p, m| Ok(object(&m.snapshot_delete(parse(p)?)?)),
        "Merge" => |p, m| Ok(object(&m.merge(parse(p)?)?)),
        "Grow" => |p, m| Ok(object(&m.grow(parse(p)?)?)),
        "Jobs" => |_, m| Ok(object(&m.jobs()?)),
        "Watch" => |p, m| Ok(object(&m.watch(parse(p)?, None)?)),
        "Resume" => |_, m| nothing(m.resume()),
        "UndoSnapshot" => |_, m| nothing(m.undo_snapshot()),
        "Flush" => |_, m| nothing(m.flush()),
        "ExportAdd" => |p, m| Ok(object(&m.export_add(parse(p)?)?)),
        "ExportRemove" => |p, m| nothing(m.export_remove(parse(p)?)),
        "Cancel" => |p, m| nothing(m.cancel(parse(p)?)),
        "SetRate" => |p, m| nothing(m.set_rate(parse(p)?)),
        _ => return None,
    };
    Some(method(parameters, methods))
}

const fn refuse(name: &'static str, key: &'static str, value: String) -> Refusal {
    Refusal::Service { name, key, value }
}

fn parse<T: DeserializeOwned>(parameters: Map<String, Value>) -> std::result::Result<T, Refusal> {
    serde_json::from_value(Value::Object(parameters))
        .map_err(|error| refuse("InvalidParameter", "parameter", error.to_string()))
}

fn object(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn service_info() -> Map<String, Value> {
    object(&json!({
        "vendor": "ploop",
        "product": "ploop disk server",
        "version": env!("CARGO_PKG_VERSION"),
        "url": "",
        "interfaces": [SERVICE, INTERFACE],
    }))
}

fn describe(parameters: &Map<String, Value>) -> Answer {
    let name = parameters.get("interface").and_then(Value::as_str);
    let description = match name {
        Some(SERVICE) => SERVICE_DESCRIPTION,
        Some(INTERFACE) => DESCRIPTION,
        Some(other) => return Err(refuse("InterfaceNotFound", "interface", other.to_owned())),
        None => return Err(refuse("InvalidParameter", "parameter", "interface".to_owned())),
    };
    Ok(object(&json!({ "description": description })))
}
