//! From the model to text, in the layout of the original: two spaces per level, one element a line.

use super::Result;
use super::error::DescriptorError;
use super::model::{Descriptor, ImageRef, Shot, Temporary};
use super::tree::{Element, Node};
use crate::guid::Guid;
use crate::size::parse_number;

impl Descriptor {
    /// The document as text. Elements and attributes of others are where they were; what the model
    /// did not change keeps its spelling.
    ///
    /// # Errors
    /// The model breaks a rule of [`Descriptor::check`].
    pub fn to_xml(&self) -> Result<String> {
        self.check()?;
        if self.part {
            return Err(DescriptorError::Part);
        }
        let mut root = self.document.root.clone();
        within(&mut root, "Disk_Parameters", |to| self.put_parameters(to));
        within(&mut root, "StorageData", |data| {
            self.put_storages(data);
        });
        within(&mut root, "Snapshots", |to| self.put_snapshots(to));
        let mut out = String::from("<?xml version=\"1.0\"?>\n");
        let around = |nodes: &[Node], out: &mut String| {
            for node in nodes {
                put_node(out, node, 0);
                out.push('\n');
            }
        };
        around(&self.document.before, &mut out);
        put_element(&mut out, &root, 0);
        out.push('\n');
        around(&self.document.after, &mut out);
        Ok(out)
    }

    fn put_parameters(&self, to: &mut Element) {
        put_number(to, "Disk_size", self.size_sectors);
        match self.max_delta_size {
            Some(size) => put_number(to, "Max_delta_size", size),
            None => to.remove("Max_delta_size"),
        }
        put_number(to, "Cylinders", self.cylinders);
        put_number(to, "Heads", self.heads);
        put_number(to, "Sectors", self.sectors);
        if to.get("Padding").is_none() {
            put_number(to, "Padding", 0);
        }
        match &self.key_id {
            Some(key) => within(to, "Encryption", |to| put_text(to, "KeyId", key)),
            None => {
                if let Some(encryption) = to.get_mut("Encryption") {
                    encryption.remove("KeyId");
                }
            }
        }
    }

    fn put_storages(&self, data: &mut Element) {
        if self.more.is_empty() {
            return within(data, "Storage", |to| {
                self.put_storage(to, self.size_sectors, &self.images);
            });
        }
        let bounds = self.bounds();
        for (n, storage) in data.all_mut("Storage").enumerate().take(self.pieces()) {
            self.put_storage(storage, bounds[n + 1], self.piece_images(n));
            storage.drop_layout();
        }
    }

    fn put_storage(&self, to: &mut Element, end: u64, images: &[ImageRef]) {
        if to.get("Start").is_none() {
            put_number(to, "Start", 0);
        }
        put_number(to, "End", end);
        put_number(to, "Blocksize", self.cluster.sectors().into());
        match self.preallocated {
            // The pieces of a split disk keep what each of them says.
            _ if !self.more.is_empty() => {}
            true => put_number(to, "Preallocated", 1),
            false => to.remove("Preallocated"),
        }
        to.replace_all("Image", images.iter().map(ImageRef::node).collect());
    }

    fn put_snapshots(&self, to: &mut Element) {
        put_guid(to, "TopGUID", self.top);
        to.replace_all("Shot", self.shots.iter().map(Shot::node).collect());
    }
}

impl ImageRef {
    fn node(&self) -> Element {
        let mut node = self.node.clone();
        put_guid(&mut node, "GUID", self.guid);
        put_text(&mut node, "Type", self.kind.text());
        put_text(&mut node, "File", &self.file);
        node.drop_layout();
        node
    }
}

impl Shot {
    fn node(&self) -> Element {
        let mut node = self.node.clone();
        put_guid(&mut node, "GUID", self.guid);
        put_guid(&mut node, "ParentGUID", self.parent);
        for (state, name) in Temporary::MARKS {
            if state != self.temporary {
                node.remove(name);
            } else if node.get(name).is_none() {
                node.push(Element::new(name));
            }
        }
        node.drop_layout();
        node
    }
}

/// Changes the child of a name, made at the end if there is none. White space it held alone is
/// layout once it has children.
fn within(parent: &mut Element, name: &str, change: impl FnOnce(&mut Element)) {
    if parent.get(name).is_none() {
        parent.push(Element::new(name));
    }
    if let Some(child) = parent.get_mut(name) {
        change(child);
        child.drop_layout();
    }
    parent.drop_layout();
}

fn put_text(to: &mut Element, name: &str, text: &str) {
    if to.child_text(name).as_deref() != Some(text) {
        to.set_child(name, text);
    }
}

/// A number that means the same keeps its spelling; 0 for one that could not be read too.
fn put_number(to: &mut Element, name: &str, value: u64) {
    let now = to.child_text(name);
    if now.is_none_or(|text| parse_number(&text).unwrap_or(0) != value) {
        to.set_child(name, &value.to_string());
    }
}

fn put_guid(to: &mut Element, name: &str, guid: Guid) {
    if to.child_text(name).is_none_or(|text| text.parse() != Ok(guid)) {
        to.set_child(name, &guid.to_string());
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(core::iter::repeat_n("  ", depth));
}

fn put_node(out: &mut String, node: &Node, depth: usize) {
    match node {
        Node::Element(element) => put_element(out, element, depth),
        Node::Text(text) => escape(out, text, false),
        Node::Comment(text) => out.extend(["<!--", text, "-->"]),
        Node::Instruction(text) => out.extend(["<?", text, "?>"]),
    }
}

fn put_element(out: &mut String, element: &Element, depth: usize) {
    out.extend(["<", &element.name]);
    for (name, value) in &element.attributes {
        out.extend([" ", name, "=\""]);
        escape(out, value, true);
        out.push('"');
    }
    if element.children.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    // White space means something beside text, so that there nothing is moved.
    let inline = element.children.iter().any(|node| matches!(node, Node::Text(_)));
    for node in &element.children {
        if !inline {
            out.push('\n');
            indent(out, depth + 1);
        }
        put_node(out, node, depth + 1);
    }
    if !inline {
        out.push('\n');
        indent(out, depth);
    }
    out.extend(["</", &element.name, ">"]);
}

fn escape(out: &mut String, text: &str, attribute: bool) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            '"' if attribute => out.push_str("&quot;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            c => out.push(c),
        }
    }
}
