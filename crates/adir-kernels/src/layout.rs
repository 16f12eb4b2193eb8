//! Between the framework's planes (`[n, c, h, w]`) and pixels with neighbouring channels (`[n, h, w, c]`).
//!
//! The convolutions work on the second, zero-padded: there a vector holds channels of one pixel, whatever the
//! image's width, and a shift of the kernel is an offset. The two copies cost a few percent of a convolution.

use crate::parallel::{Shared, SharedMut, for_each};
use crate::scratch::Scratch;
use crate::simd::math::silu;
use crate::simd::{Kernel, Simd, dispatch, round_bf16};

/// Images as the framework keeps them, `[n, c, h, w]`, and what is done to them on the way into [`ChannelsLast`].
#[derive(Clone, Copy)]
pub(crate) struct Planes<'a> {
    pub numbers: &'a [f32],
    pub modulation: Option<&'a Modulation>,
}

impl<'a> From<&'a [f32]> for Planes<'a> {
    fn from(numbers: &'a [f32]) -> Planes<'a> {
        Planes { numbers, modulation: None }
    }
}

/// `a x + b` with an `a` and a `b` for every image and channel, `[n, c]`, then SiLU if that is asked for.
pub(crate) struct Modulation {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub silu: bool,
}

/// Zeros around an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Padding {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

impl Padding {
    pub(crate) fn same(all: usize) -> Padding {
        Padding { top: all, bottom: all, left: all, right: all }
    }
}

/// `[n, top + h + bottom, left + w + right, c]`, borrowed memory.
pub(crate) struct ChannelsLast {
    data: Scratch,
    batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Distance between neighbouring pixels: not a multiple of 64 numbers, which would put the same channels of
    /// many pixels in the same few lines of the cache.
    pub step: usize,
}

impl ChannelsLast {
    pub(crate) fn as_ptr(&self) -> Shared {
        Shared(self.data.as_ptr())
    }

    /// Numbers of an image.
    pub(crate) fn image(&self) -> usize {
        self.height * self.line()
    }

    /// Distance between rows.
    pub(crate) fn line(&self) -> usize {
        self.width * self.step
    }

    /// Copies planes, and modulates what is copied, not the zeros around it.
    pub(crate) fn from_planes<'a>(
        planes: impl Into<Planes<'a>>,
        [n, c, h, w]: [usize; 4],
        padding: Padding,
    ) -> ChannelsLast {
        let Planes { numbers: x, modulation } = planes.into();
        assert!(modulation.is_none_or(|m| m.a.len() == n * c && m.b.len() == n * c), "numbers for {n} x {c} planes");
        assert_eq!(x.len(), n * c * h * w, "planes of {n} x {c} x {h} x {w}");
        let (height, width) = (h + padding.top + padding.bottom, w + padding.left + padding.right);
        let step = if c % 64 == 0 { c + 16 } else { c };
        let mut data = Scratch::take(n * height * width * step);
        let (from, to) = (Shared(x.as_ptr()), SharedMut(data.as_mut_ptr()));
        for_each(n * height, |task| {
            let (image, y) = (task / height, task % height);
            let inside = (padding.top..padding.top + h).contains(&y);
            // SAFETY: the task's line is inside `data`, which nothing else writes; the row is inside `x`.
            unsafe {
                let line = to.add(task * width * step);
                let (left, right) = if inside { (padding.left, padding.right) } else { (width, 0) };
                line.write_bytes(0, left * step);
                line.add((width - right) * step).write_bytes(0, right * step);
                if inside {
                    let row = from.add((image * c * h + y - padding.top) * w);
                    let transpose = Transpose {
                        src: row,
                        src_pitch: h * w,
                        rows: c,
                        columns: w,
                        dst: line.add(left * step),
                        dst_pitch: step,
                    };
                    dispatch(transpose);
                    if let Some(Modulation { a, b, silu }) = modulation {
                        let channels = image * c..(image + 1) * c;
                        let (a, b) = (&a[channels.clone()], &b[channels]);
                        dispatch(Modulate { pixels: line.add(left * step), step, count: w, a, b, silu: *silu });
                    }
                }
            }
        });
        ChannelsLast { data, batch: n, height, width, channels: c, step }
    }

    /// The same rounded to bfloat16, two channels in a number's place; there must be an even number of them.
    pub(crate) fn paired(&self) -> ChannelsLast {
        assert_eq!(self.channels % 2, 0, "channels in pairs");
        let channels = self.channels / 2;
        let step = if channels.is_multiple_of(64) { channels + 16 } else { channels };
        let pixels = self.batch * self.height * self.width;
        let mut data = Scratch::take(pixels * step);
        let (from, to) = (self.as_ptr(), SharedMut(data.as_mut_ptr()));
        for_each(pixels / self.width, |row| {
            let first = row * self.width;
            // SAFETY: the row's pixels in both buffers; nothing else writes them.
            unsafe {
                let (from, to) = (from.add(first * self.step), to.add(first * step));
                let (from_step, to_step) = (self.step, 2 * step);
                dispatch(Round {
                    from,
                    from_step,
                    to: to.cast(),
                    to_step,
                    pixels: self.width,
                    channels: self.channels,
                });
            }
        });
        ChannelsLast { data, batch: self.batch, height: self.height, width: self.width, channels, step }
    }
}

