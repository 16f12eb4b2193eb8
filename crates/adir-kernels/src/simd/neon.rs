//! [`Simd`] on 128-bit Arm vectors.

use std::arch::aarch64::*;

use super::{Kernel, Simd};

/// Proof that NEON is there, which it is on every aarch64.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// # Safety
/// The processor must have NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Neon(()))
}

// SAFETY of every block in this implementation: a `Neon` exists only inside `run`; the pointers of the unsafe
// methods are the caller's promise, as the trait states.
impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: see the implementation's note.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, count: usize) -> float32x4_t {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: i < count, the caller's promise.
            *lane = unsafe { *p.add(i) };
        }
        // SAFETY: four numbers on the stack.
        unsafe { vld1q_f32(lanes.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, count: usize, v: float32x4_t) {
        let mut lanes = [0.0; 4];
        // SAFETY: four numbers on the stack.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), v) };
        for (i, &lane) in lanes.iter().enumerate().take(count) {
            // SAFETY: i < count, the caller's promise.
            unsafe { *p.add(i) = lane };
        }
    }
    #[inline(always)]
    unsafe fn transpose16(self, src: *const f32, src_pitch: usize, dst: *mut f32, dst_pitch: usize) {
        for block in 0..16 {
            let (row, column) = (block / 4 * 4, block % 4 * 4);
            // SAFETY: see the implementation's note; the sixteen 4 by 4 blocks tile the 16 by 16 one.
            unsafe {
                let from = src.add(row * src_pitch + column);
                let to = dst.add(column * dst_pitch + row);
                let ab = vtrnq_f32(vld1q_f32(from), vld1q_f32(from.add(src_pitch)));
                let cd = vtrnq_f32(vld1q_f32(from.add(2 * src_pitch)), vld1q_f32(from.add(3 * src_pitch)));
                vst1q_f32(to, vcombine_f32(vget_low_f32(ab.0), vget_low_f32(cd.0)));
                vst1q_f32(to.add(dst_pitch), vcombine_f32(vget_low_f32(ab.1), vget_low_f32(cd.1)));
                vst1q_f32(to.add(2 * dst_pitch), vcombine_f32(vget_high_f32(ab.0), vget_high_f32(cd.0)));
                vst1q_f32(to.add(3 * dst_pitch), vcombine_f32(vget_high_f32(ab.1), vget_high_f32(cd.1)));
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see the implementation's note.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn scale_by_power(self, v: float32x4_t, n: float32x4_t) -> float32x4_t {
        // Two factors, because 2^n alone leaves the normal range where v 2^n does not.
        // SAFETY: see the implementation's note.
        unsafe {
            let n = vcvtnq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let bias = vdupq_n_s32(127);
            let first = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(half, bias)));
            let second = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias)));
            vmulq_f32(vmulq_f32(v, first), second)
        }
    }
    #[inline(always)]
    fn sum(self, v: float32x4_t) -> f32 {
        // SAFETY: see the implementation's note.
        unsafe { vaddvq_f32(v) }
    }
}
