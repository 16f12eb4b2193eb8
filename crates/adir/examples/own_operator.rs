//! A degradation that `adir` does not know: an interlaced camera that records every other row, each twice as sensitive
//! at its left end as at its right. Runs without files: `cargo run --release -p adir --example own_operator`.

use std::ops::ControlFlow;
use std::sync::Arc;

use adir::operator::{ImageShape, dot_test};
use adir::prelude::*;
use adir::tensor::{Tensor, from_f32};

/// y(i, j) = g(j) x(2 i, j), g falling from 1 to 1/2.
#[derive(Debug)]
struct Interlaced {
    domain: ImageShape,
}

impl Interlaced {
    fn gains(&self, like: &Tensor<4>) -> Tensor<4> {
        let width = self.domain.width;
        let gains = (0..width).map(|j| 1.0 - 0.5 * j as f32 / (width - 1) as f32).collect();
        from_f32(gains, [1, 1, 1, width], &like.device()).cast(like.dtype())
    }
}

impl LinearOperator for Interlaced {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        ImageShape { height: self.domain.height / 2, ..self.domain }
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        let [n, c, h, w] = x.dims();
        let even = x.clone().reshape([n, c, h / 2, 2, w]).narrow(3, 0, 1).reshape([n, c, h / 2, w]);
        Ok(even * self.gains(x))
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        let [n, c, h, w] = y.dims();
        let even = (y.clone() * self.gains(y)).reshape([n, c, h, 1, w]);
        let odd = even.zeros_like();
        Ok(Tensor::cat(vec![even, odd], 3).reshape([n, c, 2 * h, w]))
    }

    fn norm_squared(&self) -> f64 {
        1.0
    }
}

fn main() -> Result<()> {
    let (height, width) = (64, 64);
    // A disc on a ramp.
    let value = |c: usize, i: usize, j: usize| {
        let inside = (i as f32 - 30.0).hypot(j as f32 - 36.0) < 18.0 + 2.0 * c as f32;
        if inside { 0.6 - 0.3 * c as f32 } else { (i + j) as f32 / 128.0 - 0.5 }
    };
    let pixels = (0..3 * height * width).map(|k| value(k / (height * width), k / width % height, k % width));
    let x = from_f32(pixels.collect(), [1, 3, height, width], &adir::tensor::cpu());
    let operator = Arc::new(Interlaced { domain: ImageShape::new(3, height, width) });
    println!("gap between the operator and its transpose: {:.1e}", dot_test(operator.as_ref(), 1, 8)?);

    let y = Picture::from_tensor(operator.apply(&x)?);
    let request = Request::new(y, Problem::with_operator(operator, Hint::Hides)).steps(20);
    let engine = Engine::builder().build()?;
    let restored = engine.run(&engine.plan(&request)?, &|_| ControlFlow::Continue(()))?;
    let psnr = adir::metric::psnr_rgb(&restored.mean.tensor, &x)?[0];
    println!("{psnr:.1} dB, agrees with the observation to {}", restored.record.agreement_psnr);
    assert!(psnr > 20.0 && restored.record.agreement_psnr.0 > 30.0);
    Ok(())
}
