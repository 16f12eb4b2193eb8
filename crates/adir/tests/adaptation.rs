//! Adaptation against recordings: Adam and average of the reference implementation (mini_legacy's cases), LoRA as
//! separate branches in PyTorch (fixtures/lora.py), gradients by blocks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adir::adapt::{
    AdaptConfig, Adaptation, Adapter, AdapterInfo, CropScale, Provenance, RateSchedule, Stopped, Timesteps, Trained,
};
use adir::io::weights::{Dtype, WeightFile};
use adir::models::guided_diffusion::UNetConfig;
use adir::models::params::Params;
use adir::models::{Pixels, Prior, Pullback, Space};
use adir::operator::ImageShape;
use adir::optim::{AdaptedLayers, Batch, LevelWeights, Lora, Objective, batch_loss, loss_by_blocks, save_params};
use adir::schedule::Timestep;
use adir::tensor::{self, Compute, DType, Tensor, cpu, from_f32};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn open(name: &str) -> WeightFile {
    WeightFile::open(&fixtures().join(name)).unwrap()
}

fn model() -> Prior {
    model_in(DType::F32)
}

fn model_in(dtype: DType) -> Prior {
    let config = std::fs::read_to_string(fixtures().join("mini_legacy.json")).unwrap();
    let config = UNetConfig::from_json(&config).unwrap();
    Prior::load(&open("mini_legacy.weights.safetensors"), Some(config), &Compute::new(&cpu(), dtype)).unwrap()
}

fn relative(ours: &[f64], recorded: &[f64]) -> f64 {
    assert_eq!(ours.len(), recorded.len());
    assert!(ours.iter().all(|v| v.is_finite()));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut ours.iter().zip(recorded).map(|(a, b)| a - b)) / norm(&mut recorded.iter().copied())
}

fn images(file: &WeightFile, name: &str, from: usize) -> Tensor<4> {
    let count = 2 * 3 * 32 * 32;
    from_f32(file.read_f32(name).unwrap()[from * count..(from + 1) * count].to_vec(), [2, 3, 32, 32], &cpu())
}

/// The recorded batch of Adam step k: one t for both images.
fn batch(cases: &WeightFile, k: usize) -> Batch {
    let t = Timestep(cases.read_i64("adam.t").unwrap()[k] as u16);
    Batch {
        x0: images(cases, "train.x0", 0),
        eps: images(cases, "adam.noise", k),
        timesteps: vec![t; 2],
        conditioning: Vec::new(),
    }
}

fn config(trained: Trained) -> AdaptConfig {
    AdaptConfig { batch: 2, micro_batch: 2, crop: 32, scale: CropScale::Native, trained, ..AdaptConfig::paper() }
}

fn adaptation(config: AdaptConfig) -> Adaptation {
    let image = images(&open("mini_legacy.cases.safetensors"), "train.x0", 0).narrow(0, 0, 1);
    Adaptation::new(&model(), vec![image.clone(), image], config).unwrap()
}

fn values(params: &Params, name: &str) -> Vec<f64> {
    tensor::to_f64(&params.flat(params.layout().find(name).unwrap())).unwrap()
}

