//! Dot products of one query with many stored rows: the inner loop of exact nearest-neighbour search.
//!
//! The rows are read once and in order, so the scan should run at the speed of memory; everything here
//! serves that. Rows are f16 or f32, products and sums f32 in several partial sums, whose order differs
//! between instruction sets: a caller that needs one answer on every machine re-ranks the best in f64.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// `out[i] = <query, rows[i]>` for rows stored one after the other in f16.
///
/// # Panics
/// If `rows.len() != out.len() * query.len()`.
pub fn dots_f16(query: &[f32], rows: &[f16], out: &mut [f32]) {
    assert_eq!(rows.len(), out.len() * query.len(), "rows do not fit the query and the output");
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F.
            return unsafe { x86::dots_f16_avx512(query, rows, out) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            // SAFETY: the processor has AVX2, FMA and F16C.
            return unsafe { x86::dots_f16_avx2(query, rows, out) };
        }
    }
    dots_f16_portable(query, rows, out);
}

/// `out[i] = <query, rows[i]>` for rows stored one after the other in f32.
///
/// # Panics
/// If `rows.len() != out.len() * query.len()`.
pub fn dots_f32(query: &[f32], rows: &[f32], out: &mut [f32]) {
    assert_eq!(rows.len(), out.len() * query.len(), "rows do not fit the query and the output");
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F.
            return unsafe { x86::dots_f32_avx512(query, rows, out) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { x86::dots_f32_avx2(query, rows, out) };
        }
    }
    dots_f32_portable(query, rows, out);
}

/// How far a computed dot product of `width` numbers may be from the true one, relative to the product of
/// the two vectors' lengths, whatever the processor: no sum here adds more than `width / 16` terms in a row
/// with some 32 more for the partial sums and the tail, and each addition rounds by at most half of
/// [`f32::EPSILON`].
pub fn relative_error(width: usize) -> f32 {
    (width as f32 / 16.0 + 48.0) * f32::EPSILON / 2.0
}

/// [`dots_f16`] without special instructions.
fn dots_f16_portable(query: &[f32], rows: &[f16], out: &mut [f32]) {
    let mut row_f32 = vec![0.0; query.len()];
    for (row, out) in rows.chunks_exact(query.len().max(1)).zip(out) {
        row.convert_to_f32_slice(&mut row_f32);
        *out = dot(query, &row_f32);
    }
}

/// [`dots_f32`] without special instructions.
fn dots_f32_portable(query: &[f32], rows: &[f32], out: &mut [f32]) {
    for (row, out) in rows.chunks_exact(query.len().max(1)).zip(out) {
        *out = dot(query, row);
    }
}

