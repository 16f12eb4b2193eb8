//! Large maps in bands of rows, so that the copies that a convolution makes for itself are small beside the maps.

use super::{Geometry, Method, Packed, Planes, whole};
use crate::parallel::{Shared, SharedMut, filled, for_each};

/// Maps that take more bytes are computed in bands.
const WHOLE_BYTES: usize = 64 << 20;
/// Bytes of the rows of a band.
const BAND_BYTES: usize = 32 << 20;
/// Rows more on either side, so that a band's rows lie in the same tiles of Winograd's algorithm as in the whole: then
/// every value is computed in the same way, and is the same to the bit.
const HALO: usize = 4;

/// Rows of a band, where bands are worth while.
pub(super) fn rows(g: &Geometry) -> Option<usize> {
    let row = 4 * g.inputs.max(g.outputs) * g.width;
    let same_size = g.stride == 1 && g.kernel == 2 * g.padding + 1 && g.padding <= HALO;
    let rows = (BAND_BYTES / row.max(1)).next_multiple_of(HALO).max(8 * HALO);
    (g.batch == 1 && same_size && row * g.height > WHOLE_BYTES && rows + 2 * HALO < g.height).then_some(rows)
}

/// As [`super::forward`], `rows` rows of the result at a time, a multiple of [`HALO`].
pub(super) fn forward(
    x: Planes<'_>,
    weight: &Packed,
    bias: Option<&[f32]>,
    g: &Geometry,
    method: Method,
    rows: usize,
) -> Vec<f32> {
    let (height, width) = (g.height, g.width);
    // SAFETY: the bands cover all rows of all channels.
    unsafe {
        filled(g.outputs * height * width, |out| {
            for first in (0..height).step_by(rows) {
                let (start, last) = (first.saturating_sub(HALO), (first + rows).min(height));
                let end = (last + HALO).min(height);
                let band = Geometry { height: end - start, ..*g };
                let part = cut(x.numbers, g.inputs, [height, width], [start, end]);
                let made = whole(Planes { numbers: &part, modulation: x.modulation }, weight, bias, &band, method);
                drop(part);
                let from = Shared(made.as_ptr());
                for_each(g.outputs, |channel| {
                    let skipped = (channel * band.height + first - start) * width;
                    let to = out.add((channel * height + first) * width);
                    to.copy_from_nonoverlapping(from.add(skipped), (last - first) * width);
                });
            }
        })
    }
}

/// Rows `start` to `end` of every plane.
fn cut(planes: &[f32], channels: usize, [height, width]: [usize; 2], [start, end]: [usize; 2]) -> Vec<f32> {
    let from = Shared(planes.as_ptr());
    let count = (end - start) * width;
    assert_eq!(planes.len(), channels * height * width, "planes of {channels} x {height} x {width}");
    // SAFETY: every channel writes its own rows; those read are inside the planes.
    unsafe {
        filled(channels * count, |to: SharedMut| {
            for_each(channels, |channel| {
                to.add(channel * count).copy_from_nonoverlapping(from.add((channel * height + start) * width), count);
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::{Purpose, pack};
    use crate::layout::Modulation;

    /// Both algorithms, with and without what normalises on the way in.
    #[test]
    fn bands_are_the_whole_to_the_bit() {
        let numbers = |count: usize, seed: u32| -> Vec<f32> {
            let value = |i: u32| ((i.wrapping_mul(2_654_435_761) ^ seed) >> 8) as f32 / (1 << 23) as f32 - 1.0;
            (0..count as u32).map(value).collect()
        };
        for (inputs, outputs, height, width, kernel) in [(32, 32, 75, 40, 3), (5, 3, 70, 19, 3), (8, 16, 64, 24, 1)] {
            let g = Geometry::new([1, inputs, height, width], [outputs, inputs, kernel, kernel], 1, kernel / 2);
            let method = Method::new(&g, false);
            let (x, weight) = (numbers(inputs * height * width, 1), numbers(outputs * inputs * kernel * kernel, 2));
            let packed = pack(weight.as_slice(), &g, Purpose::Forward, method);
            let bias = numbers(outputs, 3);
            let modulation = Modulation { a: numbers(inputs, 4), b: numbers(inputs, 5), silu: true };
            for modulation in [None, Some(&modulation)] {
                let planes = Planes { numbers: &x, modulation };
                let expected = whole(planes, &packed, Some(&bias), &g, method);
                let found = forward(planes, &packed, Some(&bias), &g, method, 4 * HALO);
                assert_eq!(found, expected, "{g:?}");
            }
            assert_eq!(rows(&g), None);
        }
        let large = Geometry::new([1, 256, 512, 512], [256, 256, 3, 3], 1, 1);
        assert_eq!(rows(&large), Some(64));
    }
}
