//! Bombs: small files that ask for much. Each is read in a process of its own, which watches its own peak memory and
//! time (Linux only; elsewhere only the errors are checked).

mod common;
#[path = "common/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adir_weights::WeightFile;
use common::{deflated, dictionary, integer, storage, stored, tensor, tensor_of, text, view, with_pickle, zip};
use process::{computing, peak};

const MIB: u64 = 1 << 20;

/// What a process of its own found in a file: whether it could be read, or why not.
#[derive(Debug)]
struct Found {
    result: Result<(), String>,
    /// Bytes by which its peak memory grew (0 where that is not known), and the time it computed.
    grown: u64,
    time: Duration,
}

/// Opens the file in a new process, whose memory shows what that takes: one that has already freed memory uses it again
/// unseen. With `read`, every tensor is read, then streamed.
fn in_new_process(path: &Path, read: bool) -> Found {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_child_reads_a_file", "--ignored", "--nocapture"])
        .env("ADIR_WEIGHTS_FILE", path)
        .env("ADIR_WEIGHTS_READ", if read { "1" } else { "" })
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("found: ")).unwrap_or_else(|| panic!("{text}"));
    let [grown, nanoseconds, message] = line.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    Found {
        result: if message.is_empty() { Ok(()) } else { Err(message.to_owned()) },
        grown: grown.parse().unwrap(),
        time: Duration::from_nanos(nanoseconds.parse().unwrap()),
    }
}

#[test]
#[ignore = "run by the other test, in a process of its own"]
fn the_child_reads_a_file() {
    let Some(path) = std::env::var_os("ADIR_WEIGHTS_FILE") else { return };
    let read = std::env::var_os("ADIR_WEIGHTS_READ").is_some_and(|value| value == "1");
    let work = || {
        let file = WeightFile::open(Path::new(&path))?;
        if read {
            for name in file.names() {
                file.read_f32(name)?;
            }
            file.stream(|_, _| true, |_, _| Ok::<_, adir_weights::Error>(()))?;
        }
        Ok::<_, adir_weights::Error>(())
    };
    let (before, start) = (peak(), computing());
    let result = work();
    let grown = before.zip(peak()).map_or(0, |(before, after)| after.saturating_sub(before));
    let time = start.zip(computing()).map_or(0, |(start, end)| (end - start).as_nanos());
    println!("\nfound: {grown} {time} {}", result.err().map_or(String::new(), |e| e.to_string().replace('\n', " ")));
}

fn pickle_bombs() -> Vec<(&'static str, Vec<u8>)> {
    // Each list holds the one before it twice: two to the power of a hundred paths.
    let mut doubling = b"\x80\x02]q\x00".to_vec();
    for level in 0..100_u8 {
        doubling.extend([b']', b'q', level + 1, b'(', b'h', level, b'h', level, b'e']);
    }
    let doubled_map = [&doubling[..], b"."].concat();
    let shallow = [&doubling[..2 + 3 + 9 * 40], b"."].concat();
    let nested = |open: &[u8], count: usize, close: &[u8]| {
        [b"\x80\x02", &open.repeat(count)[..], &close.repeat(count - 1), b"."].concat()
    };
    let mut cyclic = b"\x80\x02]q\x00".to_vec();
    cyclic.extend(b"h\x00a".repeat(1000));
    cyclic.push(b'.');
    vec![
        ("doubling lists, deep", doubled_map),
        ("doubling lists, 40 deep", shallow),
        ("a million nested lists", nested(b"]", 999_000, b"a")),
        ("a million nested tuples", [b"\x80\x02)", &b"\x85".repeat(999_000)[..], b"."].concat()),
        ("a list that holds itself", cyclic),
        ("two million values", [b"\x80\x02", &b"N".repeat(2_000_000)[..], b"."].concat()),
        ("fifteen million copies", [b"\x80\x02N", &b"2".repeat(15_000_000)[..], b"."].concat()),
        ("fifteen million memories", [b"\x80\x02N", &b"\x94".repeat(15_000_000)[..], b"."].concat()),
        ("fifteen million marks", [b"\x80\x02", &b"(".repeat(15_000_000)[..], b"."].concat()),
        ("a text said to have 4 GiB", b"\x80\x02X\xff\xff\xff\xff.".to_vec()),
        ("bytes said to have 16 EiB", [b"\x80\x04\x8e", &[0xff; 8][..], b"."].concat()),
        ("a pickle of 17 MiB", vec![b'N'; 17 << 20]),
    ]
}

/// A pickle that remembers the value that `value` makes, then makes a list of `count` values by `again`, in which `h\0`
/// recalls it.
fn repeated(value: &[u8], again: &[u8], count: usize) -> Vec<u8> {
    [b"\x80\x04", value, b"q\x000](", &again.repeat(count), b"e."].concat()
}