/// All weights, whole batches, in parts on threads and block by block: the reference's average after ten steps.
#[test]
fn a_full_adaptation_is_the_reference_s() {
    let cases = open("mini_legacy.cases.safetensors");
    let norms: Vec<(String, f64)> = cases
        .names()
        .filter_map(|name| Some((name.strip_prefix("train.grad_norm.")?.to_owned(), cases.read_f64(name).ok()?[0])))
        .collect();
    let largest = norms.iter().map(|(_, norm)| *norm).fold(0.0, f64::max);
    // What is zero but for rounding (also the keys of a qkv bias) Adam moves in any direction.
    let rounding: Vec<&str> =
        norms.iter().filter(|(_, n)| *n < 1e-6 * largest).map(|(name, _)| name.as_str()).collect();
    for (micro_batch, recompute) in [(2, false), (1, false), (2, true), (1, true)] {
        let mut run = adaptation(AdaptConfig { micro_batch, recompute, ..config(Trained::Full) });
        let losses: Vec<f64> = (0..10).map(|k| run.advance(&batch(&cases, k)).unwrap().loss).collect();
        assert!(relative(&losses, &cases.read_f64("adam.losses").unwrap()) < 1e-4, "{losses:?}");
        let Adapter::Full(average) = run.adapter() else { panic!("all weights") };
        let (mut compared, mut worst) = (0, 0.0_f64);
        for name in cases.names().filter_map(|name| name.strip_prefix("adam.ema.")) {
            if rounding.contains(&name) || name.ends_with("qkv.bias") {
                continue;
            }
            let recorded = cases.read_f64(&format!("adam.ema.{name}")).unwrap();
            worst = worst.max(relative(&values(&average, name), &recorded));
            compared += 1;
        }
        eprintln!("parts of {micro_batch}, by blocks: {recompute}: worst of {compared} {worst:.1e}");
        assert!(compared >= 5 && worst < 1e-4, "{worst:e} over {compared}");
        // The variance rows of the last layer take no part (spec 8, row 24).
        let rows = |params: &Params| values(params, "out.2.weight")[3 * 32 * 9..].to_vec();
        assert_eq!(rows(&average), rows(model().params()));
        assert_ne!(values(&average, "out.2.weight"), values(model().params(), "out.2.weight"));
    }
}

/// A network in bf16 learns what the reference learned in f32: its steps are smaller than bf16 can show.
#[test]
fn a_network_in_bf16_keeps_what_it_learns_in_f32() {
    let cases = open("mini_legacy.cases.safetensors");
    let image = images(&cases, "train.x0", 0).narrow(0, 0, 1);
    for recompute in [false, true] {
        let config = AdaptConfig { recompute, ..config(Trained::Full) };
        let mut run = Adaptation::new(&model_in(DType::BF16), vec![image.clone()], config).unwrap();
        let losses: Vec<f64> = (0..10).map(|k| run.advance(&batch(&cases, k)).unwrap().loss).collect();
        assert!(relative(&losses, &cases.read_f64("adam.losses").unwrap()) < 2e-2, "{losses:?}");
        let Adapter::Full(average) = run.adapter() else { panic!("all weights") };
        assert_eq!(average.dtype(), DType::F32);
        let (name, before) = ("middle_block.0.in_layers.2.weight", model_in(DType::BF16));
        let change = |after: &[f64]| -> Vec<f64> {
            after.iter().zip(values(before.params(), name)).map(|(a, b)| a - b).collect()
        };
        let recorded: Vec<f64> = {
            let before = values(model().params(), name);
            let after = cases.read_f64(&format!("adam.ema.{name}")).unwrap();
            after.iter().zip(before).map(|(a, b)| a - b).collect()
        };
        let error = relative(&change(&values(&average, name)), &recorded);
        eprintln!("by blocks: {recompute}: change of {name} {error:.1e}");
        assert!(error < 0.2, "{error:e}");
        assert_eq!(run.adapter().apply(before.params()).unwrap().dtype(), DType::BF16);
    }
    let refused = Adaptation::new(&model_in(DType::F16), vec![image], config(Trained::Full)).unwrap_err();
    assert!(refused.to_string().contains("use bf16 or f32"), "{refused}");
}

#[test]
fn lora_is_that_of_separate_branches_in_pytorch() {
    let (cases, recorded) = (open("mini_legacy.cases.safetensors"), open("lora_steps.safetensors"));
    for (micro_batch, recompute) in [(2, false), (1, false), (1, true)] {
        let trained = Trained::Lora { rank: 4, alpha: 2.0, layers: AdaptedLayers::Convolutions };
        let mut run =
            adaptation(AdaptConfig { micro_batch, recompute, seed: 9, learning_rate: 1e-3, ..config(trained) });
        let losses: Vec<f64> = (0..10).map(|k| run.advance(&batch(&cases, k)).unwrap().loss).collect();
        assert!(relative(&losses, &recorded.read_f64("losses").unwrap()) < 1e-4, "{losses:?}");
        let Adapter::Lora(lora) = run.adapter() else { panic!("factors") };
        let mut worst: (f64, &str) = (0.0, "");
        assert_eq!(recorded.names().count(), 1 + lora.factors().layout().specs().len());
        for spec in lora.factors().layout().specs() {
            let error = relative(&values(lora.factors(), &spec.name), &recorded.read_f64(&spec.name).unwrap());
            if error > worst.0 {
                worst = (error, &spec.name);
            }
        }
        eprintln!("parts of {micro_batch}, by blocks: {recompute}: worst factor {worst:?}");
        assert!(worst.0 < 1e-4, "{worst:?}");
    }
}

