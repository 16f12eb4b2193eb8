//! Which areas at white hide more light than white.
//!
//! White paper is white, and a lamp is whiter than white; in y both are areas at white. What tells them apart is the
//! blur around them: that of paper is explained by an x up to white, that of a lamp by none.

use super::noise_estimate::estimate_noise;
use super::points::beyond_white;
use super::saturation::areas;
use super::scene::{Seen, View, affordable, at_least, image, windows};
use crate::Result;
use crate::operator::{Blur, ImageShape, Kernel, LinearOperator, Mask};
use crate::tensor::{self, Tensor};

/// Most iterations.
const ITERATIONS: usize = 60;
/// Products of weights and pixels that all of them may take: about half a second.
const PRODUCTS: usize = 2_000_000_000;
/// Fewest iterations, if that is exceeded.
const FEWEST: usize = 12;
/// Standard deviations of a mean of noise that y must lie above what an x up to white makes. On photographs with white
/// areas, blurred by a box of 5, 1.8 were the most; where there had been 1.4 times the light of white, 2.5 to 12.
const SURE: f64 = 2.5;
/// And so much besides, from black 0 to white 1: iterations end before all is explained. Without noise, 1.4 and 9 to 36 of 255.
const SLACK: f64 = 3.0 / 255.0;
/// Or so many standard deviations of a mean of the noise's squares that the squares of what is left lie above it: 3.9 and up
/// to 40.
const SURE_OF_SQUARES: f64 = 6.0;
/// And besides, before it is squared: 1.9 and 14 to 36 of 255.
const SLACK_OF_SQUARES: f64 = 4.0 / 255.0;

/// What areas at white are.
pub(super) struct AtWhite {
    /// Those whose surroundings no x up to white explains are unknown; `None` where there are none.
    pub(super) over_exposed: Option<Mask>,
    /// What the other values at white are worth more than white, of the shape of y, in [-1, 1] units: their noise lacks the
    /// half above white, so that they are too dark on average.
    pub(super) cut_off: Tensor<4>,
}

/// What the areas of `y` at white are, the pixels that are not `known`. Pixels that are `ignored` say nothing. The kernel has no
/// negative weights.
///
/// # Errors
/// Those of the operator.
pub(super) fn at_white(y: &Tensor<4>, known: &Mask, ignored: Option<&Mask>, kernel: &Kernel) -> Result<AtWhite> {
    let shape = ImageShape::of_batch(y);
    let ImageShape { channels, height, width } = shape;
    let white: Vec<bool> = known.known().iter().map(|known| !known).collect();
    let windows = windows(&white, [height, width], kernel);
    let iterations = affordable(&windows, channels, kernel, PRODUCTS, [FEWEST, ITERATIONS]);
    let noise = estimate_noise(y, Some(known.known()))?.map_or(0.0, |noise| noise.0 / 2.0);
    let mut cut_off = vec![0.0; shape.elements()];
    // Small discs of stars are found by what undoes the blur, large areas by what is around them.
    let points = beyond_white(y, kernel, ignored)?.unwrap_or_else(|| vec![false; shape.elements()]);
    let mut unexplained: Vec<bool> =
        (0..shape.pixels()).map(|i| points[i..].iter().step_by(shape.pixels()).any(|is_point| *is_point)).collect();
    for window in windows {
        let View { light, white: bounds, ground, inside, wide, blur } = View::of(y, ignored, window, kernel)?;
        let seen = Seen { light: &light, bounds: &bounds, ground, noise };
        let blurred = tensor::to_f64(&blur.apply(&image(up_to_white(&blur, seen, iterations)?, wide))?)?;
        let in_y = |i: usize| {
            let (row, column) = (i % inside.pixels() / inside.width, i % inside.width);
            (window.top + row) * width + window.left + column
        };
        for i in (0..bounds.len()).filter(|i| bounds[*i]) {
            cut_off[i / inside.pixels() * shape.pixels() + in_y(i)] = 2.0 * (at_least(1.0, blurred[i], noise) - 1.0);
        }
        let left = |i: usize| (!bounds[i] && !light[i].is_nan()).then(|| light[i] - blurred[i]);
        let left: Vec<Option<f64>> = (0..light.len()).map(left).collect();
        let squares: Vec<Option<f64>> = left.iter().map(|left| left.map(|left| left * left)).collect();
        let [means, squares] = [left, squares].map(|values| local_means(&values, inside, kernel));
        for (i, ((mean, count), (square, _))) in means.into_iter().zip(squares).enumerate() {
            let count = count.max(1.0);
            let by_chance = noise * noise * (1.0 + SURE_OF_SQUARES * (2.0 / count).sqrt());
            if mean > SURE * noise / count.sqrt() + SLACK || square > by_chance + SLACK_OF_SQUARES.powi(2) {
                unexplained[in_y(i)] = true;
            }
        }
    }
    let mut explained = vec![true; shape.pixels()];
    for area in areas(&white, width) {
        if area.iter().any(|at| unexplained[*at]) {
            area.into_iter().for_each(|at| explained[at] = false);
        }
    }
    // Where most white is more than white, areas of which it cannot be told are taken for that, too.
    let count = |of: &dyn Fn(usize) -> bool| (0..shape.pixels()).filter(|i| of(*i)).count();
    if 2 * count(&|i| !explained[i]) > count(&|i| white[i]) {
        explained = known.known().to_vec();
    }
    // Where there was more light than white, another search tells how much.
    let of_explained =
        cut_off.into_iter().enumerate().map(|(i, more)| if explained[i % explained.len()] { more } else { 0.0 });
    let cut_off = image(of_explained.collect(), shape);
    let over_exposed = match explained.iter().all(|explained| *explained) {
        true => None,
        false => Some(Mask::new(height, width, explained)?),
    };
    Ok(AtWhite { over_exposed, cut_off })
}

