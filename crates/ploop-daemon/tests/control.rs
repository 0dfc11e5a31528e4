//! The control socket, by our client and by hand-written messages.
#![allow(clippy::unwrap_used, reason = "a test")]

use ploop_daemon::control::types::{
    Extent, InfoReply, MapCall, MapReply, MetricsReply, MountpointCall, StatReply, State, StopCall,
};
use ploop_daemon::control::{Client, DESCRIPTION, Methods, Server};
use ploop_daemon::{Code, Failure, Result};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

struct Fake;

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
    fn map(&self, call: MapCall) -> Result<MapReply> {
        let at = call.offset_bytes;
        let extents = vec![Extent { offset_bytes: at, length_bytes: 100, level: None }];
        Ok(MapReply { extents, next_bytes: (at < 200).then_some(at + 100) })
    }
    fn set_mountpoint(&self, _call: MountpointCall) -> Result<()> {
        Ok(())
    }
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
