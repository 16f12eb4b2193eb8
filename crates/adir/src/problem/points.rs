//! Where a blurred y shows more light than any image up to white has: bright stars, lamps, sparks.
//!
//! A pixel of y may be far below white although the point that made it is far beyond: a kernel spreads it thin. No x up
//! to white explains such a y, and one that is made to leaves rings of negative light. Whether there is one follows from
//! any filter f: f * y is the x seen through f * k, and of an x in [-1, 1] that is at most the sum of |f * k|. A filter
//! that nearly undoes the blur is the sharpest test of points.

use super::noise_estimate::estimate_noise;
use super::scene::image;
use crate::Result;
use crate::operator::{Blur, Boundary, ImageShape, Kernel, LinearOperator, Mask, Solve, solve};
use crate::tensor::{self, Tensor};

/// Squared transfer below which the filter undoes little: more finds weaker points, and amplifies more noise.
const DAMPING: f64 = 1e-3;
/// Standard deviations of its noise that a filtered value may lie beyond the bound.
const SPREAD: f64 = 6.0;
/// Near the border, where y is continued by guess, the bound counts so many times.
const AT_BORDER: f64 = 1.5;
/// Sides of a transform that are multiples of this are fast.
const FAST: usize = 16;

/// The pixels of `y`, `[1, c, h, w]` in [-1, 1], row-major in each channel, at which no x up to white explains it, if
/// there are any; for a kernel without negative weights. Pixels within the kernel's reach of those that are `ignored` do not
/// count.
///
/// # Errors
/// [`crate::Error::Backend`] when the tensor cannot be read.
pub(super) fn beyond_white(y: &Tensor<4>, kernel: &Kernel, ignored: Option<&Mask>) -> Result<Option<Vec<bool>>> {
    let shape = ImageShape::of_batch(y);
    let ImageShape { channels, height, width } = shape;
    let values = tensor::to_f64(y)?;
    // Mirrored at the borders, as far as they reach into y.
    let (above, left) = (kernel.height().min(height), kernel.width().min(width));
    let padded = |side: usize, margin: usize| (side + 2 * margin).next_multiple_of(FAST);
    let outer = ImageShape { channels, height: padded(height, above), width: padded(width, left) };
    let mirrored = |i: usize, margin: usize, side: usize| {
        let i = (i as i64 - margin as i64).rem_euclid(2 * side as i64) as usize;
        i.min(2 * side - 1 - i)
    };
    let source = |channel: usize, row: usize, column: usize| {
        let (row, column) = (mirrored(row, above, height), mirrored(column, left, width));
        values[(channel * height + row) * width + column]
    };
    let around = (0..outer.elements()).map(|i| {
        let (channel, at) = (i / outer.pixels(), i % outer.pixels());
        source(channel, at / outer.width, at % outer.width)
    });
    let filter = Filter::new(outer, kernel)?;
    let filtered = filter.of(around.collect(), outer)?;
    let inside = |i: usize| {
        let (channel, at) = (i / shape.pixels(), i % shape.pixels());
        let (row, column) = (at / width + above, at % width + left);
        filtered[(channel * outer.height + row) * outer.width + column]
    };
    let bound = |i: usize| {
        let (row, column) = (i % shape.pixels() / width, i % width);
        let reach = kernel.height().max(kernel.width()) / 2;
        let is_inner = |at: usize, side: usize| at >= reach && at + reach < side;
        let inner = is_inner(row, height) && is_inner(column, width);
        if inner { filter.bound } else { AT_BORDER * filter.bound }
    };
    if (0..shape.elements()).all(|i| inside(i) <= bound(i)) {
        return Ok(None);
    }
    let noise = SPREAD * filter.gain * estimate_noise(y, None)?.map_or(0.0, |noise| noise.0);
    let near_ignored = |pixel: usize| {
        let near = |at: usize, reach: usize, side: usize| at.saturating_sub(reach)..(at + reach + 1).min(side);
        let columns = || near(pixel % width, kernel.width(), width);
        let mut rows = near(pixel / width, kernel.height(), height);
        ignored.is_some_and(|mask| rows.any(|row| columns().any(|column| !mask.known()[row * width + column])))
    };
    let found: Vec<bool> =
        (0..shape.elements()).map(|i| inside(i) > bound(i) + noise && !near_ignored(i % shape.pixels())).collect();
    Ok(found.contains(&true).then_some(found))
}

/// A^T (A A^T + damping)^-1 of a circular blur A.
struct Filter {
    blur: Blur,
    /// The most it makes of a blurred x in [-1, 1].
    bound: f64,
    /// Standard deviation of what it makes of white noise of 1.
    gain: f64,
}