/// The x from black to white whose blur is nearest to what was `seen`: projected gradients, accelerated (Beck and Teboulle
/// 2009) and restarted where they overshoot (O'Donoghue and Candes 2015). The blur makes no image larger.
fn up_to_white(blur: &Blur, seen: Seen<'_>, iterations: usize) -> Result<Vec<f64>> {
    let (domain, range) = (blur.domain(), blur.range());
    let begin = seen.light.iter().map(|light| if light.is_nan() { seen.ground } else { *light }).collect();
    let mut x: Vec<f64> = tensor::to_f64(&blur.adjoint(&image(begin, range))?)?;
    let (mut ahead, mut pace) = (x.clone(), 1.0_f64);
    for _ in 0..iterations {
        let blurred = tensor::to_f64(&blur.apply(&image(ahead.clone(), domain))?)?;
        let misfit = blurred.into_iter().enumerate().map(|(i, blurred)| match seen.light[i] {
            light if light.is_nan() => 0.0,
            light if seen.bounds[i] => blurred - at_least(light, blurred, seen.noise),
            light => blurred - light,
        });
        let gradient = tensor::to_f64(&blur.adjoint(&image(misfit.collect(), range))?)?;
        let next: Vec<f64> = ahead.iter().zip(gradient).map(|(v, gradient)| (v - gradient).clamp(0.0, 1.0)).collect();
        let overshoot: f64 = ahead.iter().zip(&next).zip(&x).map(|((a, next), x)| (a - next) * (next - x)).sum();
        pace = if overshoot > 0.0 { 1.0 } else { pace };
        let faster = (1.0 + (1.0 + 4.0 * pace * pace).sqrt()) / 2.0;
        let momentum = (pace - 1.0) / faster;
        ahead = next.iter().zip(&x).map(|(next, x)| (next + momentum * (next - x)).clamp(0.0, 1.0)).collect();
        (x, pace) = (next, faster);
    }
    Ok(x)
}