/// Gradients in the rank, in one graph and block by block, are those that follow from the gradients of the whole weights:
/// dB = s W' A^T, dA = s B^T W'; of convolutions, and of linear layers where they are asked for.
#[test]
fn gradients_of_factors_are_those_of_the_chain_rule() {
    const RANK: usize = 4;
    const ALPHA: f64 = 3.0;
    let (base, cases) = (model(), open("mini_legacy.cases.safetensors"));
    let batch = batch(&cases, 3);
    for layers in [AdaptedLayers::Convolutions, AdaptedLayers::ConvolutionsAndLinear] {
        let lora = Lora::new(base.params(), RANK, ALPHA, layers, 7).unwrap();
        // Both factors of the size that A begins with.
        let noise = adir::noise::Noise::new(2, adir::noise::Stream::Evaluation);
        let mut factors = lora.factors().clone();
        factors.update(|id, value| {
            let size = value.dims()[0];
            let drawn = noise.normal(id.index() as u32, size).iter().map(|z| z * 0.05).collect();
            value + from_f32(drawn, [size], &cpu())
        });
        let lora = lora.with_factors(factors);
        let objective = Objective::Simple(LevelWeights::EQUAL);
        let whole = base.with_params(lora.merged(base.params()));
        let whole = batch_loss(&whole, &batch, objective, DType::F32, 0.5).unwrap();
        let attached = base.with_params(lora.attached(base.params()));
        let at_once = batch_loss(&attached, &batch, objective, DType::F32, 0.5).unwrap();
        assert!((at_once.loss - whole.loss).abs() < 1e-7 * whole.loss);
        let mut by_blocks = vec![None; lora.factors().layout().specs().len()];
        loss_by_blocks(&attached, &batch, objective, 0.5, &mut |place, gradient| {
            assert!(by_blocks[place].replace(gradient).is_none(), "twice");
        })
        .unwrap();

        let mut adapted = 0;
        for (id, spec) in base.layout().ids().zip(base.layout().specs()).filter(|(_, s)| layers.include(s.role)) {
            let name = spec.name.trim_end_matches(".weight");
            let (rows, columns) = (spec.shape[0], spec.shape[1..].iter().product::<usize>());
            let place = |factor: &str| {
                lora.factors().layout().find(&format!("unet.{name}.lora_{factor}.weight")).unwrap().index()
            };
            let factor = |factor: &str| values(lora.factors(), &format!("unet.{name}.lora_{factor}.weight"));
            let (a, b) = (factor("A"), factor("B"));
            let whole = whole.gradients[id.index()].as_ref().map(|g| tensor::to_f64(g).unwrap()).unwrap();
            let (mut of_a, mut of_b) = (vec![0.0; a.len()], vec![0.0; b.len()]);
            for (i, row) in whole.chunks(columns).enumerate() {
                for r in 0..RANK {
                    for (j, w) in row.iter().enumerate() {
                        of_a[r * columns + j] += ALPHA / RANK as f64 * b[i * RANK + r] * w;
                        of_b[i * RANK + r] += ALPHA / RANK as f64 * a[r * columns + j] * w;
                    }
                }
            }
            assert_eq!(of_b.len(), rows * RANK);
            for found in [&at_once.gradients, &by_blocks] {
                for (which, expected) in [("A", &of_a), ("B", &of_b)] {
                    let found = tensor::to_f64(found[place(which)].as_ref().expect("a gradient")).unwrap();
                    let error = relative(&found, expected);
                    assert!(error < 2e-5, "{name}, {which}: {error:.1e}");
                }
            }
            adapted += 1;
        }
        assert_eq!(2 * adapted, by_blocks.len());
        let linear = lora.factors().layout().find("unet.time_embed.0.lora_A.weight").is_some();
        assert_eq!(linear, layers == AdaptedLayers::ConvolutionsAndLinear);
    }
}

