//! [`Simd`] on 256-bit vectors with fused multiply-add.

use std::arch::x86_64::*;

use half::f16;

use super::{Kernel, Simd};

/// Proof that AVX2, FMA and F16C were detected.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// # Safety
/// The processor must have the features named.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

#[inline(always)]
fn low(count: usize) -> __m256i {
    const ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(count <= 8);
    // SAFETY: an `Avx2` exists where this is called; 8 - count .. 16 - count is inside the table for count <= 8.
    unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - count).cast()) }
}

// SAFETY of every block in this implementation: an `Avx2` exists only inside `run`, whose caller has detected the
// features; the pointers of the unsafe methods are the caller's promise, as the trait states.
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, count: usize) -> __m256 {
        // SAFETY: see the implementation's note; masked lanes are not read.
        unsafe { _mm256_maskload_ps(p, low(count)) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, count: usize, v: __m256) {
        // SAFETY: see the implementation's note; masked lanes are not written.
        unsafe { _mm256_maskstore_ps(p, low(count), v) }
    }
    #[inline(always)]
    unsafe fn transpose16(self, src: *const f32, src_pitch: usize, dst: *mut f32, dst_pitch: usize) {
        for block in 0..4 {
            let (row, column) = (block / 2 * 8, block % 2 * 8);
            // SAFETY: see the implementation's note; the four 8 by 8 blocks tile the 16 by 16 one.
            unsafe {
                transpose8(src.add(row * src_pitch + column), src_pitch, dst.add(column * dst_pitch + row), dst_pitch)
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn scale_by_power(self, v: __m256, n: __m256) -> __m256 {
        // Two factors, because 2^n alone leaves the normal range where v 2^n does not.
        // SAFETY: see the implementation's note.
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
            let rest = _mm256_add_epi32(_mm256_sub_epi32(n, half), bias);
            let second = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(rest));
            _mm256_mul_ps(_mm256_mul_ps(v, first), second)
        }
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        // SAFETY: see the implementation's note.
        unsafe {
            let quarter = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> __m256 {
        // SAFETY: see the implementation's note.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch accesses nothing; an address without memory behind it is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
}

/// Transposes 8 by 8 numbers.
///
/// # Safety
/// The processor must have AVX2; both blocks must be in bounds.
#[inline(always)]
unsafe fn transpose8(src: *const f32, src_pitch: usize, dst: *mut f32, dst_pitch: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut r = [_mm256_setzero_ps(); 8];
        for (i, row) in r.iter_mut().enumerate() {
            *row = _mm256_loadu_ps(src.add(i * src_pitch));
        }
        let mut t = r;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        for i in 0..2 {
            let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
            r[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
            r[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
            r[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
            r[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
        }
        for i in 0..4 {
            _mm256_storeu_ps(dst.add(i * dst_pitch), _mm256_permute2f128_ps::<0x20>(r[i], r[4 + i]));
            _mm256_storeu_ps(dst.add((4 + i) * dst_pitch), _mm256_permute2f128_ps::<0x31>(r[i], r[4 + i]));
        }
    }
}
