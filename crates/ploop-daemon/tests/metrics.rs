//! Metrics: the text as a scraper parses it, and the HTTP server against clients of all kinds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use ploop_daemon::control::types::{
    DeleteCall, DeleteReply, ExportCall, ExportReply, GrowCall, GrowReply, InfoReply, Job, JobCall,
    JobsReply, MapCall, MapReply, MergeCall, MetricsReply, MountpointCall, PauseCall, RateCall,
    SnapshotCall, SnapshotReply, StatReply, State, StopCall, UnexportCall, WatchReply,
};
use ploop_daemon::control::{DESCRIPTION, Methods};
use ploop_daemon::stats::http::Limits;
use ploop_daemon::stats::types::SizeBucket;
use ploop_daemon::stats::{
    Batches, Bucket, Class, Latency, QueueStat, Scrape, prometheus, scrape, table,
};
use ploop_daemon::{Code, Failure, Result};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn state() -> State {
    State {
        id: "1:2".into(),
        pid: 7,
        disk: "/d/a \"b\"\\c\nd/DiskDescriptor.xml".into(),
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
        exports: vec![],
        started: 5,
    }
}

fn bucket(below_ns: u64, count: u64) -> Bucket {
    Bucket { below_ns: Some(below_ns), count }
}

fn class(operation: &str, route: &str, latency: Latency) -> Class {
    let requests = latency.count;
    let (operation, route) = (operation.into(), route.into());
    Class { operation, route, requests, total_bytes: requests * 4096, latency }
}

fn stat() -> StatReply {
    let quick = Latency::new(vec![bucket(1024, 3), bucket(1280, 1), bucket(1536, 2)], 5000, 1500);
    let last = Bucket { below_ns: None, count: 1 };
    let slow = Latency::new(vec![bucket(1 << 20, 1), last], 200_000_000_000, 200_000_000_000);
    let counters: BTreeMap<_, _> = table::QUEUE.iter().map(|l| (l.name.to_owned(), 4)).collect();
    let queue = QueueStat {
        queue: 3,
        counters,
        errors: [("write".to_owned(), 2)].into(),
        classes: vec![class("read", "top", quick), class("write", "copy_up", slow)],
    };
    let buckets = vec![SizeBucket { upto: Some(4), count: 2 }, SizeBucket { upto: None, count: 1 }];
    StatReply {
        interval_ns: 2_500_000_000,
        counters: table::KEEPER.iter().map(|l| (l.name.to_owned(), 9)).collect(),
        classes: queue.classes.clone(),
        queues: vec![queue],
        sync_latency: Latency::new(vec![bucket(1 << 21, 1)], 2_000_000, 2_000_000),
        sync_batches: Batches { count: 3, sum: 207, max: 200, buckets },
    }
}

/// The samples of a text, with every rule checked that a parser relies on.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let (mut family, mut kind, mut help) = (String::new(), String::new(), String::new());
    let mut families = Vec::new();
    let mut samples = BTreeMap::new();
    for line in text.lines().take_while(|line| *line != "# EOF") {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, words] => {
                assert!(!words.is_empty());
                help = (*name).to_owned();
            }
            ["#", "TYPE", name, what] => {
                assert_eq!(*name, help, "HELP first");
                assert!(!families.contains(&help), "{name} twice");
                families.push(help.clone());
                (family, kind) = ((*name).to_owned(), (*what).to_owned());
            }
            ["#", "UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
            _ => {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let bare = name.split('{').next().unwrap();
                let suffix = bare.strip_prefix(&family).unwrap_or_else(|| panic!("{line}"));
                let suffixes: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    "info" => &["_info"],
                    _ => &[""],
                };
                assert!(suffixes.contains(&suffix), "{kind}: {line}");
                assert!(bare.starts_with("ploop_"), "{line}");
                let old = samples.insert(name.to_owned(), value.parse().unwrap());
                assert_eq!(old, None, "{name} twice");
            }
        }
    }
    samples
}

