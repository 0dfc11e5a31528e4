//! Tests of the handshake's state machine.

use super::*;
use crate::protocol::OPTION_REPLY_MAGIC;

fn offer() -> Offer {
    Offer {
        name: "disk".into(),
        description: "a disk".into(),
        size: 1 << 30,
        read_only: false,
        block: 512,
        preferred: 4096,
    }
}

fn option_bytes(code: u32, data: &[u8]) -> Vec<u8> {
    let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
    out
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), rest].concat()
}

/// Feeds everything, `step` bytes at a time, and returns the status, the answers after the
/// greeting, and how many bytes were taken.
fn feed(bytes: &[u8], step: usize) -> (Status, Vec<u8>, usize) {
    let mut out = Vec::new();
    let mut handshake = Handshake::new(&mut out);
    assert_eq!(out.len(), 18);
    out.clear();
    let mut at = 0;
    while let Status::Need(need) = handshake.status() {
        let len = need.min(step).min(bytes.len() - at);
        if len == 0 {
            break;
        }
        handshake.input(&bytes[at..at + len], &offer(), &mut out);
        at += len;
    }
    (handshake.status(), out, at)
}

fn run(flags: u32, options: &[Vec<u8>]) -> (Status, Vec<u8>) {
    let mut bytes = flags.to_be_bytes().to_vec();
    options.iter().for_each(|o| bytes.extend_from_slice(o));
    let (status, out, taken) = feed(&bytes, usize::MAX);
    assert_eq!((status, out.clone(), taken), feed(&bytes, 1), "byte by byte");
    (status, out)
}

