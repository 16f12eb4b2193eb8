//! Weight files: what PyTorch wrote comes back, what is malformed is refused.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use adir_weights::{Dtype, Error, TensorSpec, TensorToWrite, WeightFile, stream_safetensors, write_safetensors};
use common::fixture;

fn open(name: &str) -> WeightFile {
    WeightFile::open(&fixture(name)).unwrap()
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("adir-weights-{}-{name}", std::process::id()))
}

/// The next value of xorshift64*: mutations only have to be varied and repeatable.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

/// Reads every tensor of a file that opens; errors are fine, panics are not.
fn read_everything(bytes: Vec<u8>) -> bool {
    let Ok(file) = WeightFile::from_bytes("mutated", bytes) else { return false };
    file.names().all(|name| match file.info(name).unwrap().dtype {
        Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64 => file.read_f32(name).is_ok(),
        _ => file.read_i64(name).is_ok(),
    })
}

/// NumPy wrote them, by `fixtures/make.py`; what weights never are is left out.
#[test]
fn arrays_saved_by_numpy_come_back() {
    for name in ["arrays.npz", "compressed.npz"] {
        let file = open(name);
        let names: Vec<&str> = file.names().collect();
        assert_eq!(
            names,
            ["empty", "opt/state/step", "opt/target/columns", "opt/target/double", "opt/target/kernel"],
            "{name}"
        );
        assert_eq!(file.info("opt/target/kernel").unwrap().shape, [2, 3, 2]);
        let kernel: Vec<f32> = (0..12).map(|i| i as f32 / 8.0).collect();
        assert_eq!(file.read_f32("opt/target/kernel").unwrap(), kernel);
        assert_eq!(file.read_f32("opt/target/columns").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(file.read_f64("opt/target/double").unwrap(), [0.1, -2e30]);
        assert_eq!(file.read_i64("opt/state/step").unwrap(), [7]);
        assert!(file.read_f32("empty").unwrap().is_empty());
        let mut seen = BTreeMap::new();
        let wanted = |name: &str, _: &adir_weights::TensorInfo| name.ends_with("kernel") || name.ends_with("columns");
        let hash = file.stream(wanted, |name, values| {
            seen.insert(name.to_owned(), values);
            Ok::<_, Error>(())
        });
        assert_eq!(hash.unwrap(), file.sha256().unwrap());
        assert_eq!((seen.len(), &seen["opt/target/kernel"]), (2, &kernel));
    }
}

/// A changed byte is found or harms nothing, and cut files are refused.
#[test]
fn damaged_archives_of_arrays_are_refused() {
    for name in ["arrays.npz", "compressed.npz"] {
        let good = std::fs::read(fixture(name)).unwrap();
        assert!(read_everything(good.clone()));
        for length in 0..good.len() {
            assert!(WeightFile::from_bytes("cut", good[..length].to_vec()).is_err(), "{name} cut at {length}");
        }
        let mut state = 3;
        for _ in 0..3000 {
            let mut bytes = good.clone();
            let at = next(&mut state) as usize % bytes.len();
            bytes[at] = next(&mut state) as u8;
            read_everything(bytes);
        }
    }
    // A shape that the entry does not hold, in the file that is not compressed.
    let mut larger = std::fs::read(fixture("arrays.npz")).unwrap();
    let at = larger.windows(9).position(|part| part == b"(2, 3, 2)").unwrap();
    larger[at + 1] = b'9';
    let message = WeightFile::from_bytes("larger", larger).unwrap_err().to_string();
    assert!(message.contains("opt/target/kernel") && message.contains("[9, 3, 2]"), "{message}");
}

/// `fixtures/make.py` saved the same tensors in three containers and their values by numpy.
#[test]
fn tensors_saved_by_pytorch_come_back_in_every_container() {
    let expected = open("expected.safetensors");
    for container in ["zip.pt", "legacy.pt", "protocol4.pt"] {
        let file = open(container);
        assert_eq!(file.names().count(), 14, "{container}");
        assert!(file.metadata().is_empty());
        for name in file.names() {
            let info = file.info(name).unwrap();
            let key = format!("pt.{name}");
            assert_eq!(info.shape, expected.info(&key).unwrap().shape, "{container} {name}");
            if expected.info(&key).unwrap().dtype == Dtype::I64 {
                assert_eq!(file.read_i64(name).unwrap(), expected.read_i64(&key).unwrap(), "{container} {name}");
                assert!(file.read_f32(name).is_err());
            } else {
                assert_eq!(file.read_f32(name).unwrap(), expected.read_f32(&key).unwrap(), "{container} {name}");
                assert!(file.read_i64(name).is_err());
            }
        }
        assert_eq!(file.read_f64("f64").unwrap(), expected.read_f64("pt64.f64").unwrap());
        assert_eq!(file.info("bf16").unwrap().dtype, Dtype::BF16);
    }
}

#[test]
fn nested_checkpoints_scripted_modules_and_whole_modules_give_their_tensors() {
    let expected = open("expected.safetensors");
    let lightning = open("lightning.ckpt");
    let name = "state_dict.0.weight";
    assert_eq!(lightning.read_f32(name).unwrap(), expected.read_f32("lightning.state_dict.0.weight").unwrap());
    assert_eq!(lightning.read_i64("state_dict.1.num_batches_tracked").unwrap(), [1]);
    assert!(lightning.info("optimizer_states.0.state.0.exp_avg").is_some());
    let wrapped: Vec<_> = open("wrapped.pth").names().map(str::to_owned).collect();
    assert_eq!(wrapped[0], "0.bias");
    assert_eq!(wrapped.len(), 7);
    let script = open("torchscript.pt");
    assert_eq!(script.names().collect::<Vec<_>>(), ["conv.bias", "conv.weight", "scale"]);
    for name in script.names() {
        let values = expected.read_f32(&format!("script.{name}")).unwrap();
        assert_eq!(script.read_f32(name).unwrap(), values, "{name}");
        assert_eq!(script.info(name).unwrap().dtype, Dtype::F16);
    }
    assert!(open("module.pt").names().any(|name| name.ends_with("weight")));
}

/// The parity fixtures, where they are present: real state dicts against the same weights as safetensors.
#[test]
fn guided_diffusion_state_dicts_agree_with_their_safetensors() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures/guided_diffusion"));
    if !folder.exists() {
        eprintln!("skipped: no shared fixtures");
        return;
    }
    let torch = WeightFile::open(&folder.join("mini_legacy.pt")).unwrap();
    let safe = WeightFile::open(&folder.join("mini_legacy.weights.safetensors")).unwrap();
    assert!(torch.names().eq(safe.names()));
    for name in torch.names() {
        assert_eq!(torch.info(name), safe.info(name));
        assert_eq!(torch.read_f32(name).unwrap(), safe.read_f32(name).unwrap(), "{name}");
    }
    for other in ["uncond_legacy.pt", "classcond_neworder.pt", "plain_resample_conv.pt"] {
        let file = WeightFile::open(&folder.join(other)).unwrap();
        assert!(file.names().count() > 50);
        assert!(file.names().all(|name| file.read_f32(name).is_ok()), "{other}");
    }
}

