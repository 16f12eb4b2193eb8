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
/// Most bytes that the values of an arena take, about. Instructions of a few bytes each can make a value of hundreds.
const MAX_BYTES: usize = 20 << 20;
/// What a value costs in the arena, and what an allocation costs beside its content.
const NODE_BYTES: usize = size_of::<Node>();
const ALLOCATION_BYTES: usize = 24;

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
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
}

/// A class or function, as far as it matters here. Names are not kept: two remembered texts of 64 KiB make a name in
/// five bytes of pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Global {
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter` and `_rebuild_parameter_with_state`.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`.
    RebuildFromType,
    /// The class of storages of this type.
    Storage(Dtype),
    /// Anything else.
    Other,
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
    /// A text.
    pub key: Id,
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
pub(crate) struct Heap {
    nodes: Vec<Node>,
    /// Bytes that they take, about.
    bytes: usize,
}

impl Heap {
    /// The value with this index.
    pub fn get(&self, id: Id) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&Node::Opaque)
    }

    /// All values, in order of creation.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Runs the pickle at the start of `bytes`; returns its value and its length in bytes. Errors are
    /// messages without the file's name.
    pub fn load(&mut self, bytes: &[u8]) -> Result<(Id, usize), String> {
        machine::run(self, bytes)
    }

    fn add(&mut self, node: Node) -> Result<Id, String> {
        if self.nodes.len() >= MAX_NODES {
            return Err(format!("more than {MAX_NODES} values"));
        }
        let content = match &node {
            Node::Opaque | Node::Bool(_) | Node::Int(_) | Node::Global(_) => 0,
            Node::Text(text) => ALLOCATION_BYTES + text.len(),
            Node::Tuple(items) => ALLOCATION_BYTES + size_of_val(&**items),
            Node::List(items) => ALLOCATION_BYTES + size_of_val(items.as_slice()),
            Node::Map(map) => ALLOCATION_BYTES + size_of_val(&**map),
            Node::Storage(storage) => ALLOCATION_BYTES + size_of_val(&**storage),
            Node::Tensor(tensor) => {
                let views = size_of_val(tensor.shape.as_slice()) + size_of_val(tensor.strides.as_slice());
                3 * ALLOCATION_BYTES + size_of_val(&**tensor) + views
            }
        };
        self.spend(NODE_BYTES + content)?;
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Id)
    }

    /// Counts bytes that are about to be taken.
    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_BYTES {
            return Err(format!("values of more than {MAX_BYTES} bytes"));
        }
        Ok(())
    }

    /// The text with this index, if it is one.
    pub fn text(&self, id: Id) -> Option<&str> {
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
