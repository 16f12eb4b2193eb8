//! The samplers against their formulas, number by number: a network without any structure, recorded noise, and the
//! reference written out in scalars.

use std::sync::{Arc, Mutex};

use adir::guidance::{AdirConfig, AdirGuidance, Adjoint, Guidance, Residual, Strength};
use adir::models::{Conditioning, Denoiser, DenoiserInfo, Prediction, PredictionKind};
use adir::noise::{Noise, Stream};
use adir::sampler::{AncestralConfig, Chain, DdimConfig, EpsAfterGuidance, Inputs, Step, initial_noise};
use adir::schedule::{BetaSchedule, Respacing, Schedule, Timestep, VarianceKind};
use adir::tensor::{Tensor, cpu, from_f32, from_f64, to_f32, to_f64};
use adir::testing::{DenseOperator, assert_close};
use adir::{Error, Result};
use burn::tensor::DType;

const COLUMNS: usize = 4;
const MATRIX: [[f64; COLUMNS]; 2] = [[0.5, 0.4, 0.1, 0.0], [0.0, -0.3, 0.7, 0.6]];
const Y: [f64; 2] = [0.3, -0.5];

fn full_schedule() -> Schedule {
    Schedule::new(BetaSchedule::Linear, 1000).expect("a schedule")
}

fn respaced(steps: usize) -> Schedule {
    full_schedule().respaced(&Respacing::Sections(vec![steps])).expect("a respaced schedule")
}

fn eps_of(x: f64, t: f64) -> f64 {
    (0.8 * x + (0.01 * t).cos()).tanh()
}

/// Leaves [-1, 1] on purpose: the learned variance is not limited.
fn v_of(x: f64, t: f64) -> f64 {
    1.3 * (3.0 * x + t).sin()
}

/// A network that is an arbitrary function of x_t and t, and notes what it was asked.
struct Toy {
    info: DenoiserInfo,
    asked: Mutex<Vec<(u16, Conditioning)>>,
    learned_variance: bool,
    /// (timestep, whether in the variance): one value of the answer is NaN there.
    poison: Option<(u16, bool)>,
}

impl Toy {
    fn new() -> Self {
        Self { info: info(1), asked: Mutex::default(), learned_variance: true, poison: None }
    }
}

fn info(size_multiple: usize) -> DenoiserInfo {
    let (variance, prediction) = (VarianceKind::LearnedRange, PredictionKind::Epsilon);
    DenoiserInfo { channels: 1, size_multiple, schedule: full_schedule(), variance, prediction, errors: None }
}

impl Denoiser for Toy {
    fn info(&self) -> &DenoiserInfo {
        &self.info
    }

    fn predict(&self, x_t: &Tensor<4>, t: Timestep, conditioning: &Conditioning) -> Result<Prediction> {
        self.asked.lock().unwrap().push((t.0, conditioning.clone()));
        let map = |f: fn(f64, f64) -> f64, poisoned: bool| -> Result<Tensor<4>> {
            let mut values: Vec<f64> = to_f64(x_t)?.iter().map(|x| f(*x, f64::from(t.0))).collect();
            if poisoned {
                values[1] = f64::NAN;
            }
            Ok(from_f64(values, x_t.dims(), &x_t.device()).cast(x_t.dtype()))
        };
        let poisoned = |in_variance| self.poison == Some((t.0, in_variance));
        let variance = if self.learned_variance { Some(map(v_of, poisoned(true))?) } else { None };
        Ok(Prediction { eps: map(eps_of, poisoned(false))?, variance })
    }
}

fn recorded_noise(step: usize, index: usize) -> f64 {
    (1.0 + 3.7 * step as f64 + 1.9 * index as f64).sin() * 1.4
}

fn recording(step: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
    let values = (0..COLUMNS).map(|i| recorded_noise(step, i)).collect();
    Ok(from_f64(values, [1, 1, 1, COLUMNS], &like.device()).cast(like.dtype()))
}

fn x_initial() -> Vec<f64> {
    vec![1.2, -0.7, 0.1, 2.1]
}

fn row(values: &[f64]) -> Tensor<4> {
    from_f64(values.to_vec(), [1, 1, 1, values.len()], &cpu())
}

fn matrix_operator() -> Arc<DenseOperator> {
    Arc::new(DenseOperator::new(&MATRIX.map(|r| r.to_vec())).expect("a matrix"))
}

fn guidance(config: AdirConfig) -> AdirGuidance {
    AdirGuidance::new(matrix_operator(), row(&Y), config).expect("a guidance")
}