#[test]
fn integers_with_scales_are_read_as_weights() {
    let half = |values: &[f32]| values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect::<Vec<_>>();
    let bytes = |values: &[i8]| values.iter().map(|v| v.to_le_bytes()[0]).collect::<Vec<_>>();
    let tensors = [
        ("w_scale", "F16", "[2,1,1]", half(&[0.5, -0.125])),
        ("w", "I8", "[2,1,3]", bytes(&[1, -2, 127, -128, 0, 5])),
        ("none", "I8", "[0,2]", Vec::new()),
        ("none_scale", "F16", "[0]", Vec::new()),
        // Neither fits: one factor too many, and factors by another dimension.
        ("a", "I8", "[2]", bytes(&[3, 4])),
        ("a_scale", "F16", "[3]", half(&[1.0; 3])),
        ("b", "I8", "[2,2]", bytes(&[3, 4, 5, 6])),
        ("b_scale", "F16", "[1,2]", half(&[1.0; 2])),
        ("spoilt", "I8", "[1]", vec![1]),
        ("spoilt_scale", "F16", "[1]", half(&[f32::INFINITY])),
    ];
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let (from, to) = (data.len(), data.len() + bytes.len());
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#));
        data.extend(bytes);
    }
    let file = safetensors(&format!("{{{}}}", entries.join(",")), &data);
    let sha256 = adir_weights::hash::sha256(&file);
    let file = WeightFile::from_bytes("rounded", file).unwrap();
    assert!(file.names().eq(["a", "a_scale", "b", "b_scale", "none", "spoilt", "w"]));
    let expected = [0.5, -1.0, 63.5, 16.0, 0.0, -0.625];
    assert_eq!(file.read_f32("w").unwrap(), expected);
    assert_eq!(file.read_f64("w").unwrap(), expected.map(f64::from));
    assert!(file.read_i64("w").is_err());
    assert!(file.read_f32("none").unwrap().is_empty());
    assert_eq!(file.read_i64("a").unwrap(), [3, 4]);
    assert!(file.read_f32("a").unwrap_err().to_string().contains("I8"));
    assert!(file.read_f32("b").is_err());
    let mut seen = BTreeMap::new();
    let hash = file.stream(
        |name, _| ["w", "a_scale"].contains(&name),
        |name, values| {
            seen.insert(name.to_owned(), values);
            Ok::<_, Error>(())
        },
    );
    assert_eq!(hash.unwrap(), sha256);
    assert_eq!(seen["w"], expected);
    assert_eq!(seen["a_scale"], [1.0; 3]);
    assert!(file.read_f32("spoilt").unwrap_err().to_string().contains("not finite"));
}

