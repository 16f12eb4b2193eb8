//! A reader of pickles, protocols 0 to 5, that runs nothing.
//!
//! A pickle is a program for a stack machine that builds objects, by calling whatever function it names.
//! This machine builds plain values only. Of all functions it knows the few by which PyTorch describes a
//! tensor, and notes the description; the call of anything else leaves an empty, inert object.
//!
//! All values live in one arena and refer to each other by index: sharing costs nothing, cycles are
//! harmless, and a million nested lists are dropped without recursion. Pickles have no index of their
//! contents and arrive from anywhere, so the work is bounded: see the constants, here and in
//! the submodules.

use crate::weights::Dtype;

mod machine;
mod tensors;

/// Longest pickle in bytes.
pub(crate) const MAX_PICKLE: u64 = 16 << 20;
/// Most values in an arena, and most remembered ones. A tensor takes about 25 of them.
const MAX_NODES: usize = 400_000;

/// A value's index in its [`Heap`].
pub(crate) type Id = u32;

/// A value that a pickle describes.
#[derive(Debug)]
pub(crate) enum Node {
    /// A value of no use here: None, numbers that are not integers, bytes.
    Opaque,
    Bool(bool),
    Int(i64),
    Text(Box<str>),
    Tuple(Box<[Id]>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dictionary, or an object of any class.
    Map(Box<Map>),
    /// A class or function, `module.name`.
    Global(Box<str>),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
}

/// The entries of a dictionary or dictionary-like object, and the attributes of an object.
#[derive(Debug, Default)]
pub(crate) struct Map {
    pub items: Vec<(Id, Id)>,
    pub attributes: Option<Id>,
}

/// A run of elements that tensors are views of.
#[derive(Debug)]
pub(crate) struct Storage {
    pub key: Box<str>,
    pub dtype: Dtype,
    /// Number of elements.
    pub len: u64,
}

/// A view of a storage; offset and strides count elements.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub storage: Id,
    pub first: u64,
    pub shape: Vec<usize>,
    pub strides: Vec<u64>,
}

/// The arena that holds the values of one or more pickles.
#[derive(Debug, Default)]
pub(crate) struct Heap(Vec<Node>);

impl Heap {
    /// The value with this index.
    pub fn get(&self, id: Id) -> &Node {
        self.0.get(id as usize).unwrap_or(&Node::Opaque)
    }

    /// All values, in order of creation.
    pub fn nodes(&self) -> &[Node] {
        &self.0
    }

    /// Runs the pickle at the start of `bytes`; returns its value and its length in bytes. Errors are
    /// messages without the file's name.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(Id, usize), String> {
        machine::run(self, bytes)
    }

    fn add(&mut self, node: Node) -> Result<Id, String> {
        if self.0.len() >= MAX_NODES {
            return Err(format!("more than {MAX_NODES} values"));
        }
        self.0.push(node);
        Ok((self.0.len() - 1) as Id)
    }

    fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    fn tuple(&self, id: Id) -> Result<&[Id], String> {
        match self.get(id) {
            Node::Tuple(items) => Ok(items),
            other => Err(format!("{} where a tuple is expected", kind(other))),
        }
    }
}

fn kind(node: &Node) -> &'static str {
    match node {
        Node::Opaque => "a plain value",
        Node::Bool(_) => "a truth value",
        Node::Int(_) => "an integer",
        Node::Text(_) => "a text",
        Node::Tuple(_) => "a tuple",
        Node::List(_) => "a list",
        Node::Map(_) => "a dictionary or object",
        Node::Global(_) => "a class or function",
        Node::Storage(_) => "a storage",
        Node::Tensor(_) => "a tensor",
    }
}
