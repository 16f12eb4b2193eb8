//! MUSIQ, LPIPS, ST-LPIPS and CLIP-IQA against their packages, whose values `fixtures/musiq.py`,
//! `fixtures/learned_distances.py` and `fixtures/clip_iqa.py` wrote for the same weights and pictures: functions of their
//! indices.

use std::borrow::Cow;
use std::sync::Arc;

use adir::encode::Encoder as _;
use adir::io::weights::WeightFile;
use adir::metric::{Case, ClipIqa, Lpips, Metric, Musiq};
use adir::models::{clip, lpips, musiq};
use adir::tensor::{Tensor, cpu, from_f32};

/// Outputs, height, width, score.
const SCORES: [(usize, usize, usize, f64); 8] = [
    (1, 256, 256, 1.207612984),
    (1, 300, 500, 1.352748431),
    (1, 1000, 701, 1.361949031),
    (1, 31, 97, 0.842409217),
    (10, 256, 256, 3.924601404),
    (10, 300, 500, 3.988417040),
    (10, 1000, 701, 3.977785614),
    (10, 31, 97, 4.573028102),
];

/// The same in the form of the authors' code.
const AUTHORS: [(usize, usize, usize, f64); 4] =
    [(1, 300, 500, 1.344715148), (1, 31, 97, 0.939535457), (10, 300, 500, 4.015713920), (10, 31, 97, 4.333312523)];

fn hashed(key: u32, i: u32) -> f64 {
    let h = i.wrapping_mul(2_654_435_761).wrapping_add(key.wrapping_mul(2_246_822_519)).wrapping_add(374_761_393);
    let h = (h ^ h >> 15).wrapping_mul(2_246_822_519);
    f64::from(h ^ h >> 13) / 2f64.powi(32)
}

/// Names and shapes of the published MUSIQ.
fn musiq_shapes(outputs: usize) -> Vec<(String, Vec<usize>)> {
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: &str, shape: &[usize]| shapes.push((name.to_owned(), shape.to_vec()));
    for (conv, norm, shape) in [
        ("conv_root", "gn_root", [64, 3, 7, 7]),
        ("block1.conv1", "block1.gn1", [64, 64, 1, 1]),
        ("block1.conv2", "block1.gn2", [64, 64, 3, 3]),
        ("block1.conv3", "block1.gn3", [256, 64, 1, 1]),
        ("block1.conv_proj", "block1.gn_proj", [256, 64, 1, 1]),
    ] {
        add(&format!("{conv}.weight"), &shape);
        add(&format!("{norm}.weight"), &shape[..1]);
        add(&format!("{norm}.bias"), &shape[..1]);
    }
    let mut layer = |name: &str, shape: &[usize]| {
        add(&format!("{name}.weight"), shape);
        add(&format!("{name}.bias"), &shape[..1]);
    };
    layer("embedding", &[384, 16384]);
    layer(if outputs == 1 { "head" } else { "head.0" }, &[outputs, 384]);
    layer("transformer_encoder.encoder_norm", &[384]);
    for k in 0..14 {
        let name = format!("transformer_encoder.transformer.encoderblock_{k}");
        ["norm1", "norm2"].iter().for_each(|part| layer(&format!("{name}.{part}"), &[384]));
        for part in ["query", "key", "value", "out"] {
            layer(&format!("{name}.attention.{part}"), &[384, 384]);
        }
        layer(&format!("{name}.mlp.fc1"), &[1152, 384]);
        layer(&format!("{name}.mlp.fc2"), &[384, 1152]);
    }
    add("transformer_encoder.cls", &[1, 1, 384]);
    add("transformer_encoder.posembed_input.position_emb", &[1, 100, 384]);
    add("transformer_encoder.scaleembed_input.scale_emb", &[3, 384]);
    shapes.sort();
    shapes
}

