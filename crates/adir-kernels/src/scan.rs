//! Dot products of one query with many stored rows: the inner loop of exact nearest-neighbour search.
//!
//! The rows are read once and in order, so the scan should run at the speed of memory; everything here
//! serves that. Rows are f16 or f32, products and sums f32 in several partial sums, whose order differs
//! between instruction sets: a caller that needs one answer on every machine re-ranks the best in f64. Sums of whole numbers
//! are exact.

use half::f16;

use crate::simd::{Kernel, Simd, dispatch};

/// `out[i] = <query, rows[i]>` for rows stored one after the other in f16.
///
/// # Panics
/// If `rows.len() != out.len() * query.len()`.
pub fn dots_f16(query: &[f32], rows: &[f16], out: &mut [f32]) {
    dots(query, rows, out);
}

/// `out[i] = <query, rows[i]>` for rows stored one after the other in f32.
///
/// # Panics
/// If `rows.len() != out.len() * query.len()`.
pub fn dots_f32(query: &[f32], rows: &[f32], out: &mut [f32]) {
    dots(query, rows, out);
}

/// The largest absolute value of whole numbers in a query of `width`, for [`dots_i8`].
pub fn largest_i16(width: usize) -> i16 {
    i16::try_from(i32::MAX as usize / (128 * width.max(1))).unwrap_or(i16::MAX)
}

/// `out[i] = <query, rows[i]>` for rows of whole numbers stored one after the other; exact as long as no number of the query
/// is beyond [`largest_i16`].
///
/// # Panics
/// If `rows.len() != out.len() * query.len()`.
pub fn dots_i8(query: &[i16], rows: &[i8], out: &mut [i32]) {
    assert_eq!(rows.len(), out.len() * query.len(), "rows do not fit the query and the output");
    dispatch(WholeScan { query, rows, out });
}

struct WholeScan<'a> {
    query: &'a [i16],
    rows: &'a [i8],
    out: &'a mut [i32],
}

impl Kernel for WholeScan<'_> {
    type Output = ();

    /// Plain sums, which the compiler maps to the products of pairs that each instruction set has.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (row, out) in self.rows.chunks_exact(self.query.len().max(1)).zip(self.out) {
            let product = |(q, r): (&i16, &i8)| i32::from(*q) * i32::from(*r);
            *out = self.query.iter().zip(row).map(product).fold(0, i32::wrapping_add);
        }
    }
}

/// How far a computed dot product of `width` numbers may be from the true one, relative to the product of
/// the two vectors' lengths, whatever the processor: no sum here adds more than `width / 16` terms in a row
/// with some 32 more for the partial sums and the tail, and each addition rounds by at most half of
/// [`f32::EPSILON`].
pub fn relative_error(width: usize) -> f32 {
    (width as f32 / 16.0 + 48.0) * f32::EPSILON / 2.0
}

/// `<a, b>`.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut out = [0.0];
    dots_f32(a, b, &mut out);
    out[0]
}

fn dots<T: Number>(query: &[f32], rows: &[T], out: &mut [f32]) {
    assert_eq!(rows.len(), out.len() * query.len(), "rows do not fit the query and the output");
    dispatch(Scan { query, rows, out });
}

/// A number of a stored row.
trait Number: Copy {
    fn to_f32(self) -> f32;
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;
}

impl Number for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(p) }
    }
}

impl Number for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(p) }
    }
}

struct Scan<'a, T> {
    query: &'a [f32],
    rows: &'a [T],
    out: &'a mut [f32],
}

/// Vectors, and so partial sums, that a step takes together.
const TOGETHER: usize = 4;

