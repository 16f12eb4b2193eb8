//! One pass over a file gives every tensor and the file's SHA-256, and reads nothing twice.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use adir_weights::hash::sha256;
use adir_weights::{ContentHash, Dtype, Error, TensorInfo, WeightFile};
use common::{Entry, deflated, dictionary, fixture, integer, storage, stored, tensor_of, view, zip};

fn is_float(info: &TensorInfo) -> bool {
    matches!(info.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

type Visited = Vec<(String, Vec<f32>)>;

/// What [`WeightFile::stream`] visits, in order.
fn visited(file: &WeightFile, wanted: impl Fn(&str) -> bool) -> Result<(Visited, ContentHash), Error> {
    let mut seen = Vec::new();
    let hash = file.stream(
        |name, info| is_float(info) && wanted(name),
        |name, values| {
            seen.push((name.to_owned(), values));
            Ok::<_, Error>(())
        },
    )?;
    Ok((seen, hash))
}

/// Checks a pass against reading one tensor at a time.
fn check(what: &str, bytes: &[u8]) -> WeightFile {
    let file = WeightFile::from_bytes("streamed", bytes.to_vec()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    // All of them, every other one, and none.
    for (modulus, remainder) in [(1, 0), (2, 0), (2, 1), (usize::MAX, usize::MAX - 1)] {
        let wanted = |name: &str| names.iter().position(|n| n == name).unwrap() % modulus == remainder;
        let (seen, hash) = visited(&file, wanted).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(hash, sha256(bytes), "{what}");
        let found: BTreeMap<String, Vec<f32>> = seen.iter().cloned().collect();
        assert_eq!(found.len(), seen.len(), "{what}: a tensor is visited twice");
        let floats = names.iter().filter(|name| is_float(file.info(name).unwrap()) && wanted(name));
        let expected: BTreeMap<_, _> = floats.map(|name| (name.clone(), file.read_f32(name).unwrap())).collect();
        assert_eq!(found, expected, "{what}");
    }
    file
}

#[test]
fn files_of_pytorch_stream_as_they_are_read() {
    let mut values = 0;
    for name in ["zip.pt", "legacy.pt", "protocol4.pt", "lightning.ckpt", "wrapped.pth", "module.pt", "torchscript.pt"]
        .into_iter()
        .chain(["expected.safetensors"])
    {
        let file = check(name, &std::fs::read(fixture(name)).unwrap());
        values += visited(&file, |_| true).unwrap().0.iter().map(|(_, values)| values.len()).sum::<usize>();
    }
    assert!(values > 400, "{values}");
}

/// Numbers of which no two are alike.
fn numbers(count: u32) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32 - 3.5).to_le_bytes()).collect()
}

/// A checkpoint with storages "a" and "b" of 24 and 30,000 numbers and views of all kinds.
fn views(pack: fn(&str, &[u8]) -> Entry) -> Vec<u8> {
    let a = storage("a", &integer(24));
    let b = storage("b", &integer(30_000));
    let tensor =
        |storage: &[u8], first, shape: &[u64], strides: &[u64]| tensor_of(storage, &view(first, shape, strides));
    let pickle = dictionary(&[
        ("whole", tensor(&a, 0, &[4, 6], &[6, 1])),
        ("tied", tensor(&a, 0, &[4, 6], &[6, 1])),
        ("turned", tensor(&a, 0, &[6, 4], &[1, 6])),
        ("row", tensor(&a, 12, &[6], &[1])),
        ("column", tensor(&a, 2, &[4], &[6])),
        ("windows", tensor(&a, 1, &[3, 3], &[1, 1])),
        ("none", tensor(&a, 24, &[0, 5], &[1, 1])),
        ("scalar", tensor(&a, 23, &[], &[])),
        ("last", tensor(&b, 20_000, &[100, 100], &[100, 1])),
        ("first", tensor(&b, 0, &[100, 100], &[1, 100])),
        ("apart", tensor(&b, 10_000, &[3], &[4_999])),
    ]);
    zip(&[
        stored("x/data.pkl", &pickle),
        pack("x/data/b", &numbers(30_000)),
        stored("x/data/unused", &numbers(7)),
        pack("x/data/a", &numbers(24)),
    ])
}

