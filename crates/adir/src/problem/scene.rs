//! The scene behind a blur, as far as it can be told without a prior: no negative light, and bounds where y is white.

use crate::Result;
use crate::operator::{Blur, Boundary, ImageShape, Kernel, LinearOperator, Mask, Window};
use crate::tensor::{self, Tensor, cpu};

/// Least light, which no iteration could raise from 0.
const DARK: f64 = 1e-6;
/// Standard deviations beyond which nothing is left of a normal distribution.
const FAR: f64 = 8.0;

/// The image of one batch entry with these values.
pub(super) fn image(values: Vec<f64>, shape: ImageShape) -> Tensor<4> {
    tensor::from_f64(values, [1, shape.channels, shape.height, shape.width], &cpu())
}

/// What a window of y shows, black being 0 and white 1.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// NaN where nothing was measured.
    pub(super) light: &'a [f64],
    /// Where the light is no more than a lower bound.
    pub(super) bounds: &'a [bool],
    /// The least light of a scene: bright points would have dark rings around them, which bare positivity forbids on black
    /// ground only.
    pub(super) ground: f64,
    /// Standard deviation of the noise. A scene that fits better shows the noise amplified.
    pub(super) noise: f64,
}

/// A window of y, and the blur that leads to it from the scene behind it.
pub(super) struct View {
    /// Channel by channel, black being 0 and white 1; NaN where y is ignored.
    pub(super) light: Vec<f64>,
    /// Where it is white.
    pub(super) white: Vec<bool>,
    /// The least light.
    pub(super) ground: f64,
    /// Its shape.
    pub(super) inside: ImageShape,
    /// That of the scene.
    pub(super) wide: ImageShape,
    pub(super) blur: Blur,
}

impl View {
    /// Of y through `window`; pixels that are `ignored` say nothing.
    ///
    /// # Errors
    /// Those of the operator.
    pub(super) fn of(y: &Tensor<4>, ignored: Option<&Mask>, window: Window, kernel: &Kernel) -> Result<Self> {
        let ImageShape { channels, width, .. } = ImageShape::of_batch(y);
        let is_ignored = |i: usize| {
            let at = i % (window.height * window.width);
            let (row, column) = (window.top + at / window.width, window.left + at % window.width);
            ignored.is_some_and(|mask| !mask.known()[row * width + column])
        };
        let values = tensor::to_f64(&window.cut(y))?.into_iter().enumerate();
        let light: Vec<f64> =
            values.map(|(i, v)| if is_ignored(i) { f64::NAN } else { ((v + 1.0) / 2.0).max(0.0) }).collect();
        let inside = ImageShape { channels, height: window.height, width: window.width };
        let wide = ImageShape {
            channels,
            height: inside.height + kernel.height() - 1,
            width: inside.width + kernel.width() - 1,
        };
        Ok(Self {
            white: light.iter().map(|light| *light >= 1.0).collect(),
            ground: light.iter().copied().fold(1.0, f64::min),
            inside,
            wide,
            blur: Blur::new(wide, kernel.clone(), Boundary::Valid)?,
            light,
        })
    }
}

/// As many iterations over `windows` of `channels` channels as take so many `products` of weights and pixels, within `limits`.
pub(super) fn affordable(
    windows: &[Window],
    channels: usize,
    kernel: &Kernel,
    products: usize,
    limits: [usize; 2],
) -> usize {
    let weights = kernel.weights().iter().filter(|weight| **weight > 0.0).count();
    let pixels: usize = windows.iter().map(|window| window.height * window.width).sum();
    (products / (2 * channels * pixels * weights).max(1)).clamp(limits[0], limits[1])
}

