//! What MUSIQ looks at: a picture at several scales, cut into patches, and where each lies.

/// Side of a patch.
pub(super) const PATCH: usize = 32;
/// Positions are told on a grid of so many rows and columns.
pub(super) const GRID: usize = 10;
/// Longer sides of the scales before the picture itself.
const SIDES: [f32; 2] = [224.0, 384.0];
/// The cubic convolution's parameter, PyTorch's.
const CUBIC: f64 = -0.75;

/// A picture at one scale.
pub(super) struct Scale {
    /// Channel by channel and row by row.
    planes: Vec<f32>,
    height: usize,
    width: usize,
}

/// A picture `[3, h, w]` at all scales, itself last.
pub(super) fn scales(planes: &[f32], height: usize, width: usize) -> Vec<Scale> {
    let longer = height.max(width) as f32;
    let resized = SIDES.into_iter().map(|side| {
        let scaled = |of: usize| ((of as f32 * (side / longer)).round_ties_even() as usize).max(1);
        resize(planes, [height, width], [scaled(height), scaled(width)])
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

/// Cubic convolution (Keys 1981) between the centres of pixels, edge pixels repeated, without a filter before reduction: as
/// PyTorch's `interpolate(mode="bicubic")`.
fn resize(planes: &[f32], [height, width]: [usize; 2], to: [usize; 2]) -> Scale {
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

/// For every output position the four inputs and their weights.
fn taps(from: usize, to: usize) -> Vec<[(usize, f64); 4]> {
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
        [-1.0, 0.0, 1.0, 2.0].map(|step| {
            let at = centre.floor() + step;
            (at.clamp(0.0, from as f64 - 1.0) as usize, weight(centre - at))
        })
    };
    (0..to).map(of).collect()
}
