//! Sums of products of the columns of a matrix: the inner loop of a covariance.

use crate::simd::{Kernel, Simd, dispatch};

/// Sides of a part of the sums that stays in registers.
const DOWN: usize = 4;
const ACROSS: usize = 8;
/// Rows that stay in the nearest cache meanwhile.
const TOGETHER: usize = 32;

/// `X^T X` of a matrix of rows of `width`, row-major. Every sum is taken row after row, and every product is rounded before
/// it is added: the bits are those of the plain loop on every processor.
///
/// # Panics
/// If the rows do not have that width.
pub fn products_of_columns(rows: &[f64], width: usize) -> Vec<f64> {
    assert!(rows.len().is_multiple_of(width), "the rows do not have that width");
    dispatch(Products { rows, width })
}

struct Products<'a> {
    rows: &'a [f64],
    width: usize,
}

impl Kernel for Products<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<f64> {
        let Self { rows, width } = self;
        let pitch = width.next_multiple_of(ACROSS);
        let (mut sums, mut padded) = (vec![0.0; pitch * pitch], vec![0.0; TOGETHER * pitch]);
        for rows in rows.chunks(TOGETHER * width) {
            let count = rows.len() / width;
            for (padded, row) in padded.chunks_exact_mut(pitch).zip(rows.chunks_exact(width)) {
                padded[..width].copy_from_slice(row);
            }
            for top in (0..width).step_by(DOWN) {
                // What lies left of the diagonal is there already.
                for left in (top / ACROSS * ACROSS..width).step_by(ACROSS) {
                    add(&padded[..count * pitch], pitch, [top, left], &mut sums);
                }
            }
        }
        let at = |i: usize, j: usize| sums[i.min(j) * pitch + i.max(j)];
        (0..width * width).map(|i| at(i / width, i % width)).collect()
    }
}

/// Adds the products of `DOWN` columns from `top` on with `ACROSS` from `left` on.
#[inline(always)]
fn add(rows: &[f64], pitch: usize, [top, left]: [usize; 2], sums: &mut [f64]) {
    let mut part = [[0.0; ACROSS]; DOWN];
    for (i, line) in part.iter_mut().enumerate() {
        line.copy_from_slice(&sums[(top + i) * pitch + left..][..ACROSS]);
    }
    for row in rows.chunks_exact(pitch) {
        let (down, across) = (&row[top..top + DOWN], &row[left..left + ACROSS]);
        for (line, a) in part.iter_mut().zip(down) {
            for (sum, b) in line.iter_mut().zip(across) {
                *sum += a * b;
            }
        }
    }
    for (i, line) in part.iter().enumerate() {
        sums[(top + i) * pitch + left..][..ACROSS].copy_from_slice(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::machine::{self, Machine};

    #[test]
    fn sums_have_the_bits_of_the_plain_loop_on_every_instruction_set() {
        let mut state = 7_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state) / 3e8 - 7.0
        };
        for (width, count) in [(1, 3), (5, 100), (25, 33), (49, 32), (49, 257), (64, 1), (49, 0)] {
            let rows: Vec<f64> = (0..width * count).map(|_| next()).collect();
            let mut expected = vec![0.0; width * width];
            for row in rows.chunks_exact(width) {
                for (i, sum) in expected.iter_mut().enumerate() {
                    *sum += row[i / width] * row[i % width];
                }
            }
            for isa in Isa::available() {
                let machine = Machine { isa: Some(isa), ..Machine::default() };
                assert!(
                    machine::with(machine, || products_of_columns(&rows, width)) == expected,
                    "{isa} {width} {count}"
                );
            }
        }
    }
}
