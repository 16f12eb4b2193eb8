//! The light beyond white that a blur has spread around areas at white, or around points that are not even white in y.
//!
//! An image x holds nothing brighter than white, but a star does, and the pixels around its white disc show the light
//! that is missing in x. No x explains them, so its rings remain even where the disc itself is left out. The light beyond
//! white is therefore found first, by Richardson and Lucy's iteration (Richardson 1972, Lucy 1974; accelerated as by Biggs
//! and Andrews 1997), in which white pixels are lower bounds, and its blur is taken off y. In place of the white itself
//! stands what that scene makes of it: were nothing put there, the inside of a large plateau would be invented, and not
//! as white.

use super::noise_estimate::estimate_noise;
use super::scene::{Seen, View, affordable, at_least, image, scene, windows};
use crate::Result;
use crate::operator::{ImageShape, Kernel, LinearOperator, Mask, Window};
use crate::tensor::{self, Tensor};

/// Most iterations.
const ITERATIONS: usize = 200;
/// Products of weights and pixels that all of them may take: about a second.
const PRODUCTS: usize = 4_000_000_000;
/// Fewest iterations, if that is exceeded.
const FEWEST: usize = 8;
/// Share of the light of a point that must fall on white pixels, if it is to count as beyond white.
const TO_PLATEAU: f64 = 0.3;
/// Pixels along rows and columns that a point may lie off the pixels at which y shows it.
const OFF: usize = 2;
/// Share of the light of a point that y must have measured, if it did not make a plateau.
const MEASURED: f64 = 0.5;
/// A pixel so many times brighter than its blur is a point, not an area.
const POINT: f64 = 2.0;
/// What a blurred observation says of the light beyond white.
pub(super) struct Highlights {
    /// The light beyond white of areas, in [-1, 1] units, `[1, c, domain]`.
    pub(super) beyond: Tensor<4>,
    /// The points, if there are any.
    pub(super) points: Option<Points>,
    /// y, with what the blur of all light would have been where it is white, `[1, c, h, w]`.
    pub(super) y: Tensor<4>,
    /// Mean square of what the scenes leave unexplained of the pixels around, in [-1, 1] units: noise, and their own error.
    pub(super) misfit: f64,
    /// The share of y that these pixels are.
    pub(super) share: f64,
}

/// Points brighter than white, `[1, c, h, w]`, 0 elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Points {
    /// Their light above the ground they stand on, in [-1, 1] units.
    pub(super) light: Tensor<4>,
    /// That ground, in [-1, 1].
    pub(super) ground: Tensor<4>,
}

