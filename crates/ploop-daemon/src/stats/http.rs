//! The little of HTTP/1.1 that a scraper needs: one request, one answer, then the connection ends.
//!
//! Nothing of a request is kept but its first line, and a client can neither send much nor take
//! long: the head is at most [`MAX_HEAD`] bytes and must be there within [`Limits::head`], and the
//! answer must have been taken within [`Limits::write`].

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// Longest head of a request.
pub const MAX_HEAD: usize = 8192;
/// What is read of a refused request, so that the client gets to read why.
const MAX_DRAIN: usize = 256 * 1024;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For its whole head.
    pub head: Duration,
    /// For reading the whole answer.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: Duration::from_secs(5), write: Duration::from_secs(5) }
    }
}

/// A connection whose reads and writes end in time.
pub trait Stream: Read + Write {
    /// Reads and writes fail with `WouldBlock` or `TimedOut` after this long.
    ///
    /// # Errors
    /// The system's.
    fn limit(&self, read: Duration, write: Duration) -> io::Result<()>;

    /// Nothing more will be written.
    ///
    /// # Errors
    /// The system's.
    fn end(&self) -> io::Result<()>;
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Number and words.
    pub status: &'static str,
    /// What the body is.
    pub kind: &'static str,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The page that was asked for.
    #[must_use]
    pub fn page(kind: &'static str, body: String) -> Self {
        Self { status: "200 OK", kind, body }
    }

    /// Something else, in words.
    #[must_use]
    pub fn words(status: &'static str, body: impl Into<String>) -> Self {
        let mut body = body.into();
        body.push('\n');
        Self { status, kind: "text/plain; charset=utf-8", body }
    }
}

/// What a first line asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked<'a> {
    Get(&'a str),
    Head(&'a str),
}

/// Serves one request; `page` gives the answer for a path.
///
/// # Errors
/// The client went away, or it is too slow to read.
pub fn serve(
    stream: &mut impl Stream,
    limits: Limits,
    page: impl FnOnce(&str) -> Answer,
) -> io::Result<()> {
    let (answer, body, refused) = match read_head(stream, limits) {
        Ok(head) => match parse(&head) {
            Ok(Asked::Get(path)) => (page(path), true, false),
            Ok(Asked::Head(path)) => (page(path), false, false),
            Err(answer) => (answer, true, true),
        },
        Err(Refusal::Answer(answer)) => (answer, true, true),
        Err(Refusal::Gone(error)) => return Err(error),
    };
    write_answer(stream, &answer, body, limits)?;
    stream.end()?;
    if refused {
        // With unread bytes the close would be a reset, and the answer be lost.
        drain(stream, limits);
    }
    Ok(())
}

enum Refusal {
    Answer(Answer),
    Gone(io::Error),
}

fn read_head(stream: &mut impl Stream, limits: Limits) -> Result<Vec<u8>, Refusal> {
    let until = Instant::now() + limits.head;
    let late = || Refusal::Answer(Answer::words("408 Request Timeout", "the request is too slow"));
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        if let Some(end) = end_of_head(&head) {
            head.truncate(end);
            return Ok(head);
        }
        if head.len() >= MAX_HEAD {
            let words = format!("the head is longer than {MAX_HEAD} bytes");
            let status = "431 Request Header Fields Too Large";
            return Err(Refusal::Answer(Answer::words(status, words)));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        stream.limit(left, limits.write).map_err(Refusal::Gone)?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(Refusal::Gone(ErrorKind::UnexpectedEof.into())),
            Ok(count) => head.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(late());
            }
            Err(error) => return Err(Refusal::Gone(error)),
        }
    }
}

/// Where the empty line is that ends a head.
fn end_of_head(head: &[u8]) -> Option<usize> {
    let with = |mark: &[u8]| head.windows(mark.len()).position(|part| part == mark);
    [with(b"\r\n\r\n"), with(b"\n\n")].into_iter().flatten().min()
}

