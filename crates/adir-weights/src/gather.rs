//! Picking a tensor's elements out of a run of elements in which they do not lie in the tensor's own order.

use std::cmp::Reverse;

/// Where the elements of a strided tensor go. Elements come by in the order of the file and are put in row-major order,
/// so that no more of the file is kept than what belongs to the tensor.
#[derive(Debug)]
pub(crate) struct Gather {
    order: Order,
    /// The element wanted next: its position in the run, and its index in the tensor.
    next: Option<(u64, usize)>,
}

impl Gather {
    /// For a tensor of this shape whose first element is the first of the run; it has at least one element, and its
    /// last position is known to fit u64.
    pub fn new(shape: &[usize], strides: &[u64]) -> Self {
        let mut order = Order::new(shape, strides);
        let next = order.next();
        Self { order, next }
    }

    /// The position of the next element that is wanted.
    pub fn next(&self) -> Option<u64> {
        self.next.map(|(position, _)| position)
    }

    /// Takes what is wanted of `piece`, which are the elements of the run from position `from` on.
    pub fn take<T: Copy>(&mut self, from: u64, piece: &[T], values: &mut [T]) {
        while let Some((position, index)) = self.next
            && let Some(value) = position.checked_sub(from).and_then(|at| piece.get(usize::try_from(at).ok()?))
        {
            values[index] = *value;
            self.next = self.order.next();
        }
    }
}

/// Positions, never decreasing, with the index in the tensor of each.
#[derive(Debug)]
enum Order {
    /// Counts through the dimensions.
    Counted { dimensions: Vec<Dimension>, at: Option<(u64, usize)> },
    /// Of overlapping windows, which no order of the dimensions goes through in order of position.
    Sorted(std::vec::IntoIter<(u64, usize)>),
}

#[derive(Debug, Clone, Copy)]
struct Dimension {
    extent: usize,
    /// Distance in the run, and in the tensor.
    stride: u64,
    step: usize,
    /// The present index, below `extent`.
    index: usize,
}

impl Order {
    fn new(shape: &[usize], strides: &[u64]) -> Self {
        let mut step = 1;
        let mut dimensions = Vec::with_capacity(shape.len());
        for (&extent, &stride) in shape.iter().zip(strides).rev() {
            if extent > 1 {
                dimensions.push(Dimension { extent, stride, step, index: 0 });
            }
            step *= extent;
        }
        // Innermost last, as in the run.
        dimensions.sort_by_key(|dimension| Reverse(dimension.stride));
        let mut inner = 0;
        let nested = dimensions.iter().rev().all(|dimension| {
            let beyond = dimension.stride >= inner;
            inner += dimension.stride * (dimension.extent as u64 - 1);
            beyond
        });
        let counted = Self::Counted { dimensions, at: Some((0, 0)) };
        if nested {
            return counted;
        }
        let mut all: Vec<_> = counted.collect();
        all.sort_unstable();
        Self::Sorted(all.into_iter())
    }
}

impl Iterator for Order {
    type Item = (u64, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let (dimensions, at) = match self {
            Self::Sorted(all) => return all.next(),
            Self::Counted { dimensions, at } => (dimensions, at),
        };
        let present = (*at)?;
        let (mut position, mut index) = present;
        *at = None;
        for dimension in dimensions.iter_mut().rev() {
            if dimension.index + 1 < dimension.extent {
                dimension.index += 1;
                *at = Some((position + dimension.stride, index + dimension.step));
                break;
            }
            position -= dimension.stride * dimension.index as u64;
            index -= dimension.step * dimension.index;
            dimension.index = 0;
        }
        Some(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against indexing by the definition, with the run cut into pieces of every length.
    #[test]
    fn elements_go_where_the_strides_say() {
        let cases: [(&[usize], &[u64]); 9] = [
            (&[2, 3], &[3, 1]),
            (&[3, 2], &[1, 3]),
            (&[2, 3, 4], &[4, 8, 1]),
            (&[2, 2], &[10, 4]),
            (&[2, 3], &[1, 1]),          // windows
            (&[3, 3], &[2, 2]),          // windows with a gap
            (&[2, 3, 2], &[1, 2, 3]),    // out of order and overlapping
            (&[2, 3], &[0, 1]),          // repeated
            (&[1, 4, 1], &[100, 5, 77]), // strides that mean nothing
        ];
        for (shape, strides) in cases {
            let span: u64 = shape.iter().zip(strides).map(|(&e, s)| (e as u64 - 1) * s).sum::<u64>() + 1;
            let run: Vec<u64> = (0..span).collect();
            let mut expected = vec![0];
            for (&extent, stride) in shape.iter().zip(strides) {
                expected = expected.iter().flat_map(|at| (0..extent as u64).map(move |i| at + i * stride)).collect();
            }
            for length in 1..=run.len() {
                let mut gather = Gather::new(shape, strides);
                let mut values = vec![u64::MAX; expected.len()];
                for (piece, from) in run.chunks(length).zip((0..).step_by(length)) {
                    assert!(gather.next().is_none_or(|next| next >= from));
                    gather.take(from, piece, &mut values);
                }
                assert_eq!(values, expected, "{shape:?} {strides:?} in pieces of {length}");
                assert_eq!(gather.next(), None);
            }
        }
    }
}
