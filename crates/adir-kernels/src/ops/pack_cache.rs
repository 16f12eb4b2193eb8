//! Packed weights kept between calls.
//!
//! A weight is recognised by the allocation it lives in, held by a weak reference. That can never go stale: the
//! framework changes numbers in place only where it holds the sole reference, weak ones counted
//! (`Arc::get_mut`), or after moving them to another allocation (`Arc::make_mut`), which ends the weak
//! reference; and while the weak reference exists the address is not given to another weight.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Bytes, Shape};

use crate::conv::{Method, Packed, Purpose};

/// Beyond this many bytes nothing is added; weights are then packed in each call.
const KEPT_BYTES: usize = 1 << 30;

/// What weights are packed for.
type Use = (Purpose, Method);
/// The allocation's address, the place in it, the shape and the use.
type Key = (usize, usize, Shape, Use);

struct Entry {
    weight: Weak<Bytes>,
    packed: Arc<Packed>,
}

static CACHE: LazyLock<Mutex<HashMap<Key, Entry>>> = LazyLock::new(Mutex::default);

/// The packed form of a contiguous weight, made by `pack` if it is not known.
pub(super) fn get(weight: &FlexTensor, packed_for: Use, pack: impl FnOnce() -> Packed) -> Arc<Packed> {
    let data = weight.data_arc();
    let key = (Arc::as_ptr(&data).addr(), weight.layout().start_offset(), weight.shape(), packed_for);
    let lock = || CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(entry) = lock().get(&key) {
        return entry.packed.clone();
    }
    let packed = Arc::new(pack());
    let mut cache = lock();
    cache.retain(|_, entry| entry.weight.strong_count() > 0);
    let held: usize = cache.values().map(|entry| entry.packed.bytes()).sum();
    if held + packed.bytes() <= KEPT_BYTES {
        cache.insert(key, Entry { weight: Arc::downgrade(&data), packed: packed.clone() });
    }
    packed
}