/// A safetensors file of tensors of these names and shapes, in this order, with a value for each key and index.
fn file(shapes: Vec<(String, Vec<usize>)>, value: impl Fn(&str, &[usize], f64) -> f64) -> WeightFile {
    WeightFile::from_bytes("random", Cow::<'static, [u8]>::Owned(safetensors(shapes, value))).unwrap()
}

fn safetensors(shapes: Vec<(String, Vec<usize>)>, value: impl Fn(&str, &[usize], f64) -> f64) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (key, (name, shape)) in shapes.into_iter().enumerate() {
        let begin = data.len();
        for i in 0..shape.iter().product::<usize>() as u32 {
            data.extend((value(&name, &shape, hashed(key as u32, i)) as f32).to_le_bytes());
        }
        let tensor = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]});
        header.insert(name, tensor);
    }
    let header = serde_json::Value::Object(header).to_string();
    [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), data.as_slice()].concat()
}

fn musiq_file(shapes: Vec<(String, Vec<usize>)>) -> WeightFile {
    file(shapes, |name, shape, u| {
        let (spread, mean) = match shape.len() {
            1 => (0.1, if name.ends_with("weight") { 1.0 } else { 0.0 }),
            _ => (0.05, 0.0),
        };
        (2.0 * u - 1.0) * 3f64.sqrt() * spread + mean
    })
}

/// An `.npz` of the authors with the same weights: their names and axes, and the state of an optimiser beside them.
fn authors_file(outputs: usize, attention: &str, change: fn(&str) -> String) -> WeightFile {
    let mut zip = Zip::default();
    for (key, (name, shape)) in musiq_shapes(outputs).into_iter().enumerate() {
        let (spread, mean) =
            if shape.len() > 1 { (0.05, 0.0) } else { (0.1, f64::from(u8::from(name.ends_with("weight")))) };
        let value = |i: usize| ((2.0 * hashed(key as u32, i as u32) - 1.0) * 3f64.sqrt() * spread + mean) as f32;
        let kernel = name.ends_with("weight") && shape.len() > 1;
        // For each place of the stored array the place in ours, and the extents it is stored with.
        let (places, extents): (Vec<usize>, Vec<usize>) = match shape[..] {
            [o, i, h, w] if kernel => {
                let place = |k: usize| {
                    let (y, x, from, to) = (k / (w * i * o), k / (i * o) % w, k / o % i, k % o);
                    ((to * i + from) * h + y) * w + x
                };
                ((0..o * i * h * w).map(place).collect(), vec![h, w, i, o])
            }
            [o, i] if kernel => {
                let extents = match () {
                    () if name.contains("attention.out") => vec![6, 64, o],
                    () if name.contains("attention") => vec![i, 6, 64],
                    () => vec![i, o],
                };
                ((0..o * i).map(|k| k % o * i + k / o).collect(), extents)
            }
            _ => {
                let extents = match () {
                    () if name.contains("attention") && !name.contains("out") => vec![6, 64],
                    () if name.contains("gn") => vec![1, 1, 1, shape[0]],
                    () if name.contains("scale_emb") => vec![1, 3, 384],
                    () => shape.clone(),
                };
                ((0..shape.iter().product()).collect(), extents)
            }
        };
        let mut stored = name.replace("transformer_encoder.transformer.", "Transformer.");
        for (ours, theirs) in [
            ("transformer_encoder", "Transformer"),
            ("block1.", "block1.unit1."),
            ("position_emb", "pos_embedding"),
            ("scale_emb", "scale_embedding"),
            ("norm1", "LayerNorm_0"),
            ("norm2", "LayerNorm_2"),
            ("attention", attention),
            ("mlp.fc1", "MlpBlock_3.Dense_0"),
            ("mlp.fc2", "MlpBlock_3.Dense_1"),
            ("head.0", "head"),
            ("weight", if kernel { "kernel" } else { "scale" }),
        ] {
            stored = stored.replace(ours, theirs);
        }
        let stored = change(&stored.replace('.', "/"));
        let values: Vec<u8> = places.into_iter().flat_map(|at| value(at).to_le_bytes()).collect();
        zip.add(&format!("opt/target/{stored}"), "<f4", &extents, &values);
    }
    zip.add("opt/state/param_states/0/momentum", "|V2", &[4], &[0; 8]);
    zip.add("opt/state/step", "<i8", &[], &[1; 8]);
    WeightFile::from_bytes("npz", Cow::<'static, [u8]>::Owned(zip.finish())).unwrap()
}

/// A zip archive of arrays that are not compressed and have no checksums.
#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    count: u16,
}

