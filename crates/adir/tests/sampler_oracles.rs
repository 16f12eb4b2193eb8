//! Samplers on priors whose exact denoiser is known: many tiny independent samples against the closed recursion of
//! their mean and variance, and the toy problems by which the guidance was designed.

use std::sync::Arc;

use adir::Result;
use adir::guidance::{AdirConfig, AdirGuidance, Adjoint, Guidance, Residual, Strength};
use adir::noise::{Noise, Stream};
use adir::sampler::{AncestralConfig, Chain, DdimConfig, EpsAfterGuidance, Inputs, Step, initial_noise};
use adir::schedule::{BetaSchedule, Respacing, Schedule, VarianceKind};
use adir::tensor::{Tensor, cpu, from_f64, to_f64};
use adir::testing::{DenseOperator, FiniteSetDenoiser, GaussianDenoiser};
use burn::tensor::DType;

const SAMPLES: usize = 10_000;

fn full_schedule() -> Schedule {
    Schedule::new(BetaSchedule::Linear, 1000).expect("a schedule")
}

fn respaced(steps: usize) -> Schedule {
    full_schedule().respaced(&Respacing::Sections(vec![steps])).expect("a respaced schedule")
}

fn column(values: Vec<f64>) -> Tensor<4> {
    let n = values.len();
    from_f64(values, [n, 1, 1, 1], &cpu())
}

/// A direction of the image that A scales by `gain`: prior variance, observation noise and guidance.
#[derive(Clone, Copy)]
struct Toy {
    gain: f64,
    prior_variance: f64,
    sigma_y: f64,
    guidance: Option<AdirConfig>,
}

#[derive(Clone, Copy)]
enum Sampler {
    Ancestral,
    Ddim { eta: f64, eps_after_guidance: EpsAfterGuidance },
}

const VARIANCE: AncestralConfig = AncestralConfig { variance: VarianceKind::FixedLarge, clip_x0: false };

impl Toy {
    /// The last state of each of `SAMPLES` chains for a truth and an observation of its own, and the largest rms that
    /// x_t took on the way. Truth and noise: (x, e) of the streams for that.
    fn run(&self, schedule: &Schedule, sampler: Sampler) -> (Vec<f64>, Vec<f64>, f64) {
        let truth: Vec<f64> = Noise::new(1, Stream::Evaluation)
            .normal_f64(0, SAMPLES)
            .iter()
            .map(|z| z * self.prior_variance.sqrt())
            .collect();
        let e = Noise::new(1, Stream::Degradation).normal_f64(0, SAMPLES);
        let y: Vec<f64> = truth.iter().zip(e).map(|(x, e)| self.gain * x + self.sigma_y * e).collect();
        let operator = Arc::new(DenseOperator::diagonal(&[self.gain]).expect("a matrix"));
        let guidance = self.guidance.map(|config| AdirGuidance::new(operator, column(y), config).expect("a guidance"));

        let denoiser = GaussianDenoiser::new(full_schedule(), column(vec![0.0]), column(vec![self.prior_variance]));
        let noise = Noise::new(2, Stream::Sampling);
        let x_t = initial_noise(&noise, [SAMPLES, 1, 1, 1], &cpu(), DType::F64);
        let inputs = Inputs {
            guidance: guidance.as_ref().map(|g| g as &dyn Guidance),
            ..Inputs::new(&denoiser, schedule, &noise)
        };
        let steps: Box<dyn Iterator<Item = Result<Step>>> = match sampler {
            Sampler::Ancestral => Box::new(Chain::new(inputs, VARIANCE, x_t).expect("a sampler")),
            Sampler::Ddim { eta, eps_after_guidance } => {
                let config = DdimConfig { eta, clip_x0: false, eps_after_guidance };
                Box::new(Chain::new(inputs, config, x_t).expect("a sampler"))
            }
        };
        let (mut last, mut largest) = (Vec::new(), 0.0_f64);
        for step in steps {
            last = to_f64(&step.expect("a step").x_t).expect("readable");
            largest = largest.max(rms(last.iter().copied()));
        }
        (truth, last, largest)
    }

    /// rms of the error of the samples.
    fn error(&self, schedule: &Schedule, sampler: Sampler) -> f64 {
        let (truth, samples, _) = self.run(schedule, sampler);
        rms(samples.iter().zip(truth).map(|(a, b)| a - b))
    }

