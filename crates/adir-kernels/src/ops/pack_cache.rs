//! Packed weights kept between calls.
//!
//! A weight is recognised by the allocation it lives in, held by a weak reference. That can never go stale: the
//! framework changes numbers in place only where it holds the sole reference, weak ones counted
//! (`Arc::get_mut`), or after moving them to another allocation (`Arc::make_mut`), which ends the weak
//! reference; and while the weak reference exists the address is not given to another weight.
//!
//! Threads that each compute a part of a batch ask for the same weights at nearly the same time. The first one packs, the
//! others wait for it, but only where nothing else can run on their threads meanwhile: in pools of one thread. What the
//! backward pass will ask for is packed by those who would wait.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Bytes, Shape};

use crate::conv::{Method, Packed, Purpose};

/// Beyond this many bytes nothing is added; weights are then packed in each call.
const KEPT_BYTES: usize = 1 << 28;

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

/// The packed form of a contiguous weight, made by `pack` if it is not known. `next` is what will be asked for later: it is
/// made where there would be nothing to do but to wait.
pub(super) fn get(
    weight: &FlexTensor,
    wanted: Use,
    mut next: Option<Use>,
    pack: impl Fn(Use) -> Packed,
) -> Arc<Packed> {
    let data = weight.data_arc();
    let key_of = |of: Use| (Arc::as_ptr(&data).addr(), weight.layout().start_offset(), weight.shape(), of);
    // Packs what has no entry yet.
    let make = |mut cache: MutexGuard<'static, HashMap<Key, Entry>>, of: Use| {
        let key = key_of(of);
        cache.insert(key.clone(), Entry { weight: Arc::downgrade(&data), packed: None });
        drop(cache);
        let place = Place(Some(key));
        let packed = Arc::new(pack(of));
        place.fill(&packed);
        packed
    };
    let key = key_of(wanted);
    let mut cache = lock();
    while let Some(entry) = cache.get(&key) {
        if let Some(packed) = &entry.packed {
            return packed.clone();
        }
        if rayon::current_num_threads() > 1 {
            drop(cache);
            return Arc::new(pack(wanted));
        }
        match next.take().filter(|&next| !cache.contains_key(&key_of(next)) && has_room(&cache, weight)) {
            Some(next) => {
                make(cache, next);
                cache = lock();
            }
            None => cache = CHANGED.wait(cache).unwrap_or_else(PoisonError::into_inner),
        }
    }
    make(cache, wanted)
}

/// Whether a weight's packed form will be kept, at the largest that it can be.
fn has_room(cache: &HashMap<Key, Entry>, weight: &FlexTensor) -> bool {
    let largest = 8 * size_of::<f32>() * weight.shape().num_elements();
    held(cache) + largest <= KEPT_BYTES
}

/// Bytes of what is kept.
fn held(cache: &HashMap<Key, Entry>) -> usize {
    cache.values().filter_map(|entry| entry.packed.as_ref()).map(|packed| packed.bytes()).sum()
}

/// An entry that this thread packs; it is given up where that fails.
struct Place(Option<Key>);

impl Place {
    fn fill(mut self, packed: &Arc<Packed>) {
        let mut cache = lock();
        cache.retain(|_, entry| entry.packed.is_none() || entry.weight.strong_count() > 0);
        let room = held(&cache) + packed.bytes() <= KEPT_BYTES;
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
