//! A descriptor's XML as a tree that remembers where every element lies in the text.
//!
//! An edit replaces ranges of the text, so whatever it does not understand stays as it was.

use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::{BytesRef, Event};
use std::ops::Range;

/// Deeper nesting is no descriptor.
const MAX_DEPTH: usize = 32;

/// An element.
#[derive(Clone, Debug, Default)]
pub(crate) struct Element {
    pub name: String,
    /// Its own text, entities resolved, blanks cut.
    pub text: String,
    /// From its `<` to behind its last `>`.
    pub outer: Range<usize>,
    /// Between its tags; empty for `<X/>`.
    pub inner: Range<usize>,
    pub children: Vec<Element>,
}

impl Element {
    /// Parses a document and gives its root.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(text);
        let mut stack: Vec<Element> = vec![Element::default()];
        loop {
            let before = position(&reader);
            let event = reader.read_event().map_err(|e| format!("byte {before}: {e}"))?;
            let after = position(&reader);
            match event {
                Event::Start(tag) => {
                    let name = tag.name().as_ref().to_owned();
                    stack.push(Element {
                        name,
                        outer: before..after,
                        inner: after..after,
                        ..Self::default()
                    });
                }
                Event::Empty(tag) => {
                    let name = tag.name().as_ref().to_owned();
                    let span = before..after;
                    append(
                        &mut stack,
                        Element { name, inner: span.clone(), outer: span, ..Self::default() },
                    );
                }
                Event::End(_) => close(&mut stack, before, after)?,
                Event::Text(part) => add(&mut stack, &part.xml10_content()),
                Event::CData(part) => add(&mut stack, &part.xml10_content()),
                Event::GeneralRef(reference) => add(&mut stack, &resolve(&reference)?),
                Event::Eof => break,
                _ => {}
            }
            if stack.len() > MAX_DEPTH {
                return Err(format!("byte {after}: elements nest deeper than {MAX_DEPTH}"));
            }
        }
        match <[Element; 1]>::try_from(stack) {
            Ok([document]) => {
                document.children.into_iter().next().ok_or_else(|| "it has no element".to_owned())
            }
            Err(_) => Err("it ends inside an element".to_owned()),
        }
    }

    /// The first child of a name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.name == name)
    }

    /// All children of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |c| c.name == name)
    }

    /// The text of the first child of a name; empty when there is none.
    pub fn text_of(&self, name: &str) -> &str {
        self.child(name).map_or("", |c| c.text.as_str())
    }
}

fn position(reader: &Reader<&[u8]>) -> usize {
    usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX)
}

fn append(stack: &mut [Element], element: Element) {
    if let Some(parent) = stack.last_mut() {
        parent.children.push(element);
    }
}

fn add(stack: &mut [Element], text: &str) {
    if let Some(element) = stack.last_mut() {
        element.text.push_str(text);
    }
}

fn close(stack: &mut Vec<Element>, before: usize, after: usize) -> Result<(), String> {
    let Some(mut element) = stack.pop() else { return Err(format!("byte {before}: stray tag")) };
    element.outer.end = after;
    element.inner.end = before;
    element.text = element.text.trim().to_owned();
    append(stack, element);
    Ok(())
}

fn resolve(reference: &BytesRef<'_>) -> Result<String, String> {
    if let Some(c) = reference.resolve_char_ref().map_err(|e| e.to_string())? {
        return Ok(c.to_string());
    }
    let name = reference.xml10_content();
    let known = resolve_predefined_entity(&name);
    known.map(str::to_owned).ok_or_else(|| format!("entity &{name}; is not known"))
}

/// Text made safe between tags.
pub(crate) fn escaped(text: &str) -> String {
    escape(text).into_owned()
}

/// Replaces ranges of a text; they must not overlap.
pub(crate) fn splice(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(text.len() + 1024);
    let mut at = 0;
    for (range, new) in edits {
        out.push_str(text.get(at..range.start).unwrap_or(""));
        out.push_str(&new);
        at = range.end;
    }
    out.push_str(text.get(at..).unwrap_or(""));
    out
}