impl Zip {
    fn add(&mut self, name: &str, kind: &str, extents: &[usize], values: &[u8]) {
        let name = format!("{name}.npy");
        let shape: String = extents.iter().map(|extent| format!("{extent}, ")).collect();
        let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
        while (header.len() + 11) % 64 != 0 {
            header.push(' ');
        }
        let header = header + "\n";
        let size = (header.len() as u16).to_le_bytes();
        let array = [b"\x93NUMPY\x01\x00", &size[..], header.as_bytes(), values].concat();
        let (at, length) = (self.bytes.len() as u32, (array.len() as u32).to_le_bytes());
        let name_length = (name.len() as u16).to_le_bytes();
        let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0; 4], &length, &length, &name_length, &[0, 0]].concat();
        self.bytes.extend([b"PK\x03\x04", &common[..], name.as_bytes(), &array].concat());
        let end = [&[0; 10][..], &at.to_le_bytes()].concat();
        self.directory.extend([b"PK\x01\x02\x14\x00", &common[..], &end, name.as_bytes()].concat());
        self.count += 1;
    }

    fn finish(self) -> Vec<u8> {
        let [size, at] = [self.directory.len(), self.bytes.len()].map(|n| (n as u32).to_le_bytes());
        let count = self.count.to_le_bytes();
        let end = [b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &at, &[0, 0]].concat();
        [self.bytes, self.directory, end].concat()
    }
}

/// A picture of 8 bits.
fn picture(height: usize, width: usize, [row_step, column_step, channel_step, most]: [usize; 4]) -> Tensor<4> {
    let level = |i: usize| {
        let (c, row, column) = (i / (height * width), i / width % height, i % width);
        (row * row_step + column * column_step + c * channel_step + row * column % most) % 256
    };
    let values = (0..3 * height * width).map(|i| level(i) as f32 / 127.5 - 1.0).collect();
    from_f32(values, [1, 3, height, width], &cpu())
}

/// The same weights and pictures have the same scores.
#[test]
fn scores_are_pyiqas() {
    for outputs in [1, 10] {
        let network = musiq::Musiq::load(&musiq_file(musiq_shapes(outputs)), &cpu()).unwrap();
        assert_eq!(network.gives_marks(), outputs == 10);
        let metric = Musiq::new(network, "musiq");
        for (_, height, width, score) in SCORES.into_iter().filter(|case| case.0 == outputs) {
            let x = picture(height, width, [7, 13, 29, 101]);
            let found = metric.value(&Case::new(&x)).unwrap().unwrap();
            println!("{outputs} outputs, {height}x{width}: {found:.7}, off by {:.1e}", found - score);
            assert!((found - score).abs() < 1e-5, "{outputs} outputs, {height}x{width}: {found} instead of {score}");
        }
    }
}

/// The names and axes of the authors' files, whatever the attention is called, and their form of the computation, for which
/// pyiqa's network ran with another resize and another GELU.
#[test]
fn files_and_form_of_the_authors() {
    for (outputs, attention) in [(1, "SelfAttention_1"), (10, "MultiHeadDotProductAttention_1")] {
        let file = authors_file(outputs, attention, str::to_owned);
        let usual = musiq::Musiq::load(&file, &cpu()).unwrap();
        let x = picture(300, 500, [7, 13, 29, 101]);
        let expected = SCORES.iter().find(|case| (case.0, case.1) == (outputs, 300)).unwrap().3;
        let found = usual.score(&x).unwrap();
        assert!((found - expected).abs() < 1e-5, "{outputs} outputs: {found} instead of {expected}");
        let theirs = usual.computed_as(musiq::Form::Authors);
        for (_, height, width, score) in AUTHORS.into_iter().filter(|case| case.0 == outputs) {
            let found = theirs.score(&picture(height, width, [7, 13, 29, 101])).unwrap();
            println!("{outputs} outputs, {height}x{width}: {found:.7}, off by {:.1e}", found - score);
            assert!((found - score).abs() < 1e-5, "{outputs} outputs, {height}x{width}: {found} instead of {score}");
        }
    }
    let strange = authors_file(1, "SelfAttention_1", |name| name.replace("Dense_1/bias", "Dense_1/offset"));
    let message = musiq::Musiq::load(&strange, &cpu()).unwrap_err().to_string();
    assert!(message.contains("Dense_1/offset"), "{message}");
}