#[test]
fn what_is_written_is_read_back_sorted_and_rounded_to_the_nearest() {
    let path = scratch("round.safetensors");
    let values = [1.0, -0.333_333_34, 6.1e-5, 65504.0, 0.0, -7.25];
    let tensor = |name, dtype| TensorToWrite { name, shape: &[2, 3], dtype, values: &values };
    let tensors = [
        tensor("z", Dtype::F32),
        tensor("a", Dtype::F16),
        tensor("m", Dtype::BF16),
        tensor("é\"", Dtype::F64),
        TensorToWrite { name: "none", shape: &[0, 4], dtype: Dtype::F16, values: &[] },
        TensorToWrite { name: "one", shape: &[], dtype: Dtype::F32, values: &[5.0] },
    ];
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(&path, &tensors, &metadata).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(file.metadata(), &metadata);
    assert!(file.names().eq(["a", "m", "none", "one", "z", "é\""]));
    assert_eq!(file.read_f32("z").unwrap(), values);
    assert_eq!(file.read_f32("a").unwrap(), values.map(|v| half::f16::from_f32(v).to_f32()));
    assert_eq!(file.read_f32("m").unwrap(), values.map(|v| half::bf16::from_f32(v).to_f32()));
    assert_eq!(file.read_f64("é\"").unwrap(), values.map(f64::from));
    assert_eq!(file.read_f32("one").unwrap(), [5.0]);
    assert_eq!(file.info("none").unwrap().shape, [0, 4]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(file.sha256().unwrap(), adir_weights::hash::sha256(&bytes));
    let embedded = WeightFile::from_bytes("prior", bytes).unwrap();
    assert_eq!(embedded.path(), Path::new("<prior>"));
    assert_eq!(embedded.read_f32("z").unwrap(), values);
    assert!(matches!(embedded.read_f32("absent"), Err(Error::Malformed { .. })));
    std::fs::remove_file(&path).unwrap();
}

/// The bytes that the first version of this writer made, to which files made since are compared by their hashes.
#[test]
fn what_is_written_stays_the_same_to_the_byte() {
    let path = scratch("golden.safetensors");
    let values = [1.0, -0.333_333_34, 6.1e-5, 65504.0, 0.0, -7.25];
    let names = [("z", Dtype::F32), ("A", Dtype::F16), ("m", Dtype::BF16), ("é\"", Dtype::F64)];
    let mut specs: Vec<_> = names.map(|(name, dtype)| TensorSpec { name, shape: &[2, 3], dtype }).to_vec();
    specs.push(TensorSpec { name: "none", shape: &[0, 4], dtype: Dtype::F16 });
    specs.push(TensorSpec { name: "one", shape: &[], dtype: Dtype::F32 });
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned()), ("b\n".to_owned(), "{\"é\"}".to_owned())]);
    let mut asked = Vec::new();
    stream_safetensors(&path, &specs, &metadata, |index| {
        asked.push(specs[index].name);
        Ok::<_, Error>(match specs[index].name {
            "none" => Vec::new(),
            "one" => vec![5.0],
            _ => values.to_vec(),
        })
    })
    .unwrap();
    assert_eq!(asked, ["A", "m", "none", "one", "z", "é\""], "each once, in the order of the file");
    let hash = adir_weights::hash::sha256(&std::fs::read(&path).unwrap());
    assert_eq!(hash.to_string(), "278c61ffd8bbd75f2f5a3bb2f88f8929b09af8023d6d80a19b0d6eaca271c131");

    // An error while it is written leaves the file as it was.
    let failed = stream_safetensors(&path, &specs, &metadata, |index| match specs[index].name {
        "z" => Err(Error::Invalid("stop".to_owned())),
        "none" => Ok(Vec::new()),
        "one" => Ok(vec![6.0]),
        _ => Ok(values.to_vec()),
    });
    assert_eq!(failed.unwrap_err().to_string(), "stop");
    assert_eq!(adir_weights::hash::sha256(&std::fs::read(&path).unwrap()), hash);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_would_not_load_is_not_written() {
    let path = scratch("refused.safetensors");
    let one = |name, dtype, values| TensorToWrite { name, shape: &[1], dtype, values };
    let long = "n".repeat(257);
    let refused: [&[TensorToWrite<'_>]; 7] = [
        &[one("a", Dtype::F32, &[1.0]), one("a", Dtype::F32, &[1.0])],
        &[one("__metadata__", Dtype::F32, &[1.0])],
        &[one(&long, Dtype::F32, &[1.0])],
        &[one("a", Dtype::I64, &[1.0])],
        &[one("a", Dtype::F32, &[1.0, 2.0])],
        &[one("a", Dtype::F32, &[f32::NAN])],
        &[one("a", Dtype::F16, &[70000.0])],
    ];
    for (case, tensors) in refused.iter().enumerate() {
        assert!(write_safetensors(&path, tensors, &BTreeMap::new()).is_err(), "case {case}");
        assert!(!path.exists());
    }
    let shapes: [&[usize]; 2] = [&[usize::MAX, 2], &[1; 65]];
    for shape in shapes {
        let spec = TensorSpec { name: "a", shape, dtype: Dtype::F32 };
        let written = stream_safetensors(&path, &[spec], &BTreeMap::new(), |_| Ok::<_, Error>([1.0]));
        assert!(matches!(written, Err(Error::Invalid(_))), "{shape:?}");
    }
    let names: Vec<String> = (0..20_001).map(|n| n.to_string()).collect();
    let specs: Vec<_> = names.iter().map(|name| TensorSpec { name, shape: &[0], dtype: Dtype::F32 }).collect();
    let metadata = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let write = |specs: &[TensorSpec<'_>]| stream_safetensors(&path, specs, &metadata, |_| Ok::<_, Error>([]));
    assert!(write(&specs).is_err());
    write(&specs[1..]).unwrap();
    assert_eq!(WeightFile::open(&path).unwrap().names().count(), 20_000);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn every_poisoned_value_is_found_and_named() {
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64] {
        let size = dtype.size();
        for at in 0..6 {
            let mut data = vec![0; 6 * size];
            // All bits of the exponent set: infinity, or not a number.
            data[at * size..(at + 1) * size].fill(0xff);
            let name = format!("{dtype:?}").to_uppercase();
            let end = data.len();
            let header = format!(r#"{{"w":{{"dtype":"{name}","shape":[6],"data_offsets":[0,{end}]}}}}"#);
            let file = WeightFile::from_bytes("poisoned", safetensors(&header, &data)).unwrap();
            let message = file.read_f32("w").unwrap_err().to_string();
            assert!(message.contains("\"w\"") && message.contains("1 of 6"), "{message}");
            assert!(file.read_f64("w").is_err());
        }
    }
    let header = r#"{"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#;
    let file = WeightFile::from_bytes("large", safetensors(header, &1e300_f64.to_le_bytes())).unwrap();
    assert!(file.read_f32("w").is_err(), "beyond f32");
    assert_eq!(file.read_f64("w").unwrap(), [1e300]);
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn malformed_safetensors_are_refused() {
    let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(WeightFile::from_bytes("good", safetensors(good, &[0; 8])).is_ok());
    let entry = |text: &str| format!("{{{text}}}");
    let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let long = "n".repeat(257);
    let headers = [
        String::new(),
        " ".to_owned(),
        "[]".to_owned(),
        "{".to_owned(),
        "{}".to_owned(), // with 8 bytes of data that belong to nothing
        format!(" {good}"),
        entry(&format!(r#"{a},"b":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#)), // overlap
        entry(&format!(r#"{a},"b":{{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}"#)), // partial overlap
        entry(r#""a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#),                 // gap at the start
        entry(a),                                                                         // gap at the end
        entry(&format!(r#"{a},"b":{{"dtype":"F16","shape":[1],"data_offsets":[6,8]}}"#)), // gap between
        entry(r#""a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#),                 // shape too large
        entry(r#""a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#),                // beyond the file
        entry(r#""a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#),                 // backwards
        entry(r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}"#),
        entry(r#""a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}"#),
        entry(r#""a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#),
        entry(&format!(r#""a":{{"dtype":"F32","shape":[{}2],"data_offsets":[0,8]}}"#, "1,".repeat(64))), // 65 extents
        entry(r#""a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}"#),
        entry(r#""a":{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,8]}"#), // product overflows
        entry(r#""a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,8]}"#),
        entry(r#""a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}"#),
        entry(r#""a":{"dtype":"F32","shape":[2]}"#),
        entry(r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}"#),
        entry(&format!(r#""{long}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#)),
        entry(&format!(r#"{a},"a":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#)), // twice
        entry(r#""a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}"#),
        format!("{good}x"),
        entry(&format!(r#""__metadata__":{{"k":1}},{}"#, &good[1..good.len() - 1])),
        entry(&format!(r#""__metadata__":{{"k":"1","k":"2"}},{}"#, &good[1..good.len() - 1])),
        "[".repeat(100_000),
        format!("{{\"__metadata__\":{}", "{\"a\":".repeat(100_000)),
    ];
    let rank = entry(&format!(r#""a":{{"dtype":"F32","shape":[{}2],"data_offsets":[0,8]}}"#, "1,".repeat(63)));
    assert!(WeightFile::from_bytes("64 extents", safetensors(&rank, &[0; 8])).is_ok());
    assert!(headers.len() >= 25);
    for header in &headers {
        let result = WeightFile::from_bytes("bad", safetensors(header, &[0; 8]));
        let message = match result {
            Err(Error::Malformed { message, .. }) => message,
            other => panic!("{header:.80}: {other:?}"),
        };
        assert!(!message.is_empty());
    }
    let many: Vec<String> =
        (0..20_001).map(|n| format!(r#""{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    assert!(WeightFile::from_bytes("many", safetensors(&entry(&many.join(",")), &[])).is_err());
    assert!(WeightFile::from_bytes("many", safetensors(&entry(&many[1..].join(",")), &[])).is_ok());
    // Lengths of the header: absent, partial, beyond the file, beyond any file.
    for bytes in [vec![], vec![1], vec![0; 7], vec![0; 8], vec![9, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'], vec![0xff; 64]] {
        assert!(WeightFile::from_bytes("bad", bytes).is_err());
    }
}

#[test]
fn mutated_safetensors_never_panic() {
    let header = r#"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I64","shape":[2],"data_offsets":[24,40]},"c":{"dtype":"F16","shape":[],"data_offsets":[40,42]}}"#;
    let valid = safetensors(header, &[0; 42]);
    assert!(read_everything(valid.clone()));
    assert!(mutate(&valid, 20_000) > 0, "some mutations change only values");
}

#[test]
fn mutated_checkpoints_never_panic() {
    for name in ["zip.pt", "legacy.pt", "torchscript.pt"] {
        let valid = std::fs::read(fixture(name)).unwrap();
        assert!(mutate(&valid, 5000) > 0, "{name}");
        for cut in 0..valid.len() {
            assert!(!read_everything(valid[..cut].to_vec()), "{name} cut at {cut} is accepted");
        }
    }
}

/// Changes one to three bytes at a time; returns how many of the results could still be read.
fn mutate(valid: &[u8], times: usize) -> usize {
    let mut state = 7;
    let mut accepted = 0;
    for _ in 0..times {
        let mut bytes = valid.to_vec();
        for _ in 0..1 + next(&mut state) % 3 {
            let at = next(&mut state) as usize % bytes.len();
            bytes[at] = next(&mut state) as u8;
        }
        accepted += usize::from(read_everything(bytes));
    }
    accepted
}