#[test]
fn the_text_has_what_the_counters_say() {
    let samples = parse(&prometheus::text(&state(), stat()).unwrap());
    let get = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("{name}: {samples:#?}"));
    let read = r#"queue="3",op="read",route="top""#;
    assert_eq!(get(&format!("ploop_requests_total{{{read}}}")), 6.0);
    assert_eq!(get(&format!("ploop_request_bytes_total{{{read}}}")), 6.0 * 4096.0);
    assert_eq!(get(r#"ploop_request_errors_total{queue="3",op="write"}"#), 2.0);
    let latency = "ploop_request_latency_seconds";
    assert_eq!(get(&format!("{latency}_count{{{read}}}")), 6.0);
    assert_eq!(get(&format!("{latency}_sum{{{read}}}")), 5e-6);
    let bucket = |le: &str, labels: &str| get(&format!("{latency}_bucket{{le=\"{le}\",{labels}}}"));
    assert_eq!((bucket("0.000001024", read), bucket("0.000002048", read)), (3.0, 6.0));
    assert_eq!(bucket("+Inf", read), 6.0);
    let write = r#"queue="3",op="write",route="copy_up""#;
    assert_eq!((bucket("137.438953472", write), bucket("+Inf", write)), (1.0, 2.0));
    assert_eq!(get(r#"ploop_requests_in_flight{queue="3"}"#), 4.0);
    assert_eq!(get(r#"ploop_requests_held_total{queue="3"}"#), 4.0);
    assert_eq!((get("ploop_pages_dirty"), get("ploop_pages_written_total")), (9.0, 9.0));
    assert_eq!((get("ploop_failed"), get("ploop_uptime_seconds")), (0.0, 2.5));
    assert_eq!(get("ploop_disk_size_bytes"), (1u64 << 40) as f64);
    assert_eq!(get("ploop_sync_latency_seconds_count"), 1.0);
    assert_eq!(get("ploop_sync_batch_waiters_sum"), 207.0);
    assert_eq!(get(r#"ploop_sync_batch_waiters_bucket{le="4.0"}"#), 2.0);
    assert_eq!(get(r#"ploop_sync_batch_waiters_bucket{le="+Inf"}"#), 3.0);
    let info = samples.keys().find(|name| name.starts_with("ploop_disk_info")).unwrap();
    assert!(info.contains(r#"disk="/d/a \"b\"\\c\nd/DiskDescriptor.xml""#), "{info}");
}

#[test]
fn names_in_the_table_are_names_and_stand_once() {
    let queue = table::QUEUE.iter().map(|line| (line.name, line.metric, line.help));
    let keeper = table::KEEPER.iter().map(|line| (line.name, line.metric, line.help));
    let mut seen = Vec::new();
    for (name, metric, help) in queue.chain(keeper) {
        for word in [name, metric] {
            assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{word}");
            assert!(!word.ends_with("_total"), "{word}");
        }
        assert!(help.ends_with('.') && !help.contains(['\n', '\\']), "{help}");
        assert!(!seen.contains(&name) && !seen.contains(&metric), "{name}");
        seen.extend([name, metric].into_iter().collect::<std::collections::BTreeSet<_>>());
    }
}

/// Names of fields, also of objects inside; not the names of counters.
fn fields(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                found.push(name.clone());
                if name != "counters" && name != "errors" {
                    fields(value, found);
                }
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn the_interface_describes_every_field() {
    let mut found = Vec::new();
    fields(&serde_json::to_value(stat()).unwrap(), &mut found);
    assert!(found.len() > 20, "{found:?}");
    for name in found {
        let word = |part: &str| {
            part.contains(&format!(" {name}: ")) || part.contains(&format!("({name}: "))
        };
        assert!(DESCRIPTION.lines().any(word), "{name}");
    }
}

#[test]
fn the_books_name_every_number() {
    let docs = std::fs::read_to_string("../../docs/stats.md").unwrap();
    let has = |word: &str| assert!(docs.contains(&format!("`{word}`")), "{word} is missing");
    table::QUEUE.iter().for_each(|line| [line.name, line.metric].into_iter().for_each(has));
    table::KEEPER.iter().for_each(|line| [line.name, line.metric].into_iter().for_each(has));
    for class in ploop_engine::stats::CLASSES {
        let row = format!("| {} | {} |", class.operation, class.route);
        assert!(docs.contains(&row), "{row} is missing");
    }
}

struct Fake;

impl Methods for Fake {
    fn info(&self) -> Result<InfoReply> {
        Ok(InfoReply { state: state() })
    }
    fn stat(&self) -> Result<StatReply> {
        Ok(stat())
    }
    fn metrics(&self) -> Result<MetricsReply> {
        Ok(MetricsReply { text: prometheus::text(&state(), stat()).unwrap() })
    }
    fn stop(&self, _call: StopCall) -> Result<()> {
        Ok(())
    }
    fn export_add(&self, _: ExportCall) -> Result<ExportReply> {
        Err(Failure::new(Code::Internal, "not here"))
    }
    fn export_remove(&self, _: UnexportCall) -> Result<()> {
        Err(Failure::new(Code::Internal, "not here"))
    }
    fn map(&self, _call: MapCall) -> Result<MapReply> {
        Err(Failure::new(Code::Internal, "not here"))
    }
    fn set_mountpoint(&self, _call: MountpointCall) -> Result<()> {
        Ok(())
    }
    fn snapshot(&self, _call: SnapshotCall) -> Result<SnapshotReply> {
        unreachable!()
    }
    fn snapshot_delete(&self, _call: DeleteCall) -> Result<DeleteReply> {
        unreachable!()
    }
    fn merge(&self, _call: MergeCall) -> Result<JobCall> {
        unreachable!()
    }
    fn grow(&self, _call: GrowCall) -> Result<GrowReply> {
        unreachable!()
    }
    fn pause(&self, _call: PauseCall) -> Result<u64> {
        unreachable!()
    }
    fn abandon(&self, _pause: u64) {}
    fn resume(&self) -> Result<()> {
        unreachable!()
    }
    fn undo_snapshot(&self) -> Result<()> {
        unreachable!()
    }
    fn flush(&self) -> Result<()> {
        unreachable!()
    }
    fn jobs(&self) -> Result<JobsReply> {
        unreachable!()
    }
    fn watch(&self, _call: JobCall, _seen: Option<&Job>) -> Result<WatchReply> {
        unreachable!()
    }
    fn cancel(&self, _call: JobCall) -> Result<()> {
        unreachable!()
    }
    fn set_rate(&self, _call: RateCall) -> Result<()> {
        unreachable!()
    }
}

const SHORT: Limits =
    Limits { head: Duration::from_millis(300), write: Duration::from_millis(300) };

/// A server on a free port of the loopback; its address.
fn start(limits: Limits) -> (Scrape, String) {
    let mut server = Scrape::bind(&scrape::address("tcp:127.0.0.1:0").unwrap(), false).unwrap();
    server.set_limits(limits);
    server.start(Arc::new(Fake)).unwrap();
    let address = server.word().strip_prefix("metrics tcp:").unwrap().to_owned();
    (server, address)
}

fn ask(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_scraper_gets_the_text() {
    let (_server, address) = start(Limits::default());
    let answer = ask(&address, b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Type: {}\r\n", prometheus::CONTENT_TYPE)), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(head.contains("Connection: close"), "{head}");
    assert_eq!(parse(body), parse(&prometheus::text(&state(), stat()).unwrap()));
    let head_only = ask(&address, b"HEAD /metrics HTTP/1.0\n\n");
    assert!(head_only.starts_with("HTTP/1.1 200 OK") && head_only.ends_with("\r\n\r\n"));
    // In small parts, as a slow network brings it.
    let mut stream = TcpStream::connect(&address).unwrap();
    for part in ["GET /met", "rics HTTP/1.1\r", "\n\r", "\n"] {
        stream.write_all(part.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn what_is_not_a_scrape_is_refused_with_words() {
    let (_server, address) = start(Limits::default());
    let status = |request: &[u8]| ask(&address, request)[..12].to_owned();
    assert_eq!(status(b"GET / HTTP/1.1\r\n\r\n"), "HTTP/1.1 404");
    assert_eq!(status(b"GET /metrics/x HTTP/1.1\r\n\r\n"), "HTTP/1.1 404");
    assert_eq!(status(b"nonsense\r\n\r\n"), "HTTP/1.1 400");
    assert_eq!(status(b"\x16\x03\x01\x02\x00\x01\n\n"), "HTTP/1.1 400");
    assert_eq!(status(b"GET /metrics HTTP/2.0\r\n\r\n"), "HTTP/1.1 505");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 405") && text.contains("Allow: GET, HEAD\r\n"), "{text}");
}

#[test]
fn a_huge_head_is_cut_off_with_431() {
    let (_server, address) = start(SHORT);
    let mut request = b"GET /metrics HTTP/1.1\r\n".to_vec();
    while request.len() < 100_000 {
        request.extend_from_slice(b"X-Header: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n");
    }
    let answer = ask(&address, &request);
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // One line without an end.
    let answer = ask(&address, &[b'x'; 9000]);
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[test]
fn a_slow_client_is_cut_off_however_it_drips() {
    let (_server, address) = start(SHORT);
    let mut stream = TcpStream::connect(&address).unwrap();
    let began = Instant::now();
    let mut dripping = stream.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        while dripping.write_all(b"x").is_ok() && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut text = String::new();
    // Cut off with words, or with a reset when the last drop came too late.
    let _ = stream.read_to_string(&mut text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    drop(stream);
    drip.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn silent_clients_take_only_a_few_places_and_not_for_long() {
    let (_server, address) = start(SHORT);
    let silent: Vec<_> =
        (0..scrape::MAX_CLIENTS + 4).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let served = (0..200).any(|_| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let mut text = String::new();
        let said = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").is_ok()
            && stream.read_to_string(&mut text).is_ok();
        std::thread::sleep(Duration::from_millis(20));
        said && text.ends_with("# EOF\n")
    });
    assert!(served, "places come back while the silent ones are still there");
    drop(silent);
}

#[test]
fn a_unix_socket_is_the_owners_alone_and_goes() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m");
    let text = format!("unix:{}", path.display());
    let mut server = Scrape::bind(&scrape::address(&text).unwrap(), false).unwrap();
    assert_eq!(server.word(), format!("metrics {text}"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    server.start(Arc::new(Fake)).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("# EOF\n"));
    let taken = Scrape::bind(&scrape::address(&text).unwrap(), false).err().unwrap();
    assert_eq!(taken.code, Code::Busy, "{taken}");
    drop(server);
    assert!(!path.exists());
}

#[test]
fn the_world_may_scrape_only_when_it_was_said() {
    let address = scrape::address("tcp:0.0.0.0:0").unwrap();
    let refused = Scrape::bind(&address, false).err().unwrap();
    assert_eq!(refused.code, Code::Parameter);
    assert!(refused.message.contains("--insecure-listen"), "{refused}");
    assert!(Scrape::bind(&address, true).is_ok());
}
