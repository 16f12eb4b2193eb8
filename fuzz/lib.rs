//! What the targets share: reading all that a weight file holds, in two ways that must agree; files for readers that
//! need one.

use std::collections::BTreeMap;
use std::path::Path;

use adir_weights::hash::sha256;
use adir_weights::{Dtype, Error, WeightFile};

/// Largest sum of a file's tensors that is read, in bytes: a small file may rightly hold many times itself.
const MOST: usize = 16 << 20;

/// Opens `bytes` as a weight file and reads every tensor, one at a time and in one pass.
///
/// # Panics
/// When the two ways disagree.
pub fn read_weights(bytes: &[u8]) {
    let Ok(file) = WeightFile::from_bytes("fuzz", bytes.to_vec()) else { return };
    let hash = sha256(bytes);
    match file.sha256() {
        Ok(found) => assert_eq!(found, hash),
        Err(e) => assert!(e.to_string().contains("CRC-32"), "{e}"),
    }
    let mut sum = 0_usize;
    for info in file.names().filter_map(|name| file.info(name)) {
        sum = sum.saturating_add(info.shape.iter().product::<usize>().saturating_mul(info.dtype.size().max(4)));
    }
    if sum > MOST {
        return;
    }
    let mut expected = BTreeMap::new();
    for name in file.names() {
        let info = file.info(name).expect("a tensor of that name");
        let count: usize = info.shape.iter().product();
        if matches!(info.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
            let _ = file.read_f64(name);
            if let Ok(values) = file.read_f32(name) {
                assert_eq!(values.len(), count);
                expected.insert(name, values);
            }
        } else if let Ok(values) = file.read_i64(name) {
            assert_eq!(values.len(), count);
        }
    }
    let streamed = file.stream(
        |name, _| expected.contains_key(name),
        |name, values| {
            let same = values.iter().map(|v| v.to_bits()).eq(expected[name].iter().map(|v| v.to_bits()));
            assert!(same, "{name:?} differs");
            Ok::<_, Error>(())
        },
    );
    match streamed {
        Ok(streamed) => assert_eq!(streamed, hash),
        // Of an entry whose tensors were not read, or not in full.
        Err(e) => assert!(e.to_string().contains("CRC-32"), "{e}"),
    }
    let mut visits = 0;
    let _ = file.stream(
        |name, _| expected.contains_key(name),
        |_, _| {
            visits += 1;
            Ok::<_, Error>(())
        },
    );
    assert!(visits <= expected.len());
}

/// A zip archive of these entries, uncompressed, without checksums.
pub fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut data, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let offset = (data.len() as u32).to_le_bytes();
        let size = (content.len() as u32).to_le_bytes();
        let sizes = [&[0; 14], &size[..], &size, &(name.len() as u16).to_le_bytes()].concat();
        data.extend([b"PK\x03\x04", &sizes[..], &[0; 2], name.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02\0\0", &sizes[..], &[0; 12], &offset, name.as_bytes()].concat());
    }
    let count = (entries.len() as u16).to_le_bytes();
    let sizes = [(directory.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
    [&data[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &sizes, &[0; 2]].concat()
}

/// What `read` makes of a file with these bytes, which is removed afterwards.
///
/// # Panics
/// When the folder for temporary files cannot be written to.
pub fn in_file<T>(bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let path = std::env::temp_dir().join(format!("adir-fuzz-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("a file for the input");
    let found = read(&path);
    let _ = std::fs::remove_file(&path);
    found
}
