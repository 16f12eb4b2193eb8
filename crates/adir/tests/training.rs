//! The trainer against PyTorch: ten steps of tools/train_prior.py's loss, AdamW and average from the same weights,
//! crops, timesteps and noise (recorded by fixtures/train.py).

use std::path::{Path, PathBuf};

use adir::io::weights::{TensorToWrite, WeightFile, write_safetensors};
use adir::models::Prior;
use adir::models::guided_diffusion::UNetConfig;
use adir::noise::{Noise, Stream};
use adir::optim::{Batch, LevelWeights};
use adir::schedule::Timestep;
use adir::tensor::{self, Compute, DType, cpu, from_f32};
use adir::train::{Length, TrainConfig, Trainer};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn relative(ours: &[f64], recorded: &[f64]) -> f64 {
    assert_eq!(ours.len(), recorded.len());
    assert!(ours.iter().all(|v| v.is_finite()));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    norm(&mut ours.iter().zip(recorded).map(|(a, b)| a - b)) / norm(&mut recorded.iter().copied())
}

fn config(micro_batch: usize) -> TrainConfig {
    let network = std::fs::read_to_string(fixtures().join("mini_legacy.json")).unwrap();
    TrainConfig {
        batch: 4,
        micro_batch,
        crop: 16,
        warm_up: 5,
        ..TrainConfig::new(UNetConfig::from_json(&network).unwrap(), Length::Steps(10))
    }
}

fn initial(config: &TrainConfig) -> adir::models::params::Params {
    let file = WeightFile::open(&fixtures().join("mini_legacy.weights.safetensors")).unwrap();
    Prior::load(&file, Some(config.network.clone()), &Compute::default()).unwrap().params().clone()
}

struct Recording(WeightFile);

impl Recording {
    fn open() -> Self {
        Self(WeightFile::open(&fixtures().join("train_steps.safetensors")).unwrap())
    }

    fn batch(&self, step: usize) -> Batch {
        let image = |name: &str| {
            let count = 4 * 3 * 16 * 16;
            let values = self.0.read_f32(name).unwrap()[step * count..(step + 1) * count].to_vec();
            from_f32(values, [4, 3, 16, 16], &cpu())
        };
        let t = &self.0.read_i64("t").unwrap()[4 * step..4 * step + 4];
        Batch {
            x0: image("x0"),
            eps: image("eps"),
            timesteps: t.iter().map(|&t| Timestep(t as u16)).collect(),
            conditioning: Vec::new(),
        }
    }
}

/// Whole batches and parts on several threads: both are what PyTorch computes.
#[test]
fn ten_steps_are_those_of_pytorch() {
    let recording = Recording::open();
    for micro_batch in [4, 3, 1] {
        let config = config(micro_batch);
        let mut trainer = Trainer::new(config.clone(), Some(initial(&config)), &Compute::default()).unwrap();
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for step in 0..10 {
            let report = trainer.step(&recording.batch(step)).unwrap();
            losses.push(report.loss);
            norms.push(report.gradient_norm);
        }
        let recorded = |name: &str| recording.0.read_f64(name).unwrap();
        for (ours, recorded) in losses.iter().zip(recorded("simple")) {
            assert!((ours / recorded - 1.0).abs() < 1e-3, "{losses:?}");
        }
        for (ours, recorded) in norms.iter().zip(recorded("norm")) {
            assert!((ours / recorded - 1.0).abs() < 1e-3, "{norms:?}");
        }
        let average = trainer.averaged();
        let mut worst: (f64, String) = (0.0, String::new());
        let mut compared = 0;
        for (prefix, params) in [("weight.", trainer.params()), ("average.", average.params())] {
            for name in recording.0.names().filter_map(|name| name.strip_prefix(prefix)) {
                let id = params.layout().find(name).unwrap();
                let ours = tensor::to_f64(&params.flat(id)).unwrap();
                let error = relative(&ours, &recorded(&format!("{prefix}{name}")));
                compared += 1;
                if error > worst.0 {
                    worst = (error, format!("{prefix}{name}"));
                }
            }
        }
        eprintln!("parts of {micro_batch}: worst of {compared} tensors {worst:?}");
        assert!(compared > 180 && worst.0 < 1e-4, "{worst:?}");
    }
}

