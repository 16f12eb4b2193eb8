//! Stable Diffusion's parts beside diffusers and transformers, with small models that keep every structural option. The
//! fixtures come from fixtures/stable_diffusion.py; weights are a function of their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use adir::compute::WeightPrecision;
use adir::io::weights::{Dtype, TensorToWrite, WeightFile, write_safetensors};
use adir::latent::{Hole, LatentSampler, LatentSettings, Solver, inpainting, super_resolution, upscaling};
use adir::models::clip::Tokenizer;
use adir::models::params::Params;
use adir::models::stable_diffusion::{
    Architecture, Autoencoder, AutoencoderConfig, LatentFiles, Purpose, write_random,
};
use adir::models::{Conditioning, Conditions, Space};
use adir::optim::{Adam, AdamConfig, AdaptedLayers, Batch, Lora, Objective, batch_loss, loss_by_blocks};
use adir::schedule::Timestep;
use adir::tensor::{Compute, DType, Tensor, cpu, from_f32, to_f64};
use serde_json::Value;

/// Numbers from -1 to 1, as the script makes them.
fn uniform(name: &str, count: usize) -> Vec<f64> {
    let seed = crc32fast::hash(name.as_bytes());
    let number = |i: usize| {
        let mut h = (i as u32).wrapping_mul(0x9E37_79B1).wrapping_add(seed);
        for (shift, factor) in [(16, 0x85EB_CA6B), (13, 0xC2B2_AE35), (16, 1)] {
            h = (h ^ (h >> shift)).wrapping_mul(factor);
        }
        f64::from(h) / f64::from(1_u32 << 31) - 1.0
    };
    (0..count).map(number).collect()
}

fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let scale = |u: f64| match shape {
        [_, rest @ ..] if !rest.is_empty() => u * (3.0 / rest.iter().product::<usize>() as f64).sqrt(),
        _ if name.ends_with("weight") => 1.0 + 0.2 * u,
        _ => 0.1 * u,
    };
    uniform(name, shape.iter().product()).into_iter().map(|u| scale(u) as f32).collect()
}

fn noise<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    let values = uniform(name, shape.iter().product());
    let root = 3.0_f32.sqrt();
    from_f32(values.into_iter().map(|u| u as f32 * root).collect(), shape, &cpu())
}

struct Fixture {
    file: WeightFile,
    about: Value,
}

impl Fixture {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stable_diffusion").join(name);
        let file = WeightFile::open(&path).unwrap();
        let about = serde_json::from_str(&file.metadata()["about"]).unwrap();
        Self { file, about }
    }

    /// Names and shapes of a part.
    fn shapes(&self, part: &str) -> BTreeMap<String, Vec<usize>> {
        serde_json::from_value(self.about[part]["shapes"].clone()).unwrap()
    }

    /// Relative L2 distance from what the reference computed.
    fn distance<const D: usize>(&self, name: &str, found: &Tensor<D>) -> f64 {
        let expected = self.file.read_f64(name).unwrap();
        assert_eq!(self.file.info(name).unwrap().shape, found.dims(), "{name}");
        let found = to_f64(found).unwrap();
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        square(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / square(&mut expected.iter().copied())
    }

    #[track_caller]
    fn check<const D: usize>(&self, name: &str, found: &Tensor<D>, bound: f64) {
        let distance = self.distance(name, found);
        println!("{}: {name}: relative L2 distance {distance:.1e}", self.file.path().display());
        assert!(distance < bound, "{name}: relative L2 distance {distance:.2e} over {bound:.0e}");
    }

    /// The folder that diffusers would write, `renamed` being a last word on names.
    fn folder(&self, folder: &Path, renamed: impl Fn(&str) -> String) {
        self.folder_in(folder, renamed, |_| Dtype::F32);
    }

    /// The same with each tensor in the precision that `dtype` gives it.
    fn folder_in(&self, folder: &Path, renamed: impl Fn(&str) -> String, dtype: impl Fn(&[usize]) -> Dtype) {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let level = self.about.get("max_noise_level");
        let index = level.map_or("{}".to_owned(), |level| format!("{{\"max_noise_level\": {level}}}"));
        write("model_index.json", index);
        for part in ["unet", "vae", "vqvae", "text_encoder"].into_iter().filter(|part| self.about.get(part).is_some()) {
            write(&format!("{part}/config.json"), self.about[part]["config"].to_string());
            let stem = if part == "text_encoder" { "model" } else { "diffusion_pytorch_model" };
            let tensors: Vec<_> = self.shapes(part).into_iter().collect();
            let values: Vec<_> = tensors.iter().map(|(name, shape)| weight(&format!("{part}/{name}"), shape)).collect();
            let names: Vec<_> = tensors.iter().map(|(name, _)| renamed(name)).collect();
            let tensors: Vec<_> = (tensors.iter().zip(&values).zip(&names))
                .map(|(((_, shape), values), name)| TensorToWrite { name, shape, dtype: dtype(shape), values })
                .collect();
            let path = folder.join(part).join(format!("{stem}.safetensors"));
            write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        }
        for part in ["scheduler", "low_res_scheduler"] {
            if let Some(config) = self.about.get(part) {
                write(&format!("{part}/scheduler_config.json"), config.to_string());
            }
        }
    }
}

