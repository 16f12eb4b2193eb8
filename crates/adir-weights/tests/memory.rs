//! Bombs: small files that ask for much. One test alone in its process, which watches the process's own
//! peak memory (Linux only; elsewhere only the errors are checked).

use std::path::PathBuf;
use std::time::Duration;

use adir_weights::WeightFile;

const MIB: u64 = 1 << 20;

/// Peak resident memory in bytes since the last reset.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Time this thread has spent computing, whatever else the machine was doing.
fn computing() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// Runs `work` and checks how long it computed and by how much it raised the peak.
fn within<T>(name: &str, most_bytes: u64, most_time: Duration, work: impl FnOnce() -> T) -> T {
    // Resets the peak to the present use.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (before, start) = (peak(), computing());
    let result = work();
    if let (Some(start), Some(end)) = (start, computing()) {
        assert!(end - start <= most_time, "{name}: {:?}", end - start);
    }
    if let (Some(before), Some(after)) = (before, peak()) {
        let grown = after.saturating_sub(before);
        assert!(grown <= most_bytes, "{name}: {} MiB", grown / MIB);
    }
    result
}

/// A zip archive with this pickle, uncompressed, as a checkpoint.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    let name = b"a/data.pkl";
    let size = (pickle.len() as u32).to_le_bytes();
    let header = [&[0; 14], &size[..], &size, &(name.len() as u16).to_le_bytes(), &[0; 2]].concat();
    let data = [b"PK\x03\x04", &header[..], name, pickle].concat();
    let directory = [b"PK\x01\x02\0\0", &header[..24], &[0; 16], name].concat();
    let sizes = [(directory.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
    [&data[..], &directory, b"PK\x05\x06\0\0\0\0\x01\0\x01\0", &sizes, &[0; 2]].concat()
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

fn scratch(name: &str, content: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("adir-weights-memory-{}-{name}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn bombs_end_in_an_error_soon_and_in_little_memory() {
    for (name, pickle) in pickle_bombs() {
        let path = scratch("weights", &checkpoint(&pickle));
        let own = pickle.len() as u64;
        let result = within(name, 32 * MIB + own, Duration::from_secs(1), || WeightFile::open(&path).map(|_| ()));
        assert!(result.is_err(), "{name} is accepted");
    }
    std::fs::remove_file(scratch("weights", b"")).unwrap();
}