/// Weights by noise level change what is minimised, by the factors of the published definition.
#[test]
fn ten_steps_with_p2_weights_are_those_of_pytorch() {
    let recording = Recording::open();
    let weighted = WeightFile::open(&fixtures().join("train_p2.safetensors")).unwrap();
    let config = TrainConfig { level_weights: LevelWeights { k: 0.01, gamma: 0.6 }, ..config(3) };
    let mut trainer = Trainer::new(config.clone(), Some(initial(&config)), &Compute::default()).unwrap();
    let recorded = |name: &str| weighted.read_f64(name).unwrap();
    for (step, (simple, norm)) in recorded("simple").into_iter().zip(recorded("norm")).enumerate() {
        let report = trainer.step(&recording.batch(step)).unwrap();
        assert!((report.loss / simple - 1.0).abs() < 1e-4, "step {step}: {} and {simple}", report.loss);
        assert!((report.gradient_norm / norm - 1.0).abs() < 1e-3, "step {step}: {} and {norm}", report.gradient_norm);
    }
}

/// Tensors asked for one by one make the same file as all of them at once.
fn assert_is_as_written_at_once(path: &Path) {
    let file = WeightFile::open(path).unwrap();
    let read = |name| (name, file.info(name).unwrap(), file.read_f32(name).unwrap());
    let held: Vec<_> = file.names().map(read).collect();
    let tensors: Vec<_> = (held.iter())
        .map(|(name, info, values)| TensorToWrite { name, shape: &info.shape, dtype: info.dtype, values })
        .collect();
    let other = path.with_extension("at_once");
    write_safetensors(&other, &tensors, file.metadata()).unwrap();
    assert!(std::fs::read(&other).unwrap() == std::fs::read(path).unwrap());
    std::fs::remove_file(other).unwrap();
}

/// A checkpoint holds everything: after it the training goes on as if it had not been interrupted.
#[test]
fn a_resumed_training_computes_the_same_bits() {
    let recording = Recording::open();
    let path = std::env::temp_dir().join(format!("adir-resume-{}.checkpoint", std::process::id()));
    let config = config(2);
    let run = |interrupted: bool| {
        let mut trainer = Trainer::new(config.clone(), None, &Compute::default()).unwrap();
        for step in 0..6 {
            if interrupted && step == 3 {
                trainer.save(&path).unwrap();
                assert_is_as_written_at_once(&path);
                trainer = Trainer::resume(&WeightFile::open(&path).unwrap(), &Compute::default()).unwrap();
            }
            trainer.step(&recording.batch(step)).unwrap();
        }
        let average = trainer.averaged();
        let all = [trainer.params().clone(), average.params().clone()];
        all.iter().flat_map(|p| p.layout().ids().map(|id| tensor::to_f32(&p.flat(id)).unwrap())).collect::<Vec<_>>()
    };
    let (whole, resumed) = (run(false), run(true));
    std::fs::remove_file(&path).unwrap();
    assert!(whole == resumed, "weights differ after resuming");
}

/// The number of threads decides who computes a part, not what comes out.
#[test]
fn threads_do_not_change_a_step() {
    let recording = Recording::open();
    let config = config(1);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trainer = Trainer::new(config.clone(), Some(initial(&config)), &Compute::default()).unwrap();
            for step in 0..2 {
                trainer.step(&recording.batch(step)).unwrap();
            }
            let params = trainer.params().clone();
            params.layout().ids().map(|id| tensor::to_f32(&params.flat(id)).unwrap()).collect::<Vec<_>>()
        })
    };
    assert!(run(1) == run(3), "weights differ between 1 and 3 threads");
}

#[test]
fn a_network_that_overfits_one_image_learns_it() {
    let config = TrainConfig { batch: 2, micro_batch: 2, crop: 16, learning_rate: 2e-3, ..config(2) };
    let mut trainer =
        Trainer::new(TrainConfig { length: Length::Steps(200), ..config }, None, &Compute::default()).unwrap();
    let wave = |i: usize| (0.7 * (i % 16) as f32 + 0.4 * (i / 16 % 16) as f32).sin();
    let image: Vec<f32> = (0..2 * 3 * 256).map(|i| wave(i % 256)).collect();
    let x0 = from_f32(image, [2, 3, 16, 16], &cpu());
    let noise = Noise::new(1, Stream::Evaluation);
    let mut losses = Vec::new();
    for step in 0..200 {
        let eps = noise.normal_tensor(step, [2, 3, 16, 16], &cpu(), DType::F32);
        let timesteps = (0..2).map(|k| Timestep(noise.below(step, k, 1000) as u16)).collect();
        losses.push(trainer.step(&Batch { x0: x0.clone(), eps, timesteps, conditioning: Vec::new() }).unwrap().loss);
    }
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[160..]));
    assert!(last * 10.0 < first, "from {first} to {last}");
}