fn temporary(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("adir-stable-diffusion-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

#[test]
fn every_part_computes_what_the_reference_does() {
    for (name, purpose, sides, class) in [
        ("upscaler", Purpose::Upscaling, [16, 24], Some(20)),
        ("inpainting1", Purpose::Inpainting, [16, 8], None),
        ("inpainting2", Purpose::Inpainting, [16, 8], None),
    ] {
        let fixture = Fixture::read(&format!("{name}.safetensors"));
        let folder = temporary(name);
        fixture.folder(&folder, str::to_owned);
        let files = LatentFiles::recognised(&folder, false).unwrap_or_else(|e| panic!("{name}: {e}")).unwrap();
        assert_eq!(files.purpose(), purpose);
        let compute = Compute::default();

        let text = files.load_text(&compute).unwrap();
        let tokens: Vec<u32> = [198, 5, 17, 150, 199].into_iter().chain([0; 11]).collect();
        fixture.check("text.states", &text.states_of(&tokens).unwrap(), 1e-5);

        let unet = files.load_unet(&compute).unwrap();
        let [h, w] = sides;
        let beside = if class.is_some() { 3 } else { 5 };
        let conditions = Conditions {
            text: Some(noise("states", [1, 16, 32])),
            class,
            beside: Some(noise("beside", [1, beside, h, w])),
        };
        let conditioning = [Conditioning::Several(Arc::new(conditions))];
        let input = Conditioning::join(noise("x", [1, 4, h, w]), &conditioning);
        let output = unet.network().forward(unet.params(), input, &[Timestep(613)], &conditioning);
        fixture.check("unet.output", &output, 1e-5);

        let latents = files.load_autoencoder(&compute).unwrap();
        let image = noise("image", [1, 3, 32, 24]).clamp(-1.5, 1.5) / 1.5;
        let posterior = latents.posterior(&image).unwrap();
        fixture.check("vae.mean", &(posterior.mean / latents.scale()), 1e-5);
        fixture.check("vae.deviation", &(posterior.deviation / latents.scale()), 1e-5);
        let decoded = latents.decode(&(noise("latents", [1, 4, 6, 5]) * latents.scale())).unwrap();
        fixture.check("vae.decoded", &decoded, 1e-5);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// What text encoder, U-Net, encoder and decoder give.
fn of_all_parts(files: &LatentFiles) -> Vec<Vec<f64>> {
    let (compute, config) = (Compute::default(), files.unet().config());
    let tokens: Vec<u32> = [198, 5, 17, 150, 199].into_iter().chain([0; 11]).collect();
    let text = files.load_text(&compute).unwrap().states_of(&tokens).unwrap();
    let unet = files.load_unet(&compute).unwrap();
    let beside = Some(noise("beside", [1, config.in_channels - 4, 16, 8]));
    let conditions = Conditions { text: Some(text.clone()), class: config.classes.map(|_| 20), beside };
    let conditioning = [Conditioning::Several(Arc::new(conditions))];
    let input = Conditioning::join(noise("x", [1, 4, 16, 8]), &conditioning);
    let output = unet.network().forward(unet.params(), input, &[Timestep(613)], &conditioning);
    let latents = files.load_autoencoder(&compute).unwrap();
    let mean = latents.posterior(&noise("image", [1, 3, 32, 24])).unwrap().mean;
    let decoded = latents.decode(&noise("latents", [1, 4, 6, 5])).unwrap();
    vec![to_f64(&text).unwrap(), to_f64(&output).unwrap(), to_f64(&mean).unwrap(), to_f64(&decoded).unwrap()]
}

/// Weights kept in half as many bits compute what the same weights do that the file has rounded, in half the memory.
#[test]
fn narrow_weights_compute_as_rounded_ones_do_in_f32() {
    for (name, precision, dtype) in
        [("upscaler", WeightPrecision::F16, Dtype::F16), ("inpainting1", WeightPrecision::Bf16, Dtype::BF16)]
    {
        let fixture = Fixture::read(&format!("{name}.safetensors"));
        let [whole, rounded] = ["whole", "rounded"].map(|kind| temporary(&format!("narrow-{name}-{kind}")));
        fixture.folder(&whole, str::to_owned);
        // Embeddings stay as they are: of these models, tables of 16, 200 and 1000 rows.
        let is_table = |shape: &[usize]| matches!(shape, [16 | 200 | 1000, _]);
        let in_file = |shape: &[usize]| if shape.len() > 1 && !is_table(shape) { dtype } else { Dtype::F32 };
        fixture.folder_in(&rounded, str::to_owned, in_file);
        let open = |folder: &Path| LatentFiles::open(folder).unwrap();
        let expected = of_all_parts(&open(&rounded));
        for files in [open(&whole).keeping(precision), open(&rounded).keeping(WeightPrecision::File)] {
            for (part, (found, expected)) in of_all_parts(&files).iter().zip(&expected).enumerate() {
                let distance = apart(found, expected);
                assert!(distance < 1e-6, "{name}, part {part}: {distance:.2e}");
            }
            let (narrow, wide) = (files.bytes().unwrap(), open(&whole).bytes().unwrap());
            assert!(narrow[0] < wide[0] * 6 / 10 && narrow[1] < wide[1] * 6 / 10, "{narrow:?} of {wide:?} bytes");
        }
        let unrounded = of_all_parts(&open(&whole));
        assert!(apart(&unrounded[1], &expected[1]) > 1e-5, "rounding changes something");
        assert_eq!(open(&whole).keeping(WeightPrecision::File).bytes().unwrap(), open(&whole).bytes().unwrap());
        [whole, rounded].iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
    }
}

/// The prior of a fixture, and a batch of two crops: what the script draws for its step `k`.
fn training_batch(files: &LatentFiles, k: usize) -> Batch {
    let config = files.unet().config();
    let text: Tensor<3> = noise("train.states", [2, 16, config.text_width.unwrap()]);
    let beside = noise("train.beside", [2, config.in_channels - 4, 8, 16]);
    let told = |i: usize| {
        let class = config.classes.map(|_| [20, 311][i]);
        let (text, beside) = (Some(text.clone().narrow(0, i, 1)), Some(beside.clone().narrow(0, i, 1)));
        Conditioning::Several(Arc::new(Conditions { text, class, beside }))
    };
    Batch {
        x0: noise("train.x0", [2, 4, 8, 16]),
        eps: noise(&format!("train.eps{k}"), [2, 4, 8, 16]),
        timesteps: [(157 * k + 31) % 1000, (389 * k + 700) % 1000].map(|t| Timestep(t as u16)).to_vec(),
        conditioning: vec![told(0), told(1)],
    }
}

/// Relative L2 distance of numbers.
fn apart(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    square(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / square(&mut expected.iter().copied())
}

#[test]
fn training_goes_as_in_the_reference() {
    for name in ["upscaler", "inpainting1", "inpainting2"] {
        let fixture = Fixture::read(&format!("{name}.safetensors"));
        let folder = temporary(&format!("train-{name}"));
        fixture.folder(&folder, str::to_owned);
        let files = LatentFiles::open(&folder).unwrap();
        let mut prior = files.load_unet(&Compute::default()).unwrap();
        let batch = training_batch(&files, 0);
        let first = batch_loss(&prior, &batch, Objective::Own, DType::F32, 1.0).unwrap();
        let flat = |gradient: &Option<Tensor<1>>| to_f64(gradient.as_ref().unwrap()).unwrap();
        let layout = prior.layout().clone();
        for (spec, gradient) in layout.specs().iter().zip(&first.gradients) {
            let theirs = format!("train.gradient.{}", files.unet().diffusers_name(&spec.name).unwrap());
            if fixture.file.info(&theirs).is_some() {
                let distance = apart(&flat(gradient), &fixture.file.read_f64(&theirs).unwrap());
                assert!(distance < 1e-4, "{name}, {theirs}: {distance:.2e}");
            }
        }
        let square: f64 = first.gradients.iter().map(|g| flat(g).iter().map(|v| v * v).sum::<f64>()).sum();
        let expected = fixture.file.read_f64("train.gradient_norm").unwrap()[0];
        assert!((square.sqrt() / expected - 1.0).abs() < 1e-4, "{name}: {} instead of {expected}", square.sqrt());

        // Block by block, the same.
        let mut by_blocks = vec![None; layout.specs().len()];
        let mut take = |place: usize, gradient: Tensor<1>| by_blocks[place] = Some(gradient);
        let loss = loss_by_blocks(&prior, &batch, Objective::Own, 1.0, &mut take).unwrap();
        assert!((loss / first.loss - 1.0).abs() < 1e-6, "{name}: {loss} and {}", first.loss);
        for (spec, (a, b)) in layout.specs().iter().zip(by_blocks.iter().zip(&first.gradients)) {
            let (a, b) = (flat(a), flat(b));
            let difference = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
            // What a normalisation takes away has no gradient but for rounding.
            let size = b.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-3 * square.sqrt());
            assert!(difference < 1e-5 * size, "{name}, {}: {difference:.2e} of {size:.2e} block by block", spec.name);
        }

        let expected = fixture.file.read_f64("train.losses").unwrap();
        let mut adam = Adam::new(AdamConfig::default());
        for (k, expected) in expected.iter().enumerate() {
            let found = batch_loss(&prior, &training_batch(&files, k), Objective::Own, DType::F32, 1.0).unwrap();
            let relative = (found.loss / expected - 1.0).abs();
            assert!(relative < 1e-3, "{name}, step {k}: {} instead of {expected}", found.loss);
            prior = prior.with_params(adam.step(prior.params(), found.gradients, 1e-4));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// The gradients of factors A and B of a weight W are scale B^T dW and scale dW A^T, in transformers as elsewhere.
#[test]
fn gradients_of_low_rank_factors() {
    let fixture = Fixture::read("upscaler.safetensors");
    let folder = temporary("lora");
    fixture.folder(&folder, str::to_owned);
    let files = LatentFiles::open(&folder).unwrap();
    let prior = files.load_unet(&Compute::default()).unwrap();
    let batch = training_batch(&files, 0);
    let lora = Lora::new(prior.params(), 2, 1.0, AdaptedLayers::ConvolutionsAndLinear, 3).unwrap();
    let factors = lora.factors().map(|id, value| {
        let drawn = noise(&format!("factor{}", id.index()), [value.dims()[0]]);
        value + drawn * 0.02
    });
    let lora = lora.with_factors(factors);
    let merged = prior.with_params(lora.merged(prior.params()));
    let whole = batch_loss(&merged, &batch, Objective::Own, DType::F32, 1.0).unwrap();
    let attached = prior.with_params(lora.attached(prior.params()));
    let found = batch_loss(&attached, &batch, Objective::Own, DType::F32, 1.0).unwrap();
    assert!((found.loss / whole.loss - 1.0).abs() < 1e-6);
    let (base, layout) = (prior.layout(), lora.factors().layout());
    let mut seen = 0;
    for (spec, gradient) in base.specs().iter().zip(&whole.gradients) {
        let layer = spec.name.trim_end_matches(".weight");
        let Some(a_id) = layout.find(&format!("unet.{layer}.lora_A.weight")) else { continue };
        let b_id = layout.find(&format!("unet.{layer}.lora_B.weight")).unwrap();
        let (out, rank) = (spec.shape[0], 2);
        let inputs = spec.len() / out;
        let gradient = gradient.clone().unwrap().reshape([out, inputs]);
        let a: Tensor<2> = lora.factors().flat(a_id).reshape([rank, inputs]);
        let b: Tensor<2> = lora.factors().flat(b_id).reshape([out, rank]);
        let expected = [b.transpose().matmul(gradient.clone()) * 0.5, gradient.matmul(a.transpose()) * 0.5];
        for (id, expected) in [a_id, b_id].into_iter().zip(expected) {
            let found = to_f64(found.gradients[id.index()].as_ref().unwrap()).unwrap();
            let distance = apart(&found, &to_f64(&expected).unwrap());
            assert!(distance < 1e-4, "{}: {distance:.2e}", layout.spec(id).name);
            seen += 1;
        }
    }
    assert_eq!(seen, layout.specs().len());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Tensors as a source of noise: one a step.
fn recorded(steps: Vec<Tensor<4>>) -> impl Fn(usize, &Tensor<4>) -> adir::Result<Tensor<4>> {
    move |step, _: &Tensor<4>| Ok(steps[step].clone())
}

/// Peak signal-to-noise ratio in decibels of images in [0, 1].
fn psnr(fixture: &Fixture, name: &str, image: &Tensor<4>) -> f64 {
    let found = to_f64(&(image.clone() * 0.5 + 0.5).clamp(0.0, 1.0)).unwrap();
    let expected = fixture.file.read_f64(name).unwrap();
    assert_eq!(found.len(), expected.len());
    let square: f64 = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum();
    -10.0 * (square / found.len() as f64).log10()
}

#[test]
fn whole_runs_end_in_the_same_picture() {
    let compute = Compute::default();
    let (states, empty) = (noise("prompt", [1, 16, 32]), noise("empty", [1, 16, 32]));
    let texts = || [Some(states.clone()), Some(empty.clone())];

    let fixture = Fixture::read("upscaler.safetensors");
    let folder = temporary("run-upscaler");
    fixture.folder(&folder, str::to_owned);
    let files = LatentFiles::open(&folder).unwrap();
    let (unet, latents) = (files.load_unet(&compute).unwrap(), files.load_autoencoder(&compute).unwrap());
    let small = (noise("lr", [1, 3, 16, 24]) / 1.8 * 0.5 + 0.5).clamp(0.0, 1.0) * 2.0 - 1.0;
    let [with, without] =
        upscaling(&small, &noise("low", [1, 3, 16, 24]), files.low_res().unwrap(), 20, texts()).unwrap();
    for (name, solver) in [("run.ddim", Solver::Ddim { eta: 0.0 }), ("run.dpm", Solver::Dpm)] {
        let settings = LatentSettings { solver, steps: 10, scale: 9.0 };
        let (with, without) = (with.clone().unwrap(), without.clone());
        let sampler = LatentSampler::new(&unet, files.facts(), settings, with, without).unwrap();
        assert_eq!(sampler.passes(), 2);
        let source = recorded(Vec::new());
        let steps = sampler.steps(&source, noise("start", [1, 4, 16, 24])).unwrap();
        let last = steps.map(|step| step.unwrap().x_t).last().unwrap();
        let found = psnr(&fixture, name, &latents.decode(&last).unwrap());
        println!("upscaler: {name}: {found:.1} dB");
        assert!(found > 80.0, "{name}: {found:.1} dB");
    }
    std::fs::remove_dir_all(&folder).unwrap();

    for name in ["inpainting1", "inpainting2"] {
        let fixture = Fixture::read(&format!("{name}.safetensors"));
        let folder = temporary(&format!("run-{name}"));
        fixture.folder(&folder, str::to_owned);
        let files = LatentFiles::open(&folder).unwrap();
        let (unet, latents) = (files.load_unet(&compute).unwrap(), files.load_autoencoder(&compute).unwrap());
        let inside = |y: usize, x: usize| (13..45).contains(&y) && (30..99).contains(&x);
        let mask = (0..64 * 128).map(|i| inside(i / 128, i % 128)).collect();
        let hole = Hole { image: (noise("photo", [1, 3, 64, 128]) / 1.8).clamp(-1.0, 1.0), mask };
        let [with, without] = inpainting(&hole, &latents, None, texts()).unwrap();
        for (run, eta) in [("run.ddim", 0.0), ("run.eta", 1.0)] {
            let settings = LatentSettings { solver: Solver::Ddim { eta }, steps: 10, scale: 7.5 };
            let (with, without) = (with.clone().unwrap(), without.clone());
            let sampler = LatentSampler::new(&unet, files.facts(), settings, with, without).unwrap();
            let source = recorded((0..10).map(|i| noise(&format!("step{i}"), [1, 4, 8, 16])).collect());
            let steps = sampler.steps(&source, noise("start", [1, 4, 8, 16])).unwrap();
            let last = steps.map(|step| step.unwrap().x_t).last().unwrap();
            let found = psnr(&fixture, run, &latents.decode(&last).unwrap());
            println!("{name}: {run}: {found:.1} dB");
            assert!(found > 80.0, "{name}, {run}: {found:.1} dB");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn latents_that_are_quantised() {
    let fixture = Fixture::read("vq.safetensors");
    let config = AutoencoderConfig::from_json(&fixture.about["vqvae"]["config"].to_string()).unwrap();
    let net = Autoencoder::new(&config).unwrap();
    // Its names are latent diffusion's; the values belong to diffusers' names, of which this test knows the few that differ.
    let shapes = fixture.shapes("vqvae");
    assert_eq!(net.layout().specs().len(), shapes.len());
    let params = Params::load(net.layout().clone(), &Compute::default(), |spec| {
        let name = adir::models::stable_diffusion::diffusers_name(&config, &spec.name).unwrap();
        let found = &shapes[&name];
        assert_eq!(found.iter().product::<usize>(), spec.len(), "{name}");
        Ok(weight(&format!("vqvae/{name}"), found))
    });
    let params = params.unwrap();
    let image = noise("image", [1, 3, 32, 24]).clamp(-1.5, 1.5) / 1.5;
    fixture.check("mean", &net.encode(&params, &image).unwrap().mean, 1e-5);
    fixture.check("decoded", &net.decode(&params, &noise("latents", [1, 3, 6, 5])).unwrap(), 1e-5);
}

/// Latent diffusion's super-resolution: the U-Net without a text, under the names of today's files and of those of its time, and
/// runs of ten steps.
#[test]
fn super_resolution_without_a_text() {
    let fixture = Fixture::read("super_resolution.safetensors");
    let compute = Compute::default();
    let before = |name: &str| {
        let new = ["to_q", "to_k", "to_v", "to_out.0"].into_iter().zip(["query", "key", "value", "proj_attn"]);
        new.fold(name.to_owned(), |name, (new, before)| name.replace(&format!(".{new}."), &format!(".{before}.")))
    };
    for (kind, old) in [("new", false), ("old", true)] {
        let folder = temporary(&format!("sr-{kind}"));
        fixture.folder(&folder, |name| if old { before(name) } else { name.to_owned() });
        let files = LatentFiles::recognised(&folder, false).unwrap().unwrap();
        assert_eq!((files.purpose(), files.text_parameters()), (Purpose::SuperResolution, 0));
        assert!(files.load_text(&compute).is_err());
        let unet = files.load_unet(&compute).unwrap();
        let told = [super_resolution(noise("beside", [1, 3, 16, 24])).unwrap()];
        let input = Conditioning::join(noise("x", [1, 3, 16, 24]), &told);
        let output = unet.network().forward(unet.params(), input, &[Timestep(613)], &told);
        fixture.check("unet.output", &output, 1e-5);

        let latents = files.load_autoencoder(&compute).unwrap();
        let small = (noise("lr", [1, 3, 16, 24]) / 1.8).clamp(-1.0, 1.0);
        for (run, eta) in [("run.ddim", 0.0), ("run.eta", 1.0)] {
            let settings = LatentSettings { solver: Solver::Ddim { eta }, steps: 10, scale: 1.0 };
            let told = super_resolution(small.clone()).unwrap();
            let sampler = LatentSampler::new(&unet, files.facts(), settings, told, None).unwrap();
            let source = recorded((0..10).map(|i| noise(&format!("step{i}"), [1, 3, 16, 24])).collect());
            let steps = sampler.steps(&source, noise("start", [1, 3, 16, 24])).unwrap();
            let last = steps.map(|step| step.unwrap().x_t).last().unwrap();
            let found = psnr(&fixture, run, &latents.decode(&last).unwrap());
            println!("super-resolution: {run}: {found:.1} dB");
            assert!(found > 80.0, "{run}: {found:.1} dB");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Checks texts and the tokens that transformers gives, and tells how many they are.
fn check_tokens(json: &str) -> usize {
    let tokenizer = Tokenizer::published();
    let texts: Vec<(String, Vec<u32>)> = serde_json::from_str(json).unwrap();
    for (text, expected) in &texts {
        assert_eq!(&tokenizer.encode_prompt(text, 77), expected, "{text:?}");
    }
    texts.len()
}

#[test]
fn hard_texts_have_the_tokens_of_transformers() {
    let texts = std::fs::read_to_string(fixtures().join("stable_diffusion/tokens.json")).unwrap();
    assert_eq!(check_tokens(&texts), 24);
}

#[test]
fn ten_thousand_texts_have_the_tokens_of_transformers() {
    let python = std::env::var("ADIR_PYTHON").unwrap_or_else(|_| "python3".into());
    let folder = temporary("tokens");
    write_random(Architecture::Inpainting1, true, 0, &folder).unwrap();
    let script = fixtures().join("stable_diffusion_tokens.py");
    let output = Command::new(python).arg(script).arg(folder.join("tokenizer")).arg("10000").output();
    let _ = std::fs::remove_dir_all(&folder);
    match output {
        Ok(output) if output.status.success() => {
            assert_eq!(check_tokens(std::str::from_utf8(&output.stdout).unwrap()), 10_000);
        }
        Ok(output) if !String::from_utf8_lossy(&output.stderr).contains("no transformers") => {
            panic!("{}", String::from_utf8_lossy(&output.stderr))
        }
        _ => println!("skipped: there is no Python with transformers (ADIR_PYTHON names another one)"),
    }
}
