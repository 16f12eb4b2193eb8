//! The parts that solvers share, and what they make of a Gaussian prior, against closed forms.

use std::sync::{Arc, Mutex};

use adir::Result;
use adir::evaluate::observe;
use adir::guidance::{Guidance, ProximalConfig, ProximalGuidance, StepState, Target, Trust};
use adir::io::limits::Limits;
use adir::models::{Conditioning, Denoiser, DenoiserInfo, EstimateErrors, Pixels, Prediction};
use adir::noise::{Noise, Stream};
use adir::operator::{
    BicubicDownsample, Blur, Boundary, Gram, Identity, ImageShape, Kernel, LinearOperator, Mask, PixelMask, Solve,
    solve,
};
use adir::problem::Problem;
use adir::restore::{RestorePlan, SamplingConfig};
use adir::sampler::{
    Chain, EpsAfterGuidance, Inputs, Mixture, NoiseSource, RenoiseConfig, Stage, Stages, Start, initial_noise,
};
use adir::schedule::{BetaSchedule, Respacing, Schedule, Timestep};
use adir::task::{Hint, Method, Overrides, Preset};
use adir::tensor::{DType, Tensor, cpu, from_f64, to_f64};
use adir::testing::{GaussianDenoiser, assert_close};
use adir::units::NoiseLevel;

/// Prior of the one-pixel tests.
const MEAN: f64 = 0.3;
const VARIANCE: f64 = 0.2;
/// Observation of the one-pixel tests: y = GAIN x + e.
const GAIN: f64 = 0.6;
const SIGMA: f64 = 0.1;
const Y: f64 = 0.35;
const PIXEL: ImageShape = ImageShape::new(1, 1, 1);

fn trained() -> Schedule {
    Schedule::new(BetaSchedule::Linear, 1000).unwrap()
}

fn respaced(steps: usize) -> Schedule {
    trained().respaced(&Respacing::Sections(vec![steps])).unwrap()
}

fn pixel(v: f64) -> Tensor<4> {
    from_f64(vec![v], [1, 1, 1, 1], &cpu())
}

fn one(t: &Tensor<4>) -> f64 {
    to_f64(t).unwrap()[0]
}

fn prior() -> GaussianDenoiser {
    GaussianDenoiser::new(trained(), pixel(MEAN), pixel(VARIANCE))
}

/// A x = gain x, of which A A^T is known.
#[derive(Debug)]
struct Gain(f64);

impl LinearOperator for Gain {
    fn domain(&self) -> ImageShape {
        PIXEL
    }

    fn range(&self) -> ImageShape {
        PIXEL
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        Ok(x.clone().mul_scalar(self.0))
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        self.apply(y)
    }

    fn norm_squared(&self) -> f64 {
        self.0 * self.0
    }

    fn gram(&self) -> Option<Gram> {
        Some(Gram::scaled(PIXEL, self.0 * self.0))
    }
}

/// The noise with number `used` is a function of that number; which were used is noted.
struct Numbered<'a> {
    of: &'a (dyn Fn(usize) -> f64 + Sync),
    asked: Mutex<Vec<usize>>,
}

impl<'a> Numbered<'a> {
    fn new(of: &'a (dyn Fn(usize) -> f64 + Sync)) -> Self {
        Self { of, asked: Mutex::default() }
    }
}

impl NoiseSource for Numbered<'_> {
    fn noise(&self, step: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        self.start(step + 1, like)
    }

    fn start(&self, used: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        self.asked.lock().unwrap().push(used);
        Ok(like.zeros_like().add_scalar((self.of)(used)))
    }
}

fn waves(k: usize) -> f64 {
    1.2 * (0.5 + 2.3 * k as f64).sin()
}

fn renoise(mixture: Mixture, eps_after_guidance: EpsAfterGuidance) -> RenoiseConfig {
    RenoiseConfig { mixture, clip_x0: false, eps_after_guidance }
}

fn proximal(trust: Trust, sigma: f64, count_noise: bool) -> ProximalGuidance {
    ProximalGuidance::new(Arc::new(Gain(GAIN)), pixel(Y), ProximalConfig { trust, sigma, count_noise }).unwrap()
}