/// Every recorded gradient, block by block.
#[test]
fn gradients_by_blocks_are_the_reference_s() {
    let (model, cases) = (model(), open("mini_legacy.cases.safetensors"));
    let t: Vec<Timestep> = cases.read_i64("train.t").unwrap().iter().map(|&t| Timestep(t as u16)).collect();
    let eps = images(&cases, "train.eps", 0);
    let mut found = vec![None; model.layout().specs().len()];
    let x0 = images(&cases, "train.x0", 0);
    let batch = Batch { x0, eps, timesteps: t, conditioning: Vec::new() };
    let loss = loss_by_blocks(&model, &batch, Objective::Simple(LevelWeights::EQUAL), 1.0, &mut |place, gradient| {
        assert!(found[place].replace(tensor::to_f64(&gradient).unwrap()).is_none(), "twice");
    })
    .unwrap();
    assert!((loss / cases.read_f64("train.loss").unwrap()[0] - 1.0).abs() < 1e-5);
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let recorded: Vec<(usize, f64)> = cases
        .names()
        .filter_map(|name| Some((model.layout().find(name.strip_prefix("train.grad_norm.")?)?, name)))
        .map(|(id, name)| (id.index(), cases.read_f64(name).unwrap()[0]))
        .collect();
    let largest = recorded.iter().map(|(_, norm)| *norm).fold(0.0, f64::max);
    assert_eq!(recorded.len(), found.len());
    for (id, expected) in recorded {
        let ours = norm(found[id].as_ref().expect("a gradient of every parameter"));
        let name = &model.layout().specs()[id].name;
        assert!(
            (ours - expected).abs() < 1e-4 * expected.max(1e-6 * largest) + 1e-6 * largest,
            "{name}: {ours} {expected}"
        );
    }
}

#[test]
fn strength_scales_the_change_of_the_weights() {
    let cases = open("mini_legacy.cases.safetensors");
    for trained in [Trained::Full, Trained::Lora { rank: 4, alpha: 2.0, layers: AdaptedLayers::Convolutions }] {
        let weights = |strength: f64| {
            let mut run = adaptation(AdaptConfig { strength, learning_rate: 1e-2, ..config(trained) });
            run.advance(&batch(&cases, 0)).unwrap();
            run.advance(&batch(&cases, 1)).unwrap();
            let applied = run.adapter().apply(model().params()).unwrap();
            applied.layout().ids().flat_map(|id| tensor::to_f64(&applied.flat(id)).unwrap()).collect::<Vec<_>>()
        };
        let base = model();
        let base = base.params().layout().ids().flat_map(|id| tensor::to_f64(&base.params().flat(id)).unwrap());
        let (once, far) = (weights(1.0), weights(2.5));
        let mut moved = 0.0f64;
        for ((base, once), far) in base.zip(&once).zip(&far) {
            // Rounding of f32 sums of numbers below 3.
            assert!((far - (base + 2.5 * (once - base))).abs() < 2e-6, "{base} {once} {far}");
            moved = moved.max((once - base).abs());
        }
        assert!(moved > 1e-3, "{moved}");
    }
}

/// The hash of the file that version 0.2.0 saved.
#[test]
fn weights_are_saved_as_the_same_bytes_as_ever() {
    let path = std::env::temp_dir().join(format!("adir-saved-{}.safetensors", std::process::id()));
    let metadata = std::collections::BTreeMap::from([("steps".to_owned(), "650".to_owned())]);
    save_params(&path, model().params(), Dtype::F16, &metadata).unwrap();
    let saved = WeightFile::open(&path).unwrap().sha256().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(saved.to_string(), "2e9aeba48aa190ba8781ac492da4d7ce89a14a48f1dcf3ac1c740e632a3a4c8a");
}

