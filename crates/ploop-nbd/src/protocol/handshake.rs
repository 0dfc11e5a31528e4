//! The handshake as a state machine: bytes in, bytes out, and what was agreed.
//!
//! It asks for exactly the bytes it can use, so that nothing of the transmission phase is ever
//! read too early:
//!
//! ```text
//! ClientFlags -> Option -> Data -> Option ... -> Agreed (EXPORT_NAME, GO)
//!                   `-> Skip -'          `----> Closed (ABORT, abuse)
//! ```

use super::option::{
    self, Answer, MAX_NAME, MAX_OPTION, MAX_SKIPPED, Malformed, OPTION_HEADER, OptionHeader,
    OptionKind, answer, info,
};
use super::reply::ALLOCATION_ID;
use super::{GREETING_MAGIC, MAX_PAYLOAD, OPTION_MAGIC, transmission};

/// Options a client may send before it must have taken the export.
pub const MAX_OPTIONS: u32 = 128;

/// Server and client: options are always answered.
const FIXED_NEWSTYLE: u16 = 1;
/// Server and client: no 124 zeros after EXPORT_NAME.
const NO_ZEROES: u16 = 2;

/// The export as the handshake tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
    /// Device size in bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Smallest unit of a request.
    pub block: u32,
    /// What requests should be multiples of.
    pub preferred: u32,
}

impl Offer {
    /// The transmission flags. `structured` tells whether DF can be meant.
    #[must_use]
    pub fn flags(&self, structured: bool) -> u16 {
        use transmission as t;
        // CAN_MULTI_CONN: true because the engine's flush covers every connection (I3).
        let mut flags = t::HAS_FLAGS | t::FLUSH | t::FUA | t::CACHE | t::CAN_MULTI_CONN;
        if structured {
            flags |= t::DF;
        }
        if self.read_only {
            flags | t::READ_ONLY
        } else {
            flags | t::TRIM | t::WRITE_ZEROES | t::FAST_ZERO
        }
    }
}

/// What the two sides agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Structured replies.
    pub structured: bool,
    /// `base:allocation` was selected.
    pub block_status: bool,
}

/// Where the handshake stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Give [`Handshake::input`] at most this many bytes.
    Need(usize),
    /// Send what is left, then requests follow.
    Agreed(Terms),
    /// Send what is left, then close.
    Closed(&'static str),
}

enum State {
    ClientFlags,
    Option,
    Data(OptionHeader),
    Skip { code: u32, left: usize },
    Ended(Status),
}

/// One client's handshake.
pub struct Handshake {
    state: State,
    input: Vec<u8>,
    terms: Terms,
    no_zeroes: bool,
    fixed: bool,
    options: u32,
}

impl Handshake {
    /// Starts a handshake; the greeting is the first thing to send.
    #[must_use]
    pub fn new(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&GREETING_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        Self {
            state: State::ClientFlags,
            input: Vec::new(),
            terms: Terms::default(),
            no_zeroes: false,
            fixed: false,
            options: 0,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let want = match &self.state {
            State::ClientFlags => 4,
            State::Option => OPTION_HEADER,
            State::Data(header) => header.len as usize,
            State::Skip { left, .. } => return Status::Need((*left).min(MAX_OPTION as usize)),
            State::Ended(status) => return *status,
        };
        Status::Need(want.saturating_sub(self.input.len()))
    }

    /// Takes bytes, at most as many as [`Status::Need`] said, and appends answers to `out`.
    pub fn input(&mut self, bytes: &[u8], offer: &Offer, out: &mut Vec<u8>) -> Status {
        if let State::Skip { code, left } = &mut self.state {
            *left = left.saturating_sub(bytes.len());
            if *left == 0 {
                answer(out, *code, Answer::TooBig, b"the option is too long");
                self.state = State::Option;
            }
            return self.status();
        }
        self.input.extend_from_slice(bytes);
        while self.status() == Status::Need(0) {
            self.step(offer, out);
        }
        self.status()
    }

    fn close(&mut self, why: &'static str) {
        self.state = State::Ended(Status::Closed(why));
    }

    /// Uses the complete piece that is in `input`.
    fn step(&mut self, offer: &Offer, out: &mut Vec<u8>) {
        let input = std::mem::take(&mut self.input);
        match &self.state {
            State::ClientFlags => self.client_flags(&input),
            State::Option => self.option_header(&input),
            State::Data(header) => {
                let header = *header;
                self.state = State::Option;
                self.option(header, &input, offer, out);
            }
            State::Skip { .. } | State::Ended(_) => {}
        }
    }

    fn client_flags(&mut self, input: &[u8]) {
        let Some(flags) = input.first_chunk().map(|b| u32::from_be_bytes(*b)) else {
            return self.close("client flags are cut off");
        };
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return self.close("unknown client flags");
        }
        self.fixed = flags & u32::from(FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
        self.state = State::Option;
    }

    fn option_header(&mut self, input: &[u8]) {
        let Some(header) = input.first_chunk().and_then(OptionHeader::parse) else {
            return self.close("wrong option magic");
        };
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return self.close("too many options");
        }
        if header.len > MAX_SKIPPED {
            return self.close("an option longer than 64 KiB");
        }
        self.state = if header.len > MAX_OPTION {
            State::Skip { code: header.code, left: header.len as usize }
        } else {
            State::Data(header)
        };
    }