impl Filter {
    fn new(shape: ImageShape, kernel: &Kernel) -> Result<Self> {
        // Far from a point, what it makes of it adds nothing: the sums of 1024 pixels are those of 2000 to 4e-4.
        let near = |side: usize, kernel: usize| side.min((8 * kernel).max(1024).next_multiple_of(FAST));
        let (height, width) = (near(shape.height, kernel.height()), near(shape.width, kernel.width()));
        let one = ImageShape { channels: 1, height, width };
        let blur = Blur::new(shape, kernel.clone(), Boundary::Circular)?;
        let of_one = Self { blur: Blur::new(one, kernel.clone(), Boundary::Circular)?, bound: 0.0, gain: 0.0 };
        let mut point = vec![0.0; one.elements()];
        point[0] = 1.0;
        let gain = of_one.of(point.clone(), one)?.iter().map(|v| v * v).sum::<f64>().sqrt();
        let blurred = tensor::to_f64(&of_one.blur.apply(&image(point, one))?)?;
        let bound = of_one.of(blurred, one)?.iter().map(|v| v.abs()).sum();
        Ok(Self { blur, bound, gain })
    }

    fn of(&self, values: Vec<f64>, shape: ImageShape) -> Result<Vec<f64>> {
        let solved = solve(&self.blur, 1.0, DAMPING, &image(values, shape), &Solve::default())?;
        tensor::to_f64(&self.blur.adjoint(&solved)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Noise, Stream};
    use crate::tensor::{DType, cpu};

    const SIDE: usize = 64;

    /// Blurred, with noise of that many grey levels.
    fn seen(x: Vec<f64>, kernel: &Kernel, noise: f64) -> Tensor<4> {
        let shape = ImageShape::new(1, SIDE, SIDE);
        let blur = Blur::new(shape, kernel.clone(), Boundary::Replicate).unwrap();
        let drawn = Noise::new(3, Stream::Evaluation).normal_tensor(0, [1, 1, SIDE, SIDE], &cpu(), DType::F64);
        blur.apply(&image(x, shape)).unwrap() + drawn * (noise / 127.5)
    }

    fn found(y: &Tensor<4>, kernel: &Kernel, ignored: Option<&Mask>) -> Vec<usize> {
        let found = beyond_white(y, kernel, ignored).unwrap().unwrap_or_default();
        found.iter().enumerate().filter(|(_, found)| **found).map(|(i, _)| i).collect()
    }

    /// A star whose blur is three quarters of white, also with noise; and not where it is ignored.
    #[test]
    fn points_that_are_not_white_in_y_are_found() {
        let (kernel, at) = (Kernel::gaussian(15, 1.8).unwrap(), 20 * SIDE + 30);
        for noise in [0.0, 3.0] {
            let mut x = vec![-0.9; SIDE * SIDE];
            x[at] = 30.0;
            let y = seen(x, &kernel, noise);
            assert!(tensor::to_f64(&y).unwrap().iter().all(|v| *v < 0.7), "y is below white");
            let points = found(&y, &kernel, None);
            assert!(points.contains(&at) && points.len() < 30, "{points:?}");
            let known = (0..SIDE * SIDE).map(|i| i != at + 3).collect();
            let ignored = Mask::new(SIDE, SIDE, known).unwrap();
            assert!(found(&y, &kernel, Some(&ignored)).is_empty());
        }
    }

    /// White discs, lines and checks, and noise on them, are what an image can hold.
    #[test]
    fn what_an_image_up_to_white_explains_has_no_points() {
        let scenes: [fn(usize, usize) -> bool; 4] = [
            |row, column| row.abs_diff(20).pow(2) + column.abs_diff(30).pow(2) < 12,
            |row, _| row % 9 < 2,
            |row, column| (row / 5 + column / 5).is_multiple_of(2),
            |row, column| (row * 37 + column * 91) % 11 == 0,
        ];
        for kernel in
            [Kernel::boxed(5).unwrap(), Kernel::gaussian(15, 1.8).unwrap(), Kernel::motion(9.0, 30.0).unwrap()]
        {
            for (i, scene) in scenes.iter().enumerate() {
                for noise in [0.0, 10.0] {
                    let x = (0..SIDE * SIDE).map(|i| if scene(i / SIDE, i % SIDE) { 1.0 } else { -1.0 }).collect();
                    assert!(found(&seen(x, &kernel, noise), &kernel, None).is_empty(), "scene {i}, noise {noise}");
                }
            }
        }
    }
}