/// Applies a [`Modulation`] to pixels in place.
struct Modulate<'a> {
    pixels: *mut f32,
    step: usize,
    count: usize,
    /// One for every channel.
    a: &'a [f32],
    b: &'a [f32],
    silu: bool,
}

impl Kernel for Modulate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let channels = self.a.len();
        let whole = channels / S::LANES * S::LANES;
        // SAFETY: whoever made it keeps all channels of all pixels inside the buffer; a and b are as long.
        unsafe {
            for lane in (0..whole).step_by(S::LANES) {
                let (a, b) = (s.load(self.a.as_ptr().add(lane)), s.load(self.b.as_ptr().add(lane)));
                for pixel in 0..self.count {
                    let at = self.pixels.add(pixel * self.step + lane);
                    s.store(at, modulated(s, s.load(at), a, b, self.silu));
                }
            }
            let rest = channels - whole;
            if rest > 0 {
                let a = s.load_partial(self.a.as_ptr().add(whole), rest);
                let b = s.load_partial(self.b.as_ptr().add(whole), rest);
                for pixel in 0..self.count {
                    let at = self.pixels.add(pixel * self.step + whole);
                    s.store_partial(at, rest, modulated(s, s.load_partial(at, rest), a, b, self.silu));
                }
            }
        }
    }
}

/// One vector of a [`Modulation`].
#[inline(always)]
fn modulated<S: Simd>(s: S, x: S::V, a: S::V, b: S::V, with_silu: bool) -> S::V {
    let u = s.mul_add(a, x, b);
    if with_silu { silu(s, u) } else { u }
}

/// Rounds pixels to bfloat16.
struct Round {
    from: *const f32,
    from_step: usize,
    to: *mut u16,
    to_step: usize,
    pixels: usize,
    channels: usize,
}

impl Kernel for Round {
    type Output = ();
    const BF16: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.channels / S::LANES * S::LANES;
        for pixel in 0..self.pixels {
            // SAFETY: whoever made it keeps all pixels inside both buffers.
            unsafe {
                let (from, to) = (self.from.add(pixel * self.from_step), self.to.add(pixel * self.to_step));
                for lane in (0..whole).step_by(S::LANES) {
                    s.store_bf16(to.add(lane), s.load(from.add(lane)));
                }
                for lane in whole..self.channels {
                    *to.add(lane) = round_bf16(*from.add(lane));
                }
            }
        }
    }
}

/// `dst[j * dst_pitch + i] = src[i * src_pitch + j]` for i < rows, j < columns.
///
/// Whoever makes one promises that both are in bounds and apart.
pub(crate) struct Transpose {
    pub src: *const f32,
    pub src_pitch: usize,
    pub rows: usize,
    pub columns: usize,
    pub dst: *mut f32,
    pub dst_pitch: usize,
}

impl Kernel for Transpose {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: promised by whoever made it.
        unsafe { transpose(s, self) }
    }
}

/// See [`Transpose`].
///
/// # Safety
/// As stated there.
#[inline(always)]
pub(crate) unsafe fn transpose<S: Simd>(s: S, t: Transpose) {
    let Transpose { src, src_pitch, rows, columns, dst, dst_pitch } = t;
    let (whole_rows, whole_columns) = (rows / 16 * 16, columns / 16 * 16);
    // SAFETY: the caller's promise; the blocks and the two remainders tile the whole.
    unsafe {
        for j in (0..whole_columns).step_by(16) {
            for i in (0..whole_rows).step_by(16) {
                s.transpose16(src.add(i * src_pitch + j), src_pitch, dst.add(j * dst_pitch + i), dst_pitch);
            }
        }
        for j in 0..columns {
            let first = if j < whole_columns { whole_rows } else { 0 };
            for i in first..rows {
                *dst.add(j * dst_pitch + i) = *src.add(i * src_pitch + j);
            }
        }
    }
}
