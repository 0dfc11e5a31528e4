//! The control socket, by our client and by hand-written messages.
#![allow(clippy::unwrap_used, reason = "a test")]

use ploop_daemon::control::types::{
    DeleteCall, DeleteReply, ExportCall, ExportReply, Extent, GrowCall, GrowReply, InfoReply, Job,
    JobCall, JobState, JobsReply, MapCall, MapReply, MergeCall, MetricsReply, MountpointCall,
    PauseCall, RateCall, SnapshotCall, SnapshotReply, StatReply, State, StopCall, UnexportCall,
    WatchReply,
};
use ploop_daemon::control::{Client, DESCRIPTION, Methods, Server};
use ploop_daemon::{Code, Failure, Result};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

struct Fake;

/// The last pause whose client went away.
static ABANDONED: AtomicU64 = AtomicU64::new(0);

impl Methods for Fake {
    fn info(&self) -> Result<InfoReply> {
        let state = State {
            id: "1:2".into(),
            pid: 7,
            disk: "/d/DiskDescriptor.xml".into(),
            images: vec![],
            size_bytes: 1 << 40,
            block_bytes: 512,
            cluster_bytes: 1 << 20,
            version: Some(2),
            read_only: false,
            queues: 1,
            engine: "uring".into(),
            device: None,
            partition: None,
            transport: None,
            mountpoint: None,
            exports: vec!["nbd unix:/x".into()],
            started: 5,
        };
        Ok(InfoReply { state })
    }
    fn stat(&self) -> Result<StatReply> {
        let counters = [("reads".to_owned(), 3)].into();
        Ok(StatReply { counters, ..StatReply::default() })
    }
    fn metrics(&self) -> Result<MetricsReply> {
        Ok(MetricsReply { text: "# EOF\n".into() })
    }
    fn stop(&self, call: StopCall) -> Result<()> {
        if call.force == Some(true) {
            return Ok(());
        }
        Err(Failure::new(Code::DeviceBusy, "/dev/loop9 is mounted").hint("unmount it"))
    }
    fn export_add(&self, call: ExportCall) -> Result<ExportReply> {
        Ok(ExportReply { export: format!("nbd {}", call.address) })
    }
    fn export_remove(&self, _call: UnexportCall) -> Result<()> {
        Ok(())
    }
    fn map(&self, call: MapCall) -> Result<MapReply> {
        let at = call.offset_bytes;
        let extents = vec![Extent { offset_bytes: at, length_bytes: 100, level: None }];
        Ok(MapReply { extents, next_bytes: (at < 200).then_some(at + 100) })
    }
    fn set_mountpoint(&self, _call: MountpointCall) -> Result<()> {
        Ok(())
    }
    fn snapshot(&self, call: SnapshotCall) -> Result<SnapshotReply> {
        let uuid = call.uuid.unwrap_or_else(|| "new".into());
        Ok(SnapshotReply { uuid, image: "/d/top".into(), pause_ns: 5 })
    }
    fn snapshot_delete(&self, call: DeleteCall) -> Result<DeleteReply> {
        Ok(DeleteReply { deleted: "merging".into(), job: call.rate_bytes })
    }
    fn merge(&self, call: MergeCall) -> Result<JobCall> {
        Ok(JobCall { job: call.rate_bytes.unwrap_or(1) })
    }
    fn grow(&self, call: GrowCall) -> Result<GrowReply> {
        Ok(GrowReply { before_bytes: 1, size_bytes: call.size_bytes, pause_ns: 2 })
    }
    fn pause(&self, call: PauseCall) -> Result<u64> {
        assert_eq!(call.limit_ms, Some(7));
        Ok(5)
    }
    fn abandon(&self, pause: u64) {
        ABANDONED.store(pause, Ordering::SeqCst);
    }
    fn resume(&self) -> Result<()> {
        Err(Failure::parameter("the device is not paused").kind("finer"))
    }
    fn undo_snapshot(&self) -> Result<()> {
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
    fn jobs(&self) -> Result<JobsReply> {
        Ok(JobsReply { jobs: vec![job(3)] })
    }
    fn watch(&self, call: JobCall, seen: Option<&Job>) -> Result<WatchReply> {
        if call.job != 3 {
            return Err(Failure::parameter("there is no such job"));
        }
        Ok(WatchReply { job: job(seen.map_or(0, |seen| seen.done_bytes + 1)) })
    }
    fn cancel(&self, _call: JobCall) -> Result<()> {
        Ok(())
    }
    fn set_rate(&self, call: RateCall) -> Result<()> {
        assert_eq!(call.rate_bytes, None);
        Ok(())
    }
}

/// Done when three bytes are.
fn job(done_bytes: u64) -> Job {
    Job {
        id: 3,
        kind: "merge".into(),
        state: if done_bytes < 3 { JobState::Running } else { JobState::Done },
        done_bytes,
        total_bytes: 3,
        rate_bytes: None,
        elapsed_ms: 1,
        left_ms: None,
        pause_ns: vec![4],
        message: None,
        code: None,
        error_kind: None,
        hint: None,
    }
}

#[test]
fn layers_and_jobs_are_reached_by_their_methods() {
    let (_dir, path) = start();
    let mut client = Client::connect(&path).unwrap();
    assert_eq!(client.snapshot(None, false).unwrap().uuid, "new");
    assert_eq!(client.snapshot_delete("a".into(), Some(9)).unwrap().job, Some(9));
    assert_eq!(client.merge(&MergeCall::default()).unwrap(), 1);
    assert_eq!(client.grow(77).unwrap().size_bytes, 77);
    client.pause(std::time::Duration::from_millis(7)).unwrap();
    let refused = client.resume().unwrap_err();
    assert_eq!((refused.code, &*refused.kind), (Code::Parameter, "finer"));
    client.undo_snapshot().unwrap();
    client.flush().unwrap();
    assert_eq!(client.jobs().unwrap(), [job(3)]);
    client.cancel(3).unwrap();
    client.set_rate(3, None).unwrap();
    let mut seen = vec![];
    let last = client.watch(3, |job| seen.push(job.done_bytes)).unwrap();
    assert_eq!((seen, last.state), (vec![0, 1, 2, 3], JobState::Done));
    assert_eq!(client.watch(4, |_| ()).unwrap_err().code, Code::Parameter);
    // One reply when one is wanted.
    let text = raw(&path, b"{\"method\":\"org.ploop.Disk.Watch\",\"parameters\":{\"job\":3}}\0");
    assert!(text.contains("\"running\"") && !text.contains("continues"), "{text}");
    let text = raw(
        &path,
        b"{\"method\":\"org.ploop.Disk.Watch\",\"parameters\":{\"job\":3},\"more\":true}\0",
    );
    assert_eq!(text.matches("\"continues\":true").count(), 3, "{text}");
}

fn start() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.sock");
    Server::start(&path, Arc::new(Fake)).unwrap();
    (dir, path)
}

