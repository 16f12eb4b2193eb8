//! Copies of a block's vectors, rounded to whole numbers of eight bits, with bounds of what rounding may change: a first
//! pass over a large index reads half as many bytes.
//!
//! | bytes | what |
//! |---|---|
//! | 4 each | the scale s_j of every component |
//! | 4 each | for each image, at least the length of r - s q, where r is its vector, of length one |
//! | 1 each | for each image the whole numbers q, -127 to 127 |
//!
//! A scale belongs to one component and one block, since a few components of usual embeddings are much larger than the others.
//! For a query u of length one, |<u, r> - <u, s q>| <= |r - s q| by Cauchy and Schwarz.

use adir_kernels::scan;

use super::layout::Layout;

/// The largest whole number.
const LARGEST: f32 = 127.0;

/// The bytes of these vectors of length one, row after row.
pub(super) fn encode(directions: &[f32], dimension: usize) -> Vec<u8> {
    let mut scales = vec![0.0_f32; dimension];
    for row in directions.chunks_exact(dimension) {
        scales.iter_mut().zip(row).for_each(|(scale, value)| *scale = scale.max(value.abs() / LARGEST));
    }
    let (mut errors, mut numbers) = (Vec::new(), Vec::with_capacity(directions.len()));
    for row in directions.chunks_exact(dimension) {
        let mut squares = 0.0_f64;
        for (value, scale) in row.iter().zip(&scales) {
            let number = if *scale > 0.0 { (value / scale).round().clamp(-LARGEST, LARGEST) } else { 0.0 };
            squares += (f64::from(*value) - f64::from(*scale) * f64::from(number)).powi(2);
            numbers.push(number as i8);
        }
        errors.push((squares.sqrt() as f32).next_up());
    }
    let floats = scales.iter().chain(&errors).flat_map(|value| value.to_le_bytes());
    floats.chain(numbers.into_iter().map(|number| number as u8)).collect()
}

/// The copies of a block in memory.
#[derive(Debug, Default)]
pub(super) struct Rounded {
    pub words: Vec<u64>,
    pub rows: usize,
    /// The query, multiplied by the scales, and rounded.
    scaled: Vec<f32>,
    query: Vec<i16>,
    sums: Vec<i32>,
}

impl Rounded {
    /// The cosine of a query of length one with every image, and how far it may be from the true one: by the rounding of the
    /// image, and by that of the query to sixteen bits.
    pub fn cosines(&mut self, query: &[f32], layout: &Layout, cosines: &mut Vec<f32>, errors: &mut Vec<f32>) {
        let float = |word: &u32| f32::from_bits(u32::from_le(*word));
        let words: &[u32] = bytemuck::cast_slice(&self.words);
        let (scales, rest) = words.split_at(layout.dimension);
        let (bounds, rest) = rest.split_at(self.rows);
        self.scaled.clear();
        self.scaled.extend(query.iter().zip(scales).map(|(value, scale)| value * float(scale)));
        let most = self.scaled.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let step = (most / f32::from(scan::largest_i16(query.len()))).max(f32::MIN_POSITIVE);
        self.query.clear();
        self.query.extend(self.scaled.iter().map(|value| (value / step).round() as i16));
        self.sums.resize(self.rows, 0);
        let numbers = &bytemuck::cast_slice::<u32, i8>(rest)[..self.rows * layout.dimension];
        scan::dots_i8(&self.query, numbers, &mut self.sums);
        // Every number of the query lost half a step at most; a sum and its product with the step are rounded.
        let lost = 0.51 * step * LARGEST * layout.dimension as f32 + 8.0 * f32::EPSILON;
        cosines.clear();
        cosines.extend(self.sums.iter().map(|&sum| sum as f32 * step));
        errors.clear();
        errors.extend(bounds.iter().map(|bound| float(bound) + lost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieve::Precision;
    use crate::retrieve::layout::ROUNDED;

    #[test]
    fn the_true_cosine_is_within_the_bound() {
        let mut state = 1_u64;
        let mut value = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1 << 23) as f64 - 1.0
        };
        for dimension in [1, 3, 64, 515] {
            let mut direction = |rows: usize| -> Vec<f32> {
                (0..rows)
                    .flat_map(|_| {
                        // One component is as large as all others together, and one is missing.
                        let mut row: Vec<f64> = (0..dimension).map(|_| value()).collect();
                        row[0] += dimension as f64;
                        row[dimension / 2] *= f64::from(dimension == 1);
                        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                        row.into_iter().map(move |v| (v / length) as f32)
                    })
                    .collect()
            };
            let (rows, query) = (direction(7), direction(1));
            let layout = Layout::new(ROUNDED, 7, dimension, Precision::F32, 0).unwrap();
            let mut bytes = encode(&rows, dimension);
            bytes.resize(8 * layout.rounded_words(7), 0);
            let words = bytes.as_chunks::<8>().0.iter().map(|&word| u64::from_ne_bytes(word)).collect();
            let mut block = Rounded { words, rows: 7, ..Rounded::default() };
            let (mut cosines, mut errors) = (Vec::new(), Vec::new());
            block.cosines(&query, &layout, &mut cosines, &mut errors);
            for (i, row) in rows.chunks(dimension).enumerate() {
                let expected: f64 = query.iter().zip(row).map(|(&q, &r)| f64::from(q) * f64::from(r)).sum();
                let error = (expected - f64::from(cosines[i])).abs();
                assert!(error <= f64::from(errors[i]), "{dimension}: {error} {}", errors[i]);
                // A component far larger than others does not coarsen them.
                assert!(errors[i] < 0.01, "{dimension}: {}", errors[i]);
            }
        }
    }
}
