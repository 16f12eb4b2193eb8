//! Packed weights kept between calls.
//!
//! A weight is recognised by the allocation it lives in, held by a weak reference. That can never go stale: the
//! framework changes numbers in place only where it holds the sole reference, weak ones counted
//! (`Arc::get_mut`), or after moving them to another allocation (`Arc::make_mut`), which ends the weak
//! reference; and while the weak reference exists the address is not given to another weight.
//!
//! Threads that each compute a part of a batch ask for the same weights at nearly the same time. The first one packs, the
//! others wait for it, but only where nothing else can run on their threads meanwhile: in pools of one thread.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

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
    /// `None` while a thread packs it.
    packed: Option<Arc<Packed>>,
}

static CACHE: LazyLock<Mutex<HashMap<Key, Entry>>> = LazyLock::new(Mutex::default);
/// Told whenever an entry is packed or given up.
static CHANGED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, HashMap<Key, Entry>> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The packed form of a contiguous weight, made by `pack` if it is not known.
pub(super) fn get(weight: &FlexTensor, packed_for: Use, pack: impl FnOnce() -> Packed) -> Arc<Packed> {
    let data = weight.data_arc();
    let key = (Arc::as_ptr(&data).addr(), weight.layout().start_offset(), weight.shape(), packed_for);
    let mut cache = lock();
    while let Some(entry) = cache.get(&key) {
        match &entry.packed {
            Some(packed) => return packed.clone(),
            None if rayon::current_num_threads() == 1 => {
                cache = CHANGED.wait(cache).unwrap_or_else(PoisonError::into_inner);
            }
            None => {
                drop(cache);
                return Arc::new(pack());
            }
        }
    }
    cache.insert(key.clone(), Entry { weight: Arc::downgrade(&data), packed: None });
    drop(cache);
    let place = Place(Some(key));
    let packed = Arc::new(pack());
    place.fill(&packed);
    packed
}

/// An entry that this thread packs; it is given up where that fails.
struct Place(Option<Key>);

impl Place {
    fn fill(mut self, packed: &Arc<Packed>) {
        let mut cache = lock();
        cache.retain(|_, entry| entry.packed.is_none() || entry.weight.strong_count() > 0);
        let held: usize = cache.values().filter_map(|entry| entry.packed.as_ref()).map(|packed| packed.bytes()).sum();
        let room = held + packed.bytes() <= KEPT_BYTES;
        if let Some(key) = self.0.take() {
            match cache.get_mut(&key) {
                Some(entry) if room => entry.packed = Some(packed.clone()),
                _ => {
                    cache.remove(&key);
                }
            }
        }
        CHANGED.notify_all();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(key) = self.0.take() {
            lock().remove(&key);
            CHANGED.notify_all();
        }
    }
}
