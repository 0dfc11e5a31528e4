//! Bytes to a tree: bounded in length, depth and count, and nothing outside the bytes is looked at.

use super::error::DescriptorError;
use super::tree::{Document, Element, Node, is_blank};
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

/// Longest document.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// Deepest nesting; a descriptor has 4.
pub(super) const MAX_DEPTH: usize = 32;
/// Most elements, attributes, texts, comments and instructions.
pub(super) const MAX_NODES: usize = 1 << 16;

/// Most attributes of an element: looking for duplicates is quadratic.
pub(super) const MAX_ATTRIBUTES: usize = 256;

type Result<T> = core::result::Result<T, DescriptorError>;

/// Reads a document.
pub(super) fn read(bytes: &[u8]) -> Result<Document> {
    if bytes.len() > MAX_BYTES {
        return Err(DescriptorError::TooLong { have: bytes.len(), max: MAX_BYTES });
    }
    let text = core::str::from_utf8(bytes)
        .map_err(|e| DescriptorError::Encoding(format!("byte {}", e.valid_up_to())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some((at, c)) = text.char_indices().find(|(_, c)| !is_xml(*c)) {
        let what = format!("character {:#x} is not allowed", u32::from(c));
        return Err(DescriptorError::Syntax { at: at as u64, what });
    }
    Builder::new(text).run()
}

/// Whether XML 1.0 allows the character.
pub(super) const fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..)
}

struct Builder<'a> {
    reader: Reader<&'a [u8]>,
    /// Open elements, the root first.
    open: Vec<Element>,
    document: Document,
    done: bool,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        let mut reader = Reader::from_str(text);
        let config = reader.config_mut();
        config.check_end_names = true;
        config.check_comments = true;
        config.allow_dangling_amp = false;
        Self { reader, open: Vec::new(), document: Document::default(), done: false, nodes: 0 }
    }

    fn at(&self) -> u64 {
        self.reader.buffer_position()
    }

    fn syntax(&self, what: impl ToString) -> DescriptorError {
        DescriptorError::Syntax { at: self.at(), what: what.to_string() }
    }

    fn run(mut self) -> Result<Document> {
        loop {
            let event = self.reader.read_event().map_err(|e| self.syntax(e))?;
            match event {
                Event::Start(start) => {
                    let element = self.element(&start)?;
                    if self.open.len() >= MAX_DEPTH {
                        return Err(DescriptorError::TooDeep(MAX_DEPTH));
                    }
                    self.open.push(element);
                }
                Event::Empty(start) => {
                    let element = self.element(&start)?;
                    self.close(element);
                }
                Event::End(_) => {
                    let Some(element) = self.open.pop() else {
                        return Err(self.syntax("an end without a start"));
                    };
                    self.close(element);
                }
                Event::Text(text) => self.text(&text.xml10_content())?,
                Event::CData(text) => self.text(&text.xml10_content())?,
                Event::GeneralRef(entity) => {
                    let text = self.entity(&entity)?;
                    self.text(&text)?;
                }
                Event::Comment(text) => self.aside(Node::Comment(text.to_string()))?,
                Event::PI(text) => self.aside(Node::Instruction(text.to_string()))?,
                Event::Decl(decl) => {
                    if let Some(Ok(encoding)) = decl.encoding()
                        && !encoding.eq_ignore_ascii_case("utf-8")
                        && !encoding.eq_ignore_ascii_case("us-ascii")
                    {
                        return Err(DescriptorError::Encoding(encoding.into_owned()));
                    }
                }
                Event::DocType(_) => return Err(DescriptorError::DocType { at: self.at() }),
                Event::Eof => return self.end(),
            }
        }
    }

    fn count(&mut self) -> Result<()> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(DescriptorError::TooMany(MAX_NODES)) } else { Ok(()) }
    }

    fn element(&mut self, start: &BytesStart<'_>) -> Result<Element> {
        self.count()?;
        if self.open.is_empty() && self.done {
            return Err(self.syntax("a second root element"));
        }
        let mut element = Element::new(self.name(start.name().as_ref())?);
        for attribute in start.attributes() {
            self.count()?;
            if element.attributes.len() >= MAX_ATTRIBUTES {
                return Err(DescriptorError::TooMany(MAX_ATTRIBUTES));
            }
            let attribute = attribute.map_err(|e| self.syntax(e))?;
            let value =
                attribute.normalized_value(XmlVersion::Explicit1_0).map_err(|e| self.syntax(e))?;
            if !value.chars().all(is_xml) {
                return Err(self.syntax("a character that is not allowed"));
            }
            let key = self.name(attribute.key.as_ref())?;
            element.attributes.push((key.to_owned(), value.into_owned()));
        }
        Ok(element)
    }

    /// A name as XML has it, near enough: what the reader lets pass beyond that (`<></>`) could not
    /// be read again when it is written.
    fn name<'n>(&self, name: &'n str) -> Result<&'n str> {
        let start = |c: char| c.is_alphabetic() || c == '_' || c == ':';
        let inner = |c: char| start(c) || c.is_numeric() || "-.\u{b7}".contains(c);
        match name.starts_with(start) && name.chars().all(inner) {
            true => Ok(name),
            false => {
                let name: String = name.chars().take(64).collect();
                Err(self.syntax(format!("`{name}` is no name")))
            }
        }
    }

    fn close(&mut self, mut element: Element) {
        // White space between elements is layout; it is made anew when the tree is written.
        element.drop_layout();
        match self.open.last_mut() {
            Some(parent) => parent.push(element),
            None => {
                self.document.root = element;
                self.done = true;
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let Some(parent) = self.open.last_mut() else {
            return if is_blank(text) { Ok(()) } else { Err(self.syntax("text outside the root")) };
        };
        if let Some(Node::Text(before)) = parent.children.last_mut() {
            before.push_str(text);
            return Ok(());
        }
        parent.children.push(Node::Text(text.to_owned()));
        self.count()
    }

    /// The five entities of XML and character references; nothing else is expanded.
    fn entity(&self, entity: &BytesRef<'_>) -> Result<String> {
        if let Some(c) = entity.resolve_char_ref().map_err(|e| self.syntax(e))? {
            return if is_xml(c) {
                Ok(c.to_string())
            } else {
                Err(self.syntax("a character that is not allowed"))
            };
        }
        match quick_xml::escape::resolve_xml_entity(entity) {
            Some(text) => Ok(text.to_owned()),
            None => {
                let name = entity.chars().take(64).collect();
                Err(DescriptorError::Entity { at: self.at(), name })
            }
        }
    }

    fn aside(&mut self, node: Node) -> Result<()> {
        self.count()?;
        match self.open.last_mut() {
            Some(parent) => parent.children.push(node),
            None if self.done => self.document.after.push(node),
            None => self.document.before.push(node),
        }
        Ok(())
    }

    fn end(self) -> Result<Document> {
        match self.open.last() {
            Some(open) => Err(self.syntax(format!("the document ends inside `{}`", open.name))),
            None if !self.done => Err(self.syntax("no root element")),
            None => Ok(self.document),
        }
    }
}