    fn option(&mut self, header: OptionHeader, data: &[u8], offer: &Offer, out: &mut Vec<u8>) {
        let code = header.code;
        let kind = OptionKind::from_code(code);
        if !self.fixed && kind != OptionKind::ExportName {
            return self.close("an option without the fixed newstyle flag");
        }
        match kind {
            OptionKind::ExportName => self.export_name(data, offer, out),
            OptionKind::Abort => {
                answer(out, code, Answer::Ack, &[]);
                self.close("the client left");
            }
            OptionKind::List => list(code, data, offer, out),
            OptionKind::StartTls => {
                answer(out, code, Answer::Unsupported, b"TLS is not available");
            }
            OptionKind::Info | OptionKind::Go => self.info(header, data, offer, out),
            OptionKind::StructuredReply if data.is_empty() => {
                self.terms.structured = true;
                answer(out, code, Answer::Ack, &[]);
            }
            OptionKind::StructuredReply => {
                answer(out, code, Answer::Invalid, b"STRUCTURED_REPLY has no data");
            }
            OptionKind::ListMetaContext | OptionKind::SetMetaContext => {
                self.meta(kind, code, data, offer, out);
            }
            OptionKind::Unknown(_) => answer(out, code, Answer::Unsupported, &[]),
        }
    }

    fn export_name(&mut self, data: &[u8], offer: &Offer, out: &mut Vec<u8>) {
        // The protocol has no error here: closing is the answer.
        if data.len() > MAX_NAME || data != offer.name.as_bytes() {
            return self.close("no such export");
        }
        out.extend_from_slice(&offer.size.to_be_bytes());
        out.extend_from_slice(&offer.flags(self.terms.structured).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        self.state = State::Ended(Status::Agreed(self.terms));
    }

    fn info(&mut self, header: OptionHeader, data: &[u8], offer: &Offer, out: &mut Vec<u8>) {
        let code = header.code;
        let (name, wanted) = match option::parse_info(data) {
            Ok(parsed) => parsed,
            Err(malformed) => return refuse(code, malformed, out),
        };
        if name != offer.name.as_bytes() {
            return answer(out, code, Answer::UnknownExport, b"no such export");
        }
        let mut fact = |kind: u16, content: &[&[u8]]| {
            let mut data = kind.to_be_bytes().to_vec();
            content.iter().for_each(|part| data.extend_from_slice(part));
            answer(out, code, Answer::Info, &data);
        };
        let flags = offer.flags(self.terms.structured);
        fact(info::EXPORT, &[&offer.size.to_be_bytes(), &flags.to_be_bytes()]);
        if wanted.name {
            fact(info::NAME, &[offer.name.as_bytes()]);
        }
        if wanted.description && !offer.description.is_empty() {
            fact(info::DESCRIPTION, &[offer.description.as_bytes()]);
        }
        // Told whether or not it was asked for: a client that keeps to it saves an EINVAL.
        let sizes = [offer.block, offer.preferred, MAX_PAYLOAD].map(u32::to_be_bytes);
        fact(info::BLOCK_SIZE, &[&sizes[0], &sizes[1], &sizes[2]]);
        answer(out, code, Answer::Ack, &[]);
        if OptionKind::from_code(code) == OptionKind::Go {
            self.state = State::Ended(Status::Agreed(self.terms));
        }
    }

    fn meta(&mut self, kind: OptionKind, code: u32, data: &[u8], offer: &Offer, out: &mut Vec<u8>) {
        let set = kind == OptionKind::SetMetaContext;
        if set {
            // A new selection replaces the old one, even when it fails.
            self.terms.block_status = false;
        }
        if !self.terms.structured {
            return answer(out, code, Answer::Invalid, b"structured replies come first");
        }
        let query = match option::parse_meta(data) {
            Ok(query) => query,
            Err(malformed) => return refuse(code, malformed, out),
        };
        if query.name != offer.name.as_bytes() {
            return answer(out, code, Answer::UnknownExport, b"no such export");
        }
        let listed = !set && (query.queries == 0 || query.namespace);
        if query.exact || listed {
            // A listed context has no id.
            let id = if set { ALLOCATION_ID } else { 0 };
            let content = [&id.to_be_bytes()[..], option::ALLOCATION].concat();
            answer(out, code, Answer::MetaContext, &content);
            self.terms.block_status |= set;
        }
        answer(out, code, Answer::Ack, &[]);
    }
}

fn list(code: u32, data: &[u8], offer: &Offer, out: &mut Vec<u8>) {
    if !data.is_empty() {
        return answer(out, code, Answer::Invalid, b"LIST has no data");
    }
    let len = (offer.name.len() as u32).to_be_bytes();
    let content = [&len[..], offer.name.as_bytes(), offer.description.as_bytes()].concat();
    answer(out, code, Answer::Server, &content);
    answer(out, code, Answer::Ack, &[]);
}

fn refuse(code: u32, malformed: Malformed, out: &mut Vec<u8>) {
    match malformed {
        Malformed::Invalid => answer(out, code, Answer::Invalid, b"malformed option"),
        Malformed::NameTooLong => answer(out, code, Answer::Policy, b"the name is too long"),
    }
}

#[cfg(test)]
mod tests;
