//! The vector instructions the kernels are written in, and which of them this process uses.
//!
//! A kernel is written once against [`Simd`] and compiled once per instruction set: AVX-512, AVX2 with FMA,
//! NEON, and portable arrays. [`dispatch`] picks the compiled copy at run time, so one binary runs on every
//! x86-64 level. Everything a kernel calls must be `#[inline(always)]`: code that is not inlined into the
//! function carrying `#[target_feature]` is compiled without the instructions, correct but very slow.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use std::fmt;
use std::sync::OnceLock;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::machine;

/// A vector of `LANES` single-precision numbers and what can be done with it.
///
/// A value of an implementing type is a proof that the processor has the instructions: only [`dispatch`]
/// makes one, after detection. That is why the arithmetic methods are safe; the ones that take a pointer
/// are unsafe for the pointer's sake.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// The vector register.
    type V: Copy;
    /// Numbers in a vector; a divisor of 16.
    const LANES: usize;

    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` must be writable for `LANES` numbers.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// The first `count < LANES` numbers, zeros behind them.
    ///
    /// # Safety
    /// `p` must be readable for `count` numbers.
    unsafe fn load_partial(self, p: *const f32, count: usize) -> Self::V;
    /// Stores the first `count < LANES` numbers only.
    ///
    /// # Safety
    /// `p` must be writable for `count` numbers.
    unsafe fn store_partial(self, p: *mut f32, count: usize, v: Self::V);
    /// Transposes a block of 16 by 16 numbers: `dst[c * dst_pitch + r] = src[r * src_pitch + c]`.
    ///
    /// # Safety
    /// Both blocks must be in bounds and must not overlap.
    unsafe fn transpose16(self, src: *const f32, src_pitch: usize, dst: *mut f32, dst_pitch: usize);

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a b + c`, rounded once where the hardware can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `v 2^n` for integral `n` in [-252, 254].
    fn scale_by_power(self, v: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes, in an order fixed by `LANES`.
    fn sum(self, v: Self::V) -> f32;
    /// `LANES` half-precision numbers, widened.
    ///
    /// # Safety
    /// `p` must be readable for `LANES` numbers.
    #[inline(always)]
    unsafe fn load_f16(self, p: *const f16) -> Self::V {
        let mut numbers = [0.0; 16];
        // SAFETY: `LANES` divides 16; the caller's promise.
        unsafe {
            std::slice::from_raw_parts(p, Self::LANES).convert_to_f32_slice(&mut numbers[..Self::LANES]);
            self.load(numbers.as_ptr())
        }
    }
    /// Asks for the line of the cache at `p`, which need not be readable.
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        let _ = p;
    }
    /// Rounds to bfloat16 (to nearest, ties to even) and stores `LANES` numbers of two bytes.
    ///
    /// # Safety
    /// `p` must be writable for `LANES` numbers.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: Self::V) {
        // SAFETY: the caller's promise.
        unsafe { store_bf16(self, p, v) }
    }
    /// `c` plus both products of the bfloat16 numbers of a lane: the bits of each lane of `a` and `b` are two of them.
    #[inline(always)]
    fn dot_bf16(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        dot_bf16(self, a, b, c)
    }
}

/// [`Simd::store_bf16`] for processors without such an instruction.
///
/// # Safety
/// `p` must be writable for `LANES` numbers.
#[inline(always)]
unsafe fn store_bf16<S: Simd>(s: S, p: *mut u16, v: S::V) {
    for (i, &number) in to_array(s, v).iter().enumerate().take(S::LANES) {
        // SAFETY: i < LANES, the caller's promise.
        unsafe { *p.add(i) = round_bf16(number) };
    }
}

/// [`Simd::dot_bf16`] for processors without such an instruction.
#[inline(always)]
fn dot_bf16<S: Simd>(s: S, a: S::V, b: S::V, c: S::V) -> S::V {
    let (a, b, mut sum) = (to_array(s, a), to_array(s, b), to_array(s, c));
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        let ([a_low, a_high], [b_low, b_high]) = (bf16_pair(a), bf16_pair(b));
        *sum += a_low * b_low + a_high * b_high;
    }
    // SAFETY: the array holds 16 numbers, at least `LANES`.
    unsafe { s.load(sum.as_ptr()) }
}

#[inline(always)]
fn to_array<S: Simd>(s: S, v: S::V) -> [f32; 16] {
    let mut numbers = [0.0; 16];
    // SAFETY: `LANES` divides 16.
    unsafe { s.store(numbers.as_mut_ptr(), v) };
    numbers
}

/// The upper half of a number's bits, rounded to nearest, ties to even; not a number stays so.
#[inline(always)]
pub(crate) fn round_bf16(number: f32) -> u16 {
    let bits = number.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if number.is_nan() { 0x7fc0 } else { rounded as u16 }
}

#[inline(always)]
fn bf16_pair(slot: f32) -> [f32; 2] {
    let bits = slot.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
}

/// Work that is compiled once for every instruction set.
pub(crate) trait Kernel {
    /// What it computes besides what it writes.
    type Output;
    /// Whether it is worth compiling for the processors with instructions for [`Simd::dot_bf16`].
    const BF16: bool = false;
    /// Runs it; implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Arrays of four that the compiler maps to what the target always has (SSE2 on x86-64).
    Portable,
    /// 128-bit Arm vectors.
    Neon,
    /// 256-bit vectors with fused multiply-add and half-precision conversion.
    Avx2,
    /// 512-bit vectors (F, BW, DQ, VL).
    Avx512,
}

/// `portable`, `neon`, `avx2`, `avx512`.
impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

impl Isa {
    /// The instruction sets this machine can run, slowest first.
    pub fn available() -> Vec<Isa> {
        [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.is_available()).collect()
    }

    pub(crate) fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && Isa::Avx2.is_available()
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// Whether bfloat16 products ([`crate::Kernel::bf16_products`]) make anything faster: with AVX-512 and its bfloat16
    /// instructions.
    pub fn has_bf16_products() -> bool {
        Isa::active() == Isa::Avx512 && detected_bf16()
    }

    /// The instruction set in use: the widest available, but on the threads of [`crate::machine::with`].
    pub fn active() -> Isa {
        static WIDEST: OnceLock<Isa> = OnceLock::new();
        machine::current()
            .isa
            .unwrap_or_else(|| *WIDEST.get_or_init(|| *Isa::available().last().unwrap_or(&Isa::Portable)))
    }
}

#[cfg(target_arch = "x86_64")]
fn detected_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn detected_bf16() -> bool {
    false
}

/// Runs the copy of a kernel that was compiled for the active instruction set.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match Isa::active() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as below, and this one more feature is detected here.
        Isa::Avx512 if K::BF16 && detected_bf16() => unsafe { avx512::run_bf16(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `active` returns only what `is_available` has detected on this processor.
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: NEON is part of the aarch64 baseline.
        Isa::Neon => unsafe { neon::run(kernel) },
        _ => kernel.run(portable::Portable::new()),
    }
}