#[test]
fn an_adapter_comes_back_from_its_file_to_the_bit() {
    let cases = open("mini_legacy.cases.safetensors");
    let path = std::env::temp_dir().join(format!("adir-adapter-{}.safetensors", std::process::id()));
    let lora = |layers| Trained::Lora { rank: 4, alpha: 2.0, layers };
    for trained in [Trained::Full, lora(AdaptedLayers::Convolutions), lora(AdaptedLayers::ConvolutionsAndLinear)] {
        let mut run = adaptation(config(trained));
        run.advance(&batch(&cases, 0)).unwrap();
        run.advance(&batch(&cases, 1)).unwrap();
        let (model, adapter) = (model(), run.adapter());
        let info = AdapterInfo {
            also: Vec::new(),
            name: "test".into(),
            base: model.id().unwrap().to_string(),
            provenance: Provenance {
                version: Provenance::VERSION,
                base: model.id().unwrap().to_string(),
                images: Vec::new(),
                settings: config(trained),
                computed_in: None,
            },
            outcome: None,
            lora: None,
            serves: vec!["cd".repeat(32)],
        };
        adapter.save(&path, &info, &model).unwrap();
        let file = WeightFile::open(&path).unwrap();
        let found = Adapter::info(&file).unwrap();
        assert_eq!((found.name, found.serves), (info.name, info.serves));
        let loaded = Adapter::load(&file, &model).unwrap();
        let (before, after) = (adapter.apply(model.params()).unwrap(), loaded.apply(model.params()).unwrap());
        let mut changed = 0;
        for (id, spec) in before.layout().ids().zip(before.layout().specs()) {
            let bits = |p: &Params| tensor::to_f32(&p.flat(id)).unwrap();
            assert!(bits(&before) == bits(&after), "{}", spec.name);
            changed += usize::from(bits(&before) != bits(model.params()));
        }
        assert!(changed > 20, "{changed} parameters changed");
        let other = Adapter::load(&file, &model.with_params(before.clone())).unwrap_err().to_string();
        let own = &model.id().unwrap().as_str()[..12];
        assert!(other.contains(&format!("was made for the weights {own}")), "{other}");
    }
    std::fs::remove_file(&path).unwrap();
}

/// A run is a function of its settings: the same bits again, one t for all images of a step, other ones by seed.
#[test]
fn a_run_repeats_itself() {
    let run = |seed: u64, iterations: u32| {
        let mut run = adaptation(AdaptConfig { iterations, seed, crop: 16, flip: true, ..config(Trained::Full) });
        let steps: Vec<_> = run.by_ref().map(|s| s.unwrap()).collect();
        let Adapter::Full(params) = run.adapter() else { panic!("all weights") };
        (
            steps.len(),
            steps.iter().map(|s| (s.timestep, s.loss.to_bits())).collect::<Vec<_>>(),
            values(&params, "out.2.bias"),
        )
    };
    assert_eq!(run(1, 3), run(1, 3));
    assert_eq!(run(1, 3).0, 3);
    assert_ne!(run(1, 3).1, run(2, 3).1);
    let drawn = adaptation(config(Trained::Full)).draw().unwrap();
    assert_eq!(drawn.timesteps[0], drawn.timesteps[1]);
    assert_eq!(run(1, 0).0, 0);
}

/// A space whose states are the negatives of its images.
#[derive(Debug)]
struct Negative;

impl Space for Negative {
    fn state_shape(&self, image: ImageShape) -> ImageShape {
        image
    }
    fn encode(&self, image: &Tensor<4>) -> adir::Result<Tensor<4>> {
        Ok(-image.clone())
    }
    fn decode(&self, state: &Tensor<4>) -> adir::Result<Tensor<4>> {
        Ok(-state.clone())
    }
    fn decode_back(&self, state: &Tensor<4>) -> adir::Result<(Tensor<4>, Box<dyn Pullback>)> {
        let (state, back) = Pixels.decode_back(state)?;
        Ok((-state, Box::new(Minus(back))))
    }
}

struct Minus(Box<dyn Pullback>);

impl Pullback for Minus {
    fn x_t(&self, cotangent: &Tensor<4>) -> adir::Result<Tensor<4>> {
        self.0.x_t(&-cotangent.clone())
    }
}