    /// The same from the recursion: x_t = p truth + q e + independent noise of variance r, all updates being affine.
    fn exact_error(&self, schedule: &Schedule, sampler: Sampler) -> f64 {
        let (mut p, mut q, mut r) = (0.0, 0.0, 1.0);
        for i in (0..schedule.len()).rev() {
            let (of_x, of_y, fresh) = self.coefficients(schedule, i, sampler);
            p = of_x * p + of_y * self.gain;
            q = of_x * q + of_y;
            r = of_x * of_x * r + fresh;
        }
        ((p - 1.0).powi(2) * self.prior_variance + (q * self.sigma_y).powi(2) + r).sqrt()
    }

    /// x_(t-1) = of_x x_t + of_y y + N(0, fresh), from the formulas for one direction of an image.
    fn coefficients(&self, schedule: &Schedule, i: usize, sampler: Sampler) -> (f64, f64, f64) {
        let (beta, ab, previous) = (schedule.beta(i), schedule.alpha_bar(i), schedule.alpha_bar_prev(i));
        let lambda = self.gain * self.gain;
        let eps = (1.0 - ab).sqrt() / (ab * self.prior_variance + 1.0 - ab); // times x_t
        let x0 = (1.0 - (1.0 - ab).sqrt() * eps) / ab.sqrt();
        let config = self.guidance.unwrap_or(AdirConfig { strength: Strength::Scale(0.0), ..AdirConfig::default() });
        let (star, limit) = match config.adjoint {
            Adjoint::Normalized => (self.gain / lambda, 1.0),
            Adjoint::Strict => (self.gain, 1.0 / lambda),
        };
        let s = match config.strength {
            Strength::Scale(s) => s,
            Strength::Projection => f64::INFINITY,
        };
        match sampler {
            Sampler::Ancestral => {
                let sigma = if i == 0 { schedule.posterior_variance(1) } else { beta };
                let mean = (1.0 - beta / (1.0 - ab).sqrt() * eps) / (1.0 - beta).sqrt();
                let (of_x, of_y) = match config.residual {
                    Residual::Paper => (self.gain * (mean - (1.0 - ab).sqrt() * eps), -ab.sqrt()),
                    Residual::Consistent => (previous.sqrt() * self.gain * x0, -previous.sqrt()),
                };
                let k = if config.cap { (2.0 * s * sigma).min(limit) } else { 2.0 * s * sigma };
                (mean - k * star * of_x, -k * star * of_y, if i > 0 { sigma } else { 0.0 })
            }
            Sampler::Ddim { eta, eps_after_guidance } => {
                let c = limit.min(2.0 * s * (1.0 - ab));
                let (x0_of_x, x0_of_y) = (x0 - c * star * self.gain * x0, c * star);
                let (eps_of_x, eps_of_y) = match eps_after_guidance {
                    EpsAfterGuidance::Keep => (eps, 0.0),
                    EpsAfterGuidance::Rederive => {
                        ((1.0 - ab.sqrt() * x0_of_x) / (1.0 - ab).sqrt(), -ab.sqrt() * x0_of_y / (1.0 - ab).sqrt())
                    }
                };
                let fresh = eta * eta * (1.0 - previous) / (1.0 - ab) * (1.0 - ab / previous);
                let kept = (1.0 - previous - fresh).max(0.0).sqrt();
                (previous.sqrt() * x0_of_x + kept * eps_of_x, previous.sqrt() * x0_of_y + kept * eps_of_y, fresh)
            }
        }
    }
}

fn rms(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, n), v| (sum + v * v, n + 1));
    (sum / f64::from(count)).sqrt()
}

/// An rms over `SAMPLES` normal values has a relative standard error of 1/sqrt(2 SAMPLES) = 0.7 %.
#[track_caller]
fn assert_within_sampling_error(measured: f64, exact: f64) {
    let error = exact / f64::sqrt(2.0 * SAMPLES as f64);
    assert!((measured - exact).abs() < 4.0 * error, "{measured} is not {exact} +- {error}");
}

fn adir(s: f64, residual: Residual, adjoint: Adjoint) -> Option<AdirConfig> {
    Some(AdirConfig { strength: Strength::Scale(s), residual, adjoint, ..AdirConfig::default() })
}

