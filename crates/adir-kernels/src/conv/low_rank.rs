//! Gradients of a convolution whose weight is `W + s B A`, by its factors: a convolution A to `rank` channels and a 1x1
//! convolution B of those. The weight is merged; no gradient of it is kept.

use std::sync::Arc;

use super::{Algorithm, Geometry, Method, Packed, Purpose, forward, input_gradient, pack, weight_gradient, winograd};
use crate::layout::{ChannelsLast, Planes};
use crate::tile::COLS;

/// The factors of a weight `[out, in, k, k]`.
pub(crate) struct Factors<'a, P> {
    pub rank: usize,
    pub scale: f32,
    /// A, `[rank, in, k, k]`.
    pub a: &'a [f32],
    /// B, `[out, rank]`.
    pub b: &'a [f32],
    /// A packed for [`Purpose::Forward`] and a method.
    pub pack_a: P,
}

/// Gradients of A and B, in their shapes.
pub(crate) struct LowRankGradients {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
}

/// The gradient of the image where its weights, packed for [`Purpose::InputGradient`] and `method`, are given, and those of
/// the factors.
pub(crate) fn backward_low_rank<P: Fn(Method) -> Arc<Packed>>(
    x: Planes<'_>,
    dy: &[f32],
    weight: Option<&Packed>,
    factors: &Factors<'_, P>,
    g: &Geometry,
    method: Method,
) -> (Option<Vec<f32>>, LowRankGradients) {
    match method.algorithm {
        // One pass for both factors beats the whole weight's two even where it multiplies a little more.
        Algorithm::Winograd if factors.rank < g.outputs => {
            let source = ChannelsLast::from_planes(x, g.in_shape(), winograd::low_rank::padding_of_image(g));
            let dy = ChannelsLast::from_planes(dy, g.out_shape(), winograd::low_rank::padding_of_result(g));
            let result = [g.batch, g.height, g.width];
            let of_x = weight.map(|weight| winograd::convolve_source(&dy, result, weight, None));
            (of_x, factors.in_tiles(&source, &dy, g))
        }
        _ => {
            let by_factors = factors.cost(g) < g.outputs * g.inputs * g.taps();
            let of_x = weight.map(|weight| input_gradient(dy, weight, g, method));
            let found = if by_factors { factors.directly(x, dy, g) } else { factors.by_whole(x, dy, g) };
            (of_x, found)
        }
    }
}

impl<P: Fn(Method) -> Arc<Packed>> Factors<'_, P> {
    /// Multiplications a pixel, where those of the whole weight's gradient are its size.
    fn cost(&self, g: &Geometry) -> usize {
        2 * self.rank * (g.inputs * g.taps() + g.outputs)
    }

    /// See [`winograd::low_rank`].
    fn in_tiles(&self, x: &ChannelsLast, dy: &ChannelsLast, g: &Geometry) -> LowRankGradients {
        let a = (self.pack_a)(Method { algorithm: Algorithm::Winograd, bf16: false });
        let mut all = LowRankGradients { a: Vec::new(), b: vec![0.0; g.outputs * self.rank] };
        for (panel, first) in (0..self.rank).step_by(COLS).enumerate() {
            let rank = COLS.min(self.rank - first);
            let mut b = vec![0.0; g.outputs * COLS];
            for (line, row) in b.chunks_exact_mut(COLS).zip(self.b.chunks_exact(self.rank)) {
                line.iter_mut().zip(&row[first..first + rank]).for_each(|(to, b)| *to = self.scale * b);
            }
            let found = winograd::low_rank::gradients(x, dy, &a, panel, &b, rank, g);
            all.a.extend(found.a);
            for (row, found) in all.b.chunks_exact_mut(self.rank).zip(found.b.chunks_exact(rank)) {
                row[first..first + rank].iter_mut().zip(found).for_each(|(to, b)| *to = self.scale * b);
            }
        }
        all
    }

    /// By convolutions to and from `rank` channels.
    fn directly(&self, x: Planes<'_>, dy: &[f32], g: &Geometry) -> LowRankGradients {
        let to_rank = Geometry { outputs: self.rank, ..*g };
        let (height, width) = (g.out_height(), g.out_width());
        // B as a convolution from the ranks, and its transpose as one to them.
        let of_b =
            Geometry { inputs: self.rank, outputs: g.outputs, height, width, kernel: 1, stride: 1, padding: 0, ..*g };
        let back = Geometry { inputs: g.outputs, outputs: self.rank, ..of_b };
        let plain = Method { algorithm: Algorithm::Direct, bf16: false };
        let mut transposed = vec![0.0; self.b.len()];
        for (output, row) in self.b.chunks_exact(self.rank).enumerate() {
            row.iter().enumerate().for_each(|(r, b)| transposed[r * g.outputs + output] = self.scale * b);
        }
        let z = forward(dy.into(), &pack(transposed.as_slice(), &back, Purpose::Forward, plain), None, &back, plain);
        let method = Method::new(&to_rank, false);
        let h = forward(x, &(self.pack_a)(method), None, &to_rank, method);
        let mut b = weight_gradient(Planes::from(h.as_slice()), dy, &of_b);
        b.iter_mut().for_each(|b| *b *= self.scale);
        LowRankGradients { a: weight_gradient(x, &z, &to_rank), b }
    }

    /// From the gradient of the whole weight, where that is less: dB = s W' A^T, dA = s B^T W'.
    fn by_whole(&self, x: Planes<'_>, dy: &[f32], g: &Geometry) -> LowRankGradients {
        let whole = weight_gradient(x, dy, g);
        let width = g.inputs * g.taps();
        let (mut a, mut b) = (vec![0.0; self.rank * width], vec![0.0; g.outputs * self.rank]);
        let rows = whole.chunks_exact(width).zip(self.b.chunks_exact(self.rank)).zip(b.chunks_exact_mut(self.rank));
        for ((row, own_b), b) in rows {
            let ranks = own_b.iter().zip(b).zip(self.a.chunks_exact(width).zip(a.chunks_exact_mut(width)));
            for ((own_b, b), (own_a, a)) in ranks {
                let factor = self.scale * own_b;
                a.iter_mut().zip(row).for_each(|(a, w)| *a += factor * w);
                *b = self.scale * crate::scan::dot(own_a, row);
            }
        }
        LowRankGradients { a, b }
    }
}
