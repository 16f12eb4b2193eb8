//! What MUSIQ looks at: a picture at several scales, cut into patches, and where each lies.

use super::Form;

/// Side of a patch.
pub(super) const PATCH: usize = 32;
/// Positions are told on a grid of so many rows and columns.
pub(super) const GRID: usize = 10;
/// Longer sides of the scales before the picture itself.
const SIDES: [f32; 2] = [224.0, 384.0];
/// All of them.
pub(super) const SCALES: usize = SIDES.len() + 1;
/// The cubic convolution's parameter, PyTorch's.
const CUBIC: f64 = -0.75;
/// Reach of the Gaussian of TensorFlow's `ResizeMethod.GAUSSIAN` in pixels of the picture; its standard deviation is a third.
const REACH: f64 = 1.5;

/// A picture at one scale.
pub(super) struct Scale {
    /// Channel by channel and row by row.
    planes: Vec<f32>,
    height: usize,
    width: usize,
}

/// A picture `[3, h, w]` at the last `count` of all scales, itself last.
pub(super) fn scales(planes: &[f32], height: usize, width: usize, count: usize, form: Form) -> Vec<Scale> {
    let longer = height.max(width) as f32;
    let resized = SIDES.into_iter().skip(SCALES - count).map(|side| {
        let scaled = |of: usize| ((of as f32 * (side / longer)).round_ties_even() as usize).max(1);
        resize(planes, [height, width], [scaled(height), scaled(width)], form)
    });
    let itself = Scale { planes: planes.to_vec(), height, width };
    resized.chain([itself]).collect()
}

impl Scale {
    fn rows(&self) -> usize {
        self.height.div_ceil(PATCH)
    }

    fn columns(&self) -> usize {
        self.width.div_ceil(PATCH)
    }

    /// Number of patches.
    pub(super) fn count(&self) -> usize {
        self.rows() * self.columns()
    }

    /// Where the patches lie on the grid, row by row.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let (rows, columns) = (self.rows(), self.columns());
        (0..self.count()).map(move |k| k / columns * GRID / rows * GRID + k % columns * GRID / columns)
    }

    /// The values `[3, 32, 32]` of a patch; the zeros around the picture are shared out to both sides, an odd one behind.
    pub(super) fn patch(&self, k: usize) -> impl Iterator<Item = f32> + '_ {
        let (top, left) = ((self.rows() * PATCH - self.height) / 2, (self.columns() * PATCH - self.width) / 2);
        let (first_row, first_column) = (k / self.columns() * PATCH, k % self.columns() * PATCH);
        (0..3 * PATCH * PATCH).map(move |i| {
            let row = (first_row + i / PATCH % PATCH).checked_sub(top).filter(|row| *row < self.height);
            let column = (first_column + i % PATCH).checked_sub(left).filter(|column| *column < self.width);
            let at = |(row, column)| (i / (PATCH * PATCH) * self.height + row) * self.width + column;
            row.zip(column).map_or(0.0, |inside| self.planes[at(inside)])
        })
    }
}

/// Without a filter before reduction.
fn resize(planes: &[f32], [height, width]: [usize; 2], to: [usize; 2], form: Form) -> Scale {
    let taps = |from: usize, to: usize| match form {
        Form::Pyiqa => cubic(from, to),
        Form::Authors => gaussian(from, to),
    };
    let (rows, columns) = (taps(height, to[0]), taps(width, to[1]));
    let mut out = Vec::with_capacity(3 * to[0] * to[1]);
    for plane in planes.chunks_exact(height * width) {
        for row in &rows {
            for column in &columns {
                let along = |y: usize| -> f64 {
                    column.iter().map(|(x, weight)| weight * f64::from(plane[y * width + x])).sum()
                };
                out.push(row.iter().map(|(y, weight)| weight * along(*y)).sum::<f64>() as f32);
            }
        }
    }
    Scale { planes: out, height: to[0], width: to[1] }
}

/// Inputs of an output position with their weights.
type Taps = Vec<(usize, f64)>;

/// Cubic convolution (Keys 1981) between the centres of pixels, edge pixels repeated: as PyTorch's
/// `interpolate(mode="bicubic")`.
fn cubic(from: usize, to: usize) -> Vec<Taps> {
    let weight = |distance: f64| {
        let (x, a) = (distance.abs(), CUBIC);
        match x {
            x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
            x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
            _ => 0.0,
        }
    };
    let of = |i: usize| {
        let centre = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let tap = |step: f64| {
            let at = centre.floor() + step;
            (at.clamp(0.0, from as f64 - 1.0) as usize, weight(centre - at))
        };
        [-1.0, 0.0, 1.0, 2.0].map(tap).to_vec()
    };
    (0..to).map(of).collect()
}

/// A Gaussian around the centre, whose weights in the picture add up to 1.
fn gaussian(from: usize, to: usize) -> Vec<Taps> {
    let of = |i: usize| {
        let centre = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
        let (first, last) = ((centre - REACH).ceil().max(0.0) as usize, (centre + REACH).floor() as usize);
        let weight = |at: usize| (-4.5 * ((at as f64 - centre) / REACH).powi(2)).exp();
        // At its reach itself it is 0.
        let within = (first..=last.min(from - 1)).filter(|at| (*at as f64 - centre).abs() < REACH);
        let taps: Taps = within.map(|at| (at, weight(at))).collect();
        let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
        taps.into_iter().map(|(at, weight)| (at, weight / sum)).collect()
    };
    (0..to).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fixtures/musiq.py --tensorflow` printed the values.
    #[test]
    fn the_gaussian_resize_is_tensorflows() {
        let plane: Vec<f32> = (0..600)
            .map(|i| ((i / 30 * 7 + i % 30 * 13 + i / 30 * (i % 30) % 101) % 256) as f32 / 127.5 - 1.0)
            .collect();
        let planes = [plane.clone(), plane.clone(), plane].concat();
        let places = [(0, 0), (3, 5), (8, 12), (4, 0)];
        for (to, expected) in [
            ([9, 13], [-0.892_718, -0.599_898, -0.658_812, -0.358_741]),
            ([41, 37], [-0.988_775, -0.493_910, 0.464_355, -0.895_727]),
        ] {
            let scale = resize(&planes, [20, 30], to, Form::Authors);
            for ((y, x), expected) in places.into_iter().zip(expected) {
                let found = scale.planes[y * to[1] + x];
                assert!((found - expected).abs() < 2e-6, "{to:?} at {y}, {x}: {found} instead of {expected}");
            }
        }
    }
}
