//! Adapting latent diffusion models: it learns, it is a function of its seed, and its factors go to files and back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use adir::adapt::Adapter;
use adir::io::weights::{Dtype, TensorToWrite, WeightFile, write_safetensors};
use adir::latent::{EncodedImage, Examples, LatentAdaptation, LatentAdapter, LatentOutcome, LatentTraining};
use adir::models::Network;
use adir::models::stable_diffusion::{Architecture, LatentFiles, add_lora, save_lora, write_random};
use adir::optim::AdaptedLayers;
use adir::tensor::{Compute, Tensor, cpu, from_f32, to_f32};

fn temporary(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("adir-latent-adaptation-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// Stripes of a few colours, different from image to image.
fn image(k: usize) -> Tensor<4> {
    let (h, w) = (72, 80);
    let value = |i: usize| {
        let (c, y, x) = (i / (h * w), i / w % h, i % w);
        (((x + k * y) / (5 + k) + c) % 3) as f32 - 1.0
    };
    from_f32((0..3 * h * w).map(value).collect(), [1, 3, h, w], &cpu())
}

fn training(iterations: u32) -> LatentTraining {
    let mut training = LatentTraining::upscaler();
    (training.iterations, training.rate, training.ema) = (iterations, 2e-3, 0.5);
    (training.rank, training.batch, training.crop, training.crops_per_image) = (4, 3, 64, 2);
    training.layers = AdaptedLayers::ConvolutionsAndLinear;
    training
}

#[test]
fn both_kinds_of_model_learn_what_they_are_shown() {
    for (name, architecture) in [("x4", Architecture::Upscaler), ("inpainting", Architecture::Inpainting1)] {
        let folder = temporary(name);
        write_random(architecture, true, 3, &folder).unwrap();
        let files = LatentFiles::open(&folder).unwrap();
        let compute = Compute::default();
        let text = files.load_text(&compute).unwrap();
        let told = [text.states("stripes").unwrap(), text.states("").unwrap()];
        let (autoencoder, unet) = (files.load_autoencoder(&compute).unwrap(), files.load_unet(&compute).unwrap());
        let images: Vec<_> = (0..5).map(image).collect();
        let low_res = files.low_res().map(|low_res| (low_res.clone(), 20));
        let training = training(40);
        training.check(64).unwrap();
        let mut told_of = 0;
        let examples = Examples::encode(&images, &autoencoder, low_res, &training, |done| {
            told_of = done;
            Ok(())
        });
        let examples = examples.unwrap();
        assert!(examples.has_held_out() && told_of == 5);

        let before = examples.held_out_losses(&unet, &told, 1).unwrap();
        let mut running = LatentAdaptation::new(&unet, &examples, &training, told.clone()).unwrap();
        for _ in 0..training.iterations {
            assert!(running.step().unwrap().loss.is_finite());
        }
        let adapted = running.adapted().unwrap();
        let outcome = LatentOutcome::new(&before, &examples.held_out_losses(&adapted, &told, 1).unwrap());
        assert!(outcome.helped() && outcome.after < 0.9 * outcome.before, "{name}: {outcome:?}");

        // The same seed, the same steps.
        let mut again = LatentAdaptation::new(&unet, &examples, &training, told.clone()).unwrap();
        let mut first = LatentAdaptation::new(&unet, &examples, &training, told.clone()).unwrap();
        for _ in 0..2 {
            assert_eq!(again.step().unwrap(), first.step().unwrap());
        }

        // Through a file of diffusers, the weights are what they were merged to.
        let Adapter::Lora(lora) = running.adapter() else { panic!("factors are trained") };
        let path = folder.join("lora.safetensors");
        save_lora(&path, files.unet(), &lora.layers(), lora.rank(), lora.scale()).unwrap();
        let file = WeightFile::open(&path).unwrap();
        let (read, layers) = add_lora(files.unet(), unet.params(), &file, 1.0).unwrap();
        assert_eq!(2 * layers, file.names().count());
        for id in files.unet().layout().ids() {
            let (a, b) = (to_f32(&read.flat(id)).unwrap(), to_f32(&adapted.params().flat(id)).unwrap());
            let most = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
            assert!(most < 1e-5, "{}: {most}", files.unet().layout().spec(id).name);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// What an interrupted adaptation has left leads to the same factors: crops that are encoded, and the state between two steps.
#[test]
fn an_adaptation_goes_on_from_files() {
    for (name, architecture) in [("go-x4", Architecture::Upscaler), ("go-inpainting", Architecture::Inpainting2)] {
        let folder = temporary(name);
        write_random(architecture, true, 3, &folder).unwrap();
        let files = LatentFiles::open(&folder).unwrap();
        let compute = Compute::default();
        let text = files.load_text(&compute).unwrap();
        let told = [text.states("stripes").unwrap(), text.states("").unwrap()];
        let (autoencoder, unet) = (files.load_autoencoder(&compute).unwrap(), files.load_unet(&compute).unwrap());
        let low_res = files.low_res().map(|low_res| (low_res.clone(), 20));
        let (training, upscales) = (training(5), low_res.is_some());
        // Smaller than a crop, and grey.
        let mut images: Vec<_> = (0..3).map(image).collect();
        images[2] = images[2].clone().narrow(1, 0, 1).narrow(2, 0, 50);
        let whole = Examples::encode(&images, &autoencoder, low_res.clone(), &training, |_| Ok(())).unwrap();
        let from_file = |(i, image): (usize, &Tensor<4>)| {
            let path = folder.join(format!("{i}.crops"));
            EncodedImage::encode(image, i, &autoencoder, upscales, &training).unwrap().save(&path, "these").unwrap();
            let file = WeightFile::open(&path).unwrap();
            assert!(EncodedImage::load(&file, "others", upscales, &training).is_err());
            EncodedImage::load(&file, "these", upscales, &training).unwrap()
        };
        let read = Examples::new(images.iter().enumerate().map(from_file).collect(), low_res, true).unwrap();

        let new = |examples| LatentAdaptation::new(&unet, examples, &training, told.clone()).unwrap();
        let mut running = new(&whole);
        running.measure_before().unwrap();
        let path = folder.join("state");
        for step in 0..training.iterations {
            if step == 2 {
                running.save(&path, "this").unwrap();
            }
            running.step().unwrap();
        }
        let mut resumed = new(&read);
        let state = WeightFile::open(&path).unwrap();
        assert!(resumed.resume(&state, "that").is_err());
        resumed.resume(&state, "this").unwrap();
        assert_eq!(resumed.taken(), 2);
        while resumed.taken() < resumed.total() {
            resumed.step().unwrap();
        }
        let flat = |adapter: &Adapter| -> Vec<Vec<f32>> {
            let Adapter::Lora(lora) = adapter else { panic!("factors are trained") };
            lora.factors().layout().ids().map(|id| to_f32(&lora.factors().flat(id)).unwrap()).collect()
        };
        assert!(flat(&running.adapter()) == flat(&resumed.adapter()), "{name}: other factors");
        let outcomes = [&mut running, &mut resumed].map(|run| {
            let adapted = run.adapted().unwrap();
            run.outcome(&adapted).unwrap().unwrap()
        });
        assert_eq!(outcomes[0], outcomes[1]);

        // The adapter of a cache.
        let path = folder.join("adapter");
        LatentAdapter::save(&path, "key", &running.adapter(), Some(outcomes[0])).unwrap();
        let load = |key: &str| LatentAdapter::load(&WeightFile::open(&path).unwrap(), key);
        assert!(load("other").unwrap_err().to_string().contains("another adapter"));
        let kept = load("key").unwrap();
        assert_eq!(kept.outcome(), Some(outcomes[0]));
        assert!(flat(&kept.adapter(unet.params(), &training).unwrap()) == flat(&running.adapter()));
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(load("key").unwrap_err().to_string().contains("damaged"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn files_of_other_programs() {
    let folder = temporary("kohya");
    write_random(Architecture::Inpainting2, true, 3, &folder).unwrap();
    let files = LatentFiles::open(&folder).unwrap();
    let unet = files.load_unet(&Compute::default()).unwrap();
    let module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
    let id = files.unet().layout().find("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight").unwrap();
    let spec = files.unet().layout().spec(id).clone();
    let (out, inputs, rank) = (spec.shape[0], spec.shape[1], 2);
    let numbers =
        |n: usize, seed: usize| -> Vec<f32> { (0..n).map(|i| ((i * 31 + seed) % 17) as f32 / 17.0).collect() };
    let (a, b) = (numbers(rank * inputs, 1), numbers(out * rank, 5));
    let path = folder.join("lora.safetensors");
    let write = |tensors: &[(&str, &[usize], &[f32])], metadata: &BTreeMap<String, String>| {
        let tensors: Vec<_> = (tensors.iter())
            .map(|&(name, shape, values)| TensorToWrite { name, shape, dtype: Dtype::F32, values })
            .collect();
        write_safetensors(&path, &tensors, metadata).unwrap();
        WeightFile::open(&path).unwrap()
    };
    let change = |file: &WeightFile| -> Vec<f32> {
        let (params, layers) = add_lora(files.unet(), unet.params(), file, 1.0).unwrap();
        assert_eq!(layers, 1);
        let (after, before) = (to_f32(&params.flat(id)).unwrap(), to_f32(&unet.params().flat(id)).unwrap());
        after.iter().zip(&before).map(|(after, before)| after - before).collect()
    };
    let product = |scale: f32| -> Vec<f32> {
        let at = |i: usize, j: usize| (0..rank).map(|k| b[i * rank + k] * a[k * inputs + j]).sum::<f32>() * scale;
        (0..out * inputs).map(|n| at(n / inputs, n % inputs)).collect()
    };
    let close = |found: &[f32], expected: &[f32]| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
    let none = BTreeMap::new();
    let flat = format!("lora_unet_{}", module.replace('.', "_"));
    let [down, up, alpha] = ["lora_down.weight", "lora_up.weight", "alpha"].map(|end| format!("{flat}.{end}"));
    let kohya = write(&[(&down, &[rank, inputs], &a), (&up, &[out, rank], &b), (&alpha, &[], &[1.0])], &none);
    assert!(close(&change(&kohya), &product(0.5)));

    let [of_a, of_b] = ["lora_A", "lora_B"].map(|end| format!("unet.{module}.{end}.weight"));
    let plain = write(&[(&of_a, &[rank, inputs], &a), (&of_b, &[out, rank], &b)], &none);
    assert!(close(&change(&plain), &product(1.0)));
    let told = BTreeMap::from([("lora_adapter_metadata".to_owned(), r#"{"unet.lora_alpha": 8}"#.to_owned())]);
    let told = write(&[(&of_a, &[rank, inputs], &a), (&of_b, &[out, rank], &b)], &told);
    assert!(close(&change(&told), &product(4.0)));

    let said = |file: &WeightFile| add_lora(files.unet(), unet.params(), file, 1.0).unwrap_err().to_string();
    assert!(said(&write(&[(&of_a, &[rank, inputs], &a)], &none)).contains("no partner"));
    assert!(said(&write(&[(&of_a, &[inputs, rank], &a), (&of_b, &[out, rank], &b)], &none)).contains("no factors"));
    assert!(said(&write(&[("x.lora_A.weight", &[rank, inputs], &a)], &none)).contains("no LoRA"));
    std::fs::remove_dir_all(&folder).unwrap();
}