fn forward(x: &[f64]) -> Vec<f64> {
    MATRIX.iter().map(|r| r.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn backward(y: &[f64]) -> Vec<f64> {
    (0..COLUMNS).map(|j| MATRIX.iter().zip(y).map(|(r, v)| r[j] * v).sum()).collect()
}

fn zip(a: &[f64], b: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
}

/// The larger eigenvalue of the 2x2 matrix A A^T.
fn lambda() -> f64 {
    let dot = |i: usize, j: usize| -> f64 { MATRIX[i].iter().zip(MATRIX[j]).map(|(a, b)| a * b).sum() };
    let (half_trace, product) = ((dot(0, 0) + dot(1, 1)) / 2.0, dot(0, 0) * dot(1, 1) - dot(0, 1).powi(2));
    half_trace + (half_trace * half_trace - product).sqrt()
}

/// x0 and eps from x_t, both clipped or not.
fn estimate(schedule: &Schedule, i: usize, x: &[f64], clip: bool) -> (Vec<f64>, Vec<f64>) {
    let (t, ab) = (f64::from(schedule.timestep(i).0), schedule.alpha_bar(i));
    let eps: Vec<f64> = x.iter().map(|x| eps_of(*x, t)).collect();
    let x0 = zip(x, &eps, |x, e| (x - (1.0 - ab).sqrt() * e) / ab.sqrt());
    if !clip {
        return (x0, eps);
    }
    let x0: Vec<f64> = x0.iter().map(|v| v.clamp(-1.0, 1.0)).collect();
    let eps = zip(x, &x0, |x, x0| (x - ab.sqrt() * x0) / (1.0 - ab).sqrt());
    (x0, eps)
}

/// (1 or 1/lambda in A*, 1/lambda_max(A* A)).
fn adjoint_scales(adjoint: Adjoint) -> (f64, f64) {
    match adjoint {
        Adjoint::Normalized => (1.0 / lambda(), 1.0),
        Adjoint::Strict => (1.0, 1.0 / lambda()),
    }
}

/// One step of Algorithm 1, with s in `guided`.
fn algorithm_1(
    schedule: &Schedule,
    step: usize,
    x: &[f64],
    config: AncestralConfig,
    guided: Option<(f64, AdirConfig)>,
) -> Vec<f64> {
    let i = schedule.len() - 1 - step;
    let (beta, ab, previous) = (schedule.beta(i), schedule.alpha_bar(i), schedule.alpha_bar_prev(i));
    let beta_tilde = |i: usize| schedule.beta(i) * (1.0 - schedule.alpha_bar_prev(i)) / (1.0 - schedule.alpha_bar(i));
    let (x0, eps) = estimate(schedule, i, x, config.clip_x0);
    let (low, high) = (beta_tilde(i.max(1)).ln(), beta.ln());
    let sigma: Vec<f64> = x
        .iter()
        .map(|x| match config.variance {
            VarianceKind::LearnedRange => {
                let fraction = (v_of(*x, f64::from(schedule.timestep(i).0)) + 1.0) / 2.0;
                (fraction * high + (1.0 - fraction) * low).exp()
            }
            VarianceKind::FixedLarge => {
                if i == 0 {
                    low.exp()
                } else {
                    beta
                }
            }
            VarianceKind::FixedSmall => low.exp(),
        })
        .collect();
    // Eq. 5 in x_t and eps: with clipping it holds for the eps that belongs to the clipped x0.
    let mean = zip(x, &eps, |x, e| (x - beta / (1.0 - ab).sqrt() * e) / (1.0 - beta).sqrt());
    let mut next = mean.clone();
    if let Some((s, config)) = guided {
        let residual = match config.residual {
            Residual::Paper => {
                let y_t = zip(&Y, &forward(&eps), |y, a| ab.sqrt() * y + (1.0 - ab).sqrt() * a);
                zip(&forward(&mean), &y_t, |a, y| a - y)
            }
            Residual::Consistent => zip(&forward(&x0), &Y, |a, y| previous.sqrt() * (a - y)),
        };
        let (scale, limit) = adjoint_scales(config.adjoint);
        for (j, back) in backward(&residual).iter().enumerate() {
            let gain = 2.0 * s * sigma[j];
            next[j] -= back * scale * if config.cap { gain.min(limit) } else { gain };
        }
    }
    if i > 0 {
        for (j, value) in next.iter_mut().enumerate() {
            *value += sigma[j].sqrt() * recorded_noise(step, j);
        }
    }
    next
}

/// Every step against the reference from the same state: the toy network is chaotic and may amplify rounding.
fn follow(
    steps: impl Iterator<Item = Result<Step>>,
    schedule: &Schedule,
    reference: impl Fn(usize, &[f64]) -> Vec<f64>,
) {
    let mut x = x_initial();
    let mut count = 0;
    for (k, step) in steps.enumerate() {
        let step = step.expect("a step");
        let expected = reference(k, &x);
        x = to_f64(&step.x_t).expect("readable");
        assert_close(&x, &expected, 1e-11);
        assert_eq!((step.index, step.total), (k, schedule.len()));
        assert_eq!(step.timestep, schedule.timestep(schedule.len() - 1 - k));
        count += 1;
    }
    assert_eq!(count, schedule.len());
}

#[test]
fn ancestral_sampling_is_algorithm_1() {
    let toy = Toy::new();
    let schedule = respaced(20);
    for variance in [VarianceKind::LearnedRange, VarianceKind::FixedLarge, VarianceKind::FixedSmall] {
        for clip_x0 in [true, false] {
            let config = AncestralConfig { variance, clip_x0 };
            let plain = Inputs::new(&toy, &schedule, &recording);
            let steps = Chain::new(plain, config, row(&x_initial())).expect("a sampler");
            follow(steps, &schedule, |k, x| algorithm_1(&schedule, k, x, config, None));
            for residual in [Residual::Paper, Residual::Consistent] {
                for (adjoint, cap) in [(Adjoint::Normalized, true), (Adjoint::Strict, true), (Adjoint::Strict, false)] {
                    let guided =
                        AdirConfig { strength: Strength::Scale(7.0), residual, adjoint, cap, ..AdirConfig::default() };
                    let guidance = guidance(guided);
                    let inputs = Inputs { guidance: Some(&guidance), ..plain };
                    let steps = Chain::new(inputs, config, row(&x_initial())).expect("a sampler");
                    follow(steps, &schedule, |k, x| algorithm_1(&schedule, k, x, config, Some((7.0, guided))));
                }
            }
        }
    }
}

/// One DDIM step with the x0 form of the guidance; `s` may be infinite.
fn ddim(schedule: &Schedule, step: usize, x: &[f64], config: DdimConfig, guided: Option<(f64, Adjoint)>) -> Vec<f64> {
    let i = schedule.len() - 1 - step;
    let (ab, previous) = (schedule.alpha_bar(i), schedule.alpha_bar_prev(i));
    let (mut x0, mut eps) = estimate(schedule, i, x, config.clip_x0);
    if let Some((s, adjoint)) = guided {
        let (scale, limit) = adjoint_scales(adjoint);
        let gain = scale * limit.min(2.0 * s * (1.0 - ab));
        let back = backward(&zip(&forward(&x0), &Y, |a, y| a - y));
        x0 = zip(&x0, &back, |x0, b| x0 - gain * b);
        if config.eps_after_guidance == EpsAfterGuidance::Rederive {
            eps = zip(x, &x0, |x, x0| (x - ab.sqrt() * x0) / (1.0 - ab).sqrt());
        }
    }
    let sigma = config.eta * ((1.0 - previous) / (1.0 - ab)).sqrt() * (1.0 - ab / previous).sqrt();
    (0..COLUMNS)
        .map(|j| {
            previous.sqrt() * x0[j]
                + (1.0 - previous - sigma * sigma).max(0.0).sqrt() * eps[j]
                + sigma * recorded_noise(step, j)
        })
        .collect()
}

#[test]
fn ddim_sampling_is_its_formula() {
    let toy = Toy::new();
    let schedule = respaced(12);
    for eta in [0.0, 0.4, 1.0] {
        for clip_x0 in [true, false] {
            for eps_after_guidance in [EpsAfterGuidance::Keep, EpsAfterGuidance::Rederive] {
                let config = DdimConfig { eta, clip_x0, eps_after_guidance };
                let plain = Inputs::new(&toy, &schedule, &recording);
                let steps = Chain::new(plain, config, row(&x_initial())).expect("a sampler");
                follow(steps, &schedule, |k, x| ddim(&schedule, k, x, config, None));
                for adjoint in [Adjoint::Normalized, Adjoint::Strict] {
                    for (strength, s) in [(Strength::Scale(3.0), 3.0), (Strength::Projection, f64::INFINITY)] {
                        let guidance = guidance(AdirConfig { strength, adjoint, ..AdirConfig::default() });
                        let inputs = Inputs { guidance: Some(&guidance), ..plain };
                        let steps = Chain::new(inputs, config, row(&x_initial())).expect("a sampler");
                        follow(steps, &schedule, |k, x| ddim(&schedule, k, x, config, Some((s, adjoint))));
                    }
                }
            }
        }
    }
}

/// All samples of a run, with the given guidance, from `Noise` of seed 3.
fn run(kind: &str, guidance: Option<&dyn Guidance>, dtype: DType, resume: Option<(usize, Tensor<4>)>) -> Vec<Step> {
    let toy = Toy::new();
    let schedule = respaced(10);
    let noise = Noise::new(3, Stream::Sampling);
    let mut inputs = Inputs { guidance, ..Inputs::new(&toy, &schedule, &noise) };
    let mut x_t = initial_noise(&noise, [2, 1, 1, COLUMNS], &cpu(), dtype);
    if let Some((at, from)) = resume {
        inputs.resume_at = at;
        x_t = from;
    }
    let steps: Result<Vec<Step>> = match kind {
        "ancestral" => Chain::new(inputs, AncestralConfig::default(), x_t).expect("a sampler").collect(),
        _ => Chain::new(inputs, DdimConfig::default(), x_t).expect("a sampler").collect(),
    };
    steps.expect("no step fails")
}

fn bits(step: &Step) -> Vec<u64> {
    to_f64(&step.x_t).expect("readable").iter().map(|v| v.to_bits()).collect()
}

#[test]
fn strength_zero_is_the_unguided_sampler_bit_for_bit() {
    for dtype in [DType::F32, DType::F64] {
        let y = row(&Y).cast(dtype);
        let config = AdirConfig { strength: Strength::Scale(0.0), ..AdirConfig::default() };
        let zero = AdirGuidance::new(matrix_operator(), y, config).expect("a guidance");
        for kind in ["ancestral", "ddim"] {
            let (plain, guided) = (run(kind, None, dtype, None), run(kind, Some(&zero), dtype, None));
            assert_eq!(plain.len(), 10);
            for (a, b) in plain.iter().zip(&guided) {
                assert_eq!(bits(a), bits(b));
                assert!(a.residual_rms.is_none() && b.residual_rms.is_some_and(|r| r > 0.0));
            }
        }
    }
}

#[test]
fn precision_follows_the_initial_noise() {
    for kind in ["ancestral", "ddim"] {
        let strong = |dtype| {
            let config = AdirConfig { residual: Residual::Consistent, ..AdirConfig::default() };
            AdirGuidance::new(matrix_operator(), row(&Y).cast(dtype), config).expect("a guidance")
        };
        let double = run(kind, Some(&strong(DType::F64)), DType::F64, None);
        let single = run(kind, Some(&strong(DType::F32)), DType::F32, None);
        assert!(double.iter().all(|s| s.x_t.dtype() == DType::F64 && s.x0.dtype() == DType::F64));
        assert!(single.iter().all(|s| s.x_t.dtype() == DType::F32 && s.x0.dtype() == DType::F32));
        let last = |steps: &[Step]| to_f64(&steps[9].x_t).expect("readable");
        assert_close(&last(&single), &last(&double), 1e-4);
    }
}

#[test]
fn a_resumed_run_ends_in_the_same_bytes() {
    for kind in ["ancestral", "ddim"] {
        let whole = run(kind, None, DType::F32, None);
        for at in [1, 6, 9] {
            let rest = run(kind, None, DType::F32, Some((at, whole[at - 1].x_t.clone())));
            assert_eq!(rest.len(), 10 - at);
            assert_eq!(rest[0].index, at);
            assert_eq!(bits(&rest[rest.len() - 1]), bits(&whole[9]));
        }
        assert!(run(kind, None, DType::F32, Some((10, whole[9].x_t.clone()))).is_empty());
    }
}

#[test]
fn the_network_is_asked_for_original_timesteps_and_the_class() {
    let toy = Toy::new();
    let schedule = respaced(4);
    let inputs = Inputs { class: Some(17), ..Inputs::new(&toy, &schedule, &recording) };
    let mut sampler = Chain::new(inputs, DdimConfig::default(), row(&x_initial())).expect("a sampler");
    assert_eq!(sampler.size_hint(), (1, Some(4)));
    assert!(toy.asked.lock().unwrap().is_empty(), "nothing runs before the first next()");
    assert_eq!(sampler.by_ref().count(), 4);
    assert_eq!(sampler.size_hint(), (0, Some(0)));
    let asked: Vec<_> = toy.asked.lock().unwrap().iter().map(|(t, told)| (*t, told.class())).collect();
    assert_eq!(asked, [999, 666, 333, 0].map(|t| (t, Some(17))));
}

#[test]
fn a_nan_is_caught_in_the_step_that_makes_it() {
    let schedule = respaced(10);
    for at in 0..10 {
        let t = schedule.timestep(9 - at).0;
        for in_variance in [false, true] {
            let toy = Toy { poison: Some((t, in_variance)), ..Toy::new() };
            let inputs = Inputs::new(&toy, &schedule, &recording);
            let mut sampler = Chain::new(inputs, AncestralConfig::default(), row(&x_initial())).expect("a sampler");
            assert!(sampler.by_ref().take(at).all(|step| step.is_ok()));
            match sampler.next() {
                Some(Err(Error::Numerical(message))) => {
                    assert!(message.contains(&format!("step {} of 10 (t = {t})", at + 1)), "{message}");
                }
                other => panic!("{other:?} at {at}"),
            }
            assert!(sampler.next().is_none(), "over after an error");
        }
    }
    let nan_noise = |_: usize, like: &Tensor<4>| Ok(like.clone() * f64::NAN);
    let toy = Toy::new();
    let inputs = Inputs::new(&toy, &schedule, &nan_noise);
    let mut sampler = Chain::new(inputs, DdimConfig::default(), row(&x_initial())).expect("a sampler");
    assert!(matches!(sampler.next(), Some(Err(Error::Numerical(_)))));
}

/// Says that it takes multiples of four pixels, and answers in the wrong shape.
struct Wrong(DenoiserInfo);

impl Denoiser for Wrong {
    fn info(&self) -> &DenoiserInfo {
        &self.0
    }

    fn predict(&self, _: &Tensor<4>, _: Timestep, _: &Conditioning) -> Result<Prediction> {
        Ok(Prediction { eps: from_f32(vec![0.0; 16], [1, 1, 2, 8], &cpu()), variance: None })
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    fn config_error<T>(result: Result<T>, word: &str) {
        match result {
            Err(Error::Config(message)) => assert!(message.contains(word), "{message}"),
            Err(other) => panic!("{other:?} instead of a configuration error about {word}"),
            Ok(_) => panic!("no error about {word}"),
        }
    }
    let (toy, wrong) = (Toy { learned_variance: false, ..Toy::new() }, Wrong(info(4)));
    let (schedule, other) = (respaced(5), Schedule::new(BetaSchedule::Cosine, 1000).expect("a schedule"));
    let x = || row(&x_initial());
    let start = |inputs| Chain::new(inputs, DdimConfig::default(), x());
    config_error(start(Inputs::new(&toy, &other, &recording)), "schedule");
    config_error(start(Inputs { resume_at: 6, ..Inputs::new(&toy, &schedule, &recording) }), "resume");
    config_error(start(Inputs::new(&wrong, &schedule, &recording)), "multiples of 4");
    let inputs = Inputs::new(&toy, &schedule, &recording);
    for eta in [-0.1, 1.1, f64::NAN] {
        config_error(Chain::new(inputs, DdimConfig { eta, ..DdimConfig::default() }, x()), "eta");
    }
    let mut no_variance = Chain::new(inputs, AncestralConfig::default(), x()).expect("a sampler");
    config_error(no_variance.next().expect("a step"), "fixed_large");
    let square = from_f32(vec![0.1; 16], [1, 1, 4, 4], &cpu());
    let misshapen = Inputs::new(&wrong, &schedule, &recording);
    let mut sampler = Chain::new(misshapen, DdimConfig::default(), square).expect("a sampler");
    config_error(sampler.next().expect("a step"), "shape");
    let infinite = from_f32(vec![f32::INFINITY; 4], [1, 1, 1, 4], &cpu());
    assert!(matches!(Chain::new(inputs, DdimConfig::default(), infinite), Err(Error::Numerical(_))));
}

#[test]
fn initial_and_step_noise_are_of_one_stream_and_never_the_same() {
    use adir::sampler::NoiseSource;
    let noise = Noise::new(8, Stream::Sampling);
    let x_initial = initial_noise(&noise, [1, 1, 2, 2], &cpu(), DType::F32);
    let of = |step| to_f32(&noise.noise(step, &x_initial).expect("noise")).expect("readable");
    assert_eq!(to_f32(&x_initial).expect("readable"), noise.normal(0, 4));
    assert_eq!(of(0), noise.normal(1, 4));
    assert_eq!(of(7), noise.normal(8, 4));
}