/// What is trained on are the states of the images in the prior's space: with negatives as states, the same bits as
/// from negatives in pixels. So are the held-out losses.
#[test]
fn an_adaptation_trains_in_the_space_of_its_prior() {
    let image = images(&open("mini_legacy.cases.safetensors"), "train.x0", 0).narrow(0, 0, 1);
    let run = |prior: &Prior, image: &Tensor<4>| {
        let config = AdaptConfig { iterations: 2, crop: 16, held_out: true, ..config(Trained::Full) };
        let mut run = Adaptation::new(prior, vec![image.clone(); 5], config).unwrap();
        let losses: Vec<u64> = run.by_ref().map(|step| step.unwrap().loss.to_bits()).collect();
        (losses, run.held_out())
    };
    let (pixels, negative) = (model(), model().with_space(Arc::new(Negative)));
    assert_eq!(run(&negative, &image), run(&pixels, &-image.clone()));
    assert_ne!(run(&negative, &image), run(&pixels, &image));
}

/// What is held out tells overfitting from learning: it notices weights that got better and worse.
#[test]
fn held_out_images_tell_whether_it_helped() {
    let image = images(&open("mini_legacy.cases.safetensors"), "train.x0", 0).narrow(0, 0, 1);
    let run = |rate: f64| {
        let config = AdaptConfig {
            iterations: 40,
            learning_rate: rate,
            crop: 16,
            held_out: true,
            ema: 0.0,
            ..config(Trained::Full)
        };
        let mut run = Adaptation::new(&model(), vec![image.clone(); 5], config).unwrap();
        assert_eq!(run.images(), (4, 1));
        for step in run.by_ref() {
            step.unwrap();
        }
        run.held_out().unwrap()
    };
    // The network has random weights: anything learnt helps; far too large a step does not.
    let (good, bad) = (run(1e-3), run(0.5));
    assert!(good.helped() && good.significance > 2.0, "{good:?}");
    assert!(!bad.helped() && bad.significance < 0.0, "{bad:?}");
}

/// The rate of a triangle by hand: up over a tenth of the steps, times a line that reaches 0 after the last.
#[test]
fn the_rate_rises_and_falls() {
    let config = AdaptConfig { iterations: 20, learning_rate: 1.0, ..AdaptConfig::fast() };
    let triangle = AdaptConfig { rate_schedule: RateSchedule::Triangle, ..config.clone() };
    let rates: Vec<f64> = [0, 1, 2, 10, 19].iter().map(|&k| triangle.rate_at(k)).collect();
    for (found, expected) in rates.iter().zip([0.5, 0.95, 0.9, 0.5, 0.05]) {
        assert!((found - expected).abs() < 1e-12, "{rates:?}");
    }
    let warm_up = AdaptConfig { rate_schedule: RateSchedule::WarmUp, ..config.clone() };
    assert_eq!([0, 4, 19, 500].map(|k| warm_up.rate_at(k)), [0.05, 0.25, 1.0, 1.0]);
    let constant = AdaptConfig { rate_schedule: RateSchedule::Constant, ..config };
    assert_eq!((constant.rate_at(0), constant.rate_at(19)), (1.0, 1.0));
}

/// The paper has one timestep a step, uniform over all 1000; spread ones fall one into each n-th of the schedule.
#[test]
fn timesteps_are_shared_or_spread() {
    let draws = |timesteps: Timesteps| -> Vec<Vec<u16>> {
        let mut run = adaptation(AdaptConfig { timesteps, iterations: 40, batch: 4, ..config(Trained::Full) });
        let mut all = Vec::new();
        for _ in 0..8 {
            let batch = run.draw().unwrap();
            all.push(batch.timesteps.iter().map(|t| t.0).collect());
            run.advance(&batch).unwrap();
        }
        all
    };
    let shared = draws(Timesteps::Shared);
    assert!(
        shared.iter().all(|t| t.iter().all(|v| v == &t[0])) && shared.windows(2).any(|w| w[0] != w[1]),
        "{shared:?}"
    );
    let spread = draws(Timesteps::Spread);
    for t in &spread {
        let places: Vec<usize> = t.iter().map(|v| usize::from(*v) / 250).collect();
        assert_eq!(places, [0, 1, 2, 3], "{t:?}");
    }
    assert!(spread.windows(2).any(|w| w[0] != w[1]));
}