/// Pickles of which every few bytes make a value of hundreds or of 64 KiB.
fn amplifying_bombs() -> Vec<(&'static str, Vec<u8>)> {
    let long = text(&"x".repeat(64 << 10));
    let id = [b"(X\x07\0\0\0storagectorch\nFloatStorage\n", &long[..], b"X\x03\0\0\0cpuK\x06t"].concat();
    let arguments = tensor(&integer(6), &view(0, &[1; 16], &[1; 16]));
    // Without the call itself.
    let arguments = [&arguments[..arguments.len() - 1], b"q\x010ctorch._utils\n_rebuild_tensor_v2\n"].concat();
    vec![
        ("names of functions", repeated(&long, b"h\0h\0\x93", 300_000)),
        ("keys of storages", repeated(&id, b"h\0Q", 300_000)),
        ("tensors", repeated(&arguments, b"h\0h\x01R", 300_000)),
        ("dictionaries", [b"\x80\x02N(", &b"}".repeat(399_000)[..], b"l."].concat()),
        ("dictionaries of one value", [b"\x80\x02Nq\0(", &b"}h\0h\0s".repeat(390_000)[..], b"l."].concat()),
        ("lists of one value", [b"\x80\x02Nq\0(", &b"]h\0a".repeat(390_000)[..], b"l."].concat()),
        ("tuples", [b"\x80\x02Nq\0(", &b"h\0\x85".repeat(390_000)[..], b"l."].concat()),
        ("objects", repeated(b"cx\ny\n", b"h\0)R", 390_000)),
        ("dictionaries and copies", [b"\x80\x02", &b"}".repeat(250_000)[..], &b"2".repeat(3_700_000)].concat()),
        ("remembered values", [b"\x80\x02", &b"}\x94".repeat(390_000)[..], b"."].concat()),
    ]
}

/// One tensor with very many names, 60 dictionaries deep, whose keys have `key` letters each.
fn names(key: usize, count: usize) -> Vec<u8> {
    let tensor = tensor(&integer(6), &view(0, &[6], &[1]));
    let list = [&tensor[..], b"q\x000](", &b"h\0".repeat(count), b"e"].concat();
    let key = text(&"k".repeat(key));
    let nested = (0..60).fold(list, |inner, _| [b"}", &key[..], &inner, b"s"].concat());
    [b"\x80\x02", &nested[..], b"."].concat()
}

/// A deflated storage of `len` numbers, all zero, and tensors of 128 of them at this stride, each beginning further on.
fn strided(len: u64, tensors: u64, stride: u64) -> Vec<u8> {
    let names: Vec<String> = (0..tensors).map(|n| n.to_string()).collect();
    let tensor = |n: u64| tensor_of(&storage("0", &integer(len)), &view(n, &[128], &[stride]));
    let items: Vec<_> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), tensor(n))).collect();
    zip(&[deflated("a/data.pkl", &dictionary(&items)), deflated("a/data/0", &vec![0; 4 * len as usize])])
}

fn scratch(name: &str, content: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("adir-weights-memory-{}-{name}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn bombs_end_in_an_error_soon_and_in_little_memory() {
    let mut bombs: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, pickle) in pickle_bombs().into_iter().chain(amplifying_bombs()) {
        bombs.push((name, with_pickle(&pickle)));
    }
    bombs.push(("name bomb", with_pickle(&names(250, 390_000))));
    bombs.push(("name bomb of names just short enough", with_pickle(&names(12, 390_000))));
    bombs.push(("name bomb, small", with_pickle(&names(250, 10_000))));
    bombs.push(("128 values out of 256 MiB", strided(1 << 26, 1, 1 << 19)));
    bombs.push(("128 values out of 128 MiB, 50 times", strided(1 << 25, 50, 1 << 18)));
    bombs.push(("128 values side by side, a hundred times", {
        // Each of them at the end of 256 MiB.
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let tensor =
            |n: u64| tensor_of(&storage("0", &integer(1 << 26)), &view((1 << 26) - 128 * (n + 1), &[128], &[1]));
        let items: Vec<_> = names.iter().zip(0..).map(|(name, n)| (name.as_str(), tensor(n))).collect();
        zip(&[stored("a/data.pkl", &dictionary(&items)), deflated("a/data/0", &vec![0; 1 << 28])])
    }));
    bombs.push(("a byte order of 64 MiB", {
        zip(&[stored("a/data.pkl", b"N."), deflated("a/byteorder", &vec![0; 1 << 26])])
    }));
    bombs.push(("a pickle of 64 MiB", zip(&[deflated("a/data.pkl", &vec![b'N'; 1 << 26])])));
    bombs.push(("a shape of 10 million extents", {
        let header =
            format!(r#"{{"w":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(10_000_000));
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat()
    }));
    for (name, bytes) in bombs {
        let path = scratch("bomb", &bytes);
        let found = in_new_process(&path, true);
        let message = found.result.expect_err(name);
        assert!(found.grown <= 32 * MIB + bytes.len() as u64, "{name}: {} MiB: {message}", found.grown / MIB);
        assert!(found.time <= Duration::from_millis(500), "{name}: {:?}: {message}", found.time);
        assert!(message.len() < 1000, "{name}: {message}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_little_of_a_large_storage_is_picked_out_as_it_goes_by() {
    let numbers: Vec<u8> = (0..1 << 22).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensor = tensor_of(&storage("0", &integer(1 << 22)), &view(5, &[100], &[40_000]));
    for pack in [stored, deflated] {
        let pickle = stored("a/data.pkl", &dictionary(&[("w", tensor.clone())]));
        let path = scratch("large", &zip(&[pickle, pack("a/data/0", &numbers)]));
        let found = in_new_process(&path, true);
        assert_eq!(found.result, Ok(()));
        assert!(found.grown <= 6 * MIB, "{} KiB", found.grown >> 10);
        let values = WeightFile::open(&path).unwrap().read_f32("w").unwrap();
        assert!(values.iter().zip(0..).all(|(&value, i)| value == (5 + 40_000 * i) as f32));
        std::fs::remove_file(path).unwrap();
    }
}
