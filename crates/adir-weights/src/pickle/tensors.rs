//! The calls that are understood: those by which PyTorch describes tensors and their storages.

use super::{Global, Heap, Id, Node, Storage, Tensor, kind};
use crate::weights::Dtype;

/// Most dimensions of a tensor.
const MAX_RANK: usize = 16;

impl Heap {
    /// The value of a call: a tensor for PyTorch's own constructors, an empty object for anything else.
    pub(super) fn call(&mut self, function: Id, arguments: Id) -> Result<Id, String> {
        let global = |id| match self.get(id) {
            Node::Global(global) => Some(*global),
            _ => None,
        };
        let (mut function, mut arguments) = (global(function), self.tuple(arguments)?);
        // A tensor of a subclass is described by the call that makes the plain tensor: (function, class,
        // arguments, attributes).
        if let (Some(Global::RebuildFromType), [inner, _, values, ..]) = (function, arguments) {
            (function, arguments) = (global(*inner), self.tuple(*values)?);
        }
        let node = match (function, arguments) {
            (Some(Global::RebuildTensor), arguments) => self.tensor(arguments)?,
            (Some(Global::RebuildParameter), [tensor, ..]) => return Ok(*tensor),
            _ => Node::Map(Box::default()),
        };
        self.add(node)
    }

    /// A tensor from (storage, offset, shape, strides, ..).
    fn tensor(&self, arguments: &[Id]) -> Result<Node, String> {
        let [storage, offset, shape, strides, ..] = arguments else {
            return Err(format!("a tensor has {} arguments, expected at least 4", arguments.len()));
        };
        match self.get(*storage) {
            Node::Storage(_) => {}
            // Of a type that is not read here, such as complex numbers.
            Node::Opaque => return Ok(Node::Opaque),
            other => return Err(format!("the storage of a tensor is {}", kind(other))),
        }
        let (shape, strides) = (self.tuple(*shape)?, self.tuple(*strides)?);
        if shape.len() != strides.len() || shape.len() > MAX_RANK {
            return Err(format!(
                "a tensor has {} dimensions and {} strides, but at most {MAX_RANK} are allowed",
                shape.len(),
                strides.len()
            ));
        }
        let number = |id: &Id| match self.get(*id) {
            Node::Int(value) => u64::try_from(*value).map_err(|_| format!("{value} as an extent, stride or offset")),
            other => Err(format!("{} as an extent, stride or offset", kind(other))),
        };
        let extent = |id| usize::try_from(number(id)?).map_err(|_| "an extent exceeds the address space".to_owned());
        Ok(Node::Tensor(Box::new(Tensor {
            storage: *storage,
            first: number(offset)?,
            shape: shape.iter().map(extent).collect::<Result<_, _>>()?,
            strides: strides.iter().map(number).collect::<Result<_, _>>()?,
        })))
    }

    /// A storage from its persistent id ("storage", class, key, device, number of elements, ..).
    pub(super) fn storage(&self, id: Id) -> Result<Node, String> {
        let fields = self.tuple(id)?;
        let [label, class, key, _device, len, view @ ..] = fields else {
            return Err(format!("a persistent id of {} fields, expected at least 5", fields.len()));
        };
        let (Some("storage"), Node::Global(class), Some(_), Node::Int(len)) =
            (self.text(*label), self.get(*class), self.text(*key), self.get(*len))
        else {
            return Err("a persistent id does not name a storage".to_owned());
        };
        if view.iter().any(|view| !matches!(self.get(*view), Node::Opaque)) {
            return Err("a storage that is a view of another".to_owned());
        }
        let len = u64::try_from(*len).map_err(|_| format!("a storage of {len} elements"))?;
        match class {
            Global::Storage(dtype) => Ok(Node::Storage(Box::new(Storage { key: *key, dtype: *dtype, len }))),
            _ => Ok(Node::Opaque),
        }
    }
}

impl Global {
    /// The class or function of this name in `module`.
    pub(super) fn named(module: &str, name: &str) -> Self {
        // Longer than all that are known.
        if module.len() + name.len() > 64 {
            return Self::Other;
        }
        match format!("{module}.{name}").as_str() {
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => Self::RebuildTensor,
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => Self::RebuildParameter,
            "torch._tensor._rebuild_from_type_v2" => Self::RebuildFromType,
            full => full.strip_prefix("torch.").and_then(storage_dtype).map_or(Self::Other, Self::Storage),
        }
    }
}

fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        _ => return None,
    })
}