/// Without guidance: mean and variance of the samples are those of the recursion, which at 1000 steps are the prior's.
#[test]
fn unguided_samples_have_the_moments_of_the_prior() {
    let (prior_mean, prior_variance) = (0.4, 0.3);
    let denoiser = GaussianDenoiser::new(full_schedule(), column(vec![prior_mean]), column(vec![prior_variance]));
    let noise = Noise::new(5, Stream::Sampling);
    for steps in [20, 1000] {
        let schedule = respaced(steps);
        let x_t = initial_noise(&noise, [SAMPLES, 1, 1, 1], &cpu(), DType::F64);
        let last = Chain::new(Inputs::new(&denoiser, &schedule, &noise), VARIANCE, x_t)
            .expect("a sampler")
            .last()
            .expect("steps")
            .expect("no error");
        let samples = to_f64(&last.x_t).expect("readable");
        let n = SAMPLES as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);

        let (mut m, mut v) = (0.0, 1.0);
        for i in (0..steps).rev() {
            let (beta, ab) = (schedule.beta(i), schedule.alpha_bar(i));
            let eps = (1.0 - ab).sqrt() / (ab * prior_variance + 1.0 - ab); // times x_t - sqrt(ab) prior_mean
            let scale = beta / (1.0 - ab).sqrt() * eps;
            m = (m - scale * (m - ab.sqrt() * prior_mean)) / (1.0 - beta).sqrt();
            v = (1.0 - scale).powi(2) / (1.0 - beta) * v + if i > 0 { beta } else { 0.0 };
        }
        assert!((mean - m).abs() < 4.0 * (v / n).sqrt(), "mean {mean}, exact {m}");
        assert!((variance - v).abs() < 4.0 * v * (2.0 / n).sqrt(), "variance {variance}, exact {v}");
        if steps == 1000 {
            assert!((m - prior_mean).abs() < 1e-3 && (v - prior_variance).abs() < 5e-3, "{m}, {v}");
        }
    }
}

/// The toy of the derivation: how far a low frequency (prior variance 4) ends from the truth after 1000 steps. The
/// plain transpose of a x4 down-sampling leaves it wrong; over its largest eigenvalue it agrees with deblurring.
#[test]
fn the_normalised_adjoint_agrees_with_the_input_and_the_strict_one_does_not() {
    use Adjoint::{Normalized, Strict};
    for (gain, s, adjoint, expected, tolerance) in [
        (0.25, 10.0, Normalized, 0.161, 0.01),
        (0.25, 10.0, Strict, 0.755, 0.03),
        (0.125, 20.0, Normalized, 0.112, 0.01),
        (0.125, 20.0, Strict, 1.27, 0.03),
        (1.0, 10.0, Strict, 0.159, 0.01),
    ] {
        let toy = Toy { gain, prior_variance: 4.0, sigma_y: 0.0, guidance: adir(s, Residual::Paper, adjoint) };
        let exact = toy.exact_error(&full_schedule(), Sampler::Ancestral);
        assert!((exact - expected).abs() < tolerance, "gain {gain}, {adjoint:?}: {exact} instead of {expected}");
    }
    for adjoint in [Normalized, Strict] {
        let toy = Toy { gain: 0.25, prior_variance: 4.0, sigma_y: 0.0, guidance: adir(10.0, Residual::Paper, adjoint) };
        let measured = toy.error(&full_schedule(), Sampler::Ancestral);
        assert_within_sampling_error(measured, toy.exact_error(&full_schedule(), Sampler::Ancestral));
    }
}

/// Respacing to 100, 50, 25 steps: with cap and consistent residual the error stays near the 0.172 of 1000 steps and
/// x_t within about twice its range; without the cap 25 steps explode.
#[test]
fn the_cap_keeps_respaced_sampling_stable() {
    let toy = |cap| Toy {
        gain: 1.0,
        prior_variance: 0.25,
        sigma_y: 20.0 / 255.0,
        guidance: adir(10.0, Residual::Consistent, Adjoint::Normalized).map(|c| AdirConfig { cap, ..c }),
    };
    for (steps, expected, peak) in [(100, 0.178, 1.95), (50, 0.184, 1.41), (25, 0.202, 1.06)] {
        let schedule = respaced(steps);
        let exact = toy(true).exact_error(&schedule, Sampler::Ancestral);
        assert!((exact - expected).abs() < 0.006, "{steps} steps: {exact} instead of {expected}");
        let (truth, samples, largest) = toy(true).run(&schedule, Sampler::Ancestral);
        assert_within_sampling_error(rms(samples.iter().zip(truth).map(|(a, b)| a - b)), exact);
        assert!((largest - peak).abs() < 0.06, "{steps} steps: rms of x_t up to {largest}, expected {peak}");
    }
    let wild = |cap| Toy { gain: 0.25, prior_variance: 4.0, sigma_y: 0.0, ..toy(cap) };
    assert!(wild(false).run(&respaced(25), Sampler::Ancestral).2 > 100.0);
    assert!(wild(true).run(&respaced(25), Sampler::Ancestral).2 < 2.5);
}

