//! Many damaged files, and files that change while they are read. The long form is
//! `cargo test --release -p adir-weights --test long -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use adir_weights::hash::{ContentHash, sha256};
use adir_weights::{Dtype, Error, TensorToWrite, WeightFile, write_safetensors};

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("adir-weights-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A file of about 64 kB, and how many of its bytes are the header.
fn valid(path: &Path, seed: f32) -> (Vec<u8>, usize) {
    let values: Vec<f32> = (0..8000).map(|i| (i as f32 + seed).sin()).collect();
    let tensor =
        |name: &'static str, shape: &'static [usize], dtype, values| TensorToWrite { name, shape, dtype, values };
    let tensors = [
        tensor("a.weight", &[80, 100], Dtype::F32, &values[..]),
        tensor("a.bias", &[1000], Dtype::F16, &values[..1000]),
        tensor("b.weight", &[10, 100, 15], Dtype::BF16, &[0.5; 15_000][..]),
    ];
    write_safetensors(path, &tensors, &BTreeMap::from([("k".into(), "v".into())])).unwrap();
    let bytes = std::fs::read(path).unwrap();
    assert!((60_000..70_000).contains(&bytes.len()));
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (bytes, header)
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u32>)>;

/// The tensors as bits, if all can be read.
fn tensors(file: &WeightFile) -> Option<Tensors> {
    let one = |name: &str| {
        let info = file.info(name)?;
        let values = file.read_f32(name).ok()?.into_iter().map(f32::to_bits).collect();
        Some((name.to_owned(), (info.dtype, info.shape.clone(), values)))
    };
    file.names().map(one).collect()
}

/// Changes of one to three bytes, half of them in the header: no panic, and what is accepted is written and read again
/// the same.
fn mutations(count: usize) {
    let folder = folder(&format!("mutations-{count}"));
    let path = folder.join("again.safetensors");
    let (valid, header) = valid(&path, 0.0);
    let (mut state, mut accepted, mut written) = (7_u64, 0, 0);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..count {
        let mut bytes = valid.clone();
        let within = if next() % 2 == 0 { header } else { bytes.len() };
        for _ in 0..1 + next() % 3 {
            bytes[next() % within] = next() as u8;
        }
        let in_header = bytes[..header] != valid[..header];
        let Ok(file) = WeightFile::from_bytes("mutated", bytes) else { continue };
        let Some(found) = tensors(&file) else { continue };
        accepted += 1;
        // What only the values say is the same writing each time.
        if in_header {
            let values: Vec<(&String, Vec<f32>)> = found
                .iter()
                .map(|(name, (_, _, bits))| (name, bits.iter().map(|b| f32::from_bits(*b)).collect()))
                .collect();
            let all: Vec<_> = (values.iter())
                .map(|(name, values)| {
                    let (dtype, shape, _) = &found[*name];
                    TensorToWrite { name, shape, dtype: *dtype, values }
                })
                .collect();
            write_safetensors(&path, &all, file.metadata()).unwrap();
            let again = WeightFile::open(&path).unwrap();
            assert!(tensors(&again).as_ref() == Some(&found) && again.metadata() == file.metadata());
            written += 1;
        }
    }
    println!("{count} mutations: {accepted} accepted, {written} of them written and read again the same");
    assert!(accepted > 0 && written > 0);
    std::fs::remove_dir_all(folder).unwrap();
}

/// A file that is replaced, cut and overwritten while it is read: an error, or the tensors of one version.
fn swaps(count: usize) {
    let folder = folder("swaps");
    let path = folder.join("w.safetensors");
    let versions: Vec<Vec<u8>> = (0..3).map(|k| valid(&path, k as f32).0).collect();
    let known: Vec<ContentHash> = versions.iter().map(|bytes| sha256(bytes)).collect();
    let finished = AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for k in 0.. {
                if finished.load(Ordering::Relaxed) {
                    return;
                }
                let (bytes, scratch) = (&versions[k % 3], folder.join("scratch"));
                // Cut short, and then replaced as a whole.
                let cut = &bytes[..bytes.len() * (k % 7) / 7];
                for content in [cut, bytes] {
                    std::fs::write(&scratch, content).unwrap();
                    std::fs::rename(&scratch, &path).unwrap();
                    std::thread::yield_now();
                }
                // The file that is open becomes shorter.
                if k % 2 == 0 {
                    std::fs::OpenOptions::new()
                        .write(true)
                        .open(&path)
                        .unwrap()
                        .set_len(bytes.len() as u64 / 2)
                        .unwrap();
                }
            }
        });
        while whole + refused < count || whole == 0 || refused == 0 {
            let read = WeightFile::open(&path).and_then(|file| file.stream(|_, _| true, |_, _| Ok::<_, Error>(())));
            match read {
                Ok(hash) => {
                    assert!(known.contains(&hash), "a file that never was");
                    whole += 1;
                }
                Err(Error::Malformed { .. } | Error::Io { .. }) => refused += 1,
                Err(e) => panic!("{e:?}"),
            }
        }
        finished.store(true, Ordering::Relaxed);
    });
    println!("{} reads of a file that changes: {whole} whole, {refused} refused", whole + refused);
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn damaged_files_are_refused_or_written_again_the_same() {
    mutations(5000);
}

#[test]
fn files_that_change_while_they_are_read_are_whole_or_refused() {
    swaps(100);
}

#[test]
#[ignore = "minutes"]
fn long_mutations() {
    mutations(1_000_000);
}
