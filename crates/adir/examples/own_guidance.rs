//! A guidance of one's own, and one that needs the way back through the network (DPS, Chung et al. 2023). Runs without
//! files: `cargo run --release -p adir --example own_guidance`.

use std::ops::ControlFlow;
use std::sync::Arc;

use adir::guidance::{Correction, Guidance, StepState, Target};
use adir::operator::bicubic_upsample;
use adir::prelude::*;
use adir::task::Overrides;
use adir::tensor::{Tensor, from_f32, to_f64};

/// x0 moves down the gradient of |A x0(x_t) - y| by x_t: DPS, on the x0 estimate of a few-step sampler.
#[derive(Debug)]
struct Posterior {
    operator: Arc<dyn LinearOperator>,
    y: Tensor<4>,
    step: f64,
}

impl Guidance for Posterior {
    fn needs_gradient(&self) -> bool {
        true
    }

    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction> {
        if !matches!(target, Target::X0) {
            return Err(Error::config("this guidance corrects x0: use --method few-step"));
        }
        let back = state.back.ok_or_else(|| Error::config("the way back through the network is missing"))?;
        let residual = self.operator.apply(state.x0)? - self.y.clone();
        let square: f64 = to_f64(&residual.clone().square().sum())?.iter().sum();
        let norm = square.sqrt().max(1e-12);
        // d|r| / dx0 = A^T r / |r|, and x0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar).
        let by_x0 = self.operator.adjoint(&residual)?.div_scalar(norm);
        let alpha_bar = state.schedule.alpha_bar(state.index);
        let by_eps = by_x0.clone().mul_scalar(-(1.0 - alpha_bar).sqrt() / alpha_bar.sqrt());
        let by_x_t = by_x0.div_scalar(alpha_bar.sqrt()) + back.x_t(&by_eps)?;
        let count = residual.shape().num_elements() as f64;
        let shift = by_x_t.mul_scalar(-self.step / alpha_bar.sqrt());
        Ok(Correction::new(Some(shift), (square / count).sqrt()))
    }
}

fn main() -> Result<()> {
    let value = |k: usize| if (k % 16 / 4 + k / 16 % 16 / 4).is_multiple_of(2) { 0.5 } else { -0.5 };
    let y = from_f32((0..3 * 16 * 16).map(value).collect(), [1, 3, 16, 16], &adir::tensor::cpu());
    let engine = Engine::builder().build()?;
    let plain = Request::new(Picture::from_tensor(y.clone()), Problem::super_resolution(4)).steps(25);
    let mut guided =
        plain.clone().guided_by(|operator, y| Ok(Box::new(Posterior { operator, y: y.clone(), step: 40.0 })));
    guided.sampling.overrides = Overrides { eta: Some(0.5), ..guided.sampling.overrides };
    for (name, request) in [("ADIR", &plain), ("DPS", &guided)] {
        let restored = engine.run(&engine.plan(request)?, &|_| ControlFlow::Continue(()))?;
        let psnr = adir::metric::psnr_rgb(&restored.mean.tensor, &bicubic_upsample(&y, 4)?)?[0];
        let agreement = restored.record.agreement_psnr;
        println!("{name:<5} agrees with the observation to {agreement}; {psnr:.1} dB from bicubic interpolation");
        assert!(agreement.0 > 30.0);
    }
    Ok(())
}
