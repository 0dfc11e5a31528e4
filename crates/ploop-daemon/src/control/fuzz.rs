//! Body of the fuzz target: any bytes from a client, and every message as a reply of a server.

use super::server::{Methods, serve_message};
use super::types::{
    DeleteCall, DeleteReply, ExportCall, ExportReply, GrowCall, GrowReply, InfoReply, Job, JobCall,
    JobsReply, MapCall, MapReply, MergeCall, MetricsReply, MountpointCall, PauseCall, RateCall,
    SnapshotCall, SnapshotReply, StatReply, StopCall, UnexportCall, WatchReply,
};
use super::wire::{MAX_CALL, Reply, Wire};
use crate::failure::WireFailure;
use crate::{Code, Failure, Result};
use serde_json::Value;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The longest input: it must fit a socket whole, as nobody reads while it is written.
const LONGEST: usize = MAX_CALL + 1024;

/// Answers everything, with errors where a disk would have some.
struct Nothing;

impl Methods for Nothing {
    fn info(&self) -> Result<InfoReply> {
        Err(Failure::new(Code::Internal, "no disk \u{0} here"))
    }

    fn stat(&self) -> Result<StatReply> {
        Ok(StatReply::default())
    }

    fn metrics(&self) -> Result<MetricsReply> {
        Ok(MetricsReply { text: "a line\n".to_owned() })
    }

    fn stop(&self, call: StopCall) -> Result<()> {
        if call.force == Some(true) { Ok(()) } else { Err(Failure::new(Code::Busy, "busy")) }
    }

    fn export_add(&self, call: ExportCall) -> Result<ExportReply> {
        Ok(ExportReply { export: call.address })
    }

    fn export_remove(&self, call: UnexportCall) -> Result<()> {
        if call.force == Some(true) { Ok(()) } else { Err(Failure::new(Code::Busy, "busy")) }
    }

    fn map(&self, call: MapCall) -> Result<MapReply> {
        let next = call.offset_bytes.checked_add(512);
        Ok(MapReply { extents: Vec::new(), next_bytes: next })
    }

    fn set_mountpoint(&self, _call: MountpointCall) -> Result<()> {
        Ok(())
    }

    fn snapshot(&self, call: SnapshotCall) -> Result<SnapshotReply> {
        let uuid = call.uuid.unwrap_or_default();
        Ok(SnapshotReply { uuid, image: String::new(), pause_ns: 1 })
    }

    fn snapshot_delete(&self, call: DeleteCall) -> Result<DeleteReply> {
        Ok(DeleteReply { deleted: call.uuid, job: call.rate_bytes })
    }

    fn merge(&self, call: MergeCall) -> Result<JobCall> {
        Ok(JobCall { job: call.rate_bytes.unwrap_or(0) })
    }

    fn grow(&self, call: GrowCall) -> Result<GrowReply> {
        Ok(GrowReply { before_bytes: 0, size_bytes: call.size_bytes, pause_ns: 0 })
    }

    fn pause(&self, _call: PauseCall) -> Result<u64> {
        Ok(1)
    }

    fn abandon(&self, _pause: u64) {}

    fn resume(&self) -> Result<()> {
        Err(Failure::parameter("not paused"))
    }

    fn undo_snapshot(&self) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn jobs(&self) -> Result<JobsReply> {
        Ok(JobsReply { jobs: Vec::new() })
    }

    fn watch(&self, call: JobCall, _seen: Option<&Job>) -> Result<WatchReply> {
        Err(Failure::parameter(format!("no job {}", call.job)))
    }

    fn cancel(&self, _call: JobCall) -> Result<()> {
        Ok(())
    }

    fn set_rate(&self, _call: RateCall) -> Result<()> {
        Ok(())
    }
}

/// A client that sends these bytes and hangs up.
///
/// # Panics
/// A promise is broken.
pub fn fuzz_calls(data: &[u8]) {
    let data = &data[..data.len().min(LONGEST)];
    let Ok((mut client, server)) = UnixStream::pair() else { return };
    if client.write_all(data).and_then(|()| client.shutdown(Shutdown::Write)).is_err() {
        return;
    }
    let Ok(mut wire) = Wire::new(server, MAX_CALL) else { return };
    let mut taken = 0;
    while let Ok(Some(message)) = wire.receive(Some(Duration::from_secs(1))) {
        taken += message.len() + 1;
        assert!(taken <= data.len(), "more messages than bytes");
        assert!(!message.contains(&0), "a message holds its own end");
        as_reply(&message);
        let Ok((_, reply)) = serve_message(&message, &Nothing, &mut None) else { return };
        let Ok(bytes) = serde_json::to_vec(&reply) else { unreachable!("a reply is JSON") };
        assert!(!bytes.contains(&0), "a reply holds its own end");
        let again: Option<Reply> = serde_json::from_slice(&bytes).ok();
        let same = again.is_some_and(|again| {
            again.error == reply.error
                && again.parameters == reply.parameters
                && again.continues == reply.continues
        });
        assert!(same, "a reply reads otherwise than it was written");
    }
}

/// What the tool makes of it as an answer.
fn as_reply(message: &[u8]) {
    let Ok(reply) = serde_json::from_slice::<Reply>(message) else { return };
    let value = Value::Object(reply.parameters);
    let _ = serde_json::from_value::<InfoReply>(value.clone());
    let _ = serde_json::from_value::<StatReply>(value.clone());
    let _ = serde_json::from_value::<MapReply>(value.clone());
    let _ = serde_json::from_value::<WatchReply>(value.clone());
    let _ = serde_json::from_value::<SnapshotReply>(value.clone());
    let _ = serde_json::from_value::<WireFailure>(value).map(Failure::from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_garbage_and_floods_are_survived() {
        for method in ["org.ploop.Disk.Info", "org.ploop.Disk.Stat", "org.varlink.service.GetInfo"]
        {
            let call = format!("{{\"method\":\"{method}\"}}\0");
            fuzz_calls(call.repeat(40).as_bytes());
            fuzz_calls(&call.as_bytes()[..call.len() - 2]);
        }
        fuzz_calls(b"{\"method\":\"org.ploop.Disk.Map\",\"parameters\":{\"offset_bytes\":7}}\0");
        fuzz_calls(&[b'['; LONGEST]);
        fuzz_calls(&[0; 100]);
    }
}
