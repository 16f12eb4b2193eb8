//! [`Simd`] on plain arrays, which the compiler turns into whatever the target always has.

use super::Simd;

/// Needs no proof: it is ordinary code.
#[derive(Clone, Copy)]
pub(crate) struct Portable(());

impl Portable {
    pub(super) fn new() -> Self {
        Portable(())
    }
}

#[inline(always)]
fn zip(a: [f32; 4], b: [f32; 4], f: impl Fn(f32, f32) -> f32) -> [f32; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Portable {
    type V = [f32; 4];
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> [f32; 4] {
        // SAFETY: the caller's promise; the array has the alignment of a single number.
        unsafe { p.cast::<[f32; 4]>().read() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: [f32; 4]) {
        // SAFETY: the caller's promise; the array has the alignment of a single number.
        unsafe { p.cast::<[f32; 4]>().write(v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, count: usize) -> [f32; 4] {
        let mut v = [0.0; 4];
        for (i, lane) in v.iter_mut().enumerate().take(count) {
            // SAFETY: i < count, the caller's promise.
            *lane = unsafe { *p.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, count: usize, v: [f32; 4]) {
        for (i, &lane) in v.iter().enumerate().take(count) {
            // SAFETY: i < count, the caller's promise.
            unsafe { *p.add(i) = lane };
        }
    }
    #[inline(always)]
    unsafe fn transpose16(self, src: *const f32, src_pitch: usize, dst: *mut f32, dst_pitch: usize) {
        for r in 0..16 {
            for c in 0..16 {
                // SAFETY: both are inside their 16 by 16 blocks, the caller's promise.
                unsafe { *dst.add(c * dst_pitch + r) = *src.add(r * src_pitch + c) };
            }
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }
    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        // Not `f32::mul_add`, which is a library call where the target has no such instruction.
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn scale_by_power(self, v: [f32; 4], n: [f32; 4]) -> [f32; 4] {
        // Two factors, because 2^n alone leaves the normal range where v 2^n does not.
        zip(v, n, |v, n| {
            let n = n as i32;
            let half = n >> 1;
            let power = |e: i32| f32::from_bits((e.wrapping_add(127) as u32) << 23);
            v * power(half) * power(n.wrapping_sub(half))
        })
    }
    #[inline(always)]
    fn sum(self, v: [f32; 4]) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }
}