/// The mean of a value of mean `mean` and of normal `noise`, if it is known to be `least` or more: what a value that was
/// cut off at white is worth (Tobin 1958).
pub(super) fn at_least(least: f64, mean: f64, noise: f64) -> f64 {
    let distance = (least - mean) / noise;
    // Beyond, the value is `least` but for a small share of the noise, and the tail has no digits left.
    if noise <= 0.0 || distance.abs() > FAR {
        return least.max(mean);
    }
    let tail = 0.5 * libm::erfc(distance * std::f64::consts::FRAC_1_SQRT_2);
    let density = (-0.5 * distance * distance).exp() / (2.0 * std::f64::consts::PI).sqrt();
    mean + noise * density / tail
}

/// A scene whose blur is what was `seen`.
pub(super) fn scene(blur: &Blur, seen: Seen<'_>, iterations: usize) -> Result<Vec<f64>> {
    let Seen { bounds, ground, noise, .. } = seen;
    let light: Vec<f64> = seen.light.iter().map(|light| (light - ground).clamp(0.0, f64::INFINITY)).collect();
    let measured = bounds.iter().zip(&light).filter(|(is_bound, light)| !**is_bound && !light.is_nan()).count();
    let measured = measured.max(1) as f64;
    let (domain, range) = (blur.domain(), blur.range());
    let forward = |x: &[f64]| tensor::to_f64(&blur.apply(&image(x.to_vec(), domain))?);
    let back = |y: Vec<f64>| tensor::to_f64(&blur.adjoint(&image(y, range))?);
    let reach = back(vec![1.0; range.elements()])?;
    let over_reach = |values: Vec<f64>| -> Vec<f64> {
        values.into_iter().zip(&reach).map(|(v, reach)| if *reach > DARK { v / reach } else { 1.0 }).collect()
    };
    let begin = light.iter().map(|light| if light.is_nan() { 0.0 } else { *light });
    let mut last: Vec<f64> = over_reach(back(begin.collect())?).into_iter().map(|v| v.max(DARK)).collect();
    let mut from = last.clone();
    let mut step_before: Option<Vec<f64>> = None;
    for _ in 0..iterations {
        let blurred = forward(&from)?;
        let misfit = |((found, light), is_bound): ((&f64, &f64), &bool)| match is_bound {
            _ if light.is_nan() => 0.0,
            true => (light - found).max(0.0).powi(2),
            false => (found - light).powi(2),
        };
        if blurred.iter().zip(&light).zip(bounds).map(misfit).sum::<f64>() <= noise * noise * measured {
            last = from;
            break;
        }
        let ratio = blurred.into_iter().zip(&light).zip(bounds).map(|((found, light), is_bound)| {
            let light = match is_bound {
                _ if light.is_nan() => return 1.0,
                true => at_least(*light, found, noise),
                false => *light,
            };
            light / found.max(DARK)
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
    Ok(last.into_iter().map(|light| light + ground).collect())
}

/// Windows of y, of those sides, that hold the `marked` pixels with all that the kernel spreads their light to, and no pixel
/// twice.
pub(super) fn windows(marked: &[bool], [height, width]: [usize; 2], kernel: &Kernel) -> Vec<Window> {
    // Windows are whole tiles of the kernel's size with their neighbours: alike for all pixels of a tile.
    let (tall, wide) = (kernel.height().max(8), kernel.width().max(8));
    let mut found: Vec<[usize; 4]> = Vec::new();
    for (i, _) in marked.iter().enumerate().filter(|(_, marked)| **marked) {
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

    #[test]
    fn windows_hold_all_and_do_not_overlap() {
        let mut marked = vec![false; 100 * 120];
        for i in [0, 130, 5 * 120 + 60, 50 * 120 + 119, 99 * 120 + 40, 99 * 120 + 70] {
            marked[i] = true;
        }
        let mut counts = vec![0; 100 * 120];
        for Window { top, left, height, width } in windows(&marked, [100, 120], &Kernel::boxed(9).unwrap()) {
            for (row, column) in (top..top + height).flat_map(|r| (left..left + width).map(move |c| (r, c))) {
                counts[row * 120 + column] += 1;
            }
        }
        assert!(counts.iter().all(|count| *count <= 1));
        assert!(marked.iter().zip(&counts).all(|(marked, count)| !*marked || *count == 1));
    }
}
