//! An XML document as an owned tree: what nobody here understands is kept and written back.

/// An element.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Element {
    pub name: String,
    /// Names and unescaped values, in order.
    pub attributes: Vec<(String, String)>,
    pub children: Vec<Node>,
}

/// What an element holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Element(Element),
    /// Unescaped.
    Text(String),
    /// As written between `<!--` and `-->`.
    Comment(String),
    /// As written between `<?` and `?>`.
    Instruction(String),
}

/// The root, and the comments and instructions around it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Document {
    pub before: Vec<Node>,
    pub root: Element,
    pub after: Vec<Node>,
}

impl Element {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// An element that holds text alone.
    pub fn with_text(name: &str, text: &str) -> Self {
        let mut element = Self::new(name);
        element.set_text(text);
        element
    }

    /// Child elements of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter_map(move |node| match node {
            Node::Element(element) if element.name == name => Some(element),
            _ => None,
        })
    }

    /// The first child element of a name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.children.iter().find_map(|node| match node {
            Node::Element(element) if element.name == name => Some(element),
            _ => None,
        })
    }

    /// The first child element of a name, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.children.iter_mut().find_map(|node| match node {
            Node::Element(element) if element.name == name => Some(element),
            _ => None,
        })
    }

    /// Child elements of a name, to change them.
    pub fn all_mut<'a>(&'a mut self, name: &'a str) -> impl Iterator<Item = &'a mut Self> {
        self.children.iter_mut().filter_map(move |node| match node {
            Node::Element(element) if element.name == name => Some(element),
            _ => None,
        })
    }

    /// Its own text, joined and trimmed.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for node in &self.children {
            if let Node::Text(part) = node {
                text.push_str(part);
            }
        }
        text.trim_matches([' ', '\t', '\r', '\n']).to_owned()
    }

    /// The trimmed text of the first child element of a name.
    pub fn child_text(&self, name: &str) -> Option<String> {
        self.get(name).map(Self::text)
    }

    /// Replaces all text; other children stay.
    pub fn set_text(&mut self, text: &str) {
        self.children.retain(|node| !matches!(node, Node::Text(_)));
        self.children.insert(0, Node::Text(text.to_owned()));
    }

    pub fn push(&mut self, child: Self) {
        self.children.push(Node::Element(child));
    }

    /// Gives the first child of a name this text, making one at the end if there is none.
    pub fn set_child(&mut self, name: &str, text: &str) {
        match self.get_mut(name) {
            Some(child) => child.set_text(text),
            None => self.push(Self::with_text(name, text)),
        }
    }

    /// Removes white space between children: layout, made anew when the tree is written.
    pub fn drop_layout(&mut self) {
        if self.children.iter().any(|node| !matches!(node, Node::Text(_))) {
            self.children.retain(|node| !matches!(node, Node::Text(text) if is_blank(text)));
        }
    }

    /// Removes the children of a name.
    pub fn remove(&mut self, name: &str) {
        self.children.retain(|node| !matches!(node, Node::Element(e) if e.name == name));
    }

    /// Replaces all children of a name by these, where the first of them was, or at the end.
    pub fn replace_all(&mut self, name: &str, with: Vec<Self>) {
        let is = |node: &Node| matches!(node, Node::Element(e) if e.name == name);
        let at = self.children.iter().position(is).unwrap_or(self.children.len());
        self.remove(name);
        self.children.splice(at..at, with.into_iter().map(Node::Element));
    }
}

/// White space alone.
pub(super) fn is_blank(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'))
}