/// The highlights behind the plateaus of `y`, which `mask` leaves out, and behind the `points` at which y shows light beyond
/// white, each channel by itself; `shown` is the part of the domain that lies under y. The kernel has no negative weights.
///
/// # Errors
/// Those of the operator.
pub(super) fn highlights(
    y: &Tensor<4>,
    mask: Option<&Mask>,
    points: Option<&[bool]>,
    ignored: Option<&Mask>,
    kernel: &Kernel,
    domain: ImageShape,
    shown: Window,
) -> Result<Highlights> {
    let shape = ImageShape::of_batch(y);
    let ImageShape { channels, height, width } = shape;
    let in_plateau = |pixel: usize| mask.is_some_and(|mask| !mask.known()[pixel]);
    let is_point = |channel: usize, pixel: usize| points.is_some_and(|points| points[channel * shape.pixels() + pixel]);
    let marked = |pixel: usize| in_plateau(pixel) || (0..channels).any(|channel| is_point(channel, pixel));
    let windows = windows(&(0..shape.pixels()).map(marked).collect::<Vec<_>>(), [height, width], kernel);
    let iterations = affordable(&windows, channels, kernel, PRODUCTS, [FEWEST, ITERATIONS]);
    let (down, right) = (kernel.height() - 1 - kernel.height() / 2, kernel.width() - 1 - kernel.width() / 2);
    // From black 0 to white 1, as the light of scenes.
    let noise = estimate_noise(y, mask.map(Mask::known))?.map_or(0.0, |noise| noise.0 / 2.0);
    let mut values = tensor::to_f64(y)?;
    // Values beyond white show that nothing was cut off there.
    let cut_off = values.iter().all(|v| *v <= 1.0);
    let [mut beyond, mut light_of_points, mut ground_of_points] = [(); 3].map(|()| vec![0.0; domain.elements()]);
    let (mut squares, mut count) = (0.0, 0.0);
    for window in windows {
        let View { light, white, ground, inside, wide, blur } = View::of(y, ignored, window, kernel)?;
        // Where a value of the window lies in y.
        let in_y = |i: usize| {
            let (channel, at) = (i / inside.pixels(), i % inside.pixels());
            let (row, column) = (window.top + at / window.width, window.left + at % window.width);
            channel * height * width + row * width + column
        };
        let bounds: Vec<bool> = white.into_iter().map(|white| cut_off && white).collect();
        let mut scene = scene(&blur, Seen { light: &light, bounds: &bounds, ground, noise }, iterations)?;
        let blurred = tensor::to_f64(&blur.apply(&image(scene.clone(), wide))?)?;
        // What made a plateau spreads most of its light to it, and what y measured to y. Else it is a guess, as at the border
        // of the window.
        let onto = |those: Vec<bool>| {
            let values = those.into_iter().map(|is| f64::from(u8::from(is))).collect();
            tensor::to_f64(&blur.adjoint(&image(values, inside))?)
        };
        let is_measured = |i: usize| !bounds[i] && !light[i].is_nan();
        let (to_plateaus, to_measured) = (onto(bounds.clone())?, onto((0..light.len()).map(is_measured).collect())?);
        for (i, light) in scene.iter_mut().enumerate().filter(|(_, light)| **light > 1.0) {
            let (channel, at) = (i / wide.pixels(), i % wide.pixels());
            let [row, column] = [at / wide.width, at % wide.width];
            let is_point = || {
                let row = row.saturating_sub(down).min(inside.height - 1);
                let column = column.saturating_sub(right).min(inside.width - 1);
                let near = |at: usize, first: usize, side: usize| {
                    (first + at).saturating_sub(OFF)..(first + at + OFF + 1).min(side)
                };
                let columns = || near(column, window.left, width);
                *light > POINT * blurred[channel * inside.pixels() + row * inside.width + column]
                    && near(row, window.top, height).any(|row| columns().any(|c| is_point(channel, row * width + c)))
            };
            let in_domain = (shown.top + window.top + row)
                .checked_sub(down)
                .zip((shown.left + window.left + column).checked_sub(right))
                .filter(|(row, column)| *row < domain.height && *column < domain.width)
                .map(|(row, column)| channel * domain.pixels() + row * domain.width + column);
            let shows = to_plateaus[i] >= TO_PLATEAU || to_measured[i] >= MEASURED;
            match in_domain {
                Some(at) if shows && is_point() => {
                    light_of_points[at] = 2.0 * (*light - ground);
                    ground_of_points[at] = 2.0 * ground - 1.0;
                }
                Some(at) if to_plateaus[i] >= TO_PLATEAU => beyond[at] = 2.0 * (*light - 1.0),
                _ => *light = 1.0,
            }
        }
        let blurred = tensor::to_f64(&blur.apply(&image(scene, wide))?)?;
        for (i, blurred) in blurred.into_iter().enumerate() {
            let at = in_y(i);
            if is_measured(i) {
                squares += 4.0 * (blurred - light[i]).powi(2);
                count += 1.0;
            } else if in_plateau(at % (height * width)) {
                // A white pixel that stands alone is no bound.
                values[at] = 2.0 * at_least(1.0, blurred, noise) - 1.0;
            }
        }
    }
    let (misfit, share) = (squares / f64::max(count, 1.0), count / shape.elements() as f64);
    let points = light_of_points
        .iter()
        .any(|v| *v > 0.0)
        .then(|| Points { light: image(light_of_points, domain), ground: image(ground_of_points, domain) });
    Ok(Highlights { beyond: image(beyond, domain), points, y: image(values, shape), misfit, share })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{Blur, Boundary};
    use crate::tensor::cpu;

    /// A point of forty times the light of white, blurred and cut off.
    #[test]
    fn a_star_s_light_beyond_white_is_found() {
        let shape = ImageShape::new(1, 64, 64);
        let kernel = Kernel::gaussian(13, 1.8).unwrap();
        let blur = Blur::new(shape, kernel.clone(), Boundary::Replicate).unwrap();
        let mut x = vec![-0.9; shape.elements()];
        x[20 * 64 + 30] = 79.0;
        let y = blur.apply(&tensor::from_f64(x, [1, 1, 64, 64], &cpu())).unwrap().clamp(-1.0, 1.0);
        let known = tensor::to_f64(&y).unwrap().into_iter().map(|v| v < 1.0).collect();
        let mask = Mask::new(64, 64, known).unwrap();
        let found = highlights(&y, Some(&mask), None, None, &kernel, shape, Window::whole(shape)).unwrap();
        let values = tensor::to_f64(&found.beyond).unwrap();
        let centre = |axis: fn(usize) -> usize| {
            values.iter().enumerate().map(|(i, v)| axis(i) as f64 * v).sum::<f64>() / values.iter().sum::<f64>()
        };
        let (row, column, total) = (centre(|i| i / 64), centre(|i| i % 64), values.iter().sum::<f64>());
        assert!((row - 20.0).abs() < 0.1 && (column - 30.0).abs() < 0.1, "at {row:.2}, {column:.2}");
        assert!((40.0..90.0).contains(&total), "{total:.1} of 78");
        // What is left of y is within what x can hold, also where the star is.
        let rest = tensor::to_f64(&(found.y.clone() - blur.apply(&found.beyond).unwrap())).unwrap();
        assert!(rest.iter().all(|v| (-1.1..1.001).contains(v)));
        let unchanged = tensor::to_f64(&y).unwrap().into_iter().zip(tensor::to_f64(&found.y).unwrap());
        assert!(unchanged.zip(mask.known()).all(|((a, b), known)| !known || a == b));
    }

    /// What a few white pixels of a noisy picture hide is no reason to smooth all of it.
    #[test]
    fn a_small_plateau_under_noise_is_no_noise() {
        use crate::io::limits::Limits;
        use crate::noise::{Noise, Stream};
        use crate::problem::{Problem, Saturated};
        use crate::units::NoiseLevel;
        let side = 96;
        let level = |i: usize| {
            let (row, column) = ((i / side % side) as f64, (i % side) as f64);
            let lamp = if (row - 40.0).hypot(column - 50.0) < 6.0 { 2.0 } else { 0.0 };
            0.7 + 0.2 * (row / 7.0).sin() * (column / 9.0).cos() + lamp
        };
        let shape = ImageShape::new(3, side, side);
        let x = image((0..shape.elements()).map(level).collect(), shape);
        let blur = Blur::new(shape, Kernel::boxed(5).unwrap(), Boundary::Replicate).unwrap();
        let noise = Noise::new(3, Stream::Evaluation).normal_tensor(0, [1, 3, side, side], &cpu(), tensor::DType::F64);
        let y = (blur.apply(&x).unwrap() + noise * (10.0 / 127.5)).clamp(-1.0, 1.0);
        let mut problem = Problem::deblur("box:5");
        // Under such noise, an x up to white could explain it.
        problem.saturated = Some(Saturated::Ignore);
        let measured = problem.measure(&y, NoiseLevel(0.0), 3, &Limits::default()).unwrap();
        assert!(measured.measured().is_some(), "white pixels");
        let [sigma, beyond] = [measured.sigma(), measured.rounding()].map(NoiseLevel::to_255);
        assert!((9.0..11.0).contains(&sigma) && beyond < 5.0, "{sigma:.1}, {beyond:.1}");
        // What is left unexplained there counts by its share of y.
        let measured = problem.sigma(2.0).measure(&y, NoiseLevel(0.0), 3, &Limits::default()).unwrap();
        let (misfit, share) = measured.around_white;
        let (there, beyond) = (NoiseLevel(misfit.sqrt()).to_255(), measured.rounding().to_255());
        assert!(share < 0.4 && there > 6.0, "{share:.2}, {there:.1}");
        assert!((beyond / there - share.sqrt()).abs() < 0.1, "{share:.2}, {there:.1}, {beyond:.1}");
    }
}
