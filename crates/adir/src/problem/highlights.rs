//! The light beyond white that a blur has spread around areas at white.
//!
//! An image x holds nothing brighter than white, but a star does, and the pixels around its white disc show the light
//! that is missing in x. No x explains them, so its rings remain even where the disc itself is left out. The light beyond
//! white is therefore found first, by Richardson and Lucy's iteration (Richardson 1972, Lucy 1974; accelerated as by Biggs
//! and Andrews 1997), in which white pixels are lower bounds, and its blur is taken off y.

use crate::Result;
use crate::operator::{Blur, Boundary, ImageShape, Kernel, LinearOperator, Mask, Window};
use crate::tensor::{self, Tensor, cpu};

/// Most iterations.
const ITERATIONS: usize = 200;
/// Products of weights and pixels that all of them may take: about a second.
const PRODUCTS: usize = 4_000_000_000;
/// Fewest iterations, if that is exceeded.
const FEWEST: usize = 8;
/// Share of the light of a point that must fall on white pixels, if it is to count as beyond white.
const TO_PLATEAU: f64 = 0.3;
/// Least light, which no iteration could raise from 0.
const DARK: f64 = 1e-6;

/// The light beyond white, in [-1, 1] units and of shape `[1, c, domain]`, of which the blur with `kernel` made the
/// plateaus of `y` that `mask` leaves out; `shown` is the part of the domain that lies under y. `None` where there is
/// none, or the kernel has negative weights.
///
/// # Errors
/// Those of the operator.
pub(super) fn beyond_white(
    y: &Tensor<4>,
    mask: &Mask,
    kernel: &Kernel,
    domain: ImageShape,
    shown: Window,
) -> Result<Option<Tensor<4>>> {
    if kernel.weights().iter().any(|weight| *weight < 0.0) {
        return Ok(None);
    }
    let ImageShape { channels, height, width } = ImageShape::of_batch(y);
    let windows = windows(mask, kernel);
    let weights = kernel.weights().iter().filter(|weight| **weight > 0.0).count();
    let pixels: usize = windows.iter().map(|window| window.height * window.width).sum();
    let iterations = (PRODUCTS / (2 * channels * pixels * weights).max(1)).clamp(FEWEST, ITERATIONS);
    let (down, right) = (kernel.height() - 1 - kernel.height() / 2, kernel.width() - 1 - kernel.width() / 2);
    let values = tensor::to_f64(y)?;
    let mut beyond = vec![0.0; channels * domain.pixels()];
    for window in windows {
        let inside = ImageShape { channels, height: window.height, width: window.width };
        let light: Vec<f64> = (0..inside.elements())
            .map(|i| {
                let (channel, at) = (i / inside.pixels(), i % inside.pixels());
                let (row, column) = (window.top + at / window.width, window.left + at % window.width);
                ((values[channel * height * width + row * width + column] + 1.0) / 2.0).max(0.0)
            })
            .collect();
        let wide = ImageShape {
            channels,
            height: inside.height + kernel.height() - 1,
            width: inside.width + kernel.width() - 1,
        };
        let blur = Blur::new(wide, kernel.clone(), Boundary::Valid)?;
        let scene = scene(&blur, &light, iterations)?;
        // What made a plateau spreads most of its light to it. Else it is a guess, as at the border of the window.
        let white = light.iter().map(|light| f64::from(*light >= 1.0)).collect();
        let to_plateaus = tensor::to_f64(&blur.adjoint(&image(white, inside))?)?;
        let bright = scene.into_iter().zip(to_plateaus).enumerate();
        for (i, (light, _)) in bright.filter(|(_, (light, share))| *light > 1.0 && *share >= TO_PLATEAU) {
            let (channel, at) = (i / wide.pixels(), i % wide.pixels());
            let row = (shown.top + window.top + at / wide.width).checked_sub(down);
            let column = (shown.left + window.left + at % wide.width).checked_sub(right);
            if let (Some(row), Some(column)) = (row, column)
                && row < domain.height
                && column < domain.width
            {
                beyond[channel * domain.pixels() + row * domain.width + column] = 2.0 * (light - 1.0);
            }
        }
    }
    if beyond.iter().all(|v| *v == 0.0) {
        return Ok(None);
    }
    Ok(Some(tensor::from_f64(beyond, [1, channels, domain.height, domain.width], &cpu())))
}

fn image(values: Vec<f64>, shape: ImageShape) -> Tensor<4> {
    tensor::from_f64(values, [1, shape.channels, shape.height, shape.width], &cpu())
}

