//! [`Simd`] on 512-bit vectors.

use std::arch::x86_64::*;

use half::f16;

use super::{Kernel, Simd, dot_bf16, store_bf16};

/// Proof that AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C were detected, and `BF16` where that is true.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>(());

/// # Safety
/// The processor must have the features named.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// # Safety
/// The processor must have the features named.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

#[inline(always)]
fn low(count: usize) -> __mmask16 {
    (1u16 << count).wrapping_sub(1)
}

// SAFETY of every block in this implementation: an `Avx512` exists only inside `run` and `run_bf16`, whose caller has
// detected the features; the pointers of the unsafe methods are the caller's promise, as the trait states.
impl<const BF16: bool> Simd for Avx512<BF16> {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, count: usize) -> __m512 {
        // SAFETY: see the implementation's note; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(low(count), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, count: usize, v: __m512) {
        // SAFETY: see the implementation's note; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(p, low(count), v) }
    }
    #[inline(always)]
    unsafe fn transpose16(self, src: *const f32, src_pitch: usize, dst: *mut f32, dst_pitch: usize) {
        // SAFETY: see the implementation's note; the rows read and written are inside the two blocks.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, row) in r.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(src.add(i * src_pitch));
            }
            // Two rounds exchange within 128-bit quarters (4 by 4 transposes) ...
            let mut t = r;
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..4 {
                let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
                r[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                r[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                r[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                r[4 * i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
            }
            // ... and two exchange the quarters themselves.
            for i in 0..4 {
                let [a, b, c, d] = [r[i], r[4 + i], r[8 + i], r[12 + i]];
                let ab_even = _mm512_shuffle_f32x4::<0x88>(a, b);
                let ab_odd = _mm512_shuffle_f32x4::<0xdd>(a, b);
                let cd_even = _mm512_shuffle_f32x4::<0x88>(c, d);
                let cd_odd = _mm512_shuffle_f32x4::<0xdd>(c, d);
                t[i] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
                t[8 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
                t[4 + i] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
                t[12 + i] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
            }
            for (i, row) in t.iter().enumerate() {
                _mm512_storeu_ps(dst.add(i * dst_pitch), *row);
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn scale_by_power(self, v: __m512, n: __m512) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_scalef_ps(v, n) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> __m512 {
        // SAFETY: see the implementation's note.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch accesses nothing; an address without memory behind it is ignored.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: __m512) {
        if BF16 {
            // SAFETY: see the implementation's note; both types are 32 bytes of plain bits.
            unsafe { _mm256_storeu_si256(p.cast(), std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))) }
        } else {
            // SAFETY: the caller's promise.
            unsafe { store_bf16(self, p, v) }
        }
    }
    #[inline(always)]
    fn dot_bf16(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if BF16 {
            // SAFETY: see the implementation's note; the types are 64 bytes of plain bits.
            unsafe {
                _mm512_dpbf16_ps(
                    c,
                    std::mem::transmute::<__m512, __m512bh>(a),
                    std::mem::transmute::<__m512, __m512bh>(b),
                )
            }
        } else {
            dot_bf16(self, a, b, c)
        }
    }
}
