//! The stack machine: one method for the instructions, the rest to read operands and to guard the stack.

use std::collections::HashMap;

use super::{ALLOCATION_BYTES, Global, Heap, Id, MAX_NODES, Node, kind};

/// Most instructions in a pickle; each leaves at most one reference behind.
const MAX_INSTRUCTIONS: usize = 4_000_000;
/// Most values on the stack at once. Most are there to become the items of one list.
const MAX_STACK: usize = 1_000_000;
/// Most marks set at once: one for each level of nesting.
const MAX_MARKS: usize = 10_000;
/// Longest text in bytes.
const MAX_TEXT: usize = 64 << 10;

/// Runs the pickle at the start of `bytes`; returns its value and its length in bytes.
pub fn run(heap: &mut Heap, bytes: &[u8]) -> Result<(Id, usize), String> {
    let mut machine = Machine { bytes, at: 0, heap, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let at_byte = |message, at| format!("pickle, byte {at}: {message}");
    for _ in 0..MAX_INSTRUCTIONS {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(value)) => return Ok((value, machine.at)),
            Err(message) => return Err(at_byte(message, at)),
        }
    }
    Err(at_byte(format!("more than {MAX_INSTRUCTIONS} instructions"), machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    heap: &'a mut Heap,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs one instruction; returns the result at the end.
    fn step(&mut self) -> Result<Option<Id>, String> {
        let [opcode] = self.array()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            // Structure of the stream: protocol version and frames.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            // Stack and memo.
            b'(' if self.marks.len() == MAX_MARKS => return Err(format!("more than {MAX_MARKS} open marks")),
            b'(' => self.marks.push(self.stack.len()),
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.top()?;
                self.push_id(top)?;
            }
            b'p' => {
                let index = self.line_number()?;
                self.put(index)?;
            }
            b'q' => {
                let [index] = self.array()?;
                self.put(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.put(index)?;
            }
            0x94 => self.put(self.memo.len() as u32)?,
            b'g' => {
                let index = self.line_number()?;
                self.get(index)?;
            }
            b'h' => {
                let [index] = self.array()?;
                self.get(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.get(index)?;
            }
            // Numbers and constants.
            b'N' => self.push(Node::Opaque)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'I' => match self.line()? {
                b"00" => self.push(Node::Bool(false))?,
                b"01" => self.push(Node::Bool(true))?,
                digits => self.push(decimal(digits))?,
            },
            b'L' => {
                let line = self.line()?;
                self.push(decimal(line.strip_suffix(b"L").unwrap_or(line)))?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))?;
            }
            b'K' => {
                let [value] = self.array()?;
                self.push(Node::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))?;
            }
            0x8a => {
                let [len] = self.array()?;
                let bytes = self.take(len.into())?;
                self.push(integer(bytes))?;
            }
            0x8b => {
                let bytes = self.counted::<4>()?;
                self.push(integer(bytes))?;
            }
            b'F' => {
                self.line()?;
                self.push(Node::Opaque)?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Node::Opaque)?;
            }
            // Text. Escapes, which only protocol 0 has, are left as they are written.
            b'S' => {
                let line = self.line()?;
                let quoted = [b'\'', b'"'].iter().find_map(|q| line.strip_prefix(&[*q])?.strip_suffix(&[*q]));
                self.push_text(quoted.ok_or("a string has no quotes")?)?;
            }
            b'V' => {
                let line = self.line()?;
                self.push_text(line)?;
            }
            b'U' | 0x8c => {
                let bytes = self.counted::<1>()?;
                self.push_text(bytes)?;
            }
            b'T' | b'X' => {
                let bytes = self.counted::<4>()?;
                self.push_text(bytes)?;
            }
            0x8d => {
                let bytes = self.counted::<8>()?;
                self.push_text(bytes)?;
            }
            // Bytes are stepped over.
            b'C' => {
                self.counted::<1>()?;
                self.push(Node::Opaque)?;
            }
            b'B' => {
                self.counted::<4>()?;
                self.push(Node::Opaque)?;
            }
            0x8e | 0x96 => {
                self.counted::<8>()?;
                self.push(Node::Opaque)?;
            }
            // Containers.
            b')' => self.push(Node::Tuple(Box::default()))?,
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Node::Tuple(items.into()))?;
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items.into()))?;
            }
            b']' | 0x8f => self.push(Node::List(Vec::new()))?,
            b'l' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Node::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            b'}' => self.push_object()?,
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push_object()?;
                self.extend_map(items)?;
            }
            b's' => {
                let item = self.pop_many(2)?;
                self.extend_map(item)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_map(items)?;
            }
            // Classes, functions and objects.
            b'c' => {
                let name = self.global_lines()?;
                self.push(name)?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let global = match names.as_slice() {
                    [module, name] => {
                        self.heap.text(*module).zip(self.heap.text(*name)).map(|(m, n)| Global::named(m, n))
                    }
                    _ => None,
                };
                self.push(Node::Global(global.ok_or("the name of a global is not a string")?))?;
            }
            b'R' => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                let value = self.heap.call(function, arguments)?;
                self.push_id(value)?;
            }
            0x81 => {
                self.pop_many(2)?;
                self.push_object()?;
            }
            0x92 => {
                self.pop_many(3)?;
                self.push_object()?;
            }
            b'o' => {
                self.pop_to_mark()?;
                self.push_object()?;
            }
            b'i' => {
                self.global_lines()?;
                self.pop_to_mark()?;
                self.push_object()?;
            }
            b'b' => {
                let state = self.pop()?;
                if let Node::Map(map) = self.top_node()? {
                    map.attributes = Some(state);
                }
            }
            b'P' => {
                self.line()?;
                self.push(Node::Opaque)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let node = self.heap.storage(id)?;
                self.push(node)?;
            }
            other => return Err(format!("instruction 0x{other:02x} is unknown or not allowed")),
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).ok_or("ends early")?;
        let bytes = self.bytes.get(self.at..end).ok_or("ends early")?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "ends early".to_owned())
    }

    /// Bytes preceded by their number in N bytes.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8], String> {
        let mut len = [0; 8];
        len[..N].copy_from_slice(&self.array::<N>()?);
        self.take(usize::try_from(u64::from_le_bytes(len)).map_err(|_| "ends early")?)
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or("a line does not end")?;
        let line = self.take(len)?;
        self.take(1)?;
        Ok(line)
    }

    fn line_number(&mut self) -> Result<u32, String> {
        let line = self.line()?;
        std::str::from_utf8(line).ok().and_then(|line| line.parse().ok()).ok_or_else(|| "a bad memo index".to_owned())
    }

    fn global_lines(&mut self) -> Result<Node, String> {
        let (module, name) = (checked_text(self.line()?)?, checked_text(self.line()?)?);
        Ok(Node::Global(Global::named(module, name)))
    }

    fn push(&mut self, node: Node) -> Result<(), String> {
        let id = self.heap.add(node)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), String> {
        if self.stack.len() == MAX_STACK {
            return Err(format!("more than {MAX_STACK} values on the stack"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn push_text(&mut self, bytes: &[u8]) -> Result<(), String> {
        let text = checked_text(bytes)?;
        self.push(Node::Text(text.into()))
    }

    fn push_object(&mut self) -> Result<(), String> {
        self.push(Node::Map(Box::default()))
    }

    /// The part of the stack above the last mark, from which alone values may be taken.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let from = self.stack.len().checked_sub(count).filter(|&from| from >= self.floor());
        Ok(self.stack.split_off(from.ok_or("pops from an empty stack")?))
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Id, String> {
        let above = self.stack.get(self.floor()..).unwrap_or_default();
        above.last().copied().ok_or_else(|| "pops from an empty stack".to_owned())
    }

    fn top_node(&mut self) -> Result<&mut Node, String> {
        let top = self.top()?;
        self.heap.nodes.get_mut(top as usize).ok_or_else(|| "takes a value that does not exist".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("pops to a mark that was not set")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn put(&mut self, index: u32) -> Result<(), String> {
        if self.memo.len() >= MAX_NODES {
            return Err(format!("more than {MAX_NODES} memo entries"));
        }
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, index: u32) -> Result<(), String> {
        let value = *self.memo.get(&index).ok_or_else(|| format!("memo entry {index} does not exist"))?;
        self.push_id(value)
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Result<(), String> {
        self.heap.spend(ALLOCATION_BYTES + size_of_val(items.as_slice()))?;
        match self.top_node()? {
            Node::List(list) => list.extend(items),
            // An object of a list-like class: nothing in it is of use.
            Node::Map(_) => {}
            other => return Err(format!("appends to {}", kind(other))),
        }
        Ok(())
    }

    fn extend_map(&mut self, items: Vec<Id>) -> Result<(), String> {
        self.heap.spend(ALLOCATION_BYTES + size_of_val(items.as_slice()))?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("a dictionary key without a value".to_owned());
        }
        match self.top_node()? {
            Node::Map(map) => map.items.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            other => return Err(format!("sets an item of {}", kind(other))),
        }
        Ok(())
    }
}

fn checked_text(bytes: &[u8]) -> Result<&str, String> {
    if bytes.len() > MAX_TEXT {
        return Err(format!("a string has {} bytes, but at most {MAX_TEXT} are allowed", bytes.len()));
    }
    std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8".to_owned())
}

/// A little-endian two's complement integer of any length; beyond 64 bits it is of no use here.
fn integer(bytes: &[u8]) -> Node {
    let sign = if bytes.last().is_some_and(|&high| high >= 0x80) { 0xff } else { 0 };
    let mut value = [sign; 8];
    match value.get_mut(..bytes.len()) {
        Some(low) => low.copy_from_slice(bytes),
        None => return Node::Opaque,
    }
    Node::Int(i64::from_le_bytes(value))
}

fn decimal(digits: &[u8]) -> Node {
    let value = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    value.map_or(Node::Opaque, Node::Int)
}
