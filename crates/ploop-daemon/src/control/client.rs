//! The client side, for the tool.

use super::types::{
    DeleteCall, DeleteReply, ExportCall, ExportReply, Extent, GrowCall, GrowReply, InfoReply, Job,
    JobCall, JobsReply, MapCall, MapReply, MergeCall, MetricsReply, MountpointCall, PauseCall,
    RateCall, SnapshotCall, SnapshotReply, StatReply, State, StopCall, UnexportCall, WatchReply,
};
use super::wire::{Call, MAX_REPLY, Reply, Wire};
use super::{INTERFACE, SERVICE};
use crate::failure::OrFail;
use crate::{Code, Failure, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a call that should be quick may take.
const QUICK: Duration = Duration::from_secs(60);

/// A connection to a server.
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or it belongs to somebody else.
    pub fn connect(socket: &Path) -> Result<Self> {
        let what = format!("control socket {}", socket.display());
        let stream = UnixStream::connect(socket).or_fail(Code::Protocol, &what)?;
        let wire = Wire::new(stream, MAX_REPLY).or_fail(Code::Protocol, &what)?;
        Ok(Self { wire })
    }

    /// What is served.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn info(&mut self) -> Result<State> {
        self.call::<InfoReply>("Info", &json!({}), Some(QUICK)).map(|reply| reply.state)
    }

    /// Counters.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn stat(&mut self) -> Result<StatReply> {
        self.call("Stat", &json!({}), Some(QUICK))
    }

    /// Counters as OpenMetrics text.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn metrics(&mut self) -> Result<String> {
        self.call::<MetricsReply>("Metrics", &json!({}), Some(QUICK)).map(|reply| reply.text)
    }

    /// Exports the disk at one more address.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn export_add(&mut self, call: &ExportCall) -> Result<String> {
        self.call::<ExportReply>("ExportAdd", call, None).map(|reply| reply.export)
    }

    /// Takes an address away that was added.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn export_remove(&mut self, call: &UnexportCall) -> Result<()> {
        self.call::<Value>("ExportRemove", call, None).map(drop)
    }

    /// Stops the server; returns when the disk is closed, however long that takes.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn stop(&mut self, force: bool) -> Result<()> {
        let call = StopCall { force: Some(force), keep: None };
        self.call::<Value>("Stop", &call, None).map(drop)
    }

    /// Stops the server and leaves its device to the next one.
    ///
    /// # Errors
    /// The device cannot wait; the server's, or of the connection.
    pub fn leave(&mut self) -> Result<()> {
        let call = StopCall { force: None, keep: Some(true) };
        self.call::<Value>("Stop", &call, None).map(drop)
    }

    /// Where the disk is stored, a part at a time; `each` gets the extents in order.
    ///
    /// # Errors
    /// The server's, of the connection, or of `each`.
    pub fn map(&mut self, mut each: impl FnMut(Extent) -> Result<()>) -> Result<()> {
        let mut next = Some(0);
        while let Some(offset_bytes) = next {
            let reply: MapReply = self.call("Map", &MapCall { offset_bytes }, Some(QUICK))?;
            for extent in reply.extents {
                each(extent)?;
            }
            if reply.next_bytes.is_some_and(|next| next <= offset_bytes) {
                return Err(Failure::new(Code::Protocol, "the server's map does not advance"));
            }
            next = reply.next_bytes;
        }
        Ok(())
    }

    /// Tells where the device is mounted.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn set_mountpoint(&mut self, mountpoint: Option<String>) -> Result<()> {
        let call = MountpointCall { mountpoint };
        self.call::<Value>("SetMountpoint", &call, Some(QUICK)).map(drop)
    }

    /// Freezes the present state.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn snapshot(&mut self, uuid: Option<String>, temporary: bool) -> Result<SnapshotReply> {
        let call = SnapshotCall { uuid, temporary: Some(temporary) };
        self.call("Snapshot", &call, None)
    }

    /// Deletes a snapshot, or begins to.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn snapshot_delete(&mut self, uuid: String, rate: Option<u64>) -> Result<DeleteReply> {
        self.call("SnapshotDelete", &DeleteCall { uuid, rate_bytes: rate }, None)
    }

    /// Begins a merge; returns its job.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn merge(&mut self, call: &MergeCall) -> Result<u64> {
        self.call::<JobCall>("Merge", call, None).map(|reply| reply.job)
    }

    /// Makes the device larger.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn grow(&mut self, size_bytes: u64) -> Result<GrowReply> {
        self.call("Grow", &GrowCall { size_bytes }, None)
    }

    /// Holds the device paused.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn pause(&mut self, limit: Duration) -> Result<()> {
        let limit_ms = u64::try_from(limit.as_millis()).ok();
        self.call::<Value>("Pause", &PauseCall { limit_ms }, None).map(drop)
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// The server's: it was over already. Or of the connection.
    pub fn resume(&mut self) -> Result<()> {
        self.call::<Value>("Resume", &json!({}), Some(QUICK)).map(drop)
    }

    /// Gives up the top of a snapshot taken in this pause.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn undo_snapshot(&mut self) -> Result<()> {
        self.call::<Value>("UndoSnapshot", &json!({}), None).map(drop)
    }

    /// Makes everything acknowledged so far durable.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn flush(&mut self) -> Result<()> {
        self.call::<Value>("Flush", &json!({}), None).map(drop)
    }

    /// All jobs.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn jobs(&mut self) -> Result<Vec<Job>> {
        self.call::<JobsReply>("Jobs", &json!({}), Some(QUICK)).map(|reply| reply.jobs)
    }

    /// Follows a job to its end; `each` hears how far it is.
    ///
    /// # Errors
    /// The server's, or of the connection. A job that failed is none.
    pub fn watch(&mut self, job: u64, mut each: impl FnMut(&Job)) -> Result<Job> {
        self.send("Watch", &JobCall { job }, true)?;
        loop {
            let (reply, continues) = self.receive::<WatchReply>("Watch", None)?;
            each(&reply.job);
            if !continues {
                return Ok(reply.job);
            }
        }
    }

    /// Asks a job to end.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn cancel(&mut self, job: u64) -> Result<()> {
        self.call::<Value>("Cancel", &JobCall { job }, Some(QUICK)).map(drop)
    }

    /// Changes the rate of a job.
    ///
    /// # Errors
    /// The server's, or of the connection.
    pub fn set_rate(&mut self, job: u64, rate_bytes: Option<u64>) -> Result<()> {
        self.call::<Value>("SetRate", &RateCall { job, rate_bytes }, Some(QUICK)).map(drop)
    }

    fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: &impl Serialize,
        timeout: Option<Duration>,
    ) -> Result<T> {
        self.send(method, parameters, false)?;
        self.receive(method, timeout).map(|(reply, _)| reply)
    }

    fn send(&mut self, method: &str, parameters: &impl Serialize, more: bool) -> Result<()> {
        let parameters = match serde_json::to_value(parameters) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        };
        let method = format!("{INTERFACE}.{method}");
        let call = Call { method: method.clone(), parameters, oneway: false, more };
        self.wire.send(&call).or_fail(Code::Protocol, format!("{method}: sending"))
    }

    /// A reply, and whether another follows.
    fn receive<T: DeserializeOwned>(
        &mut self,
        method: &str,
        timeout: Option<Duration>,
    ) -> Result<(T, bool)> {
        let method = format!("{INTERFACE}.{method}");
        let message = self.wire.receive(timeout).or_fail(Code::Protocol, &method)?;
        let Some(message) = message else {
            return Err(Failure::new(Code::Protocol, format!("{method}: the server went away")));
        };
        let reply: Reply = serde_json::from_slice(&message)
            .or_fail(Code::Protocol, format!("{method}: bad reply"))?;
        match reply.error {
            None => serde_json::from_value(Value::Object(reply.parameters))
                .map(|value| (value, reply.continues))
                .or_fail(Code::Protocol, format!("{method}: bad reply")),
            Some(error) => Err(failure(&method, &error, &reply.parameters)),
        }
    }
}

/// The failure an error reply stands for (T16).
fn failure(method: &str, error: &str, parameters: &Map<String, Value>) -> Failure {
    let own = error.strip_prefix(INTERFACE).and_then(|name| name.strip_prefix('.'));
    let code = own.and_then(Code::from_error_name);
    let text = |key: &str| parameters.get(key).and_then(Value::as_str).map(str::to_owned);
    match code {
        Some(code) => {
            let message = text("message").unwrap_or_else(|| error.to_owned());
            let failure = Failure::new(code, message);
            // A server of before says no more than the code.
            let kind = text("kind").map_or_else(|| failure.kind.clone(), Cow::Owned);
            Failure { kind, hint: text("hint"), ..failure }
        }
        None => {
            let name = error.strip_prefix(SERVICE).unwrap_or(error);
            let message = format!("{method}: the server answered {name}");
            Failure::new(Code::Protocol, message).hint("it may be an older version: detach it")
        }
    }
}