/// Whatever is missing, misshapen or left over is named.
#[test]
fn files_that_are_no_musiq_are_refused() {
    let refused = |change: fn(&mut String, &mut Vec<usize>)| {
        let mut shapes = musiq_shapes(1);
        shapes.iter_mut().for_each(|(name, shape)| change(name, shape));
        musiq::Musiq::load(&musiq_file(shapes), &cpu()).unwrap_err().to_string()
    };
    let root = refused(|name, _| *name = name.replace("conv_root", "root"));
    assert!(root.contains("no MUSIQ") && root.contains("conv_root.weight"), "{root}");
    let query = refused(|name, _| *name = name.replace("_3.attention.query.bias", "_3.attention.q.bias"));
    assert!(query.contains("attention.q.bias"), "{query}");
    let turned = refused(|name, shape| {
        if name.ends_with("_0.mlp.fc1.weight") {
            shape.reverse()
        }
    });
    assert!(turned.contains("_0.mlp.fc1.weight") && turned.contains("[384, 1152]"), "{turned}");
}

/// Names and shapes of a trunk's convolutions, by slice and place, and of the weights of the taps.
fn distance_shapes(convs: &[(usize, usize, usize, usize)], taps: [usize; 5]) -> Vec<(String, Vec<usize>)> {
    let mut inputs = 3;
    let mut shapes = Vec::new();
    for &(slice, place, outputs, kernel) in convs {
        let name = format!("net.slice{slice}.{place}");
        shapes.push((format!("{name}.weight"), vec![outputs, inputs, kernel, kernel]));
        shapes.push((format!("{name}.bias"), vec![outputs]));
        inputs = outputs;
    }
    shapes.extend((0..5).map(|tap| (format!("lin{tap}.model.1.weight"), vec![1, taps[tap], 1, 1])));
    shapes.sort();
    shapes
}

/// The same weights and pictures are as far from each other, by all four networks.
#[test]
fn distances_are_the_packages() {
    let alex = |[second, third, fourth, fifth]: [usize; 4]| {
        let convs = [(1, 0, 64, 11), (2, second, 192, 5), (3, third, 384, 3), (4, fourth, 256, 3), (5, fifth, 256, 3)];
        distance_shapes(&convs, [64, 192, 384, 256, 256])
    };
    let vgg = |places: [usize; 13]| {
        let slices = [1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5];
        let convs: Vec<_> =
            slices.into_iter().zip(places).map(|(slice, place)| (slice, place, 64 << (slice - 1).min(3), 3)).collect();
        distance_shapes(&convs, [64, 128, 256, 512, 512])
    };
    let cases = [
        ("lpips_alex", alex([3, 6, 8, 10]), [0.922245630, 0.849561568]),
        ("lpips_vgg", vgg([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]), [0.981756013, 0.880356079]),
        ("stlpips_alex", alex([5, 9, 11, 13]), [1.084107876, 0.888821873]),
        ("stlpips_vgg", vgg([0, 2, 6, 8, 12, 14, 16, 20, 22, 24, 28, 30, 32]), [0.832518232, 0.744623798]),
    ];
    for (name, shapes, distances) in cases {
        let file = file(shapes, |name, shape, u| match shape.len() {
            _ if name.starts_with("lin") => u,
            4 => (2.0 * u - 1.0) * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt(),
            _ => 0.2 * u - 0.1,
        });
        let metric = Lpips::new(lpips::Lpips::load(&file, &cpu()).unwrap());
        assert_eq!(metric.name(), name);
        for ([height, width], distance) in [[64, 64], [75, 97]].into_iter().zip(distances) {
            let (a, b) = (picture(height, width, [7, 13, 29, 101]), picture(height, width, [5, 11, 37, 89]));
            let found = metric.value(&Case::new(&a).with_truth(&b)).unwrap().unwrap();
            println!("{name}, {height}x{width}: {found:.7}, off by {:.1e}", found - distance);
            assert!((found - distance).abs() < 1e-5, "{name}, {height}x{width}: {found} instead of {distance}");
        }
        let x = picture(64, 64, [7, 13, 29, 101]);
        assert_eq!(metric.value(&Case::new(&x).with_truth(&x)).unwrap(), Some(0.0));
        let small = picture(12, 64, [7, 13, 29, 101]);
        assert_eq!(metric.value(&Case::new(&small).with_truth(&small)).unwrap(), None, "too small");
    }
}