/// The x0 form in few steps: the ideal error of a posterior sample is 0.110.
#[test]
fn few_step_guidance_reaches_the_ideal_error() {
    let toy = Toy {
        gain: 1.0,
        prior_variance: 0.25,
        sigma_y: 20.0 / 255.0,
        guidance: adir(10.0, Residual::Consistent, Adjoint::Normalized),
    };
    let ddim = |eta, eps_after_guidance| Sampler::Ddim { eta, eps_after_guidance };
    for (steps, sampler, expected) in [
        (250, ddim(1.0, EpsAfterGuidance::Keep), 0.107),
        (100, ddim(1.0, EpsAfterGuidance::Keep), 0.112),
        (50, ddim(1.0, EpsAfterGuidance::Keep), 0.110),
        (20, ddim(1.0, EpsAfterGuidance::Keep), 0.092),
        (50, ddim(1.0, EpsAfterGuidance::Rederive), 0.133),
    ] {
        let exact = toy.exact_error(&respaced(steps), sampler);
        assert!((exact - expected).abs() < 1e-3, "{steps} steps: {exact} instead of {expected}");
        assert_within_sampling_error(toy.error(&respaced(steps), sampler), exact);
    }
    let deterministic = Toy { gain: 0.25, prior_variance: 4.0, sigma_y: 0.0, ..toy };
    let exact = deterministic.exact_error(&respaced(50), ddim(0.0, EpsAfterGuidance::Keep));
    assert!((0.003..0.006).contains(&exact), "{exact}");
    assert_within_sampling_error(deterministic.error(&respaced(50), ddim(0.0, EpsAfterGuidance::Keep)), exact);
}

/// Without noise in y, the projection ends exactly in agreement.
#[test]
fn projection_ends_on_the_observation() {
    let projection = AdirConfig { strength: Strength::Projection, ..AdirConfig::default() };
    let toy = Toy { gain: 0.25, prior_variance: 1.0, sigma_y: 0.0, guidance: Some(projection) };
    for eta in [0.0, 1.0] {
        let sampler = Sampler::Ddim { eta, eps_after_guidance: EpsAfterGuidance::Keep };
        assert!(toy.error(&respaced(20), sampler) < 1e-12);
    }
}

/// A prior of four images of two pixels: every sample ends at one of them, each about equally often; seeing the first
/// pixel decides between the two pairs.
#[test]
fn samples_of_a_finite_prior_are_its_images() {
    let images = [[-0.8, -0.8], [-0.8, 0.8], [0.8, -0.8], [0.8, 0.8]];
    let denoiser = FiniteSetDenoiser::new(full_schedule(), images.map(|i| i.to_vec()).to_vec());
    let schedule = respaced(100);
    let noise = Noise::new(6, Stream::Sampling);
    let chains = 2000;
    let count = |guidance: Option<&dyn Guidance>| {
        let x_t = initial_noise(&noise, [chains, 1, 1, 2], &cpu(), DType::F64);
        let inputs = Inputs { guidance, ..Inputs::new(&denoiser, &schedule, &noise) };
        let last = Chain::new(inputs, VARIANCE, x_t).expect("a sampler").last().expect("steps").expect("no error");
        let mut counts = [0_u32; 4];
        for pixels in to_f64(&last.x_t).expect("readable").chunks(2) {
            let near = |image: &[f64; 2]| image.iter().zip(pixels).all(|(a, b)| (a - b).abs() < 0.1);
            counts[images.iter().position(near).expect("an image of the prior")] += 1;
        }
        counts
    };
    for n in count(None) {
        assert!((f64::from(n) - 500.0).abs() < 4.0 * f64::sqrt(500.0 * 0.75), "{n} of {chains}");
    }
    let first_pixel = Arc::new(DenseOperator::new(&[vec![1.0, 0.0]]).expect("a matrix"));
    let config = AdirConfig { residual: Residual::Consistent, ..AdirConfig::default() };
    let guidance = AdirGuidance::new(first_pixel, column(vec![0.8]), config).expect("a guidance");
    let [a, b, c, d] = count(Some(&guidance));
    assert_eq!(a + b, 0);
    assert!((f64::from(c) - f64::from(d)).abs() < 4.0 * f64::sqrt(2000.0), "{c} and {d}");
}