/// The ideal estimate and its eps at a level.
fn predict(x: f64, alpha_bar: f64) -> (f64, f64) {
    let eps = (1.0 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * MEAN) / (alpha_bar * VARIANCE + 1.0 - alpha_bar);
    ((x - (1.0 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt(), eps)
}

fn sample(schedule: &Schedule, rule: RenoiseConfig, guidance: Option<&dyn Guidance>, noise: &dyn NoiseSource) -> f64 {
    sample_of(&prior(), schedule, rule, guidance, noise)
}

fn sample_of(
    denoiser: &GaussianDenoiser,
    schedule: &Schedule,
    rule: RenoiseConfig,
    guidance: Option<&dyn Guidance>,
    noise: &dyn NoiseSource,
) -> f64 {
    let x_t = noise.start(0, &pixel(0.0)).unwrap();
    let inputs = Inputs { guidance, ..Inputs::new(denoiser, schedule, noise) };
    one(&Chain::new(inputs, rule, x_t).unwrap().last().unwrap().unwrap().x_t)
}

#[test]
fn every_mixture_is_its_formula() {
    let schedule = respaced(5);
    type Parts = fn(f64, f64) -> (f64, f64);
    let cases: [(Mixture, Parts); 3] = [
        (Mixture::Ddim(0.7), |ab, next| {
            let fresh = 0.7 * ((1.0 - next) / (1.0 - ab) * (1.0 - ab / next)).sqrt();
            (fresh, (1.0 - next - fresh * fresh).sqrt())
        }),
        (Mixture::Fresh(0.6), |_, next| (0.6 * (1.0 - next).sqrt(), 0.8 * (1.0 - next).sqrt())),
        (Mixture::Opposed(0.6), |_, next| (0.6 * (1.0 - next).sqrt(), -0.8 * (1.0 - next).sqrt())),
    ];
    for (mixture, parts) in cases {
        for after in [EpsAfterGuidance::Keep, EpsAfterGuidance::Rederive] {
            let guidance = proximal(Trust::Annealed { lambda: 2.0 }, SIGMA, false);
            let mut x = waves(0);
            for (k, i) in (0..5).rev().enumerate() {
                let (ab, next) = (schedule.alpha_bar(i), schedule.alpha_bar_prev(i));
                let (mut x0, mut eps) = predict(x, ab);
                let c = (1.0 - ab) / ab / (2.0 * SIGMA * SIGMA);
                x0 += c * GAIN / (1.0 + c * GAIN * GAIN) * (Y - GAIN * x0);
                if after == EpsAfterGuidance::Rederive {
                    eps = (x - ab.sqrt() * x0) / (1.0 - ab).sqrt();
                }
                let (fresh, kept) = parts(ab, next);
                x = if i == 0 { x0 } else { next.sqrt() * x0 + fresh * waves(k + 1) + kept * eps };
            }
            let found = sample(&schedule, renoise(mixture, after), Some(&guidance), &Numbered::new(&waves));
            assert_close(&[found], &[x], 1e-10);
        }
    }
}

/// With y's noise counted, what is in the next state (y's, fresh, kept eps) has the variance of its level, and eps is kept
/// as far as y does not decide.
#[test]
fn counted_noise_fills_up_to_the_level() {
    let schedule = respaced(5);
    let guidance = proximal(Trust::Calibrated { factor: 3.0 }, SIGMA, true);
    let table = EstimateErrors::new(vec![(1e-3, 2e-4), (1.0, 0.05), (100.0, 0.07)]).unwrap();
    let measured = |ab: f64| table.at(ab);
    for (errors, error) in
        [(None, &EstimateErrors::by_formula as &dyn Fn(f64) -> f64), (Some(table.clone()), &measured)]
    {
        for mixture in [Mixture::Fresh(0.6), Mixture::Opposed(0.6)] {
            let sign = if let Mixture::Opposed(_) = mixture { -1.0 } else { 1.0 };
            let mut x = waves(0);
            for (k, i) in (0..5).rev().enumerate() {
                let (ab, next) = (schedule.alpha_bar(i), schedule.alpha_bar_prev(i));
                let (x0, eps) = predict(x, ab);
                let c = 3.0 * error(ab) / (SIGMA * SIGMA);
                let h = c * GAIN * GAIN / (1.0 + c * GAIN * GAIN);
                let x0 = x0 + h * (Y / GAIN - x0);
                let kept = sign * 0.8 * (1.0 - next).sqrt() * (1.0 - h);
                let fresh = (1.0 - next - next * (h * SIGMA / GAIN).powi(2) - kept * kept).max(0.0).sqrt();
                x = if i == 0 { x0 } else { next.sqrt() * x0 + fresh * waves(k + 1) + kept * eps };
            }
            let rule = renoise(mixture, EpsAfterGuidance::Keep);
            assert_close(
                &[sample_of(
                    &prior().with_errors(errors.clone()),
                    &schedule,
                    rule,
                    Some(&guidance),
                    &Numbered::new(&waves),
                )],
                &[x],
                1e-10,
            );
        }
    }
}

/// The sampler is affine in its noises: a unit of each in turn gives the variance of the samples without sampling.
fn moments(run: impl Fn(&dyn NoiseSource) -> f64, noises: usize) -> (f64, f64) {
    let mean = run(&Numbered::new(&|_| 0.0));
    let unit = |k: usize| (run(&Numbered::new(&move |used| f64::from(used == k))) - mean).powi(2);
    (mean, (0..noises).map(unit).sum())
}

/// Without guidance and with the exact denoiser, DDIM of any eta ends in the prior, up to the length of its steps. Opposed and fully fresh noise do not:
/// they end near its mean, which is what they are for.
#[test]
fn mixtures_sample_the_prior_or_find_its_mean() {
    let steps = 300;
    let schedule = respaced(steps);
    let of =
        |mixture| moments(|noise| sample(&schedule, renoise(mixture, EpsAfterGuidance::Keep), None, noise), steps + 1);
    for eta in [0.0, 0.5, 1.0] {
        let (mean, variance) = of(Mixture::Ddim(eta));
        assert!((mean - MEAN).abs() < 0.01 && (variance / VARIANCE - 1.0).abs() < 0.06, "{eta}: {mean}, {variance}");
    }
    for (mixture, most) in [(Mixture::Opposed(0.3), 0.03), (Mixture::Fresh(1.0), 0.5)] {
        let (mean, variance) = of(mixture);
        assert!((mean - MEAN).abs() < 1e-3 && variance < most * VARIANCE, "{mixture:?}: {mean}, {variance}");
    }
}

/// A prior that knows its mean only, and notes every state it is asked about.
struct Asked(DenoiserInfo, Mutex<Vec<(u16, f64)>>);

impl Denoiser for Asked {
    fn info(&self) -> &DenoiserInfo {
        &self.0
    }

    fn predict(&self, x_t: &Tensor<4>, t: Timestep, conditioning: &Conditioning) -> Result<Prediction> {
        self.1.lock().unwrap().push((t.0, one(x_t)));
        prior().predict(x_t, t, conditioning)
    }
}

/// Each stage starts as it says, from the estimate of the one before, and no number of noise is used twice.
#[test]
fn stages_start_as_they_say_and_use_no_noise_twice() {
    let (long, short) = (trained().at(&[10, 300, 700]).unwrap(), trained().at(&[5, 200]).unwrap());
    let rule = || Box::new(renoise(Mixture::Fresh(1.0), EpsAfterGuidance::Keep));
    let denoiser = Asked(prior().info().clone(), Mutex::default());
    let noise = Numbered::new(&waves);
    let ddrm = proximal(Trust::Ddrm { eta: 0.85, eta_b: 1.0 }, SIGMA, true);
    let stage = |schedule, start| Stage { schedule, rule: rule(), guidance: None, start };
    let stages = vec![
        stage(&long, Start::Noise),
        stage(&short, Start::Estimate),
        stage(&short, Start::Noisy),
        Stage { guidance: Some(&ddrm), ..stage(&short, Start::Observed) },
    ];
    let steps: Vec<_> =
        Stages::new(Inputs::new(&denoiser, &long, &noise), stages, pixel(9.0)).map(|step| step.unwrap()).collect();
    assert_eq!(
        steps.iter().map(|step| (step.index, step.total)).collect::<Vec<_>>(),
        (0..9).map(|i| (i, 9)).collect::<Vec<_>>()
    );
    // One for each start but the noisy one, and one for each step that is not the last of its stage.
    assert_eq!(*noise.asked.lock().unwrap(), [0, 1, 2, 4, 5, 8, 10, 11]);
    let asked = denoiser.1.lock().unwrap();
    let ab = short.alpha_bar(1);
    let (scale, spread) = (ab.sqrt(), (1.0 - ab).sqrt());
    let expected = [
        (700, waves(0)),
        (200, scale * one(&steps[2].x0) + spread * waves(4)),
        (200, scale * one(&steps[4].x0)),
        (200, scale * Y / GAIN + (1.0 - ab - ab * (SIGMA / GAIN).powi(2)).sqrt() * waves(10)),
    ];
    for (at, (t, x)) in [0, 3, 5, 7].into_iter().zip(expected) {
        assert_eq!(asked[at].0, t);
        assert_close(&[asked[at].1], &[x], 1e-12);
    }
    let unguided = vec![stage(&short, Start::Observed)];
    assert!(Stages::new(Inputs::new(&denoiser, &short, &noise), unguided, pixel(0.0)).next().unwrap().is_err());
}

#[test]
fn one_stage_from_noise_is_a_chain_from_the_initial_noise() {
    let (schedule, denoiser, noise) = (respaced(7), prior(), Noise::new(4, Stream::Sampling));
    let rule = renoise(Mixture::Fresh(0.5), EpsAfterGuidance::Keep);
    let inputs = Inputs::new(&denoiser, &schedule, &noise);
    let x_t = initial_noise(&noise, [1, 1, 1, 1], &cpu(), DType::F64);
    let chain = Chain::new(inputs, rule, x_t).unwrap().last().unwrap().unwrap();
    let stage = Stage { schedule: &schedule, rule: Box::new(rule), guidance: None, start: Start::Noise };
    let stages = Stages::new(inputs, vec![stage], pixel(0.0)).last().unwrap().unwrap();
    assert_eq!(one(&chain.x_t), one(&stages.x_t));
}

const SIDE: usize = 16;
const SHAPE: ImageShape = ImageShape::new(1, SIDE, SIDE);

fn image(value: impl Fn(f64) -> f64) -> Tensor<4> {
    let values = (0..SIDE * SIDE).map(|i| value(i as f64)).collect();
    from_f64(values, [1, 1, SIDE, SIDE], &cpu()).cast(DType::F32)
}

fn operators() -> [(Arc<dyn LinearOperator>, Hint); 4] {
    let known = (0..SIDE * SIDE).map(|i| (2.3 * i as f64 + 0.2 * (i * i) as f64).sin() > 0.0).collect();
    let mask = Mask::new(SIDE, SIDE, known).unwrap();
    let kernel = Kernel::from_values(3, 3, vec![1.0, 4.0, 1.0, 4.0, 16.0, 4.0, 1.0, 4.0, 1.0]).unwrap();
    [
        (Arc::new(BicubicDownsample::new(SHAPE, 4).unwrap()), Hint::ShrinksBy(4)),
        (Arc::new(PixelMask::new(SHAPE, mask).unwrap()), Hint::Hides),
        (Arc::new(Blur::new(SHAPE, kernel, Boundary::Circular).unwrap()), Hint::Blurs),
        (Arc::new(Identity::new(SHAPE).unwrap()), Hint::Identity),
    ]
}

/// White prior of mean 0.1 and variance 0.15, a truth that is a sample of it, and its observation.
struct Scene {
    operator: Arc<dyn LinearOperator>,
    hint: Hint,
    sigma: f64,
    y: Tensor<4>,
}

const WHITE: (f64, f64) = (0.1, 0.15);

impl Scene {
    fn new((operator, hint): (Arc<dyn LinearOperator>, Hint), sigma: f64) -> Self {
        let (truth, e) = (Noise::new(8, Stream::Evaluation), Noise::new(8, Stream::Degradation));
        let x = truth.normal_tensor(0, [1, 1, SIDE, SIDE], &cpu(), DType::F32).mul_scalar(WHITE.1.sqrt());
        let y = operator.apply(&x.add_scalar(WHITE.0)).unwrap();
        let e = e.normal_tensor(0, y.dims(), &cpu(), DType::F32).mul_scalar(sigma);
        let e = if operator.observed().is_some() { operator.apply(&e).unwrap() } else { e };
        Self { operator, hint, sigma, y: y + e }
    }

    fn restore(&self, overrides: Overrides) -> Tensor<4> {
        let denoiser = GaussianDenoiser::new(trained(), image(|_| WHITE.0), image(|_| WHITE.1));
        let problem = Problem::with_operator(self.operator.clone(), self.hint).sigma(self.sigma * 127.5);
        let measurement = problem.measure(&self.y, NoiseLevel(0.0), 1, &Limits::default()).unwrap();
        let overrides = Overrides { clip_x0: Some(false), ..overrides };
        let sampling = SamplingConfig { preset: Preset::Fast, overrides, seed: 3, class: None, adapted: false };
        let plan = RestorePlan::new(measurement, &sampling, denoiser.info()).unwrap();
        let noise = plan.noise(0);
        plan.sampler(&denoiser, &Pixels, &noise).unwrap().last().unwrap().unwrap().x_t
    }

    /// E[x | y] = m + v A^T (v A A^T + sigma^2)^-1 (y - A m).
    fn posterior_mean(&self) -> Tensor<4> {
        let mean = image(|_| WHITE.0);
        let residual = self.y.clone() - self.operator.apply(&mean).unwrap();
        let damping = self.sigma * self.sigma / WHITE.1;
        let u = solve(self.operator.as_ref(), 1.0, damping, &residual, &Solve::default()).unwrap();
        mean + self.operator.adjoint(&u).unwrap()
    }
}

fn norm(t: Tensor<4>) -> f64 {
    to_f64(&t).unwrap().iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Without noise every exact posterior lies on A x = y.
#[test]
fn without_noise_solvers_end_on_the_observation() {
    for (operator, hint) in operators().into_iter().take(2) {
        let scene = Scene::new((operator.clone(), hint), 0.0);
        for (method, steps) in
            [(Method::Staged, "10"), (Method::Ddnm, "20"), (Method::Ddrm, "ddim20"), (Method::Daps, "50")]
        {
            let given = Overrides { method: Some(method), steps: Some(steps.into()), ..Overrides::default() };
            let misfit = norm(operator.apply(&scene.restore(given)).unwrap() - scene.y.clone());
            assert!(misfit < 1e-5 * norm(scene.y.clone()), "{method} of {hint:?}: {misfit:e}");
        }
    }
}

/// The aim 0 of the staged method, by its distance from the mean of the posterior in standard deviations of the prior (a
/// white one, for which the method's trust in y is not made). In denoising it is that mean.
#[test]
fn the_faithful_answer_is_near_the_posterior_mean() {
    for ((scene, sigma), most) in operators().into_iter().zip([0.0, 0.0, 0.05, 0.2]).zip([0.15, 0.15, 0.25, 0.01]) {
        let scene = Scene::new(scene, sigma);
        let found = scene.restore(Overrides { aim: Some(0.0), ..Overrides::default() });
        let distance = norm(found - scene.posterior_mean()) / (WHITE.1 * SHAPE.elements() as f64).sqrt();
        println!("{:?}: {distance:.4}", scene.hint);
        assert!(distance < most, "{:?}: {distance}", scene.hint);
    }
}

/// The solution of a dense system, row by row.
fn dense(mut rows: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for k in 0..n {
        for i in k + 1..n {
            let factor = rows[i][k] / rows[k][k];
            let (above, below) = rows.split_at_mut(i);
            below[0].iter_mut().zip(&above[k]).skip(k).for_each(|(v, pivot)| *v -= factor * pivot);
            right[i] -= factor * right[k];
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|j| rows[k][j] * right[j]).sum();
        right[k] = (right[k] - known) / rows[k][k];
    }
    right
}

/// Noise that grows with the signal, from dark at the left to bright at the right: a data step finds the mean of the
/// posterior, m + r^2 A^T (r^2 A A^T + diag(variances))^-1 (y - A m), written out densely.
#[test]
fn every_value_counts_by_its_own_noise() {
    let ramp = |i: f64| -0.95 + 1.9 * (i % SIDE as f64) / (SIDE - 1) as f64;
    let (schedule, mean) = (trained(), image(ramp).cast(DType::F64));
    let (index, zeros) = (400, mean.zeros_like());
    let error = EstimateErrors::by_formula(schedule.alpha_bar(index));
    for (operator, hint) in operators() {
        let truth = Noise::new(8, Stream::Evaluation).normal_tensor(0, [1, 1, SIDE, SIDE], &cpu(), DType::F64);
        let truth = truth * 0.05 + mean.clone();
        let y = observe(operator.as_ref(), &truth, NoiseLevel(0.05), Some(3.0), 1).unwrap();
        let problem = Problem::with_operator(operator.clone(), hint).sigma(6.375).gain(3.0);
        let measured = problem.measure(&y, NoiseLevel(0.0), 1, &Limits::default()).unwrap();
        let level = measured.sigma().0;
        let variances: Vec<f64> = measured.weights().unwrap().iter().map(|w| (level / w).powi(2)).collect();
        let (least, most) = variances.iter().fold((f64::MAX, 0.0_f64), |(a, b), v| (a.min(*v), b.max(*v)));
        assert!(most > 3.0 * least, "{least} {most}");
        let step = |operator: Arc<dyn LinearOperator>, y: Tensor<4>, sigma: f64| {
            let config = ProximalConfig { trust: Trust::Calibrated { factor: 1.0 }, sigma, count_noise: true };
            let guidance = ProximalGuidance::new(operator, y, config).unwrap();
            let state =
                StepState { schedule: &schedule, index, x_t: &zeros, x0: &mean, eps: &zeros, back: None, errors: None };
            to_f64(&(mean.clone() + guidance.correct(&state, Target::X0).unwrap().shift.unwrap())).unwrap()
        };
        let (white, y_white) = measured.whitened().unwrap();
        let found = step(white, y_white, level);
        let range = operator.range();
        let unit = |i: usize| {
            let values = (0..range.pixels()).map(|j| if i == j { 1.0 } else { 0.0 }).collect();
            from_f64(values, [1, 1, range.height, range.width], &cpu())
        };
        let row = |i: usize| {
            let row = operator.apply(&operator.adjoint(&unit(i)).unwrap()).unwrap();
            let row = to_f64(&row).unwrap().into_iter().enumerate();
            row.map(|(j, v)| error * v + if i == j { variances[i] } else { 0.0 }).collect()
        };
        let rows = (0..range.pixels()).map(row).collect();
        let residual = to_f64(&(measured.y().clone() - operator.apply(&mean).unwrap())).unwrap();
        let solved = from_f64(dense(rows, residual), [1, 1, range.height, range.width], &cpu());
        let expected = to_f64(&(mean.clone() + operator.adjoint(&solved).unwrap() * error)).unwrap();
        let distance = |found: &[f64]| {
            let squares = found.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            squares.sqrt() / norm(truth.clone() - mean.clone())
        };
        let alike = step(operator.clone(), measured.y().clone(), measured.unevenness().unwrap().mean.0);
        let (near, far) = (distance(&found), distance(&alike));
        assert!(near < 2e-3 && far > 0.05, "{hint:?}: {near}, with the mean variance {far}");
    }
}