/// The (code, type, data) of every answer.
fn answers(mut out: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut found = Vec::new();
    while !out.is_empty() {
        assert_eq!(out[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        let word = |at: usize| u32::from_be_bytes(out[at..at + 4].try_into().unwrap());
        let len = word(16) as usize;
        found.push((word(8), word(12), out[20..20 + len].to_vec()));
        out = &out[20 + len..];
    }
    found
}

const ACK: u32 = 1;
const ERR: u32 = 1 << 31;

#[test]
fn go_tells_size_flags_and_block_sizes() {
    let wanted = [0, 3, 0, 1, 0, 2, 0, 3];
    let (status, out) = run(3, &[option_bytes(8, &[]), option_bytes(7, &named("disk", &wanted))]);
    assert_eq!(status, Status::Agreed(Terms { structured: true, block_status: false }));
    let answers = answers(&out);
    assert_eq!(answers[0], (8, ACK, vec![]));
    let kinds: Vec<_> = answers[1..].iter().map(|a| (a.0, a.1)).collect();
    assert_eq!(kinds, [(7, 3), (7, 3), (7, 3), (7, 3), (7, ACK)]);
    let flags = 1 | 4 | 8 | 32 | 64 | 128 | 256 | 1024 | 2048u16;
    let export = [&[0, 0][..], &(1u64 << 30).to_be_bytes(), &flags.to_be_bytes()].concat();
    assert_eq!(answers[1].2, export);
    assert_eq!(answers[2].2, b"\0\x01disk");
    assert_eq!(answers[3].2, b"\0\x02a disk");
    assert_eq!(answers[4].2, [0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0]);
}

#[test]
fn info_does_not_end_the_handshake() {
    let (status, out) = run(3, &[option_bytes(6, &named("disk", &[0, 0]))]);
    assert_eq!(status, Status::Need(16));
    assert_eq!(answers(&out).len(), 3, "export, block size, ack");
}

#[test]
fn nothing_after_go_is_read() {
    let go = option_bytes(7, &named("disk", &[0, 0]));
    let bytes = [&3u32.to_be_bytes()[..], &go, b"requests follow"].concat();
    let (status, _, taken) = feed(&bytes, usize::MAX);
    assert!(matches!(status, Status::Agreed(_)));
    assert_eq!(taken, 4 + go.len());
}

#[test]
fn export_name_with_and_without_zeroes() {
    let (status, out) = run(1, &[option_bytes(1, b"disk")]);
    assert_eq!(status, Status::Agreed(Terms::default()));
    assert_eq!(out.len(), 10 + 124);
    let (_, out) = run(3, &[option_bytes(1, b"disk")]);
    assert_eq!(out.len(), 10);
    assert_eq!(out[8..], (1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048u16).to_be_bytes(), "no DF");
    let (status, out) = run(0, &[option_bytes(1, b"disk")]);
    assert!(matches!(status, Status::Agreed(_)), "old newstyle knows EXPORT_NAME");
    assert_eq!(out.len(), 134);
    let (status, out) = run(3, &[option_bytes(1, b"other")]);
    assert_eq!((status, out.len()), (Status::Closed("no such export"), 0));
}

#[test]
fn list_names_the_export() {
    let (_, out) = run(3, &[option_bytes(3, &[])]);
    let expect = [(3, 2, b"\0\0\0\x04diska disk".to_vec()), (3, ACK, vec![])];
    assert_eq!(answers(&out), expect);
    let (_, out) = run(3, &[option_bytes(3, b"x")]);
    assert_eq!(answers(&out)[0].1, ERR + 3);
}

#[test]
fn errors_leave_the_handshake_open() {
    let cases = [
        (option_bytes(5, &[]), ERR + 1),
        (option_bytes(11, &[]), ERR + 1),
        (option_bytes(4711, b"abc"), ERR + 1),
        (option_bytes(8, b"x"), ERR + 3),
        (option_bytes(7, b"x"), ERR + 3),
        (option_bytes(7, &named("nope", &[0, 0])), ERR + 6),
        (option_bytes(6, &named(&"n".repeat(300), &[0, 0])), ERR + 2),
        (option_bytes(10, &named("disk", &[0; 4])), ERR + 3),
        (option_bytes(7, &[0; 5000]), ERR + 9),
    ];
    for (option, error) in cases {
        let (status, out) = run(3, &[option, option_bytes(6, &named("disk", &[0, 0]))]);
        assert_eq!(status, Status::Need(16));
        assert_eq!(answers(&out)[0].1, error);
        assert_eq!(answers(&out).last().unwrap().1, ACK);
    }
}

#[test]
fn abuse_closes() {
    let closed = |flags, options: &[Vec<u8>]| matches!(run(flags, options).0, Status::Closed(_));
    assert!(closed(4, &[]), "unknown client flag");
    assert!(closed(3, &[vec![0; 16]]), "wrong option magic");
    assert!(closed(3, &[option_bytes(2, &[])]), "abort");
    assert!(closed(2, &[option_bytes(3, &[])]), "not fixed newstyle");
    assert!(closed(3, &[option_bytes(7, &vec![0; 70_000])[..16].to_vec()]), "64 KiB");
    let flood = vec![option_bytes(3, &[]); MAX_OPTIONS as usize + 1];
    assert!(closed(3, &flood), "option flood");
    assert!(!closed(3, &flood[1..]));
}

fn meta(queries: &[&str]) -> Vec<u8> {
    let mut rest = (queries.len() as u32).to_be_bytes().to_vec();
    queries.iter().for_each(|q| rest.extend_from_slice(&named(q, &[])));
    named("disk", &rest)
}

#[test]
fn meta_contexts() {
    let structured = option_bytes(8, &[]);
    let set = option_bytes(10, &meta(&["base:allocation", "x:y"]));
    let (_, out) = run(3, &[structured.clone(), set.clone()]);
    assert_eq!(answers(&out)[1], (10, 4, b"\0\0\0\x01base:allocation".to_vec()));
    assert_eq!(answers(&out)[2], (10, ACK, vec![]));
    let go = option_bytes(7, &named("disk", &[0, 0]));
    let (status, _) = run(3, &[structured.clone(), set.clone(), go.clone()]);
    assert_eq!(status, Status::Agreed(Terms { structured: true, block_status: true }));
    // A later selection replaces the earlier one; `base:` selects nothing.
    let none = option_bytes(10, &meta(&["base:"]));
    let (status, out) = run(3, &[structured.clone(), set, none, go]);
    assert_eq!(status, Status::Agreed(Terms { structured: true, block_status: false }));
    assert_eq!(answers(&out)[3], (10, ACK, vec![]));
    for queries in [&[][..], &["base:"], &["base:allocation"]] {
        let (_, out) = run(3, &[structured.clone(), option_bytes(9, &meta(queries))]);
        assert_eq!(answers(&out)[1], (9, 4, b"\0\0\0\0base:allocation".to_vec()));
    }
    let (_, out) = run(3, &[structured, option_bytes(9, &meta(&["qemu:"]))]);
    assert_eq!(answers(&out)[1], (9, ACK, vec![]));
}

#[test]
fn a_read_only_offer_has_no_write_flags() {
    let offer = Offer { read_only: true, ..offer() };
    assert_eq!(offer.flags(true), 1 | 2 | 4 | 8 | 128 | 256 | 1024);
}