/// A dot product in sixteen partial sums, which compilers turn into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a_chunks, a_tail) = a.as_chunks::<16>();
    let (b_chunks, b_tail) = b.as_chunks::<16>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    /// One scan: splits each row in chunks of `LANES`, keeps four partial sums, finishes the tail one by one.
    macro_rules! scan {
        ($query:ident, $rows:ident, $out:ident, $lanes:literal, $zero:expr, $fma:ident, $load_query:expr,
         $load_row:expr, $add:ident, $sum:expr, $to_f32:expr) => {{
            let (query, query_tail) = $query.as_chunks::<$lanes>();
            for (row, out) in $rows.chunks_exact($query.len().max(1)).zip($out) {
                let (row, row_tail) = row.as_chunks::<$lanes>();
                let mut sums = [$zero; 4];
                let (query_fours, query_rest) = query.as_chunks::<4>();
                let (row_fours, row_rest) = row.as_chunks::<4>();
                for (q, r) in query_fours.iter().zip(row_fours) {
                    prefetch(r);
                    for i in 0..4 {
                        sums[i] = $fma($load_query(&q[i]), $load_row(&r[i]), sums[i]);
                    }
                }
                for (q, r) in query_rest.iter().zip(row_rest) {
                    sums[0] = $fma($load_query(q), $load_row(r), sums[0]);
                }
                let total = $add($add(sums[0], sums[1]), $add(sums[2], sums[3]));
                let tail: f32 = query_tail.iter().zip(row_tail).map(|(q, r)| q * $to_f32(r)).sum();
                *out = $sum(total) + tail;
            }
        }};
    }

    #[target_feature(enable = "avx512f")]
    pub fn dots_f16_avx512(query: &[f32], rows: &[f16], out: &mut [f32]) {
        // SAFETY (both loads): an unaligned load of exactly the array behind the reference.
        let load_query = |q: &[f32; 16]| unsafe { _mm512_loadu_ps(q.as_ptr()) };
        let load_row = |r: &[f16; 16]| _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(r.as_ptr().cast()) });
        scan!(
            query,
            rows,
            out,
            16,
            _mm512_setzero_ps(),
            _mm512_fmadd_ps,
            load_query,
            load_row,
            _mm512_add_ps,
            |v| _mm512_reduce_add_ps(v),
            |r: &f16| r.to_f32()
        );
    }

    #[target_feature(enable = "avx512f")]
    pub fn dots_f32_avx512(query: &[f32], rows: &[f32], out: &mut [f32]) {
        // SAFETY: an unaligned load of exactly the array behind the reference.
        let load = |v: &[f32; 16]| unsafe { _mm512_loadu_ps(v.as_ptr()) };
        scan!(
            query,
            rows,
            out,
            16,
            _mm512_setzero_ps(),
            _mm512_fmadd_ps,
            load,
            load,
            _mm512_add_ps,
            |v| _mm512_reduce_add_ps(v),
            |r: &f32| *r
        );
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dots_f16_avx2(query: &[f32], rows: &[f16], out: &mut [f32]) {
        // SAFETY (both loads): an unaligned load of exactly the array behind the reference.
        let load_query = |q: &[f32; 8]| unsafe { _mm256_loadu_ps(q.as_ptr()) };
        let load_row = |r: &[f16; 8]| _mm256_cvtph_ps(unsafe { _mm_loadu_si128(r.as_ptr().cast()) });
        scan!(
            query,
            rows,
            out,
            8,
            _mm256_setzero_ps(),
            _mm256_fmadd_ps,
            load_query,
            load_row,
            _mm256_add_ps,
            |v| sum_avx2(v),
            |r: &f16| r.to_f32()
        );
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn dots_f32_avx2(query: &[f32], rows: &[f32], out: &mut [f32]) {
        // SAFETY: an unaligned load of exactly the array behind the reference.
        let load = |v: &[f32; 8]| unsafe { _mm256_loadu_ps(v.as_ptr()) };
        scan!(
            query,
            rows,
            out,
            8,
            _mm256_setzero_ps(),
            _mm256_fmadd_ps,
            load,
            load,
            _mm256_add_ps,
            |v| sum_avx2(v),
            |r: &f32| *r
        );
    }

    /// Asks for the memory that a scan will reach a page after `part`: the processor's own prefetcher stops at
    /// the end of each page.
    fn prefetch<T>(part: &T) {
        for line in (0..size_of::<T>()).step_by(64) {
            let ahead = std::ptr::from_ref(part).cast::<i8>().wrapping_add(4096 + line);
            // SAFETY: a prefetch accesses nothing; an address without memory behind it is ignored.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead) };
        }
    }

    /// The sum of eight lanes.
    #[target_feature(enable = "avx2")]
    fn sum_avx2(v: __m256) -> f32 {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    type Scan<T> = fn(&[f32], &[T], &mut [f32]);
    type From<T> = fn(f32) -> T;
    type To<T> = fn(T) -> f64;

    fn compare<T: Copy>(name: &str, scan: Scan<T>, from: From<T>, to: To<T>) {
        for width in [1, 7, 8, 15, 16, 17, 63, 64, 65, 130, 512, 1280] {
            let query = values(width, 1);
            let rows: Vec<T> = values(5 * width, 2).into_iter().map(from).collect();
            let mut out = vec![f32::NAN; 5];
            scan(&query, &rows, &mut out);
            for (row, &found) in rows.chunks(width).zip(&out) {
                let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
                let lengths = length(&mut query.iter().map(|&q| q.into())) * length(&mut row.iter().map(|&r| to(r)));
                let expected: f64 = query.iter().zip(row).map(|(&q, &r)| f64::from(q) * to(r)).sum();
                let error = (f64::from(found) - expected).abs() / lengths;
                assert!(error <= f64::from(relative_error(width)), "{name} {width}: {found} {expected}");
            }
        }
    }

    #[test]
    fn every_scan_gives_the_f64_dot_products() {
        let (from16, to16): (From<f16>, To<f16>) = (f16::from_f32, f16::to_f64);
        let (from32, to32): (From<f32>, To<f32>) = (|v| v, f64::from);
        compare("f16", dots_f16, from16, to16);
        compare("f16 portable", dots_f16_portable, from16, to16);
        compare("f32", dots_f32, from32, to32);
        compare("f32 portable", dots_f32_portable, from32, to32);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            // SAFETY: the processor has AVX2, FMA and F16C.
            compare("f16 AVX2", |q, r, o| unsafe { x86::dots_f16_avx2(q, r, o) }, from16, to16);
            // SAFETY: the processor has AVX2 and FMA.
            compare("f32 AVX2", |q, r, o| unsafe { x86::dots_f32_avx2(q, r, o) }, from32, to32);
        }
    }

    #[test]
    #[should_panic(expected = "rows do not fit")]
    fn refuses_rows_of_another_width() {
        dots_f32(&[1.0, 2.0], &[1.0, 2.0, 3.0], &mut [0.0]);
    }
}