/// Mean of the values around each pixel of its channel, about as far as the kernel spreads light, and how many there are.
fn local_means(values: &[Option<f64>], shape: ImageShape, kernel: &Kernel) -> Vec<(f64, f64)> {
    let ImageShape { height, width, .. } = shape;
    // The side of the box that averages noise as the kernel does.
    let side = 1.0 / kernel.weights().iter().map(|weight| weight * weight).sum::<f64>().sqrt();
    let reach = (side.round() as usize).saturating_sub(1).max(1);
    let mut means = Vec::with_capacity(values.len());
    for plane in values.chunks_exact(shape.pixels()) {
        // Of all values above and to the left.
        let mut sums = vec![(0.0, 0.0); (height + 1) * (width + 1)];
        for (row, values) in plane.chunks_exact(width).enumerate() {
            let mut of_row = (0.0, 0.0);
            for (column, value) in values.iter().enumerate() {
                of_row = value.map_or(of_row, |value| (of_row.0 + value, of_row.1 + 1.0));
                let above = sums[row * (width + 1) + column + 1];
                sums[(row + 1) * (width + 1) + column + 1] = (above.0 + of_row.0, above.1 + of_row.1);
            }
        }
        for i in 0..plane.len() {
            let [rows, columns] = [(i / width, height), (i % width, width)]
                .map(|(at, side)| [at.saturating_sub(reach), (at + reach + 1).min(side)]);
            let at = |row: usize, column: usize| sums[row * (width + 1) + column];
            let corners =
                [at(rows[1], columns[1]), at(rows[0], columns[0]), at(rows[0], columns[1]), at(rows[1], columns[0])];
            let sum = |part: fn(&(f64, f64)) -> f64| {
                let [a, b, c, d] = corners.each_ref().map(part);
                a + b - c - d
            };
            let count = sum(|at| at.1);
            means.push((sum(|at| at.0) / count.max(1.0), count));
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Noise, Stream};
    use crate::operator::Boundary;
    use crate::problem::plateaus;
    use crate::tensor::{DType, cpu};

    const SIDE: usize = 72;

    /// The areas at white that hide more, of a blurred page with lines of `paper` light and a lamp of `lamp` light.
    fn found(paper: f64, lamp: f64, noise: f64, ignored: Option<&Mask>) -> Vec<usize> {
        let shape = ImageShape::new(3, SIDE, SIDE);
        let kernel = Kernel::boxed(5).unwrap();
        let level = |i: usize| {
            let (row, column) = (i / SIDE % SIDE, i % SIDE);
            match (row as f64 - 50.0).hypot(column as f64 - 50.0) < 7.0 {
                true => lamp,
                false if row < 30 => f64::from(u8::from(row % 10 > 2 || column % 7 > 3)) * paper,
                false => 0.3,
            }
        };
        let blur = Blur::new(shape, kernel.clone(), Boundary::Replicate).unwrap();
        let x = image((0..shape.elements()).map(|i| 2.0 * level(i) - 1.0).collect(), shape);
        let drawn = Noise::new(5, Stream::Evaluation).normal_tensor(0, [1, 3, SIDE, SIDE], &cpu(), DType::F64);
        let y = (blur.apply(&x).unwrap() + drawn * (noise / 127.5)).clamp(-1.0, 1.0);
        let y = ((y + 1.0) * 127.5).round() / 127.5 - 1.0;
        let Some(known) = plateaus(&y).unwrap() else { return Vec::new() };
        let mask = at_white(&y, &known, ignored, &kernel).unwrap().over_exposed;
        mask.map_or(Vec::new(), |mask| (0..SIDE * SIDE).filter(|i| !mask.known()[*i]).collect())
    }

    /// A scanned page is white, and what is white on it was measured, also under noise; a lamp was not.
    #[test]
    fn paper_is_white_and_a_lamp_is_whiter() {
        for noise in [0.0, 3.0, 10.0] {
            assert!(found(1.0, 1.0, noise, None).is_empty(), "noise {noise}");
            let beside = found(0.8, 1.8, noise, None);
            assert!(beside.contains(&(50 * SIDE + 50)) && beside.iter().all(|i| *i > 35 * SIDE), "noise {noise}");
            let both = found(1.0, 1.8, noise, None);
            assert!(both.contains(&(50 * SIDE + 50)), "noise {noise}");
        }
        assert!(!found(1.0, 1.8, 0.0, None).contains(&(5 * SIDE + 36)), "the paper beside the lamp");
    }

    /// The noise of white paper is cut in half by white; the values at white make up for it.
    #[test]
    fn noise_that_was_cut_off_is_made_up_for() {
        let side = 64;
        let drawn = Noise::new(7, Stream::Evaluation).normal_tensor(0, [1, 1, side, side], &cpu(), DType::F64);
        let paper = |i: usize| i % side >= side / 2;
        let shape = ImageShape::new(1, side, side);
        let scene = image((0..side * side).map(|i| f64::from(u8::from(i % side >= side / 2 - 2))).collect(), shape);
        let blur = Blur::new(shape, Kernel::boxed(5).unwrap(), Boundary::Replicate).unwrap();
        let y = (blur.apply(&scene).unwrap() + drawn * (10.0 / 127.5)).clamp(-1.0, 1.0);
        let known = plateaus(&y).unwrap().unwrap();
        let found = at_white(&y, &known, None, &Kernel::boxed(5).unwrap()).unwrap();
        assert!(found.over_exposed.is_none());
        let mean = |y: Tensor<4>| {
            let values = tensor::to_f64(&y).unwrap().into_iter().enumerate();
            values.filter(|(i, _)| paper(*i)).map(|(_, v)| v).sum::<f64>() / (side * side / 2) as f64
        };
        let [before, after] = [y.clone(), y + found.cut_off].map(|y| (mean(y) - 1.0) * 127.5);
        assert!((-4.3..-3.7).contains(&before) && after.abs() < 0.8, "{before:.2}, {after:.2} grey levels");
    }

    /// What is ignored does not make its surroundings suspect.
    #[test]
    fn ignored_pixels_say_nothing() {
        let known = (0..SIDE * SIDE).map(|i| (i / SIDE).abs_diff(50) > 12 || (i % SIDE).abs_diff(50) > 12).collect();
        let ignored = Mask::new(SIDE, SIDE, known).unwrap();
        assert!(found(1.0, 1.8, 0.0, Some(&ignored)).is_empty());
    }
}