/// With halves, little noise and strong noise take turns; little noise has four times as many crops of half the side.
#[test]
fn halves_of_the_schedule_take_turns() {
    let config =
        AdaptConfig { timesteps: Timesteps::Halves, crop: 16, batch: 2, micro_batch: 1, ..config(Trained::Full) };
    let mut run = adaptation(config);
    for step in 0..4 {
        let batch = run.draw().unwrap();
        let places: Vec<usize> = batch.timesteps.iter().map(|t| usize::from(t.0)).collect();
        if step % 2 == 0 {
            assert_eq!(batch.x0.dims(), [8, 3, 8, 8]);
            let eighths: Vec<usize> = places.iter().map(|t| t * 16 / 1000).collect();
            assert_eq!(eighths, [0, 1, 2, 3, 4, 5, 6, 7], "{places:?}");
        } else {
            assert_eq!(batch.x0.dims(), [2, 3, 16, 16]);
            assert!((500..750).contains(&places[0]) && (750..1000).contains(&places[1]), "{places:?}");
        }
        run.advance(&batch).unwrap();
    }
}

/// Five images, the last of which is held out.
fn five(config: AdaptConfig) -> Adaptation {
    let image = images(&open("mini_legacy.cases.safetensors"), "train.x0", 0).narrow(0, 0, 1);
    let config = AdaptConfig { crop: 16, held_out: true, ema_grows: true, ema: 0.9, ..config };
    Adaptation::new(&model(), vec![image; 5], config).unwrap()
}

fn to_the_end(run: &mut Adaptation) -> u32 {
    run.by_ref().fold(0, |count, step| step.map(|_| count + 1).unwrap())
}

/// A rate at which nothing is learnt: it ends long before the budget does. One at which much is: it uses the budget.
#[test]
fn the_training_ends_when_the_held_out_loss_does_not_fall() {
    let run = |learning_rate: f64| {
        let mut run = five(AdaptConfig { iterations: 150, learning_rate, ..config(Trained::Full) });
        let steps = to_the_end(&mut run);
        (steps, run.held_out().unwrap())
    };
    let (steps, outcome) = run(1e-3);
    assert_eq!((steps, outcome.stopped), (150, Some(Stopped::Budget)), "{outcome:?}");
    assert_eq!(outcome.curve.iter().map(|p| p.step).collect::<Vec<_>>(), [25, 50, 100, 150]);
    let (steps, outcome) = run(1e-12);
    assert_eq!((steps, outcome.stopped), (100, Some(Stopped::NoGain)), "{outcome:?}");
}

/// As the base of another run, the result has the held-out loss that was promised.
#[test]
fn the_adapter_has_the_loss_that_is_told() {
    let config = AdaptConfig { iterations: 30, learning_rate: 1e-3, ..config(Trained::Full) };
    let mut run = five(config.clone());
    to_the_end(&mut run);
    let outcome = run.held_out().unwrap();
    let lowest = outcome.curve.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
    assert_eq!((outcome.best, outcome.after), (Some(lowest.step), lowest.loss));
    let adapted = model().with_params(run.adapter().apply(model().params()).unwrap());
    let image = images(&open("mini_legacy.cases.safetensors"), "train.x0", 0).narrow(0, 0, 1);
    let settings = AdaptConfig { crop: 16, held_out: true, iterations: 1, ..config };
    let mut again = Adaptation::new(&adapted, vec![image; 5], settings).unwrap();
    to_the_end(&mut again);
    assert_eq!(again.held_out().unwrap().before, outcome.after);
}

/// All weights of a network that knows nothing learn more than factors; where nothing is learnt, factors suffice.
#[test]
fn held_out_images_decide_which_weights_are_trained() {
    let auto = Trained::Auto { rank: 2, alpha: 2.0 };
    let run = |learning_rate: f64| {
        let mut run = five(AdaptConfig { iterations: 60, learning_rate, ..config(auto) });
        let total = run.total();
        assert_eq!((total, to_the_end(&mut run)), (110, 110));
        (run.held_out().unwrap(), run.adapter().lora())
    };
    let (outcome, factors) = run(1e-3);
    assert_eq!((outcome.trained, factors), (Some(Trained::Full), None));
    assert_eq!(outcome.curve.iter().map(|p| p.step).collect::<Vec<_>>(), [25, 50, 60]);
    assert_eq!(outcome.given_up.iter().map(|p| p.step).collect::<Vec<_>>(), [25, 50]);
    let (outcome, factors) = run(1e-12);
    assert_eq!((outcome.trained, factors), (Some(auto.low_rank()), Some((2, 2.0))));
    // Nothing held out, nothing to decide by.
    let mut alone = adaptation(AdaptConfig { iterations: 1, ..config(auto) });
    assert_eq!((to_the_end(&mut alone), alone.adapter().lora().is_some()), (1, true));
}