#[test]
fn views_of_shared_storages_stream_as_they_are_read() {
    for (what, bytes) in [("stored", views(stored)), ("deflated", views(deflated))] {
        let file = check(what, &bytes);
        let order: Vec<String> = visited(&file, |_| true).unwrap().0.into_iter().map(|(name, _)| name).collect();
        let expected =
            ["first", "apart", "last", "tied", "turned", "whole", "windows", "column", "row", "scalar", "none"];
        assert_eq!(order, expected, "in the order of the file");
        assert_eq!(file.read_f32("column").unwrap(), [-1.5, 4.5, 10.5, 16.5]);
        assert_eq!(file.read_f32("apart").unwrap(), [9_996.5, 14_995.5, 19_994.5]);
        assert_eq!(file.read_f32("first").unwrap()[..3], [-3.5, 96.5, 196.5]);
    }
}

/// Counts the bytes that are read.
struct Counting(Cursor<Vec<u8>>, Arc<AtomicU64>);

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Seek for Counting {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_pass_reads_every_byte_once() {
    let header = r#"{"z":{"dtype":"F32","shape":[500000],"data_offsets":[0,2000000]},"i":{"dtype":"U8","shape":[3],"data_offsets":[2000000,2000003]},"a":{"dtype":"F16","shape":[700000],"data_offsets":[2000003,3400003]}}"#;
    let large = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; 3_400_003]].concat();
    let fixture = |name| std::fs::read(fixture(name)).unwrap();
    let files = [
        ("safetensors", large),
        // Without views that share bytes.
        ("wrapped.pth", fixture("wrapped.pth")),
        ("lightning.ckpt", fixture("lightning.ckpt")),
        ("torchscript.pt", fixture("torchscript.pt")),
        ("expected.safetensors", fixture("expected.safetensors")),
    ];
    for (what, bytes) in files {
        let count = Arc::new(AtomicU64::new(0));
        let reader = Counting(Cursor::new(bytes.clone()), count.clone());
        let file = WeightFile::from_reader(Path::new("counted"), reader).unwrap();
        let opening = count.swap(0, Ordering::Relaxed);
        assert!(what != "safetensors" || opening < 300, "{opening} bytes to open {what}");
        let (seen, hash) = visited(&file, |_| true).unwrap();
        assert_eq!(hash, sha256(&bytes), "{what}");
        assert_eq!(count.load(Ordering::Relaxed), bytes.len() as u64, "{what}");
        if what == "safetensors" {
            assert!(
                seen.iter().map(|(name, values)| (name.as_str(), values.len())).eq([("z", 500_000), ("a", 700_000)])
            );
        }
    }
    // A tensor that shares its bytes with another costs its own bytes again, and no more.
    let bytes = views(stored);
    let count = Arc::new(AtomicU64::new(0));
    let file =
        WeightFile::from_reader(Path::new("counted"), Counting(Cursor::new(bytes.clone()), count.clone())).unwrap();
    count.store(0, Ordering::Relaxed);
    visited(&file, |name| name == "whole" || name == "row" || name == "last").unwrap();
    assert_eq!(count.load(Ordering::Relaxed), bytes.len() as u64 + 6 * 4);
}