/// The non-negative scene whose blur is `light`, from black 0 to white 1, which is a lower bound at white.
fn scene(blur: &Blur, light: &[f64], iterations: usize) -> Result<Vec<f64>> {
    let (domain, range) = (blur.domain(), blur.range());
    let forward = |x: &[f64]| tensor::to_f64(&blur.apply(&image(x.to_vec(), domain))?);
    let back = |y: Vec<f64>| tensor::to_f64(&blur.adjoint(&image(y, range))?);
    let reach = back(vec![1.0; range.elements()])?;
    let over_reach = |values: Vec<f64>| -> Vec<f64> {
        values.into_iter().zip(&reach).map(|(v, reach)| if *reach > DARK { v / reach } else { 1.0 }).collect()
    };
    let mut last: Vec<f64> = over_reach(back(light.to_vec())?).into_iter().map(|v| v.max(DARK)).collect();
    let mut from = last.clone();
    let mut step_before: Option<Vec<f64>> = None;
    for _ in 0..iterations {
        let ratio = forward(&from)?.into_iter().zip(light).map(|(found, light)| {
            let ratio = light / found.max(DARK);
            if *light >= 1.0 { ratio.max(1.0) } else { ratio }
        });
        let gain = over_reach(back(ratio.collect())?);
        let next: Vec<f64> = from.iter().zip(gain).map(|(v, gain)| v * gain).collect();
        let step: Vec<f64> = next.iter().zip(&from).map(|(a, b)| a - b).collect();
        let ahead = step_before.map_or(0.0, |before| {
            let square: f64 = before.iter().map(|v| v * v).sum();
            let both: f64 = step.iter().zip(&before).map(|(a, b)| a * b).sum();
            if square > 0.0 { (both / square).clamp(0.0, 0.98) } else { 0.0 }
        });
        from = next.iter().zip(&last).map(|(next, last)| (next + ahead * (next - last)).max(DARK)).collect();
        (last, step_before) = (next, Some(step));
    }
    Ok(last)
}

/// Windows of y that hold the pixels a mask leaves out with all that the kernel spreads their light to, and no pixel
/// twice.
fn windows(mask: &Mask, kernel: &Kernel) -> Vec<Window> {
    let (height, width) = (mask.height(), mask.width());
    // Windows are whole tiles of the kernel's size with their neighbours: alike for all pixels of a tile.
    let (tall, wide) = (kernel.height().max(8), kernel.width().max(8));
    let mut found: Vec<[usize; 4]> = Vec::new();
    for (i, _) in mask.known().iter().enumerate().filter(|(_, known)| !**known) {
        let (row, column) = (i / width / tall * tall, i % width / wide * wide);
        let window = [
            row.saturating_sub(tall),
            column.saturating_sub(wide),
            (row + 2 * tall).min(height),
            (column + 2 * wide).min(width),
        ];
        if !found.contains(&window) {
            found.push(window);
        }
    }
    // Two that overlap become one, until none do.
    let overlap = |a: &[usize; 4], b: &[usize; 4]| a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    let mut apart: Vec<[usize; 4]> = Vec::new();
    while let Some(mut window) = found.pop() {
        match apart.iter().position(|other| overlap(&window, other)) {
            None => apart.push(window),
            Some(at) => {
                let other = apart.swap_remove(at);
                window = [
                    window[0].min(other[0]),
                    window[1].min(other[1]),
                    window[2].max(other[2]),
                    window[3].max(other[3]),
                ];
                found.push(window);
            }
        }
    }
    let window =
        |[top, left, bottom, right]: [usize; 4]| Window { top, left, height: bottom - top, width: right - left };
    apart.into_iter().map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let found = beyond_white(&y, &mask, &kernel, shape, Window::whole(shape)).unwrap().unwrap();
        let values = tensor::to_f64(&found).unwrap();
        let centre = |axis: fn(usize) -> usize| {
            values.iter().enumerate().map(|(i, v)| axis(i) as f64 * v).sum::<f64>() / values.iter().sum::<f64>()
        };
        let (row, column, total) = (centre(|i| i / 64), centre(|i| i % 64), values.iter().sum::<f64>());
        assert!((row - 20.0).abs() < 0.1 && (column - 30.0).abs() < 0.1, "at {row:.2}, {column:.2}");
        assert!((40.0..90.0).contains(&total), "{total:.1} of 78");
        // What is left around the star is nearly what x can hold.
        let rest = y - blur.apply(&found).unwrap();
        let rest = tensor::to_f64(&rest).unwrap();
        let around = (0..64 * 64).filter(|i| mask.known()[*i]).map(|i| rest[i]).fold(f64::INFINITY, f64::min);
        assert!(around > -1.1, "{around}");
    }

    #[test]
    fn windows_hold_all_and_do_not_overlap() {
        let mut known = vec![true; 100 * 120];
        for i in [0, 130, 5 * 120 + 60, 50 * 120 + 119, 99 * 120 + 40, 99 * 120 + 70] {
            known[i] = false;
        }
        let mask = Mask::new(100, 120, known).unwrap();
        let mut counts = vec![0; 100 * 120];
        for Window { top, left, height, width } in windows(&mask, &Kernel::boxed(9).unwrap()) {
            for (row, column) in (top..top + height).flat_map(|r| (left..left + width).map(move |c| (r, c))) {
                counts[row * 120 + column] += 1;
            }
        }
        assert!(counts.iter().all(|count| *count <= 1));
        assert!(mask.known().iter().zip(&counts).all(|(known, count)| *known || *count == 1));
    }
}
