//! One axis of a bicubic resize: a sparse matrix of a few weights a row.
//!
//! The border is part of the matrix (weights that fall outside are folded back symmetrically), so
//! the transpose of a resize is the transpose of its two matrices, exact at the border too.

use std::ops::Range;

use super::norm;
use crate::resample::cubic;

/// A sparse matrix by rows: row i holds the entries `starts[i]..starts[i + 1]`.
#[derive(Debug, Clone)]
pub(super) struct SparseMatrix {
    columns: usize,
    starts: Vec<usize>,
    entries: Vec<(usize, f64)>,
}

impl SparseMatrix {
    /// The matrix that resamples `from` pixels to `to` pixels at the given `scale` (output over
    /// input, usually but not necessarily `to / from`).
    ///
    /// Output pixel i reads at (i + 1/2) / scale - 1/2 with the cubic kernel, widened by 1 / scale
    /// when shrinking (anti-aliasing), each row normalised to unit sum: the imresize of MATLAB.
    pub(super) fn bicubic(from: usize, to: usize, scale: f64) -> Self {
        let shrink = scale.min(1.0);
        let radius = 2.0 / shrink;
        Self::from_rows(from, to, |i| {
            let centre = (i as f64 + 0.5) / scale - 0.5;
            let (first, last) = ((centre - radius).ceil() as i64, (centre + radius).floor() as i64);
            let row: Vec<(i64, f64)> = (first..=last).map(|j| (j, cubic(shrink * (centre - j as f64)))).collect();
            let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
            row.into_iter().map(|(j, weight)| (symmetric(j, from), weight / sum)).collect()
        })
    }

    fn from_rows(columns: usize, rows: usize, row: impl Fn(usize) -> Vec<(usize, f64)>) -> Self {
        let (mut starts, mut entries) = (vec![0], Vec::new());
        for i in 0..rows {
            let mut row = row(i);
            row.sort_by_key(|(column, _)| *column);
            row.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                if same {
                    kept.1 += next.1;
                }
                same
            });
            entries.extend(row);
            starts.push(entries.len());
        }
        Self { columns, starts, entries }
    }

    /// The transposed matrix, with the very same weights.
    pub(super) fn transposed(&self) -> Self {
        let mut rows = vec![Vec::new(); self.columns];
        for i in 0..self.rows() {
            for (column, weight) in self.row(i) {
                rows[*column].push((i, *weight));
            }
        }
        Self::from_rows(self.rows(), self.columns, |j| rows[j].clone())
    }

    pub(super) fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn row(&self, i: usize) -> &[(usize, f64)] {
        &self.entries[self.starts[i]..self.starts[i + 1]]
    }

    /// M x for a plane x of `columns` lines, each `width` wide: resamples vertically.
    fn times_lines(&self, x: &[f64], width: usize, y: &mut [f64]) {
        for (i, line) in y.chunks_exact_mut(width).enumerate() {
            line.fill(0.0);
            for (j, weight) in self.row(i) {
                for (y, x) in line.iter_mut().zip(&x[j * width..(j + 1) * width]) {
                    *y += weight * x;
                }
            }
        }
    }

    /// x M^T for a plane x whose lines are `columns` wide: resamples horizontally.
    fn times_columns(&self, x: &[f64], y: &mut [f64]) {
        for (x, y) in x.chunks_exact(self.columns).zip(y.chunks_exact_mut(self.rows())) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = self.row(i).iter().map(|(j, weight)| weight * x[*j]).sum();
            }
        }
    }

    /// The first column of M M^T, given M^T.
    pub(super) fn gram_column(&self, transposed: &Self) -> Vec<f64> {
        let (mut first, mut line, mut column) =
            (vec![0.0; self.rows()], vec![0.0; self.columns], vec![0.0; self.rows()]);
        first[0] = 1.0;
        transposed.times_lines(&first, 1, &mut line);
        self.times_lines(&line, 1, &mut column);
        column
    }

    /// The rows all of whose weights belong to `columns`: for resampling, they follow one another.
    pub(super) fn rows_within(&self, columns: Range<usize>) -> Range<usize> {
        let is_within = |i: &usize| self.row(*i).iter().all(|(j, weight)| *weight == 0.0 || columns.contains(j));
        let first = (0..self.rows()).find(is_within).unwrap_or(self.rows());
        let count = (first..self.rows()).take_while(is_within).count();
        first..first + count
    }

    /// Largest eigenvalue of M^T M.
    pub(super) fn norm_squared(&self) -> f64 {
        let transposed = self.transposed();
        let gram = |v: &[f64]| {
            let (mut mv, mut out) = (vec![0.0; self.rows()], vec![0.0; self.columns]);
            self.times_lines(v, 1, &mut mv);
            transposed.times_lines(&mv, 1, &mut out);
            Ok::<_, std::convert::Infallible>(out)
        };
        let Ok(norm_squared) = norm::largest_eigenvalue(self.columns, gram);
        norm_squared
    }
}

/// Y = V X H^T: a separable linear map of a plane, V down the columns and H along the lines.
#[derive(Debug, Clone)]
pub(super) struct Separable {
    pub(super) vertical: SparseMatrix,
    pub(super) horizontal: SparseMatrix,
}

impl Separable {
    /// The transposed map, X = V^T Y H.
    pub(super) fn transposed(&self) -> Self {
        Self { vertical: self.vertical.transposed(), horizontal: self.horizontal.transposed() }
    }

    /// Maps the plane `x` to the plane `y`, through the smaller of the two intermediate planes.
    pub(super) fn map(&self, x: &[f64], y: &mut [f64]) {
        let (v, h) = (&self.vertical, &self.horizontal);
        if v.rows() * h.columns <= v.columns * h.rows() {
            let mut lines = vec![0.0; v.rows() * h.columns];
            v.times_lines(x, h.columns, &mut lines);
            h.times_columns(&lines, y);
        } else {
            let mut columns = vec![0.0; v.columns * h.rows()];
            h.times_columns(x, &mut columns);
            v.times_lines(&columns, h.rows(), y);
        }
    }
}

/// The pixel that index `i` of the symmetric extension (d c b a | a b c d | d c b a) of `n` pixels shows.
pub(super) fn symmetric(i: i64, n: usize) -> usize {
    let n = n as i64;
    let i = i.rem_euclid(2 * n);
    i.min(2 * n - 1 - i) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    // np.pad(np.arange(3), 7, mode="symmetric")
    #[test]
    fn symmetric_extension_repeats_the_edge() {
        let found: Vec<usize> = (-7..10).map(|i| symmetric(i, 3)).collect();
        assert_eq!(found, [0, 0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1, 2, 2]);
    }

    #[test]
    fn cubic_interpolates_and_is_a_partition_of_unity() {
        assert_eq!([cubic(0.0), cubic(1.0), cubic(-1.0), cubic(2.0)], [1.0, 0.0, 0.0, 0.0]);
        for phase in [0.0, 0.125, 0.3, 0.5, 0.9] {
            let sum: f64 = (-3..4).map(|j| cubic(phase - f64::from(j))).sum();
            assert!((sum - 1.0).abs() < 1e-15, "{phase}: {sum}");
        }
    }
}