/// The first line: `METHOD PATH HTTP/1.x`.
fn parse(head: &[u8]) -> Result<Asked<'_>, Answer> {
    let bad = || Answer::words("400 Bad Request", "not an HTTP request");
    let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| bad())?;
    let mut words = line.trim_end_matches('\r').split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    if !version.starts_with("HTTP/") || !target.starts_with('/') {
        return Err(bad());
    }
    if !version.starts_with("HTTP/1.") {
        return Err(Answer::words("505 HTTP Version Not Supported", "HTTP/1.1, please"));
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    match method {
        "GET" => Ok(Asked::Get(path)),
        "HEAD" => Ok(Asked::Head(path)),
        _ => Err(Answer::words("405 Method Not Allowed", "GET and HEAD only")),
    }
}

fn write_answer(
    stream: &mut impl Stream,
    answer: &Answer,
    body: bool,
    limits: Limits,
) -> io::Result<()> {
    let allow = if answer.status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        answer.status,
        answer.kind,
        answer.body.len()
    );
    let until = Instant::now() + limits.write;
    write_until(stream, head.as_bytes(), until)?;
    if body {
        write_until(stream, answer.body.as_bytes(), until)?;
    }
    stream.flush()
}

fn write_until(stream: &mut impl Stream, bytes: &[u8], until: Instant) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.limit(left, left)?;
        match stream.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn drain(stream: &mut impl Stream, limits: Limits) {
    let until = Instant::now() + limits.head;
    let mut chunk = [0; 4096];
    let mut left = MAX_DRAIN;
    while left > 0 {
        let time = until.saturating_duration_since(Instant::now());
        if time.is_zero() || stream.limit(time, limits.write).is_err() {
            return;
        }
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => left = left.saturating_sub(count),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that sends a request at once and takes a byte of the answer now and then.
    struct Sipping {
        request: &'static [u8],
        taken: usize,
    }

    impl Read for Sipping {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.request.read(buf)
        }
    }

    impl Write for Sipping {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(5));
            self.taken += 1;
            Ok(1)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream for Sipping {
        fn limit(&self, _: Duration, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn end(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_sips_the_answer_is_cut_off() {
        let mut client = Sipping { request: b"GET /metrics HTTP/1.1\r\n\r\n", taken: 0 };
        let limits = Limits { write: Duration::from_millis(50), ..Limits::default() };
        let page = |_: &str| Answer::page("text/plain", "x".repeat(100_000));
        let error = serve(&mut client, limits, page).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!((1..=10).contains(&client.taken), "{}", client.taken);
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n"), None);
        assert_eq!(end_of_head(b"a\r\n\r\nb\n\n"), Some(1));
        assert_eq!(end_of_head(b"a\n\nb\r\n\r\n"), Some(1));
    }

    #[test]
    fn first_lines_that_are_understood() {
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x"), Ok(Asked::Get("/metrics")));
        assert_eq!(parse(b"GET /metrics?x=1 HTTP/1.0"), Ok(Asked::Get("/metrics")));
        assert_eq!(parse(b"HEAD / HTTP/1.1"), Ok(Asked::Head("/")));
    }

    #[test]
    fn first_lines_that_are_refused() {
        let status = |line: &[u8]| parse(line).unwrap_err().status[..3].to_owned();
        for bad in [
            &b""[..],
            b"GET",
            b"GET /metrics",
            b"GET  /metrics HTTP/1.1",
            b"GET /metrics HTTP/1.1 x",
            b"GET metrics HTTP/1.1",
            b"GET /metrics SMTP/1.1",
            b"\xff /metrics HTTP/1.1",
        ] {
            assert_eq!(status(bad), "400", "{bad:?}");
        }
        assert_eq!(status(b"POST /metrics HTTP/1.1"), "405");
        assert_eq!(status(b"PRI * HTTP/2.0"), "400");
        assert_eq!(status(b"GET / HTTP/2.0"), "505");
    }
}