/// Stopped during the race and after the choice; continued with a larger budget, too.
#[test]
fn a_resumed_training_is_an_uninterrupted_one_to_the_bit() {
    let path = std::env::temp_dir().join(format!("adir-state-{}.checkpoint", std::process::id()));
    let settings = |iterations| {
        let timesteps = Timesteps::Halves;
        let auto = Trained::Auto { rank: 2, alpha: 2.0 };
        AdaptConfig { iterations, timesteps, learning_rate: 1e-3, flip: true, ..config(auto) }
    };
    let result = |run: &Adaptation| {
        let applied = run.adapter().apply(model().params()).unwrap();
        let bits = applied.layout().ids().flat_map(|id| tensor::to_f32(&applied.flat(id)).unwrap());
        (bits.map(f32::to_bits).collect::<Vec<_>>(), run.held_out().unwrap())
    };
    let mut whole = five(settings(60));
    to_the_end(&mut whole);
    let whole = result(&whole);
    let state = || WeightFile::open(&path).unwrap();
    let mut run = five(settings(57));
    for stop in [30, 105] {
        while run.taken() < stop {
            run.next().unwrap().unwrap();
        }
        run.save(&path, "this").unwrap();
        run = five(settings(60));
        run.resume(&state(), "this").unwrap();
    }
    assert_eq!(to_the_end(&mut run), 110 - 105);
    assert!(result(&run) == whole);
    let other = five(settings(60)).resume(&state(), "that").unwrap_err().to_string();
    assert!(other.contains("other images"), "{other}");
    std::fs::remove_file(&path).unwrap();
}

/// Steps, those of the race, and a measurement after 0, 25, 50, 100 ... steps and two more of the race.
#[test]
fn a_time_becomes_a_round_number_of_steps() {
    let lora = Trained::Lora { rank: 2, alpha: 2.0, layers: AdaptedLayers::Convolutions };
    let run = |trained| five(config(trained));
    // 0, 25, 50, 100, 125: 125 + 5 * 10.
    assert_eq!(run(lora).budget_within(175.0, 10.0), 125);
    assert_eq!(run(lora).budget_within(174.0, 10.0), 100);
    assert_eq!(run(Trained::Auto { rank: 2, alpha: 2.0 }).budget_within(245.0, 10.0), 125);
    assert_eq!(run(lora).budget_within(1200.0, 0.0), 1200);
    assert_eq!(run(lora).budget_within(1199.0, 0.0), 800);
    assert_eq!(run(lora).budget_within(0.0, 10.0), 25);
}

/// Weights by noise level (whose values tests/training.rs compares with PyTorch) reach every way of computing.
#[test]
fn noise_levels_are_weighted_in_parts_and_by_blocks_too() {
    let moved = |micro_batch, recompute, level_weights| {
        let timesteps = Timesteps::Spread;
        let config = AdaptConfig { micro_batch, recompute, level_weights, timesteps, ..config(Trained::Full) };
        let mut run = adaptation(config);
        for _ in 0..3 {
            let batch = run.draw().unwrap();
            run.advance(&batch).unwrap();
        }
        let Adapter::Full(average) = run.adapter() else { panic!("all weights") };
        let before = values(model().params(), "out.2.weight");
        values(&average, "out.2.weight").iter().zip(before).map(|(a, b)| a - b).collect::<Vec<_>>()
    };
    let weights = LevelWeights { k: 1e-3, gamma: 0.7 };
    let whole = moved(2, false, weights);
    for (micro_batch, recompute) in [(1, false), (2, true), (1, true)] {
        let error = relative(&moved(micro_batch, recompute, weights), &whole);
        assert!(error < 1e-3, "parts of {micro_batch}, by blocks: {recompute}: {error:.1e}");
    }
    let equal = relative(&moved(2, false, LevelWeights::EQUAL), &whole);
    assert!(equal > 0.1, "the weights change nothing: {equal:.1e}");
}