#[test]
fn a_pass_ends_with_the_first_error() {
    let file = WeightFile::open(&fixture("zip.pt")).unwrap();
    let all = file.stream(|_, _| true, |_, _| Ok::<_, Error>(())).unwrap_err().to_string();
    assert!(all.contains("expected floating-point numbers"), "{all}");
    let visits = RefCell::new(0);
    let stopped = file.stream(
        |_, info| is_float(info),
        |_, _| {
            *visits.borrow_mut() += 1;
            Err(Error::Invalid("enough".to_owned()))
        },
    );
    assert_eq!((stopped.unwrap_err().to_string().as_str(), visits.into_inner()), ("enough", 1));
    let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let poisoned = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0xff; 8]].concat();
    let file = WeightFile::from_bytes("poisoned", poisoned).unwrap();
    let message = visited(&file, |_| true).unwrap_err().to_string();
    assert!(message.contains("\"w\": 2 of 2 values are not finite"), "{message}");
}

/// Two storages, "0" of tensors "whole" and "part" and "1" of "other", and an entry of no tensor.
fn checked(pack: fn(&str, &[u8]) -> Entry, change: impl Fn(&mut [Entry])) -> Result<WeightFile, Error> {
    let tensor = |key: &str, first: u64, len: u64| tensor_of(&storage(key, &integer(50)), &view(first, &[len], &[1]));
    let pickle =
        dictionary(&[("whole", tensor("0", 0, 50)), ("part", tensor("0", 1, 20)), ("other", tensor("1", 0, 50))]);
    let mut entries = [
        stored("x/data.pkl", &pickle),
        pack("x/data/0", &numbers(50)),
        pack("x/version", b"3\n"),
        pack("x/data/1", &numbers(50)),
    ];
    change(&mut entries);
    WeightFile::from_bytes("checked", zip(&entries))
}

#[test]
fn wrong_checksums_are_found() {
    let damaged = |result: Result<Vec<f32>, Error>| {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("CRC-32"), "{message}");
    };
    let streamed = |file: &WeightFile, wanted: &str| visited(file, |name| name == wanted).map(|_| Vec::new());
    for pack in [stored, deflated] as [fn(&str, &[u8]) -> Entry; 2] {
        let good = checked(pack, |_| ()).unwrap();
        assert!(["whole", "part", "other"].into_iter().all(|name| good.read_f32(name).is_ok()));
        assert!(visited(&good, |_| true).is_ok());

        let file = checked(pack, |entries| entries[1].crc ^= 1).unwrap();
        damaged(file.read_f32("whole"));
        damaged(streamed(&file, "whole"));
        damaged(streamed(&file, "part"));
        assert!(file.read_f32("other").is_ok());
        // Zero stands for no checksum.
        let file = checked(pack, |entries| entries[1].crc = 0).unwrap();
        assert!(file.read_f32("whole").is_ok() && streamed(&file, "whole").is_ok());
        // The pickle is read when the file is opened.
        assert!(checked(pack, |entries| entries[0].crc ^= 1).unwrap_err().to_string().contains("CRC-32"));
        // So many bytes were to come out.
        if pack("x", b"").method == 8 {
            for numbers in [numbers(49), numbers(51)] {
                let change = |entries: &mut [Entry]| {
                    entries[3] = Entry { len: 200, crc: 0, ..pack("x/data/1", &numbers) };
                };
                let read = checked(pack, change).unwrap().read_f32("other");
                assert!(read.is_err(), "{} instead of 200 bytes", numbers.len());
            }
        }
    }
    // A view of a part is read without the rest; a pass goes by all that is not compressed.
    let file = checked(stored, |entries| entries[1].crc ^= 1).unwrap();
    assert!(file.read_f32("part").is_ok());
    damaged(streamed(&file, "other"));
    damaged(streamed(&file, "none"));
    damaged(file.sha256().map(|_| Vec::new()));
    let file = checked(stored, |entries| entries[2].crc ^= 1).unwrap();
    assert!(file.read_f32("whole").is_ok());
    damaged(streamed(&file, "whole"));
    damaged(checked(deflated, |entries| entries[1].crc ^= 1).unwrap().read_f32("part"));
    // One changed value.
    let file = checked(stored, |entries| entries[1].bytes[17] ^= 4).unwrap();
    damaged(file.read_f32("whole"));
}