/// Names and shapes of a small CLIP with the published vocabulary.
fn clip_shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("logit_scale".to_owned(), vec![]),
        ("text_model.embeddings.position_embedding.weight".to_owned(), vec![77, 8]),
        ("text_model.embeddings.token_embedding.weight".to_owned(), vec![49408, 8]),
        ("text_projection.weight".to_owned(), vec![12, 8]),
        ("vision_model.embeddings.class_embedding".to_owned(), vec![16]),
        ("vision_model.embeddings.patch_embedding.weight".to_owned(), vec![16, 3, 8, 8]),
        ("vision_model.embeddings.position_embedding.weight".to_owned(), vec![10, 16]),
        ("visual_projection.weight".to_owned(), vec![12, 16]),
    ];
    let mut layer = |name: String, outputs: usize, inputs: Option<usize>| {
        shapes.push((format!("{name}.weight"), [outputs].into_iter().chain(inputs).collect()));
        shapes.push((format!("{name}.bias"), vec![outputs]));
    };
    for (tower, width) in [("text_model", 8), ("vision_model", 16)] {
        let block = format!("{tower}.encoder.layers.0");
        for norm in ["layer_norm1", "layer_norm2"] {
            layer(format!("{block}.{norm}"), width, None);
        }
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            layer(format!("{block}.self_attn.{part}"), width, Some(width));
        }
        layer(format!("{block}.mlp.fc1"), 2 * width, Some(width));
        layer(format!("{block}.mlp.fc2"), width, Some(2 * width));
    }
    for norm in ["text_model.final_layer_norm", "vision_model.pre_layrnorm", "vision_model.post_layernorm"] {
        layer(norm.to_owned(), if norm.starts_with("text") { 8 } else { 16 }, None);
    }
    shapes.sort();
    shapes
}

/// torchmetrics' values for pictures of the network's own side, and none where there is nothing to embed.
#[test]
fn clip_iqa_is_that_of_torchmetrics() {
    let folder = std::env::temp_dir().join(format!("adir-clip-iqa-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let weights = safetensors(clip_shapes(), |name, shape, u| {
        let (spread, mean) = match shape.len() {
            0 => (0.0, 100f64.ln()),
            1 => (0.1, if name.ends_with("weight") { 1.0 } else { 0.0 }),
            _ if name.ends_with("token_embedding.weight") => (0.02, 0.0),
            _ => (0.3, 0.0),
        };
        (2.0 * u - 1.0) * 3f64.sqrt() * spread + mean
    });
    std::fs::write(folder.join("model.safetensors"), weights).unwrap();
    let tower = serde_json::json!({"hidden_act": "quick_gelu", "num_attention_heads": 2});
    let config = serde_json::json!({"vision_config": tower, "text_config": tower}).to_string();
    std::fs::write(folder.join("config.json"), config).unwrap();
    let encoder = clip::Clip::open(&folder, None, &cpu()).unwrap();
    let told = clip::Clip::describe(&folder).unwrap().unwrap();
    let count: usize = clip_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    // What scales similarities is not used.
    assert_eq!((told.parameters, told.encoder.dimension, &told.encoder), (count - 1, 12, encoder.id().as_ref()));
    std::fs::remove_file(folder.join("config.json")).unwrap();
    assert!(matches!(clip::Clip::describe(&folder), Err(adir::Error::Config(_))), "which activation?");
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    assert_eq!(clip::Clip::describe(&folder).unwrap(), None, "a folder of something else");
    let metric = ClipIqa::new(Arc::new(encoder)).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    for (first, expected) in [(0, 0.365309179), (5, 0.373852849), (11, 0.371028483)] {
        let x = picture(24 + first, 24, [7, 13, 29, 101]).slice([0..1, 0..3, first..first + 24, 0..24]);
        let found = metric.value(&Case::new(&x)).unwrap().unwrap();
        println!("from row {first}: {found:.7}, off by {:.1e}", found - expected);
        assert!((found - expected).abs() < 1e-5, "from row {first}: {found} instead of {expected}");
    }
    let long = picture(2, 200, [7, 13, 29, 101]);
    assert_eq!(metric.value(&Case::new(&long)).unwrap(), None, "too elongated");
}