impl<T: Number> Kernel for Scan<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.query.len();
        let (step, vectors) = (TOGETHER * S::LANES, width / S::LANES * S::LANES);
        let fours = width / step * step;
        for (row, out) in self.rows.chunks_exact(width.max(1)).zip(self.out) {
            let mut sums = [s.splat(0.0); TOGETHER];
            for first in (0..fours).step_by(step) {
                // A page ahead: the processor's own prefetcher stops at the end of each page.
                for byte in (0..step * size_of::<T>()).step_by(64) {
                    s.prefetch(row.as_ptr().wrapping_add(first).cast::<u8>().wrapping_add(4096 + byte));
                }
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: first + LANES TOGETHER <= width, the length of query and row.
                    *sum = unsafe { add_product(s, self.query, row, first + i * S::LANES, *sum) };
                }
            }
            for at in (fours..vectors).step_by(S::LANES) {
                // SAFETY: at + LANES <= width, the length of query and row.
                sums[0] = unsafe { add_product(s, self.query, row, at, sums[0]) };
            }
            let total = s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])));
            let tail: f32 = self.query[vectors..].iter().zip(&row[vectors..]).map(|(q, r)| q * r.to_f32()).sum();
            *out = total + tail;
        }
    }
}

/// The products of a vector of numbers from `at` on, added to `sum`.
///
/// # Safety
/// Both slices must have `LANES` numbers from there on.
#[inline(always)]
unsafe fn add_product<S: Simd, T: Number>(s: S, query: &[f32], row: &[T], at: usize, sum: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { s.mul_add(s.load(query.as_ptr().add(at)), T::load(s, row.as_ptr().add(at)), sum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::machine::{self, Machine};

    /// Values in [-1, 1] from a small integer recurrence.
    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .take(n)
        .collect()
    }

    fn compare<T: Number>(name: &str, scan: fn(&[f32], &[T], &mut [f32]), from: fn(f32) -> T) {
        for width in [1, 7, 8, 15, 16, 17, 63, 64, 65, 130, 512, 1280] {
            let query = values(width, 1);
            let rows: Vec<T> = values(5 * width, 2).into_iter().map(from).collect();
            let mut out = vec![f32::NAN; 5];
            scan(&query, &rows, &mut out);
            for (row, &found) in rows.chunks(width).zip(&out) {
                let row: Vec<f64> = row.iter().map(|&r| r.to_f32().into()).collect();
                let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
                let lengths = length(&mut query.iter().map(|&q| q.into())) * length(&mut row.iter().copied());
                let expected: f64 = query.iter().zip(&row).map(|(&q, &r)| f64::from(q) * r).sum();
                let error = (f64::from(found) - expected).abs() / lengths;
                assert!(error <= f64::from(relative_error(width)), "{name} {width}: {found} {expected}");
            }
        }
    }

    #[test]
    fn scans_give_the_f64_dot_products_on_every_instruction_set() {
        for isa in Isa::available() {
            machine::with(Machine { isa: Some(isa), ..Machine::default() }, || {
                compare(&format!("f16 {isa:?}"), dots_f16, f16::from_f32);
                compare(&format!("f32 {isa:?}"), dots_f32, |v| v);
            });
        }
    }

    #[test]
    fn whole_numbers_give_exact_dot_products_on_every_instruction_set() {
        for isa in Isa::available() {
            machine::with(Machine { isa: Some(isa), ..Machine::default() }, || {
                for width in [1, 7, 16, 31, 32, 33, 65, 512, 1280] {
                    let largest = largest_i16(width);
                    let mut query: Vec<i16> =
                        values(width, 1).iter().map(|v| (v * f32::from(largest)) as i16).collect();
                    let mut rows: Vec<i8> = values(4 * width, 2).iter().map(|v| (v * 127.0) as i8).collect();
                    // The largest sum that there can be.
                    query.extend(vec![largest; width]);
                    rows.extend(vec![-128; width]);
                    for (query, rows) in [(&query[..width], &rows[..4 * width]), (&query[width..], &rows[4 * width..])]
                    {
                        let mut out = vec![i32::MAX; rows.len() / width];
                        dots_i8(query, rows, &mut out);
                        for (row, found) in rows.chunks(width).zip(out) {
                            let expected: i64 = query.iter().zip(row).map(|(&q, &r)| i64::from(q) * i64::from(r)).sum();
                            assert_eq!(i64::from(found), expected, "{isa:?} {width}");
                        }
                    }
                }
            });
        }
    }

    #[test]
    #[should_panic(expected = "rows do not fit")]
    fn refuses_rows_of_another_width() {
        dots_f32(&[1.0, 2.0], &[1.0, 2.0, 3.0], &mut [0.0]);
    }
}