fn raw(path: &PathBuf, message: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(message).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_client_gets_replies_and_errors_with_their_code_and_hint() {
    let (_dir, path) = start();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = Client::connect(&path).unwrap();
    assert_eq!(client.info().unwrap().size_bytes, 1 << 40);
    assert_eq!(client.stat().unwrap().counters["reads"], 3);
    assert_eq!(client.metrics().unwrap(), "# EOF\n");
    let error = client.stop(false).unwrap_err();
    assert_eq!(error.code, Code::DeviceBusy);
    assert_eq!(error.hint.as_deref(), Some("unmount it"));
    client.stop(true).unwrap();
    let mut offsets = vec![];
    client
        .map(|extent| {
            offsets.push(extent.offset_bytes);
            Ok(())
        })
        .unwrap();
    assert_eq!(offsets, [0, 100, 200]);
    client.set_mountpoint(Some("/mnt".into())).unwrap();
}

#[test]
fn a_varlink_client_finds_out_what_there_is() {
    let (_dir, path) = start();
    let text = raw(&path, b"{\"method\":\"org.varlink.service.GetInfo\"}\0");
    assert!(text.contains("org.ploop.Disk") && text.ends_with('\0'), "{text}");
    let method = r#"{"method":"org.varlink.service.GetInterfaceDescription","#;
    let call = format!("{method}{}", r#""parameters":{"interface":"org.ploop.Disk"}}"#);
    let text = raw(&path, &[call.as_bytes(), b"\0"].concat());
    let reply: serde_json::Value = serde_json::from_str(text.trim_end_matches('\0')).unwrap();
    assert_eq!(reply["parameters"]["description"], DESCRIPTION);
}

#[test]
fn unknown_methods_bad_parameters_and_garbage_are_refused() {
    let (_dir, path) = start();
    let text = raw(&path, b"{\"method\":\"org.ploop.Disk.Nothing\"}\0");
    assert!(text.contains("org.varlink.service.MethodNotFound"), "{text}");
    let text = raw(&path, b"{\"method\":\"a.b.C\"}\0");
    assert!(text.contains("org.varlink.service.InterfaceNotFound"), "{text}");
    let text = raw(&path, b"{\"method\":\"org.ploop.Disk.Map\",\"parameters\":{}}\0");
    assert!(text.contains("org.varlink.service.InvalidParameter"), "{text}");
    assert_eq!(raw(&path, b"no json\0"), "");
    // And the server is still there.
    assert!(Client::connect(&path).unwrap().info().is_ok());
}

#[test]
fn too_many_clients_are_turned_away_and_room_comes_back() {
    let (_dir, path) = start();
    let mut held: Vec<_> = (0..16).map(|_| Client::connect(&path).unwrap()).collect();
    for client in &mut held {
        client.info().unwrap();
    }
    assert!(Client::connect(&path).unwrap().info().is_err());
    held.clear();
    let again = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        Client::connect(&path).is_ok_and(|mut client| client.info().is_ok())
    });
    assert!(again);
}

#[test]
fn silent_clients_keep_nobody_out() {
    let (_dir, path) = start();
    let mut silent: Vec<_> = (0..16).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let begin = Instant::now();
    for _ in 0..3 {
        Client::connect(&path).unwrap().info().unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // They are dropped by themselves, too.
    silent[15].set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(silent[15].read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_pause_ends_with_its_client() {
    let (_dir, path) = start();
    let mut client = Client::connect(&path).unwrap();
    client.pause(Duration::from_millis(7)).unwrap();
    client.info().unwrap();
    assert_eq!(ABANDONED.load(Ordering::SeqCst), 0);
    drop(client);
    let until = Instant::now() + Duration::from_secs(5);
    while ABANDONED.load(Ordering::SeqCst) != 5 {
        assert!(Instant::now() < until, "it is held for nobody");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Types, methods and errors share one space of names: another client refuses the interface else.
#[test]
fn names_of_the_interface_are_its_only_ones() {
    let mut seen = std::collections::BTreeSet::new();
    for line in DESCRIPTION.lines() {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        let kind = words.next().unwrap_or_default();
        if ["type", "method", "error"].contains(&kind) {
            let name = words.next().unwrap();
            assert!(seen.insert(name), "{name} stands twice");
        }
    }
    assert!(seen.len() > 50, "{seen:?}");
}
